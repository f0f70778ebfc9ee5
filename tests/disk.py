"""Tiny models as they lie on disk: saved by jbert, and published by others."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tiny
from formats import torch_files
from safetensors.numpy import save_file

import jbert
from jbert.convert import TABLES, weights
from jbert.execution import Execution
from jbert.loaded import Bert, abstract_params, architecture_name, build_module
from jbert.trees import flatten

WORDS = ("the", "capital", "of", "france", "is", "paris", "un", "##want", "##ed", ",", ".")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)


def bert(
    arch: str = "bert",
    task: str | None = None,
    *,
    seed: int = 0,
    tokenizer: Any = None,
    execution: Execution | None = None,
    **changes: Any,
) -> Bert:
    """A model with random parameters, made without compiling anything."""
    config = tiny.config(arch, task, **changes)
    module = build_module(config, task, execution or Execution())
    params = tiny.random_params(abstract_params(module), seed)
    return Bert(config, module, params, tokenizer, task)


def vocabulary(directory: Path) -> Path:
    path = directory / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n")
    return path


def tokenizer(directory: Path) -> jbert.Tokenizer:
    return jbert.Tokenizer.from_vocab(vocabulary(directory))


def arrays(model: Bert) -> dict[str, np.ndarray]:
    """A model's weights as transformers names and lays them out."""
    table = TABLES[model.config.model_type]
    return weights.export(flatten(model.params), table, model.task)


def config_json(model: Bert) -> dict[str, Any]:
    architectures = [architecture_name(model.config, model.task)]
    return {**model.config.to_dict(), "architectures": architectures}


def publish(
    directory: Path,
    model: Bert,
    rename: Callable[[str], str] = lambda name: name,
    add: Mapping[str, np.ndarray] | None = None,
    drop: tuple[str, ...] = (),
    config: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
    file: str = "model.safetensors",
    config_file: str = "config.json",
) -> Path:
    """A directory as others write it; `without` leaves keys out of its config, `drop` weights."""
    directory.mkdir(parents=True, exist_ok=True)
    named = {rename(name): x for name, x in arrays(model).items() if name not in drop}
    named |= add or {}
    if file.endswith(".bin"):
        (directory / file).write_bytes(torch_bin(named))
    else:
        save_file(named, directory / file, metadata={"format": "pt"})
    values = config_json(model) | dict(config or {})
    values = {key: value for key, value in values.items() if key not in without}
    (directory / config_file).write_text(json.dumps(values))
    return directory


def torch_bin(named: Mapping[str, np.ndarray]) -> bytes:
    """What torch.save would write for float32 tensors."""
    entries, storages = {}, {}
    for key, (name, array) in enumerate(named.items()):
        storages[str(key)] = np.ascontiguousarray(array, np.float32).tobytes()
        strides = [stride // array.itemsize for stride in np.ascontiguousarray(array).strides]
        entries[name] = torch_files.tensor(
            torch_files.storage(str(key), array.size),
            shape=torch_files.integers(array.shape),
            strides=torch_files.integers(strides),
        )
    return torch_files.zipped(torch_files.pickled(torch_files.table(**entries)), storages)


def assert_same(actual: Any, expected: Any) -> None:
    """Equal trees: paths, shapes, dtypes and every bit."""
    actual, expected = flatten(actual), flatten(expected)
    assert sorted(actual) == sorted(expected)
    for path, array in expected.items():
        found, array = np.asarray(actual[path]), np.asarray(array)
        assert (found.shape, found.dtype) == (array.shape, array.dtype), path
        assert found.tobytes() == array.tobytes(), f"{path} differs"


def assert_spread(params: Any) -> list[str]:
    """Every leaf lies as its sharding says; the paths of those of which no device holds all."""
    spread = []
    for path, leaf in flatten(params).items():
        shapes = {shard.data.shape for shard in leaf.addressable_shards}
        assert shapes == {leaf.sharding.shard_shape(leaf.shape)}, path
        assert len(leaf.addressable_shards) == len(leaf.sharding.device_set), path
        if shapes != {leaf.shape}:
            spread.append(path)
    return spread


def devices(count: int) -> list[jax.Device]:
    return jax.devices()[:count]
