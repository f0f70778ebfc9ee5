"""The reader of `flax_model.msgpack`: nested dicts of arrays as `flax.serialization` writes them.

The walk below steps over array bytes, where unpacking would copy all of them. Nested keys are
joined with "/"; numbers and strings that are no arrays have no name here.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jbert.formats.dtypes import BY_NAME
from jbert.formats.errors import FormatError, clip
from jbert.formats.mapped import MappedFile, shape_problem
from jbert.formats.weights import Tensor, Weights, element_count

MAX_DEPTH = 64
MAX_NODES = 500_000
MAX_NAME = 512
# flax.serialization._MsgpackExtType
NDARRAY, COMPLEX, SCALAR = 1, 2, 3
CHUNKED = "__msgpack_chunked_array__"

FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
LENGTHS = {
    **{0xC4: ("bin", ">B"), 0xC5: ("bin", ">H"), 0xC6: ("bin", ">I")},
    **{0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I")},
    **{0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"), 0xC9: ("ext", ">I")},
    **{0xDC: ("array", ">H"), 0xDD: ("array", ">I")},
    **{0xDE: ("map", ">H"), 0xDF: ("map", ">I")},
}
FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
INTEGERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
SIGNED = {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}


@dataclass(frozen=True)
class Array:
    """One stored array: where its bytes begin and what they are."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Chunks:
    """An array over a gigabyte, which flax stores as flat pieces."""

    shape: tuple[int, ...]
    parts: tuple[Array, ...]

    @property
    def dtype(self) -> np.dtype:
        return self.parts[0].dtype


