"""A pickle machine that can only build what a state dict is made of.

It runs its own loop over an allow-list of opcodes instead of subclassing `pickle.Unpickler`: a
nine-byte pickle makes that one allocate gigabytes without naming any global. Globals are looked up
in a table and never imported, only listed constructors are called, items go only into lists and
dicts made here, and every length is compared with the bytes that are there.
"""

import io
import struct
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from jbert.formats.errors import FormatError, clip, listing

# BERT-large with its optimizer state takes a hundred thousand; an object takes about 100 bytes.
MAX_OPCODES = 1_000_000
MAX_TEXT = 1 << 24
MAX_NAME = 512
MAX_PROTOCOL = 5

RESAVE = (
    "If you trust its origin, load it with torch and save again with "
    "torch.save(model.state_dict(), ...) or as safetensors"
)
SCALARS = (str, int, float, bool, bytes, type(None))


class Constructor:
    """A global that REDUCE may call: `build` gets the pickled arguments and judges them."""

    __slots__ = ("name", "build")

    def __init__(self, name: str, build: Callable[..., Any]):
        self.name = name
        self.build = build


class Refused(ValueError):
    """Raised by constructors and tables; the machine adds the file and the position."""

    def __init__(self, found: str, action: str = RESAVE):
        super().__init__(found)
        self.found = found
        self.action = action


