"""What the compiler said of a program, kept by what was compiled and with what."""

import hashlib
import os
from pathlib import Path

from jbert.pipelines.compile_cache import cache_directory


class Cache:
    """Files below the user's cache directory, or none at all. What cannot be kept is made again."""

    # To be raised when other facts are read from the same program.
    VERSION = 3

    def __init__(self, directory: Path | None = None, enabled: bool = True):
        self.directory = directory or cache_directory().parent / "plans"
        self.enabled = enabled

    def key(self, program: str, *circumstances: str) -> str:
        parts = (str(self.VERSION), *circumstances, program)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def get(self, key: str) -> str | None:
        try:
            return self._path(key).read_text() if self.enabled else None
        except OSError:
            return None

    def put(self, key: str, text: str) -> None:
        if not self.enabled:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Whole or not at all: another plan may read it meanwhile.
            beside = path.with_suffix(f".{os.getpid()}")
            beside.write_text(text)
            beside.replace(path)
        except OSError:
            pass

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.json"
