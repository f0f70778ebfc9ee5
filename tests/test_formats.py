"""`open_weights`: which file is read, which reader reads it, and how much memory that takes."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from flax import serialization
from formats import tf_files
from safetensors.numpy import save_file

import jbert
from jbert.formats import FormatError, Tensor, Weights, WeightsNotFoundError, open_weights

CORPUS = Path(__file__).parent / "formats" / "corpus"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 440473133\n"
TENSORS = {"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 2), np.float16)}


def safetensors(path: Path, **arrays: np.ndarray) -> Path:
    save_file(arrays or TENSORS, path)
    return path


def flax(path: Path) -> Path:
    path.write_bytes(serialization.to_bytes(TENSORS))
    return path


def torch(path: Path) -> Path:
    shutil.copy(CORPUS / "tied.zip.bin", path)
    return path


def tf(path: Path) -> Path:
    return tf_files.write(path.parent, TENSORS, path.name.removesuffix(".index"))


def index(path: Path, weight_map: object, **metadata) -> Path:
    path.write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))
    return path


def sharded(directory: Path) -> Path:
    safetensors(directory / "model-00001-of-00002.safetensors", a=TENSORS["a"])
    safetensors(directory / "model-00002-of-00002.safetensors", b=TENSORS["b"])
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    return index(directory / "model.safetensors.index.json", names, total_size=32)


def sharded_torch(directory: Path) -> Path:
    shutil.copy(CORPUS / "tied.zip.bin", directory / "pytorch_model-00001-of-00002.bin")
    shutil.copy(CORPUS / "module.legacy.bin", directory / "pytorch_model-00002-of-00002.bin")
    names = dict.fromkeys(("embeddings", "decoder", "other"), "pytorch_model-00001-of-00002.bin")
    module = ("0.weight", "0.bias", "1.weight", "1.bias")
    names |= dict.fromkeys(module, "pytorch_model-00002-of-00002.bin")
    return index(directory / "pytorch_model.bin.index.json", names, total_size=192 + 48)


def test_directories_prefer_safetensors_then_bin_then_flax_then_tensorflow(tmp_path):
    steps = [
        (tf, "bert_model.ckpt.index", "tf"),
        (flax, "flax_model.msgpack", "flax"),
        (lambda path: sharded_torch(path.parent), "pytorch_model.bin.index.json", "torch"),
        (torch, "pytorch_model.bin", "torch"),
        (lambda path: sharded(path.parent), "model.safetensors.index.json", "safetensors"),
        (safetensors, "model.safetensors", "safetensors"),
    ]
    for make, name, kind in steps:
        make(tmp_path / name)
        for given in (tmp_path, str(tmp_path), tmp_path / name):
            with open_weights(given) as weights:
                assert (weights.source, weights.format) == (tmp_path / name, kind)


def test_weights_are_a_mapping_of_unread_tensors(tmp_path):
    with open_weights(safetensors(tmp_path / "model.safetensors")) as weights:
        assert isinstance(weights, Weights) and set(weights) == {"a", "b"} and len(weights) == 2
        assert "a" in weights and "c" not in weights
        with pytest.raises(KeyError):
            weights["c"]
        tensor = weights["b"]
        assert isinstance(tensor, Tensor)
        assert (tensor.name, tensor.shape, tensor.dtype) == ("b", (2, 2), np.float16)
        assert (tensor.size, tensor.nbytes) == (4, 8)
        assert "(2, 2)" in repr(tensor) and "2 tensors" in repr(weights)


def test_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    safetensors(tmp_path / "model.safetensors")
    with open_weights("~/model.safetensors") as weights:
        assert len(weights) == 2


@pytest.mark.parametrize(
    ("make", "kind"), [(safetensors, "safetensors"), (torch, "torch"), (flax, "flax")]
)
def test_contents_decide_where_the_name_claims_nothing(make, kind, tmp_path):
    for name in ("blob", "weights.bin", "e3b0c44298fc1c149afbf4c8996fb924"):
        with open_weights(make(tmp_path / name)) as weights:
            assert weights.format == kind


@pytest.mark.parametrize("name", ["model.safetensors", "flax_model.msgpack", "a.ckpt.index"])
def test_contents_must_be_what_the_name_claims(name, tmp_path):
    with pytest.raises(FormatError, match="contents of a torch file"):
        open_weights(torch(tmp_path / name))


REFUSED = {
    "pointer.bin": (LFS, "Git LFS pointer: the file was not downloaded"),
    "pointer.safetensors": (LFS, "Git LFS pointer"),
    "model.safetensors.index.json": (LFS, "Git LFS pointer"),
    "page.bin": (b"<!DOCTYPE html><html><head>", "web page.*not downloaded"),
    "page.safetensors": (b"\n\n <html lang=en>", "web page"),
    "page.msgpack": (b"\xef\xbb\xbf<!doctype html>", "web page"),
    "error.safetensors": (b'{"error":"Repository not found"}', "not downloaded"),
    "error.bin": (b"Entry not found", "not downloaded"),
    "restricted.bin": (b"Access to model x is restricted.", "not downloaded"),
    "empty.bin": (b"", "empty file"),
    "empty.safetensors": (b"", "empty file"),
    "text.bin": (b"hello, world, this is text", "begins with b'hello"),
    "text.safetensors": (b"hello, world, this is text", "limit"),
    "text.unknown": (b"hello, world, this is text", "begins with b'hello"),
    "tf_model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "model.gguf": (b"GGUF" + bytes(100), "GGUF"),
    "archive.bin": (b"\x1f\x8b" + bytes(100), "gzip"),
    "old.bin": (bytes(257) + b"ustar\x0000" + bytes(248), "tar archive"),
    "array.bin": (b"\x93NUMPY" + bytes(100), "NumPy array"),
    "config.json": (b'{"model_type": "bert"}', "no weight_map"),
    "list.index.json": (b"[1]", "not an object"),
    "cut.index.json": (b'{"weight_map": {', "not JSON"),
    "twice.index.json": (b'{"weight_map": {"a": "x.bin", "a": "y.bin"}}', "'a' twice"),
    "empty.index.json": (b'{"weight_map": {}}', "empty"),
    "number.index.json": (b'{"weight_map": {"a": 1}}', "not file names"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_holds_no_weights(name, tmp_path):
    data, found = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(FormatError, match=found) as caught:
        open_weights(path)
    error = caught.value
    assert isinstance(error, ValueError) and error.file == path
    assert "\n" not in str(error) and str(path) in str(error)
    assert error.expected and error.found and error.action


def test_missing_files_are_not_found_errors(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    for path, found in {
        tmp_path / "nothing.bin": "no such file",
        tmp_path / "nowhere" / "x.bin": "no such file",
        tmp_path: "link to a missing file",
        tmp_path / "empty": "no weights",
    }.items():
        with pytest.raises(WeightsNotFoundError, match=found) as caught:
            open_weights(path)
        assert isinstance(caught.value, FileNotFoundError | FormatError)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "/proc/self/mem", "/dev/zero"])
def test_odd_paths_are_format_errors(path):
    with pytest.raises(FormatError):
        open_weights(path)


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    # Without a handler the alarm would end the whole test run.
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waited for a writer"))
    signal.alarm(5)
    try:
        with pytest.raises(FormatError, match="not a regular file"):
            open_weights(tmp_path)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_directory_without_a_choice_lists_what_it_has(tmp_path):
    for name in ("tf_model.h5", "optimizer.bin", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    pattern = "'adapter_model.safetensors', 'optimizer.bin', 'tf_model.h5'"
    with pytest.raises(WeightsNotFoundError, match=pattern):
        open_weights(tmp_path)
    for step in (1, 2):
        tf_files.write(tmp_path, TENSORS, f"model.ckpt-{step}")
    with pytest.raises(FormatError, match="several: 'model.ckpt-1.index', 'model.ckpt-2.index'"):
        open_weights(tmp_path)


@pytest.mark.parametrize("make", [sharded, sharded_torch])
def test_shards_are_one_mapping(make, tmp_path):
    path = make(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = open_weights(path)
    assert list(weights) == list(json.loads(path.read_text())["weight_map"])
    for tensor in weights.values():
        assert tensor.read().shape == tensor.shape
    weights.close()
    with pytest.raises(FormatError, match="closed"):
        next(iter(weights.values())).read()


def test_wrong_total_size_is_a_warning(tmp_path):
    path = sharded(tmp_path)
    index(path, json.loads(path.read_text())["weight_map"], total_size=31)
    with pytest.warns(UserWarning, match="total_size 31.*hold 32 bytes"):
        assert len(open_weights(path)) == 2


def test_all_missing_shards_are_named(tmp_path):
    names = {f"t{n}": f"model-{n:05d}-of-00030.safetensors" for n in range(30)}
    path = index(tmp_path / "model.safetensors.index.json", names)
    safetensors(tmp_path / names["t3"], t3=np.ones(1))
    with pytest.raises(WeightsNotFoundError, match="29 missing") as caught:
        open_weights(path)
    assert [name in str(caught.value) for name in names.values()].count(False) == 1


SHARD_NAMES = [
    *(
        "../evil.safetensors",
        "/etc/evil.safetensors",
        "a/../../evil.safetensors",
        "./m.safetensors",
    ),
    *("a//m.safetensors", "..\\m.safetensors", "C:m.safetensors", "\\\\host\\m.safetensors", ""),
    *("a\0.safetensors", "shard.bin", "pytorch_model.bin", "model.safetensors.bin", "model.pt"),
    *("model.safetensors.index.json", "model.SAFETENSORS"),
]


@pytest.mark.parametrize("shard", SHARD_NAMES)
def test_shards_lie_in_the_directory_and_are_of_the_same_kind(shard, tmp_path):
    good = sharded(tmp_path)
    names = json.loads(good.read_text())["weight_map"]
    torch(tmp_path / "shard.bin")
    path = index(tmp_path / "model.safetensors.index.json", names | {"evil": shard})
    with pytest.raises(FormatError, match=r"outside it|shards that end in \.safetensors"):
        open_weights(path)


def test_shards_below_the_directory_and_links_out_of_it_are_read(tmp_path):
    """A hub cache holds links to its blobs."""
    blob = tmp_path / "blob"
    safetensors(blob)
    (tmp_path / "snapshot" / "parts").mkdir(parents=True)
    (tmp_path / "snapshot" / "parts" / "one.safetensors").symlink_to(blob)
    names = dict.fromkeys("ab", "parts/one.safetensors")
    with open_weights(index(tmp_path / "snapshot" / "x.index.json", names)) as weights:
        assert weights["a"].read().tolist() == TENSORS["a"].tolist()


def test_index_and_shards_must_agree(tmp_path):
    path = sharded(tmp_path)
    first, second = sorted(json.loads(path.read_text())["weight_map"].values())
    for names, found in (
        ({"a": first, "b": second, "c": second}, "their shard does not hold: 'c'"),
        ({"a": second, "b": second}, "their shard does not hold: 'a'"),
        ({"a": first, "x": second}, "does not list: 'b'"),
    ):
        with pytest.raises(FormatError, match=found):
            open_weights(index(path, names))
    safetensors(tmp_path / second, **TENSORS)
    with pytest.raises(FormatError, match="more than one shard: 'a'"):
        open_weights(index(path, {"a": first, "b": second}))


def test_a_shard_that_is_a_pickle_is_refused(tmp_path):
    path = sharded(tmp_path)
    torch(tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(FormatError, match="contents of a torch file"):
        open_weights(path)


def test_an_index_of_no_known_kind_is_refused(tmp_path):
    flat = index(tmp_path / "x.index.json", {"a": "weights.dat"})
    with pytest.raises(FormatError, match="shards that end in"):
        open_weights(flat)
    nested = index(tmp_path / "x.bin", {"a": "x.bin"})
    with pytest.raises(FormatError, match="another index"):
        open_weights(nested)


def test_no_file_stays_open(tmp_path):
    def handles() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    path, before = sharded_torch(tmp_path), handles()
    arrays = []
    for _ in range(20):
        with open_weights(path) as weights:
            arrays += [tensor.read() for tensor in weights.values()]
        with pytest.raises(FormatError):
            open_weights(CORPUS / "refused" / "list.zip.bin")
    del weights
    arrays.clear()
    assert handles() == before


def test_readers_work_where_torch_and_tensorflow_cannot_be_imported(tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'tensorflow', 'transformers'): sys.modules[name] = None\n"
        "from jbert.formats import open_weights\n"
        "for path in sys.argv[1:]:\n"
        "    print(sum(tensor.read().size for tensor in open_weights(path).values()) > 0)\n"
    )
    files = [
        *(CORPUS / "dtypes.zip.bin", CORPUS / "trainer.legacy.bin", CORPUS / "tf/bert_model.ckpt"),
        *(safetensors(tmp_path / "a.safetensors"), flax(tmp_path / "a.msgpack")),
    ]
    finished = subprocess.run(
        [sys.executable, "-c", code, *map(str, files)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(jbert.__file__).parents[1])},
    )
    assert finished.stdout.split() == ["True"] * len(files), finished.stderr