class Walker:
    """Reads msgpack values of a mapped file, arrays as descriptions of themselves."""

    def __init__(self, file: MappedFile):
        self.file = file
        self.position = 0
        self.nodes = 0

    def bad(self, found: str) -> FormatError:
        return FormatError(
            self.file.path,
            "nested dicts of arrays as flax.serialization.to_bytes writes them",
            f"{found} (byte {self.position})",
            "Download the file again, or write it again with flax",
        )

    def value(self, depth: int) -> Any:
        """The value at the current position, which moves behind it."""
        self.nodes += 1
        if depth > MAX_DEPTH:
            raise self.bad("maps nested too deeply")
        if self.nodes > MAX_NODES:
            raise self.bad(f"more than {MAX_NODES} values")
        kind, number = self._head()
        if kind == "map":
            return self._map(number, depth)
        if kind == "array":
            return {str(index): self.value(depth + 1) for index in range(number)}
        if kind == "ext":
            return self._extension(number)
        if kind == "int":
            return number
        # None, booleans, floats, loose strings and bytes: nothing here needs their value.
        self._skip(number)
        return None

    def _head(self) -> tuple[str, int]:
        """(kind, length or value) of the next value; kind "raw" is `length` bytes to skip."""
        code = self._unpack(">B")
        if code <= 0x7F:
            return "int", code
        if code >= 0xE0:
            return "int", code - 0x100
        if code <= 0x8F:
            return "map", code & 0x0F
        if code <= 0x9F:
            return "array", code & 0x0F
        if code <= 0xBF:
            return "str", code & 0x1F
        if code in (0xC0, 0xC2, 0xC3):
            return "raw", 0
        if code in INTEGERS or code in SIGNED:
            return "int", self._unpack(INTEGERS.get(code) or SIGNED[code])
        if code in FIXED:
            return "raw", FIXED[code]
        if code in FIXED_EXT:
            return "ext", FIXED_EXT[code]
        if code in LENGTHS:
            kind, layout = LENGTHS[code]
            return ("raw" if kind == "bin" else kind), self._unpack(layout)
        raise self.bad("the byte 0xc1, which msgpack never uses")

    def _map(self, count: int, depth: int) -> Any:
        table: dict[str, Any] = {}
        for _ in range(count):
            kind, number = self._head()
            if kind not in ("str", "int"):
                raise self.bad("a key that is not a string")
            if kind == "str" and number > MAX_NAME:
                raise self.bad(f"a key of {number} bytes")
            key = self._text(number) if kind == "str" else str(number)
            if key in table:
                raise self.bad(f"the key {clip(key)} twice in one map")
            table[key] = self.value(depth + 1)
        return self._chunks(table) if CHUNKED in table else table

    def _extension(self, length: int) -> Array | None:
        code = self._unpack(">b")
        end = self.position + length
        if end > self.file.size:
            raise self.file.truncated(end)
        if code == COMPLEX:
            self._skip(length)
            return None
        if code not in (NDARRAY, SCALAR):
            raise self.bad(f"the extension type {code}, which flax does not write")
        array = self._array()
        if self.position != end:
            raise self.bad("an array whose parts do not fill its length")
        return array

    def _array(self) -> Array:
        """An array's payload: (shape, dtype name, bytes)."""
        if self._head() != ("array", 3):
            raise self.bad("an array that is not (shape, dtype, bytes)")
        kind, rank = self._head()
        if kind != "array" or rank > 64:
            raise self.bad("an array without a shape")
        sizes = [self._head() for _ in range(rank)]
        if any(size_kind != "int" for size_kind, _ in sizes):
            raise self.bad("a shape that is not made of integers")
        shape = tuple(size for _, size in sizes)
        kind, length = self._head()
        name = self._text(length) if kind in ("str", "raw") and length < MAX_NAME else ""
        if name not in BY_NAME:
            raise self.bad(f"the unknown dtype {clip(name)}")
        dtype = BY_NAME[name]
        problem = shape_problem(shape, dtype.itemsize)
        if problem:
            raise self.bad(problem)
        kind, length = self._head()
        if kind not in ("raw", "str") or length != element_count(shape) * dtype.itemsize:
            raise self.bad(f"{length} bytes for an array of shape {clip(shape)} and dtype {name}")
        offset = self.position
        self._skip(length)
        return Array(dtype, shape, offset)

    def _chunks(self, table: dict[str, Any]) -> Chunks:
        shape, parts = _in_order(table.get("shape")), _in_order(table.get("chunks"))
        if not parts or not all(isinstance(part, Array) for part in parts):
            raise self.bad("a chunked array without chunks")
        dtype = parts[0].dtype
        if shape is None or shape_problem(shape, dtype.itemsize):
            raise self.bad("a chunked array without a shape")
        if any(part.dtype != dtype or len(part.shape) != 1 for part in parts):
            raise self.bad("chunks that are not flat and of one dtype")
        if sum(part.shape[0] for part in parts) != element_count(shape):
            raise self.bad(f"chunks that do not fill the shape {clip(shape)}")
        return Chunks(shape, parts)

    def _unpack(self, layout: str) -> int:
        size = struct.calcsize(layout)
        (number,) = struct.unpack(layout, self.file.view(self.position, size))
        self.position += size
        return number

    def _text(self, length: int) -> str:
        try:
            text = self.file.read(self.position, length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.bad("a string that is not UTF-8") from error
        self.position += length
        return text

    def _skip(self, length: int) -> None:
        if self.position + length > self.file.size:
            raise self.file.truncated(self.position + length)
        self.position += length


def open_flax(path: Path) -> Weights:
    file = MappedFile(path)
    walker = Walker(file)
    root = walker.value(0)
    if not isinstance(root, dict):
        raise walker.bad(f"a {type(root).__name__} at the top, not a map")
    if walker.position != file.size:
        raise walker.bad(f"{file.size - walker.position} bytes behind the end")
    tensors: dict[str, Tensor] = {}
    for name, leaf in _leaves(walker, root):
        if name in tensors:
            raise walker.bad(f"two arrays that would both be called {clip(name)}")

        def load(leaf: Array | Chunks = leaf) -> np.ndarray:
            return _read(file, leaf)

        tensors[name] = Tensor(name, leaf.shape, leaf.dtype, load, (str(path), name))
    if root and not tensors:
        raise walker.bad("no arrays")
    file.release()
    return Weights(path, "flax", tensors, (file,))


def _leaves(
    walker: Walker, tree: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Array | Chunks]]:
    if len(prefix) > MAX_NAME:
        raise walker.bad(f"a name of more than {MAX_NAME} characters")
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(walker, value, f"{prefix}{key}/")
        elif isinstance(value, Array | Chunks):
            yield f"{prefix}{key}", value


def _read(file: MappedFile, leaf: Array | Chunks) -> np.ndarray:
    if isinstance(leaf, Array):
        return file.array(leaf.dtype, leaf.shape, leaf.offset)
    whole = np.empty(leaf.shape, leaf.dtype)
    flat, filled = whole.reshape(-1), 0
    for part in leaf.parts:
        piece = file.array(part.dtype, part.shape, part.offset)
        flat[filled : filled + piece.size] = piece
        filled += piece.size
    whole.flags.writeable = False
    return whole


def _in_order(table: Any) -> tuple | None:
    """flax's spelling of a tuple, {"0": first, "1": second, ...}, back as a tuple."""
    if not isinstance(table, dict) or set(table) != {str(index) for index in range(len(table))}:
        return None
    return tuple(table[str(index)] for index in range(len(table)))
