"""Directories that appear whole or not at all."""

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(directory: Path, size: int = 0) -> Iterator[Path]:
    """Yields an empty directory to fill; on success it becomes `directory`, on failure it goes.

    What `directory` held before stays readable until the new contents are complete and on disk.
    Of two processes that write it at once, the one that ends last wins, whole.
    size: the bytes that are to be written at least, for which there must be room beforehand.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    check_room(directory, size)
    staging = _beside(directory, f"writing.{secrets.token_hex(4)}")
    with contextlib.ExitStack() as held:
        with _locked(directory.parent):
            _remove_abandoned(directory)
            staging.mkdir()
            held.enter_context(_locked(staging))
        try:
            yield staging
            flush(staging)
            with _locked(directory.parent):
                _swap(staging, directory)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def check_room(directory: Path, size: int) -> None:
    """Raise OSError where `size` bytes cannot be written beside what `directory` holds now."""
    free = shutil.disk_usage(directory.parent).free
    if free < size:
        raise OSError(
            errno.ENOSPC,
            f"{size / 1e6:,.1f} MB are to be written, but only {free / 1e6:,.1f} MB are free; "
            "what is there now stays until the new is complete. Free some space",
            str(directory),
        )


def remove(directory: Path) -> None:
    """Delete a directory; to whoever looks for its name it is gone at once, and never half."""
    doomed = directory.parent / f".deleting.{directory.name}"
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(directory, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def recover(directory: Path) -> None:
    """Undo a replacement that was killed between its two renames: bring the old contents back."""
    previous = _beside(directory, "previous")
    if directory.exists() or not previous.is_dir():
        return
    # A process that is alive between its two renames holds the lock, and is waited for.
    with _locked(directory.parent):
        if directory.exists() or not previous.is_dir():
            return
        os.rename(previous, directory)
    warnings.warn(
        f"{directory}: an earlier save was interrupted while it replaced this directory; "
        "the contents before it are back in place",
        stacklevel=4,
    )


def _swap(staging: Path, directory: Path) -> None:
    previous = _beside(directory, "previous")
    if directory.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(directory, previous)
    os.rename(staging, directory)
    sync(directory.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _remove_abandoned(directory: Path) -> None:
    """Remove what processes that were killed had written: nobody holds a lock on it."""
    for staging in directory.parent.glob(f".{glob.escape(directory.name)}.writing.*"):
        with contextlib.suppress(OSError), _locked(staging, wait=False):
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: Path, wait: bool = True) -> Iterator[None]:
    """Holds a lock that ends with the process, however that ends; without `wait` at once or not."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            # Network file systems may have no locks; all is as before, but for one writer only.
            if not wait:
                raise
        yield
    finally:
        os.close(descriptor)


def _beside(directory: Path, what: str) -> Path:
    # In the same parent, so that a rename is one step of the same file system.
    return directory.parent / f".{directory.name}.{what}"


def flush(directory: Path) -> None:
    """Return when a power failure cannot take away anything below a directory."""
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
