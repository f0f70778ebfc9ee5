"""The safetensors reader: an 8-byte length, a JSON header, then the tensors back to back.

The header is parsed here and not by the `safetensors` package because that one accepts a key given
twice, and its numpy side knows no bfloat16 or float8. The limits are the package's own.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from jbert.formats import strict_json
from jbert.formats.dtypes import spelled
from jbert.formats.errors import FormatError, clip
from jbert.formats.mapped import MappedFile, shape_problem
from jbert.formats.weights import Tensor, Weights, element_count

MAX_HEADER = 100_000_000
# Parsed JSON takes some twenty times its text; padding with spaces is free.
MAX_HEADER_TEXT = 1 << 24

DTYPES = spelled(
    {
        **{"BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"},
        **{"U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64"},
        **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
        **{"F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz"},
        **{"F8_E5M2": "float8_e5m2", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
        **{"F8_E8M0": "float8_e8m0fnu", "C64": "complex64"},
    }
)
PACKED_DTYPES = ("F4", "F6_E2M3", "F6_E3M2")


def open_safetensors(path: Path) -> Weights:
    file = MappedFile(path)
    header, start = _header(file)
    notes = header.pop("__metadata__", None)
    if notes is not None and not _is_text_table(notes):
        raise _bad(path, "a __metadata__ that is not a table of strings")
    entries = [(name, *_entry(path, name, entry)) for name, entry in header.items()]
    _check_layout(file, start, entries)
    tensors = {}
    for name, dtype, shape, begin, _ in entries:

        def load(dtype: np.dtype = dtype, shape=shape, offset: int = start + begin) -> np.ndarray:
            return file.array(dtype, shape, offset)

        tensors[name] = Tensor(name, shape, dtype, load, storage=(str(path), start + begin, name))
    file.release()
    return Weights(path, "safetensors", tensors, (file,), notes)


def _header(file: MappedFile) -> tuple[dict[str, Any], int]:
    if file.size < 8:
        raise _bad(file.path, f"only {file.size} bytes: the file is truncated")
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > MAX_HEADER:
        raise _bad(file.path, f"a header length of {length}, over the limit of {MAX_HEADER}")
    if 8 + length > file.size:
        raise file.truncated(8 + length)
    text = file.read(8, length).rstrip(b" \t\r\n")
    if len(text) > MAX_HEADER_TEXT:
        raise _bad(file.path, f"{len(text)} bytes of header, over the limit of {MAX_HEADER_TEXT}")
    if not text.startswith(b"{"):
        raise _bad(file.path, "a header that does not begin with '{'")
    try:
        header = strict_json.parse(text)
    except strict_json.JsonError as error:
        raise _bad(file.path, f"a header with {error}") from error
    return header, 8 + length


def _entry(path: Path, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """(dtype, shape, begin, end) of one header entry, each consistent with the others."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _bad(path, f"no dtype, shape and data_offsets for {clip(name)}")
    spelling, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if spelling in PACKED_DTYPES:
        raise FormatError(
            path,
            "whole-byte dtypes",
            f"{clip(name)} of the packed quantised dtype {spelling}",
            "Convert the model to float16, bfloat16 or float32 before loading it",
        )
    if not isinstance(spelling, str) or spelling not in DTYPES:
        raise _bad(path, f"the unknown dtype {clip(spelling)} for {clip(name)}")
    dtype = DTYPES[spelling]
    problem = shape_problem(shape, dtype.itemsize)
    if problem:
        raise _bad(path, f"{problem} for {clip(name)}")
    if not (isinstance(offsets, list) and [type(o) for o in offsets] == [int, int]):
        raise _bad(path, f"data_offsets that are not two integers for {clip(name)}")
    begin, end = offsets
    needed = element_count(shape) * dtype.itemsize
    if begin < 0 or end - begin != needed:
        raise _bad(
            path,
            f"data_offsets [{clip(begin, 40)}, {clip(end, 40)}] for {clip(name)}, "
            f"whose dtype and shape take {needed} bytes",
        )
    return dtype, tuple(shape), begin, end


def _check_layout(file: MappedFile, start: int, entries: list[tuple]) -> None:
    """The tensors tile the data part: no overlap, no hole, nothing behind the last one."""
    position = 0
    for name, _, _, begin, end in sorted(entries, key=lambda entry: entry[3:]):
        if begin != position:
            kind = "overlaps another tensor" if begin < position else "leaves a hole before it"
            raise _bad(file.path, f"{clip(name)}, which {kind} (byte {begin}, not {position})")
        position = end
    if start + position > file.size:
        raise file.truncated(start + position)
    if start + position < file.size:
        extra = file.size - start - position
        raise _bad(file.path, f"{extra} bytes that belong to no tensor at the end")


def _is_text_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _bad(path: Path, found: str) -> FormatError:
    return FormatError(
        path, "a well-formed safetensors file", found, "Download the file again, or re-export it"
    )
