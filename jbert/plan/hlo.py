"""What a compiled program says about itself: cycles and collectives, loops counted as they turn.

The compiler's own totals (`cost_analysis`) count the body of a loop once, whatever it repeats; the
text of the program states what each operation takes, so that it can be added up here.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast", "ragged-all-to-all",
)  # fmt: skip
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(calls|body|condition|to_apply|branch_computations|(?:true|false)_computation"
    r"|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONSTANT = re.compile(r"\bs32\[\](?:\{[^}]*\})? constant\((\d+)\)")
_SCOPE = re.compile(r'op_name="([^"]*)"')
_BITS = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of a kind among as many devices: how often a step runs one, and the bytes of
    what they make, on each device."""

    kind: str
    devices: int
    count: int
    bytes: int
    largest: int


@dataclasses.dataclass(frozen=True)
class Reading:
    """cycles: of a step on one device, by the compiler's estimate; 0 where it states none.
    parts:  those cycles by what they are spent on.
    loops:  how often each loop turns; None where the text does not tell.
    """

    cycles: int
    parts: dict[str, int]
    collectives: tuple[Collective, ...]
    loops: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class _Instruction:
    type: str
    opcode: str
    line: str

    def called(self) -> Iterator[tuple[str, str]]:
        for how, names in _CALLED.findall(self.line):
            for name in names.strip("{}").split(","):
                yield how, name.strip().removeprefix("%")


def read(text: str, devices: int) -> Reading:
    """The facts of a compiled program, as `compiled.as_text()` gives it, for so many devices."""
    computations, entry = _parse(text)
    parts: dict[str, int] = {}
    found: dict[tuple[str, int], list[int]] = {}
    loops: list[int | None] = []

    def walk(name: str, times: int, fused: bool) -> None:
        for one in computations.get(name, ()):
            kind = one.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                size, among = _bytes(one, kind), _group(one.line, devices)
                if among > 1:
                    found.setdefault((kind, among), []).extend([size] * times)
            if not fused and (cycles := _CYCLES.search(one.line)):
                part = part_of(_scope(one.line))
                parts[part] = parts.get(part, 0) + times * int(cycles[1])
            turns = 1
            if one.opcode == "while":
                loops.append(_turns(one, computations))
                turns = loops[-1] or 1
            for how, callee in one.called():
                if how not in ("to_apply", "condition"):
                    walk(callee, times * turns, fused or one.opcode == "fusion")

    walk(entry, 1, False)
    collectives = tuple(
        Collective(kind, among, len(sizes), sum(sizes), max(sizes))
        for (kind, among), sizes in sorted(found.items())
    )
    return Reading(sum(parts.values()), parts, collectives, tuple(loops))


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            current.append(_Instruction(match[2], match[3], line))
    return computations, entry


def _turns(loop: _Instruction, computations: dict[str, list[_Instruction]]) -> int | None:
    """How often a loop turns: as the compiler noted, or as its condition compares with."""
    if known := _TRIPS.search(loop.line):
        return int(known[1])
    condition = next((name for how, name in loop.called() if how == "condition"), "")
    limits = [
        int(match[1])
        for one in computations.get(condition, ())
        if (match := _CONSTANT.search(one.line))
    ]
    return limits[0] if len(limits) == 1 else None


def _bytes(one: _Instruction, kind: str) -> int:
    """What a collective makes. The start of an asynchronous one also names what it takes."""
    sizes = [_size(dtype, shape) for dtype, shape in _ARRAY.findall(one.type)]
    if one.opcode.endswith("-start") and kind != "all-reduce" and len(sizes) > 1:
        return max(sizes)
    return sum(sizes)


def _size(dtype: str, shape: str) -> int:
    bits = _BITS.search(dtype)
    count = math.prod(int(size) for size in shape.split(",") if size)
    return count * (int(bits[0]) if bits else 8) // 8


def _group(line: str, devices: int) -> int:
    """Among how many devices a collective runs, from any of the ways there are to write it."""
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    return devices


def scopes_of(text: str) -> dict[str, str]:
    """What each operation of a compiled program was traced in."""
    lines = text.splitlines()
    return {found[1]: _scope(line) for line in lines if (found := _INSTRUCTION.match(line))}


def _scope(line: str) -> str:
    match = _SCOPE.search(line)
    return match[1] if match else ""


def part_of(scope: str) -> str:
    """What an operation is for, by the names of the modules that it was traced in."""
    for sign, part in _PARTS:
        if sign in scope:
            return part
    return "other"


# The first that occurs counts: dropout is inside the layers, and these inside the encoder.
_PARTS = (
    ("Dropout", "dropout"),
    ("/attention", "attention"),
    ("/ffn", "feed-forward"),
    ("embeddings", "embeddings"),
    ("encoder.forward", "other layers"),
    ("/layer", "other layers"),  # of a bare encoder: layer_0, …, or layers
    ("jvp", "head and loss"),
    ("forward", "head and loss"),
    ("jit(run)", "optimizer"),
)
