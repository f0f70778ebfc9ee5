"""Results on disk, one file a workload, written as soon as it is there; and their table."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.cells import CELLS
from benchmarks.contenders import BEFORE, CONTENDERS
from benchmarks.workloads import Workload

OWN = "jbert"
MARKS = ("<!-- results: begin -->", "<!-- results: end -->")


def path_of(out: Path, cell: str, work: Workload) -> Path:
    name = re.sub(r"[^A-Za-z0-9]+", "-", work.name.replace("×", "x")).strip("-").lower()
    return out / cell / f"{name}{'-tiny' if work.tiny else ''}.json"


def write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def finished(path: Path, work: Workload, contenders: list[str], rounds: int) -> bool:
    """Whether this was measured already: the same work, no contender fewer, no round fewer."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    turns = [len(stored["contenders"].get(name, {"turns": ()})["turns"]) for name in contenders]
    known = all(name in stored["contenders"] for name in contenders)
    out = [stored["contenders"][n]["left_out"] for n in contenders if n in stored["contenders"]]
    enough = all(n >= rounds or why for n, why in zip(turns, out, strict=False))
    return stored["workload"] == dataclasses.asdict(work) and known and enough


def calls(stored: dict[str, Any], name: str) -> list[list[float]]:
    return [turn["calls"] for turn in stored["contenders"][name]["turns"]]


def ratios(stored: dict[str, Any]) -> dict[str, figures.Ratio]:
    """Every peer's time over jbert's."""
    if not stored["contenders"].get(OWN, {"turns": ()})["turns"]:
        return {}
    own = calls(stored, OWN)
    return {
        name: figures.ratio(own, calls(stored, name))
        for name, one in stored["contenders"].items()
        if name != OWN and len(one["turns"]) == len(own)
    }


def summary(stored: dict[str, Any]) -> Iterator[str]:
    """What there is to say of one workload, line by line."""
    found = ratios(stored)
    for name, one in stored["contenders"].items():
        if one["left_out"]:
            yield f"{name}: left out: {one['left_out']}"
            continue
        processor = [turn["cpu_each"] for turn in one["turns"] if "cpu_each" in turn]
        units = one["facts"]["units"]
        beside = f", {figures.median(processor) * units * 1e3:,.1f} ms of CPU" if processor else ""
        yield f"{name}: {_value(stored, name)}{beside}{_compared(found.get(name))}"
    if stored["disturbed"]:
        yield f"rounds that were disturbed, and made again: {stored['disturbed']}"
    if any(not t["quiet"] for one in stored["contenders"].values() for t in one["turns"]):
        yield "the machine was not idle: no figure here is to be quoted"


def _compared(ratio: figures.Ratio | None) -> str:
    if ratio is None:
        return ""
    if ratio.why:
        return f", no ratio: {ratio.why}"
    return f", jbert is {ratio.median:.2f} times as fast (lower quartile {ratio.lower:.2f})"


def _rate(stored: dict[str, Any], name: str) -> str:
    """The operations a second that the model asks for, whatever the program does for them."""
    facts = stored["contenders"][name]["facts"]
    if not facts.get("flops") or stored["workload"]["mode"] != "throughput":
        return ""
    seconds = figures.median([figures.median(one) for one in calls(stored, name)])
    return f", {facts['flops'] / (seconds * facts['units']) / 1e12:,.3g} TFLOP/s"


def _value(stored: dict[str, Any], name: str) -> str:
    """The median over rounds, in the unit of the workload, with the spread of rounds."""
    values = [figures.median(one) for one in calls(stored, name)]
    middle, work = figures.median(values), stored["workload"]
    wide = f"± {figures.spread(values) / 2:.0%}"
    if work["mode"] == "cold":
        return f"{middle:.1f} s {wide}"
    if work["kind"] == "mlm" and work["lengths"]:
        return f"{1 / middle:,.0f} tokens/s {wide}"
    if work["mode"] == "latency" or work["kind"] != "encode" and work["kind"] != "ragged":
        units = stored["contenders"][name]["facts"]["units"]
        return f"{middle * units * 1e3:,.1f} ms {wide}"
    return f"{1 / middle:,.1f} sequences/s {wide}"


def stored_in(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for cell in CELLS:
        for path in sorted((out / cell).glob("*.json")):
            yield cell, json.loads(path.read_text(encoding="utf-8"))


def table(out: Path) -> str:
    """Markdown: a table for each cell, a row for each workload, a column for each contender."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for cell, stored in stored_in(out):
        cells.setdefault(cell, []).append(stored)
    if not cells:
        return "Nothing is measured yet.\n"
    parts = [_machines([stored for many in cells.values() for stored in many])]
    for cell, many in cells.items():
        present = {name for stored in many for name, one in stored["contenders"].items()
                   if one["turns"]}  # fmt: skip
        names = [name for name in (*CONTENDERS, BEFORE) if name in present]
        lines = [f"**{cell}. {CELLS[cell].title}**", "", "| |" + "".join(f" {n} |" for n in names),
                 "|---|" + "---|" * len(names)]  # fmt: skip
        lines += [_row(stored, names) for stored in many]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _row(stored: dict[str, Any], names: list[str]) -> str:
    found, cells = ratios(stored), []
    for name in names:
        one = stored["contenders"].get(name)
        if one is None or not one["turns"]:
            cells.append("—")
            continue
        ratio = found.get(name)
        beside = "" if ratio is None else f"; {ratio.median:.2f} ({ratio.lower:.2f})"
        if ratio is not None and ratio.why:
            beside = "; no ratio"
        cells.append(_value(stored, name) + _rate(stored, name) + beside)
    note = "" if _quiet(stored) else " (busy machine)"
    return f"| {stored['workload']['name']}{note} | " + " | ".join(cells) + " |"


def _quiet(stored: dict[str, Any]) -> bool:
    return all(t["quiet"] for one in stored["contenders"].values() for t in one["turns"])


def _machines(many: list[dict[str, Any]]) -> str:
    lines = sorted({stored["machine"] for stored in many})
    versions: dict[str, set[str]] = {}
    for stored in many:
        for one in stored["contenders"].values():
            for name, version in one["facts"].get("versions", {}).items():
                versions.setdefault(name, set()).add(version)
    said = ", ".join(f"{name} {' and '.join(sorted(v))}" for name, v in sorted(versions.items()))
    return f"Measured on {'; '.join(lines)}. {said}."


class DocumentError(ValueError):
    """A document that a table cannot go into."""


def around(document: Path) -> tuple[str, str]:
    """What stands before and after the two marks of a document."""
    begin, end = MARKS
    old = document.read_text(encoding="utf-8")
    head, first, rest = old.partition(begin)
    _, second, tail = rest.partition(end)
    if not first or not second:
        raise DocumentError(
            f"{document}: expected the lines {begin} and {end}, between which the table goes"
        )
    return head + begin, end + tail


def put_into(document: Path, text: str) -> None:
    """Replaces what stands between the two marks of a document."""
    head, tail = around(document)
    document.write_text(f"{head}\n{text}{tail}", encoding="utf-8")
