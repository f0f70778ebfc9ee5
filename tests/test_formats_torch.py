"""`pytorch_model.bin` in both layouts: what torch writes reads bit for bit, nothing else reads."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from formats.hostile_torch import hostile_torch
from formats.limited import read_limited, refusals
from formats.torch_files import (
    DATA,
    call,
    integer,
    integers,
    legacy,
    name,
    pickled,
    storage,
    table,
    tensor,
    text,
    tuple_,
    zipped,
)

from jbert.formats import FormatError, open_weights

CORPUS = Path(__file__).parent / "formats" / "corpus"
EXPECTED = json.loads((CORPUS / "expected.json").read_text())["files"]
FILES = sorted(set(EXPECTED) - {"no_crc.zip.bin"})
REFUSED = {
    "bare_tensor": "a tensor at the top",
    "conjugate": "conjugate",
    "list": "at the top",
    "meta": "no data",
    "namespace": "argparse.Namespace",
    "numpy_array": "numpy",
    "numpy_scalar": "numpy",
    "quantised": "Quantised",
    "sparse": "Sparse",
    "torchscript": "TorchScript",
    "whole_module": "whole object",
}


def described(array: np.ndarray) -> list:
    return [array.dtype.name, list(array.shape), array.tobytes().hex()]


def write(directory: Path, data: bytes, file: str = "pytorch_model.bin") -> Path:
    path = directory / file
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("file", FILES)
def test_reads_what_torch_reads(file):
    with open_weights(CORPUS / file) as weights:
        assert weights.format == "torch"
        assert {key: described(tensor.read()) for key, tensor in weights.items()} == EXPECTED[file]
        for key, stored in weights.items():
            assert [stored.dtype.name, list(stored.shape)] == EXPECTED[file][key][:2]
            assert not stored.read().flags.writeable


def test_corpus_holds_every_dtype_in_both_layouts():
    for layout in ("zip", "legacy"):
        dtypes = {entry[0] for entry in EXPECTED[f"dtypes.{layout}.bin"].values()}
        assert len(dtypes) == 20 and dtypes >= {"bfloat16", "float8_e4m3fn", "complex64", "bool"}


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_tied_tensors_share_their_storage(layout):
    with open_weights(CORPUS / f"tied.{layout}.bin") as weights:
        assert weights["embeddings"].storage == weights["decoder"].storage
        assert weights["embeddings"].storage != weights["other"].storage


def test_file_without_checksums_is_read_only_on_request():
    path = CORPUS / "no_crc.zip.bin"
    with pytest.raises(FormatError, match=r"set_crc32_options.*check_crc=False"):
        open_weights(path)
    with open_weights(path, check_crc=False) as weights:
        assert {key: described(t.read()) for key, t in weights.items()} == EXPECTED[path.name]


def test_a_damaged_storage_is_found_when_it_is_read_and_not_before(tmp_path):
    data = bytearray((CORPUS / "tied.zip.bin").read_bytes())
    at = data.find(struct.pack("<6f", *range(6)))
    data[at] ^= 1
    path = write(tmp_path, bytes(data))
    with open_weights(path) as weights:
        assert weights["other"].shape == (4, 6)
        for key in ("embeddings", "decoder"):
            with pytest.raises(FormatError, match="CRC-32"):
                weights[key].read()
    with open_weights(path, check_crc=False) as weights:
        assert weights["embeddings"].read()[0, 0] != 0


@pytest.mark.parametrize("path", sorted((CORPUS / "refused").iterdir()), ids=lambda p: p.name)
def test_refuses_what_is_not_a_plain_state_dict(path):
    case, layout, _ = path.name.split(".")
    with pytest.raises(FormatError, match=REFUSED[case]) as caught:
        open_weights(path)
    assert caught.value.file == path


def test_hostile_files_are_refused_within_limits(tmp_path):
    cases = hostile_torch()
    outcomes = read_limited(tmp_path, {f"{key}.bin": data for key, (data, _) in cases.items()})
    words = {f"{key}.bin": word for key, (_, word) in cases.items()}
    assert len(words) > 200
    assert refusals(outcomes, words) == []


@pytest.mark.parametrize(("file", "step"), [("tied.zip.bin", 1), ("protocol4.zip.bin", 5)])
def test_no_flipped_byte_gives_other_tensors(file, step, tmp_path):
    good, expected = (CORPUS / file).read_bytes(), EXPECTED[file]
    path, refused = tmp_path / file, 0
    for at in range(0, len(good), step):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :])
        try:
            with open_weights(path) as weights:
                found = {key: described(tensor.read()) for key, tensor in weights.items()}
        except FormatError:
            refused += 1
            continue
        # Padding, timestamps and the like carry nothing.
        assert found == expected, at
    assert refused > len(good) // step // 4


@pytest.mark.parametrize("file", ["tied.zip.bin", "views.legacy.bin", "trainer.legacy.bin"])
def test_every_truncation_is_a_format_error(file, tmp_path):
    good = (CORPUS / file).read_bytes()
    for length in range(0, len(good), 13):
        path = write(tmp_path, good[:length])
        with pytest.raises(FormatError):
            open_weights(path)


def test_any_flip_in_the_old_layout_is_read_or_refused(tmp_path):
    good = (CORPUS / "trainer.legacy.bin").read_bytes()
    outcomes = set()
    for at in range(0, len(good), 5):
        path = write(tmp_path, good[:at] + bytes([good[at] ^ 0x13]) + good[at + 1 :])
        try:
            with open_weights(path) as weights:
                for stored in weights.values():
                    stored.read()
            outcomes.add("read")
        except FormatError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_python_2_spellings_are_read(tmp_path):
    """Short binary strings for names, pairs as OrderedDict's argument, the first rebuild."""
    rebuild = name("torch._utils", "_rebuild_tensor")
    weight = call(rebuild, storage(), integer(0), integers((2, 3)), integers((3, 1)))
    pairs = b"](" + b"](U\x01w" + weight + b"ee"
    path = write(tmp_path, zipped(pickled(call(name("collections", "OrderedDict"), pairs))))
    with open_weights(path) as weights:
        assert weights["w"].read().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_storage_views_of_the_old_layout_are_read(tmp_path):
    view = storage(view=tuple_(text("7"), integer(2), integer(3)))
    part = tensor(view, integer(1), integers((2,)), integers((1,)))
    path = write(tmp_path, legacy(pickled(table(w=part))))
    with open_weights(path) as weights:
        assert weights["w"].read().tolist() == [3, 4]
    beyond = tensor(view, integer(2), integers((2,)), integers((1,)))
    path = write(tmp_path, legacy(pickled(table(w=beyond))), "beyond.bin")
    with pytest.raises(FormatError, match="outside its storage"):
        open_weights(path)


