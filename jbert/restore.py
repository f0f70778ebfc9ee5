"""Parameters of a module from a checkpoint's files, placed straight where they will lie."""

import logging
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, Sharding, SingleDeviceSharding
from tqdm import tqdm

from jbert.checkpoint import restore_params
from jbert.config import ModelConfig
from jbert.convert import TABLES, ConversionError
from jbert.convert.dialects import in_pytorch_words
from jbert.convert.rules import NameTable
from jbert.convert.weights import is_encoder, match
from jbert.formats import Tensor, open_weights
from jbert.loaded import abstract_params, build_module, init_params, unrolled
from jbert.manifest import verify
from jbert.models.base import Model
from jbert.save import PARAMS
from jbert.sharding import Rules, param_shardings
from jbert.stack import SCANNED

logger = logging.getLogger("jbert")

Flat = dict[str, Any]


class HeadWarning(UserWarning):
    """Weights of a head that the checkpoint does not have were initialised at random."""


def from_weights(
    path: Path, module: Model, task: str | None, mesh: Mesh | None, rules: str | Rules, seed: int,
    new_head: bool = False,
) -> Any:  # fmt: skip
    """Parameters from a file or directory of weights in any published format.

    new_head: whether weights of a head whose shape does not fit are drawn anew, because the caller
    asked for other labels, instead of refused.
    """
    table = TABLES[module.config.model_type]
    shapes = flatten_dict(abstract_params(unrolled(module)), sep="/")
    with open_weights(path) as weights:
        tensors = in_pytorch_words(weights, module.config.model_type)
        found = match(
            {name: tensor.shape for name, tensor in tensors.items()},
            table, task, shapes, str(path), new_head,
        )  # fmt: skip
        if found.unused:
            logger.info("%s: not used for task %s: %s", path, task, ", ".join(found.unused))
        _check_tied(tensors, found.unused, table, path)
        readers: dict[str, Callable[[], np.ndarray]] = {
            parameter: _reader(tensors[name], rule.transform, shapes[parameter].shape)
            for parameter, (rule, name) in found.sources.items()
        }
        return _assemble(readers, found.absent, module, mesh, rules, seed, str(path))


def from_saved(
    directory: Path, info: Mapping[str, Any], stored_config: ModelConfig, module: Model,
    task: str | None, mesh: Mesh | None, rules: str | Rules, seed: int, new_head: bool = False,
) -> Any:  # fmt: skip
    """Parameters from a directory that `jbert.save` wrote, after checking every byte of it."""
    verify(directory, info["files"])
    stored = build_module(stored_config, info["task"], unrolled(module).execution)
    restored = restore_params(directory / PARAMS, _target(stored, mesh, rules))
    flat = _rerooted(flatten_dict(restored, sep="/"), info["task"], task)
    shapes = flatten_dict(abstract_params(unrolled(module)), sep="/")
    kept, absent, problems = {}, [], []
    for path, leaf in shapes.items():
        if path in flat and flat[path].shape == leaf.shape:
            kept[path] = flat[path]
        elif not is_encoder(path, task) and (path not in flat or new_head):
            absent.append(path)
        else:
            found = flat[path].shape if path in flat else "nothing"
            problems.append(f"{path}: expected {leaf.shape}, found {found}")
    if problems:
        raise ConversionError(f"{directory} does not fit the model:\n  " + "\n  ".join(problems))
    return _with_new(kept, absent, module, mesh, rules, seed, str(directory))


def _target(module: Model, mesh: Mesh | None, rules: str | Rules) -> Any:
    abstract = abstract_params(module, boxed=True)
    if mesh is None:
        here = SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: here, abstract_params(module))
    else:
        shardings = param_shardings(abstract, mesh, rules)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_params(module), shardings,
    )  # fmt: skip


def _rerooted(flat: Flat, stored_task: str | None, task: str | None) -> Flat:
    """Paths as a model of another task has them: its encoder below `encoder/`, or at the root."""
    if (stored_task is None) == (task is None):
        return flat
    if task is None:
        return {p.removeprefix("encoder/"): x for p, x in flat.items() if p.startswith("encoder/")}
    return {f"encoder/{p}": x for p, x in flat.items()}


# -- reading --------------------------------------------------------------------------------


def _reader(tensor: Tensor, transform, shape) -> Callable[[], np.ndarray]:
    return lambda: transform.to_jbert(tensor.read(), shape)


