"""safetensors: what the library writes reads bit for bit, and every lying header is refused."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from formats.limited import read_limited, refusals
from safetensors.numpy import save_file

from jbert.formats import FormatError, open_weights

SMALL_FLOATS = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "BF16": ml_dtypes.bfloat16,
}


def packed(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(begin: int, end: int, shape: list | None = None, dtype: object = "F32") -> dict:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_what_the_library_writes(tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        name: random.integers(0, 2 if name == "bool" else 100, (3, 5)).astype(name)
        for name in (
            *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
            *("float16", "float32", "float64", "bfloat16", "complex64"),
        )
    }
    arrays |= {"scalar": np.array(3, np.float32), "empty": np.zeros((0, 4), np.float32)}
    path = tmp_path / "model.safetensors"
    save_file(arrays, path, metadata={"format": "pt"})
    with open_weights(path) as weights:
        assert weights.format == "safetensors" and weights.source == path
        assert weights.metadata == {"format": "pt"}
        assert weights.keys() == arrays.keys()
        for name, array in arrays.items():
            read = weights[name].read()
            assert (weights[name].dtype, weights[name].shape) == (array.dtype, array.shape)
            assert (read.dtype, read.shape) == (array.dtype, array.shape)
            assert read.tobytes() == array.tobytes() and not read.flags.writeable


@pytest.mark.parametrize("dtype", SMALL_FLOATS)
def test_small_floats_are_read(dtype, tmp_path):
    size = np.dtype(SMALL_FLOATS[dtype]).itemsize
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed({"a": entry(0, 4 * size, [4], dtype)}, bytes(range(4 * size))))
    with open_weights(path) as weights:
        read = weights["a"].read()
    assert read.dtype == SMALL_FLOATS[dtype] and read.tobytes() == bytes(range(4 * size))


@pytest.mark.parametrize("padding", [b"", b" ", b"   \n\t\r", b" " * 4097])
def test_padded_headers_are_read(padding, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(json.dumps({"a": entry(0, 4)}).encode() + padding, b"abcd"))
    with open_weights(path) as weights:
        assert weights["a"].read().tobytes() == b"abcd"


def test_tensors_may_lie_in_any_order_and_file_may_hold_none(tmp_path):
    path = tmp_path / "model.safetensors"
    header = {"b": entry(4, 8), "none": entry(4, 4, [3, 0]), "a": entry(0, 4)}
    path.write_bytes(packed(header, b"aaaabbbb"))
    with open_weights(path) as weights:
        assert {key: t.read().tobytes() for key, t in weights.items()} == {
            **{"a": b"aaaa", "b": b"bbbb", "none": b""}
        }
    path.write_bytes(packed({}))
    with open_weights(path) as weights:
        assert len(weights) == 0


def hostile() -> dict[str, tuple[bytes, str]]:
    one = entry(0, 4)
    text = json.dumps(one).encode()
    deep = b"[" * 200_000
    shapes = {
        "shape_mismatch": entry(0, 4, [2]),
        "shape_negative": entry(0, 4, [-1]),
        "shape_overflow": entry(0, 4, [1 << 62, 4]),
        "shape_wraps": entry(0, 4, [(1 << 64) + 1]),
        "shape_zero_huge": entry(0, 0, [0, 1 << 62, 1 << 62]),
        "shape_float": entry(0, 4, [1.0]),
        "shape_bool": entry(0, 4, [True]),
        "shape_text": entry(0, 4, ["1"]),
        "shape_none": {**one, "shape": None},
        "shape_65": entry(0, 4, [1] * 65),
        "dtype_unknown": entry(0, 4, dtype="F33"),
        "dtype_list": entry(0, 4, dtype=["F32"]),
        "dtype_packed": entry(0, 4, [8], "F4"),
        "offsets_one": {**one, "data_offsets": [0]},
        "offsets_float": {**one, "data_offsets": [0.0, 4.0]},
        "offsets_swapped": {**one, "data_offsets": [4, 0]},
        "offsets_negative": {**one, "data_offsets": [-4, 0]},
        "no_shape": {"dtype": "F32", "data_offsets": [0, 4]},
        "empty_entry": {},
        "entry_list": [],
        "entry_null": None,
    }
    files = {name: (packed({"a": value}, b"abcd"), "") for name, value in shapes.items()}
    shared = {f"t{n}": entry(0, 1 << 20) for n in range(10)}
    return files | {
        "json_attack": (packed(shared, bytes(1 << 20)), "overlaps"),
        "overlap": (packed({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "overlaps"),
        "hole": (packed({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "hole"),
        "hole_first": (packed({"a": entry(4, 8)}, bytes(8)), "hole"),
        "polyglot": (packed({"a": one}, b"abcdPK\x03\x04"), "belong to no tensor"),
        "truncated": (packed({"a": one}, b"ab"), "truncated"),
        "truncated_header": (packed({"a": one})[:-9], "truncated"),
        "seven_bytes": (b"\x00" * 7, "truncated"),
        "eight_bytes": (struct.pack("<Q", 0), ""),
        "header_too_large": (packed({}, length=100_000_001), "limit"),
        "header_longer_than_file": (packed({}, length=1000), "truncated"),
        "header_2_64": (packed({}, length=(1 << 64) - 1), "limit"),
        "header_text_too_large": (packed(b"{" + b'"":{},' * 3_000_000), "limit"),
        "header_of_lists": (packed(b'{"a":[' + b"[]," * 300_000 + b"[]]}"), ""),
        "header_many_entries": (packed(b"{" + b'"":[],' * 200_000 + b'"a":[]}'), ""),
        "not_json": (packed(b"{abc}"), "not JSON"),
        "not_utf8": (packed(b'{"\xff":1}'), "UTF-8"),
        "nul_padding": (packed(b'{"a":' + text + b"}\0\0", b"abcd"), "not JSON"),
        "blank_in_front": (packed(b' {"a":' + text + b"}", b"abcd"), "begin with"),
        "list": (packed(b"[]"), "begin with"),
        "two_objects": (packed(b"{}{}"), "not JSON"),
        "nan": (packed(b'{"a":NaN}'), "NaN"),
        "deep": (packed(b'{"a":' + deep), ""),
        "long_number": (packed(b'{"a":' + b"9" * 100_000 + b"}"), "not JSON"),
        "key_twice": (packed(b'{"a":' + text + b',"a":' + text + b"}", b"abcd"), "twice"),
        "field_twice": (packed(b'{"a":' + text[:-1] + b',"dtype":"F32"}}', b"abcd"), "twice"),
        "notes_number": (packed({"__metadata__": {"x": 1}, "a": one}, b"abcd"), "__metadata__"),
        "half_surrogate": (packed(b'{"\\ud800":' + text + b"}", b"abcd"), "not Unicode"),
        "notes_empty_list": (packed({"__metadata__": [], "a": one}, b"abcd"), "__metadata__"),
        "notes_list": (packed({"__metadata__": [1], "a": one}, b"abcd"), "__metadata__"),
    }


def test_hostile_headers_are_refused_within_limits(tmp_path):
    cases = {f"{name}.safetensors": case for name, case in hostile().items()}
    outcomes = read_limited(tmp_path, {name: data for name, (data, _) in cases.items()})
    assert refusals(outcomes, {name: word for name, (_, word) in cases.items()}) == []


def test_every_truncation_and_extension_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.arange(6.0), "b": np.arange(4, dtype=np.int8)}, path)
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(FormatError):
            open_weights(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(FormatError, match="belong to no tensor"):
        open_weights(path)


def test_any_flipped_header_byte_is_read_or_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.arange(6.0), "b": np.arange(4, dtype=np.int8)}, path)
    good = path.read_bytes()
    refused = 0
    for at in range(len(good) - 52):
        for bits in (1, 4, 32):
            path.write_bytes(good[:at] + bytes([good[at] ^ bits]) + good[at + 1 :])
            try:
                with open_weights(path) as weights:
                    assert sum(tensor.read().nbytes for tensor in weights.values()) == 52
            except FormatError:
                refused += 1
    assert refused > len(good)
