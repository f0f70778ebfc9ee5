"""Weight files, read without torch or TensorFlow: bytes on disk to named numpy arrays."""

import os
from pathlib import Path

from jbert.formats.errors import FormatError as FormatError
from jbert.formats.errors import WeightsNotFoundError as WeightsNotFoundError
from jbert.formats.flax_msgpack import open_flax as _open_flax
from jbert.formats.index import open_index as _open_index
from jbert.formats.safetensors import open_safetensors as _open_safetensors
from jbert.formats.sniff import find_weights as _find_weights
from jbert.formats.sniff import kind_of as _kind_of
from jbert.formats.tf_checkpoint import open_tf as _open_tf
from jbert.formats.tf_checkpoint import table_of as table_of
from jbert.formats.torch_bin import open_torch as _open_torch
from jbert.formats.weights import Tensor as Tensor
from jbert.formats.weights import Weights as Weights


def open_weights(path: str | Path, *, check_crc: bool = True) -> Weights:
    """The tensors of a checkpoint by the names it stores, none of their bytes read yet.

    Args:
        path: a weight file, a `*.index.json`, a TensorFlow checkpoint's prefix, or a directory,
            where safetensors come before .bin, Flax and TensorFlow.
        check_crc: compare the checksums that PyTorch's zip files and TensorFlow's checkpoints
            carry whenever a tensor is read; False also reads files written without them.
    """
    # os.path and not Path's methods: those raise on names that the system does not allow.
    path = Path(os.path.expanduser(path))
    if os.path.isdir(path):
        path = _find_weights(path)
    return _open_file(table_of(path), check_crc)


def _open_file(path: Path, check_crc: bool) -> Weights:
    kind = _kind_of(path)
    if kind == "index":
        return _open_index(path, lambda shard: _open_shard(shard, check_crc))
    if kind == "safetensors":
        return _open_safetensors(path)
    if kind == "flax":
        return _open_flax(path)
    if kind == "tf":
        return _open_tf(path, check_crc)
    return _open_torch(path, check_crc)


def _open_shard(path: Path, check_crc: bool) -> Weights:
    if _kind_of(path) == "index":
        raise FormatError(path, "a shard of weights", "another index", "Download it again")
    return _open_file(path, check_crc)
