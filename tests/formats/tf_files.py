"""Writes TensorFlow checkpoints byte by byte, so that tests can lie in any field."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jbert.formats.crc32c import masked_crc32c

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19, "bfloat16": 14}


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def shape_of(sizes: tuple[int, ...]) -> bytes:
    return b"".join(field(2, field(1, size % (1 << 64))) for size in sizes)


def entry(array: np.ndarray, at: int, shard: int = 0, **lies) -> bytes:
    raw = array.tobytes()
    values = {
        "dtype": NUMBERS[array.dtype.name],
        "shape": shape_of(array.shape),
        "shard": shard,
        "offset": at,
        "size": len(raw),
        "crc": masked_crc32c(raw),
        "more": b"",
        **lies,
    }
    numbers = field(1, values["dtype"]) + field(2, values["shape"]) + field(3, values["shard"])
    place = field(4, values["offset"]) + field(5, values["size"])
    return numbers + place + varint(6 << 3 | 5) + struct.pack("<I", values["crc"]) + values["more"]


def header(shards: int = 1, endianness: int = 0) -> bytes:
    return field(1, shards) + field(2, endianness) + field(3, field(1, 1))


def records(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A block's contents, with the keys' common prefixes left out."""
    body, before = b"", b""
    for key, value in pairs:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        lengths = varint(shared) + varint(len(key) - shared) + varint(len(value))
        body += lengths + key[shared:] + value
        before = key
    return body + struct.pack("<II", 0, 1)


def snappy(data: bytes) -> bytes:
    """Snappy that repeats a run of equal bytes by a copy, else writes literals."""
    out, at = varint(len(data)), 0
    while at < len(data):
        run = 1
        while at + run < len(data) and run < 64 and data[at + run] == data[at]:
            run += 1
        out += bytes([0, data[at]])
        at += 1
        if 4 <= run - 1 <= 11:
            out += bytes([1 | (run - 5) << 2, 1])
            at += run - 1
        elif run > 12:
            out += bytes([2 | (run - 2) << 2, 1, 0])
            at += run - 1
    return out


def table(pairs: list[tuple[bytes, bytes]], compress: bool = False, per_block: int = 3) -> bytes:
    data, handles = b"", []

    def add(contents: bytes) -> bytes:
        nonlocal data
        stored = (snappy(contents) if compress else contents) + bytes([compress])
        handle = varint(len(data)) + varint(len(stored) - 1)
        data += stored + struct.pack("<I", masked_crc32c(stored))
        return handle

    for start in range(0, len(pairs), per_block):
        block = pairs[start : start + per_block]
        handles.append((block[-1][0] + b"\xff", add(records(block))))
    meta = add(records([]))
    index = add(records(handles))
    return data + (meta + index).ljust(40, b"\0") + MAGIC


def write(
    directory: Path,
    arrays: Mapping[str, np.ndarray],
    prefix: str = "bert_model.ckpt",
    lies: Mapping[str, dict] | None = None,
    head: bytes | None = None,
    compress: bool = False,
) -> Path:
    """A checkpoint with one data file; returns the path of its index."""
    pairs, data = [(b"", header() if head is None else head)], b""
    for name in sorted(arrays, key=str.encode):
        more = (lies or {}).get(name, {})
        pairs.append((name.encode(), entry(arrays[name], len(data), **more)))
        data += arrays[name].tobytes()
    (directory / f"{prefix}.data-00000-of-00001").write_bytes(data)
    path = directory / f"{prefix}.index"
    path.write_bytes(table(pairs, compress))
    return path