class Unpickler:
    """Runs pickles that lie in `data`; `find_global(module, name)` and `find_storage(id)` may
    raise `Refused`, and nothing else outside this class decides what an opcode does."""

    def __init__(
        self,
        path: Path,
        data: memoryview,
        find_global: Callable[[str, str], Any],
        find_storage: Callable[[Any], Any],
    ):
        self.path = path
        self.data = data
        self.find_global = find_global
        self.find_storage = find_storage
        self.opcodes = 0

    def load(self, start: int = 0) -> tuple[Any, int]:
        """(the object pickled at `start`, the position behind its STOP)."""
        self.start = self.position = start
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        try:
            return self._run(), self.position
        except Refused as error:
            found = f"{error.found} (byte {self.position})"
            raise FormatError(
                self.path, "a pickled state dict of plain tensors", found, error.action
            ) from error
        except MemoryError as error:
            raise FormatError(
                self.path, "a pickle that fits in memory", "one that does not", RESAVE
            ) from error

    def _run(self) -> Any:
        while True:
            code = self.take(1)[0]
            if code == STOP:
                if self.marks:
                    raise Refused("a pickle that stops inside an unfinished object")
                return self.pop()
            operation = OPERATIONS.get(code)
            if operation is None:
                raise Refused(self._unknown(code))
            self.opcodes += 1
            if self.opcodes > MAX_OPCODES:
                raise Refused(f"a pickle of more than {MAX_OPCODES} operations")
            operation(self)

    def take(self, length: int) -> memoryview:
        end = self.position + length
        if end > len(self.data):
            raise Refused(
                "a truncated pickle or a length that is larger than the file",
                "Download or copy the file again",
            )
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def counted(self, layout: str) -> bytes:
        length = self.number(layout)
        if not 0 <= length <= MAX_TEXT:
            raise Refused(f"a string of {length} bytes, over the limit of {MAX_TEXT}")
        return bytes(self.take(length))

    def line(self) -> str:
        # The view is not searchable; a name is short, so a bounded copy is.
        text = bytes(self.data[self.position : self.position + MAX_NAME])
        length = text.find(b"\n")
        if length < 0:
            raise Refused("a truncated or endless global name", "Download the file again")
        self.position += length + 1
        return as_text(text[:length])

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise Refused("a pickle that takes more than it put on its stack")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise Refused("a pickle that ends an object it never began")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def remember(self, index: int) -> None:
        if index > len(self.data):
            raise Refused(f"a memo index of {index}, larger than the file")
        self.memo[index] = self.top()

    def top(self) -> Any:
        if not self.stack:
            raise Refused("a pickle that takes more than it put on its stack")
        return self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise Refused(f"a reference to memo {index}, which was never stored")
        self.push(self.memo[index])

    def resolve(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise Refused("a global whose name is not text")
        self.push(self.find_global(module, name))

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict):
            raise Refused(f"items set on {type_of(target)}, which is not a dict")
        if len(items) % 2:
            raise Refused("a dict key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            put(target, key, value)

    def append_items(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise Refused(f"items appended to {type_of(target)}, which is not a list")
        target.extend(items)

    def make_tuple(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def reduce(self) -> None:
        arguments, callee = self.pop(), self.pop()
        if not isinstance(callee, Constructor):
            raise Refused(f"a call of {type_of(callee)}, which is not a known constructor")
        if type(arguments) is not tuple:
            raise Refused(f"a call of {callee.name} with {type_of(arguments)} for arguments")
        self.push(callee.build(*arguments))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        # torch hangs `_metadata` on a module's OrderedDict; any other attribute is an attack or
        # another class, and it is never stored: the table stays the dict that its items made.
        named = type(state) is dict and all(key == "_metadata" for key in state)
        if not (named and isinstance(target, OrderedTable)):
            raise Refused(f"attributes set on {type_of(target)}")

    def protocol(self) -> None:
        version = self.take(1)[0]
        if version > MAX_PROTOCOL:
            raise Refused(f"pickle protocol {version}")

    def frame(self) -> None:
        length = self.number("<Q")
        if self.position + length > len(self.data):
            raise Refused("a frame that is larger than the file", "Download the file again")

    def _unknown(self, code: int) -> str:
        import pickletools

        names = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
        asked = self._globals_named()
        what = f"the pickle opcode {names.get(code, hex(code))}, which no state dict needs"
        return what + (f"; this pickle asks for {listing(asked)}" if asked else "")

    def _globals_named(self) -> set[str]:
        """Best effort, for messages alone: the globals that the rest of the pickle names."""
        import pickletools

        asked: set[str] = set()
        strings: list[str] = []
        window = bytes(self.data[self.start : self.start + (1 << 16)])
        try:
            for opcode, argument, _ in pickletools.genops(io.BytesIO(window)):
                if opcode.name in ("GLOBAL", "INST"):
                    asked.add(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    asked.add(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
        except Exception:  # noqa: BLE001 - a damaged rest must not hide the refusal itself
            return asked
        return asked


class OrderedTable(dict):
    """What `collections.OrderedDict` becomes: a dict that BUILD may give a `_metadata`."""

    noun = "an OrderedDict"


def put(table: dict[Hashable, Any], key: Any, value: Any) -> None:
    # Nested keys are not hashed: hashing a tuple that shares its parts can take for ever.
    parts = key if type(key) is tuple else (key,)
    if not all(type(part) in SCALARS for part in parts):
        raise Refused(f"a dict key that is {type_of(key)}")
    if key in table:
        raise Refused(f"the key {clip(key)} set twice in one dict")
    table[key] = value


def as_text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("a string that is not UTF-8") from error


def type_of(value: Any) -> str:
    if isinstance(value, Constructor):
        return value.name
    return getattr(value, "noun", f"a value of type {type(value).__name__}")


def _make_dict(machine: Unpickler) -> None:
    items = machine.pop_mark()
    machine.push({})
    machine.set_items(items)


def _append(machine: Unpickler) -> None:
    value = machine.pop()
    machine.append_items([value])


def _set_item(machine: Unpickler) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _mark(machine: Unpickler) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _stack_global(machine: Unpickler) -> None:
    name, module = machine.pop(), machine.pop()
    machine.resolve(module, name)


def _integer(machine: Unpickler, length: int) -> None:
    if length > 255:
        raise Refused(f"an integer of {length} bytes")
    machine.push(int.from_bytes(machine.take(length), "little", signed=True))


STOP = ord(".")
OPERATIONS: dict[int, Callable[[Unpickler], None]] = {
    0x80: Unpickler.protocol,
    0x95: Unpickler.frame,
    ord("("): _mark,
    # Constants and numbers.
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("G"): lambda m: m.push(m.number(">d")),
    0x8A: lambda m: _integer(m, m.number("<B")),
    0x8B: lambda m: _integer(m, m.number("<I")),
    # Text and bytes; the two BINSTRINGs are what Python 2 wrote for str.
    ord("X"): lambda m: m.push(as_text(m.counted("<I"))),
    0x8C: lambda m: m.push(as_text(m.counted("<B"))),
    0x8D: lambda m: m.push(as_text(m.counted("<Q"))),
    ord("T"): lambda m: m.push(as_text(m.counted("<i"))),
    ord("U"): lambda m: m.push(as_text(m.counted("<B"))),
    ord("B"): lambda m: m.push(m.counted("<I")),
    ord("C"): lambda m: m.push(m.counted("<B")),
    0x8E: lambda m: m.push(m.counted("<Q")),
    # Containers.
    ord("]"): lambda m: m.push([]),
    ord("}"): lambda m: m.push({}),
    ord(")"): lambda m: m.push(()),
    ord("l"): lambda m: m.push(m.pop_mark()),
    ord("d"): _make_dict,
    ord("t"): lambda m: m.push(tuple(m.pop_mark())),
    0x85: lambda m: m.make_tuple(1),
    0x86: lambda m: m.make_tuple(2),
    0x87: lambda m: m.make_tuple(3),
    ord("a"): _append,
    ord("e"): lambda m: m.append_items(m.pop_mark()),
    ord("s"): _set_item,
    ord("u"): lambda m: m.set_items(m.pop_mark()),
    # The memo.
    ord("q"): lambda m: m.remember(m.number("<B")),
    ord("r"): lambda m: m.remember(m.number("<I")),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("h"): lambda m: m.recall(m.number("<B")),
    ord("j"): lambda m: m.recall(m.number("<I")),
    # Objects.
    ord("c"): lambda m: m.resolve(m.line(), m.line()),
    0x93: _stack_global,
    ord("Q"): lambda m: m.push(m.find_storage(m.pop())),
    ord("R"): Unpickler.reduce,
    ord("b"): Unpickler.build,
}
