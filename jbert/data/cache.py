"""Arrays kept on disk under the hash of what they were made from."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jbert.atomic import replacing
from jbert.manifest import DamagedError, checksums, verify
from jbert.pipelines.compile_cache import cache_directory

logger = logging.getLogger("jbert")

CONTENTS = "contents.json"

UNREADABLE = (DamagedError, OSError, ValueError, KeyError, TypeError)

Entry = tuple[Mapping[str, np.ndarray], dict[str, Any]]


class CacheWarning(UserWarning):
    """A cache that could not be read or written; what it would have held was made anew."""


def default_directory() -> Path:
    """Where features are kept unless told otherwise; it may be deleted at any time."""
    return cache_directory().with_name("features")


def digest(*parts: Any) -> str:
    """The hash of values that JSON can hold."""
    described = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def cached(directory: Path, key: str, make: Callable[[], Entry]) -> Entry:
    """What `make` returns (arrays and facts), memory-mapped if an earlier call has kept it.

    An entry is a directory with a .npy file for each array, which appears whole or not at all and
    whose checksums are verified before it is used.
    """
    entry = directory / key
    try:
        return _read(entry)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except UNREADABLE as error:
        _warn(f"{entry} cannot be used and is made anew ({_first_line(error)})")
    with _alone(entry):
        # Another process may have made it while this one waited.
        with contextlib.suppress(*UNREADABLE):
            return _read(entry)
        arrays, facts = make()
        try:
            _write(entry, arrays, facts)
            return _read(entry)
        except (OSError, DamagedError) as error:
            _warn(f"{entry} cannot be kept, so the next run tokenises again ({_first_line(error)})")
    return arrays, facts


@contextlib.contextmanager
def _alone(entry: Path) -> Iterator[None]:
    """Lets one process of many that want the same entry make it; the others wait."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(entry.with_name(f".{entry.name}.lock"), os.O_RDWR | os.O_CREAT)
    except OSError:
        # Nothing can be written here, so that nobody needs to be kept from doing so.
        yield
        return
    try:
        # Without locks, as on some network file systems, each makes its own and the last is kept.
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("waiting for another process that makes %s", entry)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(entry: Path) -> Entry:
    stored = json.loads((entry / CONTENTS).read_text(encoding="utf-8"))
    contents = stored["contents"]
    if stored["digest"] != digest(contents):
        raise DamagedError(f"{entry / CONTENTS} has changed since it was written")
    verify(entry, contents["sha256"])
    arrays = {name: _mapped(entry / f"{name}.npy") for name in contents["arrays"]}
    return arrays, contents["facts"]


def _mapped(path: Path) -> np.ndarray:
    try:
        # A view of the mapped file as a plain array, which is quicker to index.
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except ValueError:
        # An empty file cannot be mapped; an array without values is one.
        return np.load(path, allow_pickle=False)


def _write(entry: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    with replacing(entry, sum(array.nbytes for array in arrays.values())) as staging:
        for name, array in arrays.items():
            np.save(staging / f"{name}.npy", array, allow_pickle=False)
        contents = {"arrays": list(arrays), "sha256": checksums(staging), "facts": facts}
        stored = {"contents": contents, "digest": digest(contents)}
        (staging / CONTENTS).write_text(json.dumps(stored), encoding="utf-8")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:300]


def _warn(message: str) -> None:
    warnings.warn(message, CacheWarning, stacklevel=4)
