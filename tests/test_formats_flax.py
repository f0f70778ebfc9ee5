"""`flax_model.msgpack`: what flax.serialization writes reads bit for bit, and nothing else does."""

import struct
from collections.abc import Iterator

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax import serialization
from formats.limited import read_limited, refusals

from jbert.formats import FormatError, open_weights
from jbert.formats.dtypes import BY_NAME


def write(directory, data: bytes, file: str = "flax_model.msgpack"):
    path = directory / file
    path.write_bytes(data)
    return path


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}/")
        else:
            yield prefix + key, np.asarray(value)


@pytest.mark.parametrize("pad", range(4))
def test_reads_what_flax_writes(pad, tmp_path):
    """`pad` moves the arrays, which msgpack never aligns."""
    random = np.random.default_rng(0)
    dtypes = {
        name: random.integers(0, 2 if name == "bool" else 100, (3, 5)).astype(dtype)
        for name, dtype in BY_NAME.items()
        if not name.endswith("e8m0fnu")
    }
    tree = {
        "p" * (pad + 1): np.float32(0.5),
        "bert": {"embeddings": {"kernel": random.standard_normal((400, 3)).astype(np.float32)}},
        "dtypes": dtypes,
        "device": {"bias": jnp.arange(5), "half": jnp.ones((2, 2), jnp.bfloat16)},
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "empty": np.zeros((0, 3), np.int32),
    }
    with open_weights(write(tmp_path, serialization.to_bytes(tree))) as weights:
        assert weights.format == "flax"
        expected = dict(leaves(tree))
        assert weights.keys() == expected.keys()
        for name, array in expected.items():
            read = weights[name].read()
            assert (weights[name].dtype, weights[name].shape) == (array.dtype, array.shape)
            assert (read.dtype, read.shape) == (array.dtype, array.shape)
            assert read.tobytes() == array.tobytes()
            assert read.flags.aligned and not read.flags.writeable


def test_values_that_are_no_arrays_have_no_name(tmp_path):
    tree = {
        "step": 3,
        "rate": 0.5,
        "note": "text",
        "none": None,
        "flag": True,
        "number": 2 + 3j,
        "raw": b"abc",
        "many": {str(n): -n for n in range(40)},
        "params": {"w": np.ones(2, np.float32)},
        "pair": (np.zeros(1), np.ones(1)),
    }
    with open_weights(write(tmp_path, serialization.to_bytes(tree))) as weights:
        assert list(weights) == ["params/w", "pair/0", "pair/1"]


def test_chunked_arrays_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    tree = {"bert": {"w": np.arange(60.0, dtype=np.float32).reshape(5, 12)}, "b": np.ones(3)}
    data = serialization.msgpack_serialize(tree)
    assert data.count(b"chunks") == 1
    with open_weights(write(tmp_path, data)) as weights:
        assert weights["bert/w"].shape == (5, 12) and weights["bert/w"].dtype == np.float32
        read = weights["bert/w"].read()
        assert (read == tree["bert"]["w"]).all() and not read.flags.writeable


def extension(code: int, payload: bytes) -> bytes:
    return b"\xc9" + struct.pack(">Ib", len(payload), code) + payload


def array(shape: object = (1,), dtype: object = "float32", data: bytes = b"abcd") -> bytes:
    return extension(1, msgpack.packb((shape, dtype, data)))


def tree(*values: bytes) -> bytes:
    """{"k0": value, "k1": value, ...}"""
    body = b"".join(b"\xa2k" + str(n).encode() + value for n, value in enumerate(values))
    return bytes([0x80 | len(values)]) + body


def chunked(shape: object, *parts: bytes) -> bytes:
    return (
        *(b"\x83" + msgpack.packb("__msgpack_chunked_array__") + b"\xc3"),
        *(msgpack.packb("shape") + msgpack.packb(shape)),
        *(msgpack.packb("chunks") + bytes([0x80 | len(parts)])),
        *b"".join(msgpack.packb(str(n)) + part for n, part in enumerate(parts)),
    )


