"""A run that fails before its first step, and does not stand in the way of the next try."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from jbert.training import replaced
from jbert.training.directory import CONFIG


@contextlib.contextmanager
def attempt(directory: Path, *made: str) -> Iterator[None]:
    """Takes back what a run has put into its directory, if it fails with nothing else there.

    Who corrects a column's name wants to start again, not to be told that a run is there already;
    and a run that was to be overwritten is there again. The directory has to be locked.
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
    mine = [path for path in visible if path.name in made or replaced.is_bare(path)]
    # Beside a run that is put back there may be more.
    if len(mine) == len(visible) or replaced.is_kept(directory):
        for path in mine:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    replaced.put_back(directory)
