"""A run that is overwritten: kept out of sight until the one in its place has found nothing wrong.

A wrong column's name must not cost the run that was there. Moves are complete when their directory
has its last name, so that a process that is killed between two of them loses nothing either.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

# Runs with one seed each, below the run of all of them.
OF_SEEDS = "seed-*"
ASIDE = ".replaced"
_MOVING, _DELETED = f"{ASIDE}.moving", f"{ASIDE}.deleted"


def set_aside(directory: Path, names: Iterable[str]) -> None:
    """Moves what is there of these names out of the way."""
    moving = directory / _MOVING
    moving.mkdir()
    for name in names:
        if (directory / name).exists():
            os.rename(directory / name, moving / name)
    os.rename(moving, directory / ASIDE)


def put_back(directory: Path) -> None:
    """Undoes `set_aside`, also one that was interrupted, in place of what has come since."""
    if is_kept(directory):
        for aside in (directory / _MOVING, directory / ASIDE):
            if aside.is_dir():
                for path in aside.iterdir():
                    _remove(directory / path.name)
                    os.rename(path, directory / path.name)
                aside.rmdir()
    forget(directory)


def forget(directory: Path) -> None:
    """Deletes what was set aside."""
    _remove(directory / _DELETED)
    if (directory / ASIDE).is_dir():
        os.rename(directory / ASIDE, directory / _DELETED)
        _remove(directory / _DELETED)


def is_kept(directory: Path) -> bool:
    """Whether there is a run to put back: not where the first of several seeds has begun."""
    return any((directory / name).is_dir() for name in (_MOVING, ASIDE)) and all(
        map(is_bare, directory.glob(OF_SEEDS))
    )


def is_bare(path: Path) -> bool:
    """Whether this is a directory with nothing but hidden files: an attempt that was taken back."""
    return path.is_dir() and all(inner.name.startswith(".") for inner in path.iterdir())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
