"""TensorFlow checkpoints: what TensorFlow writes reads bit for bit, and damage is found."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from formats import tf_files
from formats.limited import read_limited, refusals

from jbert.formats import FormatError, WeightsNotFoundError, open_weights
from jbert.formats.crc32c import crc32c
from jbert.formats.sstable import Damaged, unsnappy

CORPUS = Path(__file__).parent / "formats" / "corpus" / "tf"
EXPECTED = json.loads((CORPUS / "expected.json").read_text())["files"]
ARRAYS = {
    "bert/embeddings/word_embeddings": np.arange(12, dtype=np.float32).reshape(4, 3),
    "bert/embeddings/word_embeddings/adam_m": np.zeros((4, 3), np.float32),
    "cls/predictions/output_bias": np.ones(4, np.float16),
    "global_step": np.array(7, np.int64),
}


def described(array: np.ndarray) -> list:
    return [array.dtype.name, list(array.shape), array.tobytes().hex()]


def contents(path: Path, **options) -> dict[str, list]:
    with open_weights(path, **options) as weights:
        assert weights.format == "tf"
        return {name: described(tensor.read()) for name, tensor in weights.items()}


@pytest.mark.parametrize("prefix", EXPECTED)
@pytest.mark.parametrize("suffix", ["", ".index"])
def test_reads_what_tensorflow_writes(prefix, suffix):
    assert contents(CORPUS / (prefix + suffix)) == EXPECTED[prefix]


def test_slots_and_step_keep_their_names():
    names = EXPECTED["bert_model.ckpt"]
    assert "global_step" in names and "bert/embeddings/LayerNorm/gamma/adam_m" in names
    assert len(list(CORPUS.glob("sharded.ckpt.data-*-of-00002"))) == 2


def test_any_part_of_the_checkpoint_may_be_given(tmp_path):
    path = tf_files.write(tmp_path, ARRAYS)
    (tmp_path / "bert_model.ckpt.meta").write_bytes(b"\x0a\x00")
    expected = {name: described(array) for name, array in ARRAYS.items()}
    for given in (tmp_path, path, path.with_suffix(".meta"), path.with_suffix("")):
        assert contents(given) == expected
    assert contents(tmp_path / "bert_model.ckpt.data-00000-of-00001") == expected


def test_text_variables_have_no_name():
    with open_weights(CORPUS / "object.index") as weights:
        assert "table/.ATTRIBUTES/VARIABLE_VALUE" in weights
        assert "_CHECKPOINTABLE_OBJECT_GRAPH" not in weights


def test_compressed_index_is_read(tmp_path):
    arrays = ARRAYS | {"bert/" + "x" * n: np.ones(n, np.float32) for n in (5, 12, 30, 200)}
    path = tf_files.write(tmp_path, arrays, compress=True)
    plain = tf_files.write(tmp_path, arrays, "plain")
    assert b"word_embeddings" in plain.read_bytes()
    assert b"word_embeddings" not in path.read_bytes()
    assert contents(path) == {name: described(array) for name, array in arrays.items()}


def test_snappy_elements():
    literal60 = bytes([60 << 2, 99]) + bytes(range(100))
    assert unsnappy(b"\x64" + literal60) == bytes(range(100))
    assert unsnappy(b"\x64" + bytes([61 << 2, 99, 0]) + bytes(range(100))) == bytes(range(100))
    assert unsnappy(b"\x08\x0cabcd" + b"\x01\x04") == b"abcdabcd"
    assert unsnappy(b"\x0a\x04ab" + bytes([7 << 2 | 2, 2, 0])) == b"ababababab"
    assert unsnappy(b"\x0a\x04ab" + bytes([7 << 2 | 3, 2, 0, 0, 0])) == b"ababababab"
    for bad in (b"", b"\x05", b"\x02\x04ab\x00c", b"\x06\x04ab\x01\x09", b"\x06\x04ab\x01\x00"):
        with pytest.raises(Damaged):
            unsnappy(bad)
    with pytest.raises(Damaged, match="claims"):
        unsnappy(b"\xff\xff\xff\xff\x0f\x00a")


@pytest.mark.parametrize("size", [0, 1, 9, 16384, 16385, 16387, 1 << 20, (1 << 24) + 4097])
def test_crc32c_against_a_bit_by_bit_one(size):
    assert crc32c(b"123456789") == 0xE3069283
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    half = size // 2
    # Linearity gives an independent check of the lanes: crc(a) ^ crc(b) ^ crc(a ^ b) = crc(0).
    other = np.roll(data, half + 1)
    mixed = crc32c(data.tobytes()) ^ crc32c(other.tobytes()) ^ crc32c((data ^ other).tobytes())
    assert mixed == crc32c(bytes(size))
    if size < 20_000:
        register = 0xFFFFFFFF
        for byte in data.tolist():
            register ^= byte
            for _ in range(8):
                register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
        assert crc32c(data.tobytes()) == register ^ 0xFFFFFFFF


def test_refuses_partitioned_and_old_checkpoints():
    with pytest.raises(FormatError, match="partitioned"):
        open_weights(CORPUS / "sliced.ckpt")
    with pytest.raises(FormatError, match="V1"):
        open_weights(CORPUS / "old.ckpt")


def test_missing_data_files_are_all_named(tmp_path):
    shutil.copy(CORPUS / "sharded.ckpt.index", tmp_path)
    with pytest.raises(WeightsNotFoundError, match="00000-of-00002.*00001-of-00002"):
        open_weights(tmp_path)


def test_data_file_that_was_not_downloaded(tmp_path):
    path = tf_files.write(tmp_path, ARRAYS)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (tmp_path / "bert_model.ckpt.data-00000-of-00001").write_bytes(pointer)
    with pytest.raises(FormatError, match="not downloaded"):
        open_weights(path)


@pytest.mark.parametrize("file", ["bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"])
def test_no_flipped_byte_gives_other_tensors(file, tmp_path):
    index = tf_files.write(tmp_path, ARRAYS)
    expected = contents(index)
    good = (tmp_path / file).read_bytes()
    changed = 0
    for at in range(len(good)):
        (tmp_path / file).write_bytes(good[:at] + bytes([good[at] ^ 0x21]) + good[at + 1 :])
        try:
            assert contents(index) == expected, at
        except FormatError:
            changed += 1
    # Of the index only the footer's padding carries nothing.
    assert changed >= len(good) - (40 if file.endswith(".index") else 0)
    for length in range(len(good)):
        (tmp_path / file).write_bytes(good[:length])
        with pytest.raises(FormatError):
            contents(index)


def test_damaged_tensor_is_found_when_it_is_read(tmp_path):
    index = tf_files.write(tmp_path, ARRAYS, lies={"global_step": {"crc": 1}})
    with open_weights(index) as weights:
        assert weights["cls/predictions/output_bias"].read().tolist() == [1, 1, 1, 1]
        with pytest.raises(FormatError, match="checksum for 'global_step'"):
            weights["global_step"].read()
    with open_weights(index, check_crc=False) as weights:
        assert weights["global_step"].read() == 7


def lying_tables() -> dict[str, tuple[bytes, str]]:
    array = np.ones(2, np.float32)
    sliced = tf_files.field(7, b"")
    head = (b"", tf_files.header())

    def one(**lies) -> bytes:
        return tf_files.table([head, (b"w", tf_files.entry(array, 0, **lies))])

    good = one()
    shape = tf_files.shape_of
    grown = b"".join(
        tf_files.varint(n - 1) + b"\x01\x00k" if n else b"\x00\x00\x02" + b"\x08\x01"
        for n in range(100_000)
    )
    block = grown + struct.pack("<I", 0)
    return {
        "size": (one(size=4), "4 bytes"),
        "shape": (one(shape=shape((3,))), "8 bytes"),
        "shape_negative": (one(shape=shape((-2,))), "overflows"),
        "shape_huge": (one(shape=shape((1 << 62, 4))), "overflows"),
        "shape_zero_huge": (one(shape=shape((0, 1 << 62, 1 << 62)), size=0), "overflows"),
        "shape_65": (one(shape=shape((1,) * 65)), "65 dimensions"),
        "shape_unknown": (one(shape=tf_files.field(3, 1)), "unknown rank"),
        "offset": (one(offset=4), "truncated"),
        "offset_huge": (one(offset=(1 << 64) - 8), "truncated"),
        "shard": (one(shard=1), "data file 1"),
        "dtype": (one(dtype=11), "dtype number 11"),
        "dtype_variant": (one(dtype=21), "dtype number 21"),
        "sliced": (one(more=sliced), "partitioned"),
        "shared": (
            tf_files.table(
                [head, (b"a", tf_files.entry(array, 0)), (b"b", tf_files.entry(array, 0))]
            ),
            "another variable",
        ),
        "big_endian": (tf_files.table([(b"", tf_files.header(1, 1))]), "big-endian"),
        "shards_many": (tf_files.table([(b"", tf_files.header(1 << 40))]), "V1"),
        "no_header": (tf_files.table([(b"w", tf_files.entry(array, 0))]), "no header"),
        "name_utf8": (tf_files.table([head, (b"\xff", tf_files.entry(array, 0))]), "UTF-8"),
        "entry_cut": (
            tf_files.table([head, (b"w", tf_files.entry(array, 0)[:-2])]),
            "past the end",
        ),
        "entry_group": (tf_files.table([head, (b"w", b"\x0b")]), "field kind 3"),
        "key_twice": (
            tf_files.table([head, (b"w", b""), (b"w", b"")], per_block=1),
            "out of order",
        ),
        "footer_far": (good[:-48] + b"\xff" * 40 + good[-8:], ""),
        "footer_block": (good[:-48] + (b"\x00\x00\xff\xff\xff\x7f\x05").ljust(40) + good[-8:], ""),
        "only_footer": (good[-48:], ""),
        "keys_grow": (wrapped(block), "lengths"),
        "varint_endless": (wrapped(b"\xff" * 40 + struct.pack("<I", 0)), "does not end"),
        "restarts": (wrapped(struct.pack("<I", 1 << 31)), "trailer"),
        "compression": (wrapped(bytes(8), kind=4), "compression 4"),
        "snappy_lie": (wrapped(b"\xff\xff\xff\xff\x07", kind=1), "claims"),
    }


def wrapped(block: bytes, kind: int = 0) -> bytes:
    """A table whose one data block is `block`, with right checksums around it."""
    data, handles = b"", []
    index = tf_files.records([(b"\xff", b"\x00" + tf_files.varint(len(block)))])
    for stored in (block + bytes([kind]), tf_files.records([]) + b"\0", index + b"\0"):
        handles.append(tf_files.varint(len(data)) + tf_files.varint(len(stored) - 1))
        data += stored + struct.pack("<I", tf_files.masked_crc32c(stored))
    return data + b"".join(handles[1:]).ljust(40, b"\0") + tf_files.MAGIC


def test_lying_tables_are_refused_within_limits(tmp_path):
    cases = lying_tables()
    files = {f"{name}.index": data for name, (data, _) in cases.items()}
    data = {f"{name}.data-00000-of-00001": bytes(8) for name in cases}
    outcomes = read_limited(tmp_path, files | data)
    words = {f"{name}.index": word for name, (_, word) in cases.items()}
    problems = refusals(outcomes, words)
    # A file that the data lacks is reported under the data file's name.
    assert [line for line in problems if "offset" not in line] == []
    assert all(outcomes[f"{name}.index"][0] == "FormatError" for name in ("offset", "offset_huge"))