def _assemble(
    readers: Mapping[str, Callable[[], np.ndarray]], absent: list[str], module: Model,
    mesh: Mesh | None, rules: str | Rules, seed: int, source: str,
) -> Any:  # fmt: skip
    """Read, cast and place one parameter after the other; only one is ever held twice."""
    target = flatten_dict(_target(unrolled(module), mesh, rules), sep="/")
    kept, broken = {}, []
    # Only on a terminal, and only when it takes longer than a blink.
    for path in tqdm(readers, desc="loading", unit="array", delay=1.0, disable=None, leave=False):
        values = _cast(readers[path](), target[path].dtype, path)
        bad = values.size - int(np.isfinite(values.astype(np.float32, copy=False)).sum())
        if bad:
            broken.append(f"{path}: {bad} of {values.size}")
        kept[path] = _place(values, target[path].sharding)
    if broken:
        raise ConversionError(
            f"{source}: weights that are not finite (NaN, or beyond {target[path].dtype}):\n  "
            + "\n  ".join(broken)
            + "\nThe file is broken, or needs param_dtype='float32'"
        )
    return _with_new(kept, absent, module, mesh, rules, seed, source)


def _cast(values: np.ndarray, dtype, path: str) -> np.ndarray:
    if not jax.numpy.issubdtype(values.dtype, jax.numpy.floating):
        raise ConversionError(
            f"{path} is stored as {values.dtype}; expected floating-point weights. Quantised "
            "checkpoints cannot be read: use the original one"
        )
    if values.dtype != dtype:
        logger.debug("%s: cast from %s to %s", path, values.dtype, dtype)
    with np.errstate(over="ignore"):  # reported by name, as not finite
        # A copy even where nothing changes: the file may be deleted or rewritten later.
        return np.array(values, dtype=dtype, order="C")


def _place(values: np.ndarray, sharding: Sharding) -> jax.Array:
    # From the callback each device is handed its own slice, and never the whole.
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def _with_new(
    kept: Flat, absent: list[str], module: Model, mesh: Mesh | None, rules: str | Rules, seed: int,
    source: str,
) -> Any:  # fmt: skip
    if absent:
        warnings.warn(
            f"{source} has no weights for {', '.join(sorted(absent))}: initialised from "
            f"seed {seed}. Train them before use",
            HeadWarning,
            stacklevel=4,
        )
        kept |= init_params(unrolled(module), seed, mesh, rules, only=tuple(absent))
    params = unflatten_dict(kept, sep="/")
    if not module.execution.scan_layers:
        return params
    return _stacked(kept, module, mesh, rules)


def _stacked(flat: Flat, module: Model, mesh: Mesh | None, rules: str | Rules) -> Any:
    """The tree of a scanned model, made leaf by leaf so that little is held twice."""
    target = flatten_dict(_target(module, mesh, rules), sep="/")
    result = {}
    for path, leaf in target.items():
        if f"{SCANNED}/" not in path:
            result[path] = flat[path]
            continue
        names = [path.replace(f"{SCANNED}/", f"layer_{i}/", 1) for i in range(leaf.shape[0])]
        stack = jax.jit(lambda *x: jax.numpy.stack(x), out_shardings=leaf.sharding)
        result[path] = stack(*(flat.pop(name) for name in names))
    return unflatten_dict(result, sep="/")


_TIED = re.compile(r"(.*\.)?(cls\.predictions\.decoder|vocab_projector|generator_lm_head)\.weight")


def _check_tied(
    tensors: Mapping[str, Tensor], unused: list[str], table: NameTable, path: Path
) -> None:
    """Warn when a file's output table is not the token table that the model will use instead."""
    decoders = [name for name in unused if _TIED.fullmatch(name)]
    words = [name for name in tensors if re.fullmatch(r"(.*\.)?word_embeddings\.weight", name)]
    if not decoders or not words or tensors[decoders[0]].storage == tensors[words[0]].storage:
        return
    ours, theirs = tensors[words[0]], tensors[decoders[0]]
    if ours.shape == theirs.shape and np.array_equal(ours.read(), theirs.read()):
        return
    warnings.warn(
        f"{path}: {decoders[0]} differs from {words[0]}, to which the configuration ties it; "
        "the token table is used. To keep both pass tie_word_embeddings=False",
        stacklevel=5,
    )
