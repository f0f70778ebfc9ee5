"""Directories that appear whole or not at all."""

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """Yields an empty directory to fill; on success it becomes `directory`, on failure it goes.

    What `directory` held before stays readable until the new contents are complete and on disk.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = _beside(directory, "writing")
    # Left by a process that was killed: nobody reads a name of this form.
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        _flush(staging)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _swap(staging, directory)


def recover(directory: Path) -> None:
    """Undo a replacement that was killed between its two renames: bring the old contents back."""
    previous = _beside(directory, "previous")
    if not directory.exists() and previous.is_dir():
        warnings.warn(
            f"{directory}: an earlier save was interrupted while it replaced this directory; "
            "the contents before it are back in place",
            stacklevel=3,
        )
        os.rename(previous, directory)


def _swap(staging: Path, directory: Path) -> None:
    recover(directory)
    if not directory.exists():
        os.rename(staging, directory)
    else:
        previous = _beside(directory, "previous")
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(directory, previous)
        os.rename(staging, directory)
        shutil.rmtree(previous, ignore_errors=True)
    _sync(directory.parent)


def _beside(directory: Path, what: str) -> Path:
    # In the same parent, so that a rename is one step of the same file system.
    return directory.parent / f".{directory.name}.{what}"


def _flush(directory: Path) -> None:
    for path in directory.rglob("*"):
        _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
