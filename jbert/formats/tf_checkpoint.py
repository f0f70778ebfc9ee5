"""The reader of TensorFlow's `bert_model.ckpt.*`: an index of variables and files of raw bytes.

The format is TensorFlow's tensor bundle (`tensor_bundle.proto`, the "V2" of `tf.train.Saver`). Text
variables, which hold the object graph of a TF2 checkpoint, are no weights and have no name here.
"""

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jbert.formats.crc32c import masked_crc32c
from jbert.formats.dtypes import spelled
from jbert.formats.errors import FormatError, WeightsNotFoundError, clip, listing
from jbert.formats.mapped import MappedFile, shape_problem
from jbert.formats.sniff import refuse_not_downloaded
from jbert.formats.sstable import AGAIN, Damaged, Reader, table_entries
from jbert.formats.weights import Tensor, Weights, element_count

# tensorflow/core/framework/types.proto
_NUMBERS = {
    **{1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64"},
    **{9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16"},
    **{22: "uint32", 23: "uint64"},
}
DTYPES = dict(
    zip(_NUMBERS, spelled({name: name for name in _NUMBERS.values()}).values(), strict=True)
)
STRING = 7
MAX_SHARDS = 10_000
PARTS = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


@dataclass(frozen=True)
class Entry:
    """One variable: what it is and where its bytes lie."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool


def table_of(path: Path) -> Path:
    """The .index file that `path` means: its neighbour, or the prefix that they share.

    Any other path is returned as it is.
    """
    if PARTS.search(path.name) or not os.path.exists(path):
        table = PARTS.sub("", str(path)) + ".index"
        if os.path.exists(table):
            return Path(table)
    return path


def open_tf(path: Path, check_crc: bool = True) -> Weights:
    """`path` is the .index file; the data files lie beside it."""
    prefix = str(path).removesuffix(".index")
    index = MappedFile(path)
    table = table_entries(index, check_crc)
    shards, entries = _decode(index.path, table)
    index.close()
    _check_entries(index.path, entries, shards)
    files = _data_files(index.path, prefix, shards)
    _check_ranges(index.path, entries, files)
    tensors = {}
    for name, entry in entries.items():
        load = _loader(name, entry, files[entry.shard], check_crc)
        identity = (str(files[entry.shard].path), name)
        tensors[name] = Tensor(name, entry.shape, DTYPES[entry.dtype], load, identity)
    return Weights(index.path, "tf", tensors, tuple(files))


def _loader(name: str, entry: Entry, file: MappedFile, check_crc: bool) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        if check_crc and masked_crc32c(file.view(entry.offset, entry.size)) != entry.crc:
            raise FormatError(
                file.path,
                f"the recorded checksum for {clip(name)}",
                "other bytes: the file is damaged, or belongs to another index",
                "Download or copy the file again (check_crc=False reads it as it is)",
            )
        return file.array(DTYPES[entry.dtype], entry.shape, entry.offset)

    return load


def _decode(path: Path, table: dict[bytes, bytes]) -> tuple[int, dict[str, Entry]]:
    """(number of data files, entries by variable name)."""
    name = ""
    try:
        header = table.pop(b"", None)
        if header is None:
            raise Damaged("no header")
        shards = _header(path, header)
        entries = {}
        for key, value in table.items():
            # Slices of a partitioned variable have binary keys; the variable's own entry says so.
            if key.startswith(b"\0"):
                continue
            name = key.decode("utf-8")
            entry = _entry(value)
            if entry.dtype != STRING:
                entries[name] = entry
        return shards, entries
    except UnicodeDecodeError as error:
        raise _bad(path, "a variable name that is not UTF-8") from error
    except Damaged as error:
        raise _bad(path, f"{error}" + (f" in {clip(name)}" if name else "")) from error


def _header(path: Path, data: bytes) -> int:
    fields = dict(_fields(data))
    shards, endianness = fields.get(1, 0), fields.get(2, 0)
    if not isinstance(shards, int) or not 0 < shards <= MAX_SHARDS:
        raise FormatError(
            path,
            "a TensorFlow V2 checkpoint",
            "a header without a number of shards: an old V1 checkpoint, or damage",
            "Save it again with tf.train.Saver(write_version=tf.train.SaverDef.V2)",
        )
    if endianness != 0:
        raise _bad(path, "big-endian tensors")
    return shards


def _entry(data: bytes) -> Entry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    shape, sliced = (), False
    for number, value in _fields(data):
        if number == 2 and isinstance(value, bytes):
            shape = _shape(value)
        elif number == 7:
            sliced = True
        elif number in numbers and isinstance(value, int):
            numbers[number] = value
    return Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], numbers[6], sliced)


def _shape(data: bytes) -> tuple[int, ...]:
    sizes = []
    for number, value in _fields(data):
        if number == 2 and isinstance(value, bytes):
            size = dict(_fields(value)).get(1, 0)
            if not isinstance(size, int):
                raise Damaged("a shape that is not made of integers")
            # A negative size is a 64-bit two's complement: it overflows and is refused below.
            sizes.append(size)
        elif number == 3 and value:
            raise Damaged("a shape of unknown rank")
    return tuple(sizes)


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """The (number, value) pairs of a protocol buffer message, in stored order."""
    reader, fields = Reader(data), []
    while not reader.finished:
        key = reader.varint()
        number, wire = key >> 3, key & 7
        if wire == 0:
            fields.append((number, reader.varint()))
        elif wire == 1:
            fields.append((number, struct.unpack("<Q", reader.take(8))[0]))
        elif wire == 2:
            fields.append((number, reader.take(reader.varint())))
        elif wire == 5:
            fields.append((number, struct.unpack("<I", reader.take(4))[0]))
        else:
            raise Damaged(f"the unknown field kind {wire}")
    return fields


def _check_entries(path: Path, entries: dict[str, Entry], shards: int) -> None:
    sliced = [name for name, entry in entries.items() if entry.sliced]
    if sliced:
        raise FormatError(
            path,
            "whole variables",
            f"partitioned ones: {listing(sliced)}",
            "Load the checkpoint without a partitioner and save it again",
        )
    for name, entry in entries.items():
        if entry.dtype not in DTYPES:
            raise _bad(path, f"the unsupported dtype number {entry.dtype} for {clip(name)}")
        itemsize = DTYPES[entry.dtype].itemsize
        problem = shape_problem(entry.shape, itemsize)
        if problem:
            raise _bad(path, f"{problem} for {clip(name)}")
        if entry.size != element_count(entry.shape) * itemsize:
            raise _bad(path, f"{entry.size} bytes for {clip(name)} of shape {clip(entry.shape)}")
        if entry.shard >= shards:
            raise _bad(path, f"{clip(name)} in data file {entry.shard} of {shards}")


def _data_files(path: Path, prefix: str, shards: int) -> list[MappedFile]:
    paths = [Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}") for shard in range(shards)]
    missing = [shard.name for shard in paths if not os.path.exists(shard)]
    if missing:
        raise WeightsNotFoundError(
            path,
            "its data files beside it",
            f"none of the name {listing(missing)}",
            "Copy every file that begins with the checkpoint's name into one directory",
        )
    files = [MappedFile(shard) for shard in paths]
    for file in files:
        refuse_not_downloaded(file)
        file.release()
    return files


def _check_ranges(path: Path, entries: dict[str, Entry], files: list[MappedFile]) -> None:
    behind = [0] * len(files)
    ordered = sorted(entries.items(), key=lambda item: (item[1].shard, item[1].offset))
    for name, entry in ordered:
        end = entry.offset + entry.size
        if end > files[entry.shard].size:
            raise files[entry.shard].truncated(end)
        if entry.size and entry.offset < behind[entry.shard]:
            raise _bad(path, f"{clip(name)} on bytes that belong to another variable")
        behind[entry.shard] = max(behind[entry.shard], end)


def _bad(path: Path, found: str) -> FormatError:
    return FormatError(path, "a TensorFlow V2 checkpoint index", found, AGAIN)
