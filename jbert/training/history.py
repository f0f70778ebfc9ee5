"""What a run logged: the lines of `metrics.jsonl` as one series for each split and figure."""

import json
import math
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# What is beyond these is infinite or nothing to a chart, whose arithmetic needs the room.
LARGEST, SMALLEST = 1e300, 1e-300
LAST_STEP = 1e15


class Series(NamedTuple):
    """One figure over the steps, in their order and each once; values may be NaN or infinite."""

    steps: np.ndarray
    values: np.ndarray

    def finite(self) -> "Series":
        kept = np.isfinite(self.values)
        return Series(self.steps[kept], self.values[kept])


class History(NamedTuple):
    """All series by (split, figure), in the order of their first lines."""

    series: dict[tuple[str, str], Series]
    lines: int = 0
    unreadable: int = 0
    first_unreadable: int = 0

    def splits(self) -> list[str]:
        return list(dict.fromkeys(split for split, _ in self.series))


def read_history(path: Path) -> History:
    """Reads the log line by line; a file that is not there is a history without lines.

    A run that was resumed logs some steps twice: the later line counts. A run that was killed may
    leave half a line, in the middle of the file where it was resumed; those are counted, except the
    last, which may still be on its way.
    """
    columns: dict[tuple[str, str], tuple[array, array]] = {}
    lines = unreadable = first = 0
    if not path.exists():
        return History({})
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            record = _parse(line)
            if record is not None:
                lines += 1
                _add(columns, record)
            elif line.endswith("\n"):
                unreadable += 1
                first = first or number
    series = {key: _last_of_each_step(*pair) for key, pair in columns.items()}
    return History(series, lines, unreadable, first)


def _parse(line: str) -> Mapping[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("split"), str):
        return None
    return record if abs(_number(record.get("step"))) < LAST_STEP else None


def _add(columns: dict, record: Mapping[str, Any]) -> None:
    split, step = record["split"], _number(record["step"])
    for name, value in record.items():
        if name in ("step", "split") or isinstance(value, bool):
            continue
        # Writers of strict JSON have null for what is not a number.
        if value is None or isinstance(value, int | float):
            steps, values = columns.setdefault((split, name), (array("d"), array("d")))
            steps.append(step)
            values.append(_number(value))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _last_of_each_step(steps: array, values: array) -> Series:
    order = np.argsort(np.asarray(steps), kind="stable")
    by_step, found = np.asarray(steps)[order], np.asarray(values)[order]
    found[np.abs(found) < SMALLEST] = 0.0
    found[found > LARGEST], found[found < -LARGEST] = np.inf, -np.inf
    last = np.append(by_step[1:] != by_step[:-1], True)
    return Series(by_step[last], found[last])
