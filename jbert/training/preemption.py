"""Ending well when the machine is taken away: SIGTERM and Ctrl-C become a question that is asked
between two batches, in training and in evaluation."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax


class Preempted(SystemExit):
    """The run has saved its state and ends, with the code that a shell expects: 143 or 130."""


class Preemption:
    """Whether to stop. Every process has to ask as often as the others."""

    def __init__(self) -> None:
        self._signal: int | None = None
        self._asked = 0

    def exit_code(self) -> int | None:
        """None to go on, or the code to end with."""
        self._asked += 1
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            # All processes hear of it at the same question, whichever of them was told.
            reached = multihost_utils.reached_preemption_sync_point(self._asked)
            return 128 + signal.SIGTERM if reached else None
        return None if self._signal is None else 128 + self._signal

    @contextlib.contextmanager
    def listening(self) -> Iterator["Preemption"]:
        """While inside, a first signal is noted, and a second one ends the process at once."""
        if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
            # Among several processes jax.distributed listens, and tells all of them.
            yield self
            return
        before: dict[int, Any] = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, self._note)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            os._exit(128 + number)
        self._signal = number
        os.write(2, b"\nsaving, then stopping; once more to stop at once\n")