def test_unaligned_storages_are_copied(tmp_path):
    """The old layout puts storages at any offset; the arrays are aligned all the same."""
    for pad in range(4):
        body = table(w=tensor(storage(view=b"N")), p=text("x" * pad))
        path = write(tmp_path, legacy(pickled(body)), f"{pad}.bin")
        with open_weights(path) as weights:
            array = weights["w"].read()
            assert array.flags.aligned and array.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_booleans_are_zero_or_one(tmp_path):
    stored = storage(kind="BoolStorage", count=3)
    weight = tensor(stored, integer(0), integers((3,)), integers((1,)))
    path = write(tmp_path, zipped(pickled(table(w=weight)), {"0": b"\x00\x01\x07"}))
    with open_weights(path) as weights:
        assert weights["w"].read().view(np.uint8).tolist() == [0, 1, 1]


def test_metadata_of_a_module_and_folders_of_a_repacked_zip_are_ignored(tmp_path):
    ordered = call(name("collections", "OrderedDict")) + b"(" + text("w") + tensor() + b"u"
    body = ordered + table(_metadata=table(version=integer(1))) + b"b"
    path = write(tmp_path, zipped(pickled(body), extra=[("archive/", b""), ("archive/x/", b"")]))
    with open_weights(path) as weights:
        assert list(weights) == ["w"]


def zip64(data: bytes) -> bytes:
    """The same archive with every size, offset and count in its 64-bit form."""
    end = data.rfind(b"PK\x05\x06")
    count, size, start = struct.unpack_from("<HLL", data, end + 10)
    records, at = b"", start
    while at < end:
        packed, plain, name_size = struct.unpack_from("<LLH", data, at + 20)
        (local,) = struct.unpack_from("<L", data, at + 42)
        extra = struct.pack("<HHHHHQQQ", 0x7075, 2, 0, 1, 24, plain, packed, local)
        head = bytearray(data[at : at + 46])
        struct.pack_into("<LLHH", head, 20, 2**32 - 1, 2**32 - 1, name_size, len(extra))
        struct.pack_into("<L", head, 42, 2**32 - 1)
        records += bytes(head) + data[at + 46 : at + 46 + name_size] + extra
        at += 46 + name_size
    wide = start + len(records)
    last = struct.pack(
        "<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(records), start
    )
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, wide, 1)
    old = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    return data[:start] + records + last + locator + old


def test_64_bit_archives_are_read(tmp_path):
    data = zip64(zipped())
    with open_weights(write(tmp_path, data)) as weights:
        assert weights["w"].read().tobytes() == DATA
    for at in range(data.find(b"PK\x01\x02"), len(data)):
        path = write(tmp_path, data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :])
        try:
            with open_weights(path) as weights:
                assert weights["w"].read().tobytes() == DATA
        except FormatError:
            continue


def test_byte_order_record_may_be_little_or_absent(tmp_path):
    for extra in ([], [("archive/byteorder", b"little")]):
        path = write(tmp_path, zipped(extra=extra))
        with open_weights(path) as weights:
            assert weights["w"].read().tobytes() == DATA


def test_arrays_outlive_the_file_and_tensors_do_not(tmp_path):
    path = write(tmp_path, zipped())
    weights = open_weights(path)
    array = weights["w"].read()
    weights.close()
    path.unlink()
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(FormatError, match="closed"):
        weights["w"].read()


def test_bfloat16_is_ml_dtypes_bfloat16():
    with open_weights(CORPUS / "dtypes.zip.bin") as weights:
        special = weights["bfloat16_special"].read()
    assert special.dtype == ml_dtypes.bfloat16
    assert np.isnan(special[0]) and np.isinf(special[1]) and np.signbit(special[2])