def hostile() -> dict[str, tuple[bytes, str]]:
    good = tree(array())
    shapes = {
        "short": ((2,), "float32"),
        "negative": ((-1,), "float32"),
        "float": ((1.0,), "float32"),
        "text": ("1", "float32"),
        "huge": ((1 << 62, 4), "float32"),
        "zero_huge": ((0, 1 << 62, 1 << 62), "float32"),
        "rank_65": ((1,) * 65, "float32"),
        "object": ((1,), "object"),
        "void": ((1,), "V4"),
        "string": ((1,), "<U1"),
        "long_dtype": ((1,), "x" * 1000),
        "dtype_number": ((1,), 4),
    }
    files = {name: (tree(array(*value)), "") for name, value in shapes.items()}
    chunk = array((2,), data=b"abcdefgh")
    chunks = {
        "chunks_none": chunked({"0": 0}),
        "chunks_short": chunked({"0": 5}, chunk, chunk),
        "chunks_shape": chunked({"1": 4}, chunk, chunk),
        "chunks_text": chunked("4", chunk, chunk),
        "chunks_square": chunked({"0": 4}, chunk, array((1, 2), data=b"abcdefgh")),
        "chunks_dtype": chunked({"0": 4}, chunk, array((2,), "int32", b"abcdefgh")),
        "chunks_number": chunked({"0": 2}, chunk, b"\x01"),
    }
    files |= {name: (tree(bytes(value)), "chunk") for name, value in chunks.items()}
    key = b"\xdb" + struct.pack(">I", 1 << 20) + b"k" * (1 << 20)
    return files | {
        "map_lie": (b"\xdf\xff\xff\xff\xff", "truncated"),
        "array_lie": (tree(b"\xdd\xff\xff\xff\xff"), "truncated"),
        "binary_lie": (tree(b"\xc6\xff\xff\xff\xff"), "truncated"),
        "text_lie": (tree(b"\xdb\xff\xff\xff\xff"), "truncated"),
        "extension_lie": (tree(b"\xc9\xff\xff\xff\xff\x01"), "truncated"),
        "array_beyond": (tree(extension(1, array()[6:] + b"x")), "fill"),
        "array_two": (tree(extension(1, msgpack.packb(((1,), "float32")))), "bytes)"),
        "array_leaks": (tree(extension(1, array()[6:-2])) + b"cd", "fill"),
        "unknown_extension": (tree(extension(9, b"x")), "extension type 9"),
        "timestamp": (tree(b"\xd6\xff\x00\x00\x00\x00"), "extension type -1"),
        "never_used": (tree(b"\xc1"), "0xc1"),
        "key_twice": (b"\x82\xa1a" + array() + b"\xa1a" + array(), "twice"),
        "key_list": (b"\x81\x90\x01", "key"),
        "key_utf8": (b"\x81\xa1\xff\x01", "UTF-8"),
        "key_long": (b"\x81" + key + array(), "key of"),
        "collision": (b"\x82\xa3a/b" + array() + b"\xa1a\x81\xa1b" + array(), "a/b"),
        "name_long": ((b"\x81\xd9\xc8" + b"k" * 200) * 4 + array(), "name of more"),
        "deep": (b"\x81\xa1a" * 100_000 + b"\x01", "deep"),
        "deep_array": (b"\x81\xa1a" + b"\x91" * 100_000 + b"\x01", "deep"),
        "many": (b"\x81\xa1a\xdd" + struct.pack(">I", 600_000) + b"\x01" * 600_000, "values"),
        "behind": (good + b"x", "behind"),
        "top_array": (b"\xdc\x00\x01\x01", ""),
        "no_arrays": (b"\x81\xa1a\x01", "no arrays"),
        "pickle": (b"\x80\x02}q\x00.", "torch"),
    }


def test_hostile_files_are_refused_within_limits(tmp_path):
    cases = {f"{name}.msgpack": case for name, case in hostile().items()}
    outcomes = read_limited(tmp_path, {name: data for name, (data, _) in cases.items()})
    assert refusals(outcomes, {name: word for name, (_, word) in cases.items()}) == []


def test_truncations_and_flips_are_read_or_refused(tmp_path):
    good = serialization.to_bytes({"bert": {"w": np.arange(6.0), "b": np.ones(2, np.int8)}})
    for length in range(len(good)):
        with pytest.raises(FormatError):
            open_weights(write(tmp_path, good[:length]))
    refused = 0
    for at in range(len(good)):
        for bits in (1, 16, 128):
            data = good[:at] + bytes([good[at] ^ bits]) + good[at + 1 :]
            try:
                with open_weights(write(tmp_path, data)) as weights:
                    for tensor in weights.values():
                        tensor.read()
            except FormatError:
                refused += 1
    assert refused > len(good) // 2
