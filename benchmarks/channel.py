"""The harness's end of a worker: a process that is asked, and answers or is given up."""

import contextlib
import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

# Peers compile for minutes; one that says nothing for this long will not.
PATIENCE = 1800.0
# An allocator that takes the whole device would leave nothing to the other contenders.
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JBERT_NO_COMPILE_CACHE": "1",
          "TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1"}  # fmt: skip


class Failed(Exception):
    """A worker that cannot go on, and what it said last."""


class Unsupported(Exception):
    """A contender that has no such thing."""


class Channel:
    def __init__(self, command: list[str], environment: dict[str, str] | None = None):
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            cwd=tempfile.gettempdir(), env={**os.environ, **SHARED, **(environment or {})},
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        self._read = b""

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        try:
            self._in.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self._in.flush()
        except OSError as error:
            raise Failed(self._last_words()) from error
        answer = json.loads(self._line())
        if "unsupported" in answer:
            raise Unsupported(answer["unsupported"])
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _line(self) -> bytes:
        until = time.monotonic() + PATIENCE
        while b"\n" not in self._read:
            if not self._selector.select(max(0.0, until - time.monotonic())):
                raise Failed(f"no answer in {PATIENCE:.0f} s")
            some = os.read(self._out.fileno(), 1 << 16)
            if not some:
                raise Failed(self._last_words())
            self._read += some
        line, self._read = self._read.split(b"\n", 1)
        return line

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"ended with {self._process.returncode}: {' | '.join(lines[-3:]) or 'no word'}"

    def close(self) -> None:
        self._selector.close()
        with contextlib.suppress(OSError):
            self._in.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._errors.close()


@contextlib.contextmanager
def channel(command: list[str], environment: dict[str, str] | None = None) -> Iterator[Channel]:
    opened = Channel(command, environment)
    try:
        yield opened
    finally:
        opened.close()
