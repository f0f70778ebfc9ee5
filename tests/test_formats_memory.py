"""How much memory reading takes: the file is mapped, and pages are given back with each array."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import serialization
from formats import tf_files
from formats import torch_files as make
from safetensors.numpy import save_file

import jbert

# Prints how much resident memory grew while tensors were read one by one, in megabytes.
MEASURE = """
import sys
from jbert.formats import open_weights
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
def read_all(path):
    most = 0
    with open_weights(path) as weights:
        for tensor in weights.values():
            array = tensor.read()
            array.view("u1").max()
            most = max(most, resident())
    return most
read_all(sys.argv[1])
before = resident()
print(read_all(sys.argv[2]) - before)
"""


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy", "flax", "tf"])
def test_reading_one_by_one_takes_the_memory_of_one(kind, tmp_path):
    count, size = 12, 5 << 20
    paths = [
        write_big(tmp_path / f"{n}", kind, *of) for n, of in enumerate([(2, 64), (count, size)])
    ]
    root = str(Path(jbert.__file__).parents[1])
    finished = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert finished.returncode == 0, finished.stderr
    # One tensor is 5 MB and the file 63; the checksum of TensorFlow's takes working space.
    assert float(finished.stdout) < 25


def write_big(directory: Path, kind: str, count: int, size: int) -> Path:
    directory.mkdir()
    arrays = {f"t{n}": np.full(size // 4, n, np.float32) for n in range(count)}
    if kind == "safetensors":
        save_file(arrays, directory / "model.safetensors")
        return directory
    if kind == "tf":
        return tf_files.write(directory, arrays)
    if kind == "flax":
        path = directory / "flax_model.msgpack"
        path.write_bytes(serialization.to_bytes(arrays))
        return path
    path = directory / "pytorch_model.bin"
    path.write_bytes(big_torch(kind, arrays))
    return path


def big_torch(kind: str, arrays: dict[str, np.ndarray]) -> bytes:
    def one(name: str, array: np.ndarray) -> bytes:
        view = b"N" if kind == "legacy" else None
        stored = make.storage(name, array.size, view=view)
        sizes = make.integers((array.size,)), make.integers((1,))
        return make.tensor(stored, make.integer(0), *sizes)

    pickle = make.pickled(make.table(**{name: one(name, a) for name, a in arrays.items()}))
    if kind == "zip":
        return make.zipped(pickle, {name: array.tobytes() for name, array in arrays.items()})
    stored = [struct.pack("<q", array.size) + array.tobytes() for array in arrays.values()]
    return make.legacy(pickle, list(arrays), b"".join(stored))
