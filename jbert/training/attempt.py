"""A run that fails before its first step, and does not stand in the way of the next try."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from jbert.training.directory import CONFIG


@contextlib.contextmanager
def attempt(directory: Path, *made: str) -> Iterator[None]:
    """Takes back what a run has put into its directory, if it fails with nothing else there.

    Who corrects a column's name wants to start again, not to be told that a run is there already.
    The directory has to be locked.
    """
    try:
        yield
    except BaseException:
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                _take_back(directory, {CONFIG, *made})
        raise


def _take_back(directory: Path, made: set[str]) -> None:
    visible = [path for path in directory.iterdir() if not path.name.startswith(".")]
    if all(path.name in made or _is_bare(path) for path in visible):
        for path in visible:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _is_bare(path: Path) -> bool:
    """Whether this is a directory with nothing but hidden files: an attempt that was taken back."""
    return path.is_dir() and all(inner.name.startswith(".") for inner in path.iterdir())
