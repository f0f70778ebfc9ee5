"""A contender in a process of its own: one JSON object a line in, one a line out.

    {"do": "build", "work": {…}}          -> what it is, and how long building and first calls took
    {"do": "turn", "seconds": 1.0}        -> the seconds of each call in one round

Whatever a library prints goes to stderr; the answers have the process's stdout to themselves.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.sides.side import Call, Side, Unsupported
from benchmarks.workloads import Workload

WARM_UP = 3
# Calls that are handed over together take about this long; a turn has so many such groups.
GROUP_SECONDS, MOST_CALLS, GROUPS = 0.1, 50, (3, 60)
# One call of this many seconds is a turn.
LONG = 2.0


def side_of(contender: str) -> Side:
    family, _, way = contender.partition("-")
    if family == "jbert":
        from benchmarks.sides.with_jbert import JbertSide

        return JbertSide()
    if family == "torch":
        from benchmarks.sides.with_torch import TorchSide

        return TorchSide(way)
    if family == "flax":
        from benchmarks.sides.with_flax import FlaxSide

        return FlaxSide()
    from benchmarks.sides.with_keras import KerasSide

    return KerasSide()


class Measured:
    """A workload, built and called for the first time, and warm unless it is to stay cold."""

    def __init__(self, side: Side, work: Workload):
        before = resident()
        start = time.perf_counter()
        self.call: Call = side.build(work)
        built = time.perf_counter()
        self._calls = 0
        self.once(1)
        first = time.perf_counter()
        self.cold, self.latency = work.mode == "cold", work.mode == "latency"
        self.seconds = first - built
        self.facts = {"build_seconds": built - start, "first_seconds": first - built,
                      "units": self.call.units, "before_bytes": before,
                      "flops": getattr(self.call, "flops", None)}  # fmt: skip
        self.together = 1
        if not self.cold:
            for _ in range(WARM_UP - 1):
                self.seconds = self.once(1)
            if not self.latency:
                wanted = round(GROUP_SECONDS / max(self.seconds, 1e-6))
                self.together = min(max(wanted, 1), MOST_CALLS)
            forget_peak()

    def once(self, calls: int) -> float:
        """Seconds a call, of some that are handed over together."""
        start, started = time.perf_counter(), None
        for _ in range(calls):
            started = self.call.start(self._calls)
            self._calls += 1
        self.call.wait(started)
        return (time.perf_counter() - start) / calls

    def turn(self, seconds: float) -> list[float]:
        group = max(self.seconds * self.together, 1e-6)
        few, many = (1, 1) if group > LONG else GROUPS
        count = min(max(round(seconds / group), few), many)
        return [self.once(self.together) for _ in range(count)]


def resident(field: str = "VmRSS") -> int | None:
    """Bytes of memory this process has, or (VmHWM) ever had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(field)), None)
    return int(found.split()[1]) * 1024 if found else None


def forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak is then that of building, which is no less


class Worker:
    def __init__(self, contender: str):
        self.side = side_of(contender)
        self.measured: Measured | None = None

    def build(self, work: dict[str, Any]) -> dict[str, Any]:
        self.measured = Measured(self.side, Workload(**work))
        return {**self.measured.facts, "versions": self.side.versions(),
                "device": self.side.device()}  # fmt: skip

    def turn(self, seconds: float) -> dict[str, Any]:
        assert self.measured is not None
        units = self.measured.call.units
        busy, start = time.process_time(), time.perf_counter()
        calls = self.measured.turn(seconds)
        cpu, wall = time.process_time() - busy, time.perf_counter() - start
        return {
            "calls": [one / units for one in calls],
            # What the process used over all its threads, and of that each unit of work.
            "cpu": cpu,
            "cpu_each": cpu / (len(calls) * self.measured.together * units),
            "wall": wall,
            "peak_bytes": self.side.peak_bytes() or resident("VmHWM"),
        }


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            worker = worker or Worker(sys.argv[-1])
            answer = getattr(worker, request.pop("do"))(**request)
        except Unsupported as error:
            answer = {"unsupported": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
