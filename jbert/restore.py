"""Parameters of a module from a checkpoint's files, placed straight where they will lie."""

import collections
import logging
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, Sharding, SingleDeviceSharding
from tqdm import tqdm

from jbert.config import ModelConfig
from jbert.convert import TABLES, ConversionError
from jbert.convert.dialects import in_pytorch_words
from jbert.convert.rules import NameTable
from jbert.convert.weights import Matched, is_encoder, match
from jbert.formats import Tensor, open_weights
from jbert.initial import init_params
from jbert.loaded import abstract_params, build_module, unrolled
from jbert.models.base import Model
from jbert.processes import together_on
from jbert.sharding import Rules, param_shardings
from jbert.stack import SCANNED
from jbert.stored import Stored
from jbert.trees import flatten, unflatten

logger = logging.getLogger("jbert")

Flat = dict[str, Any]
# Numbers that are copied at once, and rows that are transposed at once: what a cache holds.
BLOCK, STRIP, ALIGNMENT = 1 << 16, 32, 64
# More gain nothing, and each holds a parameter that is not placed yet.
THREADS = min(4, os.cpu_count() or 1)
Made = TypeVar("Made")


class HeadWarning(UserWarning):
    """Weights of a head that the checkpoint does not have were initialised at random."""


def from_weights(
    path: Path, module: Model, task: str | None, mesh: Mesh | None, rules: str | Rules, seed: int,
    new_head: bool = False,
) -> Any:  # fmt: skip
    """Parameters from a file or directory of weights that jbert.formats reads.

    new_head: whether weights of a head whose shape does not fit are drawn anew, because the caller
    asked for other labels, instead of refused.
    """
    table = TABLES[module.config.model_type]
    target = flatten(_target(unrolled(module), mesh, rules))
    with together_on(mesh), open_weights(path) as weights:
        tensors = in_pytorch_words(weights, module.config.model_type)
        found = match(
            {name: tensor.shape for name, tensor in tensors.items()},
            table, task, target, str(path), new_head,
        )  # fmt: skip
        if found.unused:
            logger.info("%s: not used for task %s: %s", path, task, ", ".join(found.unused))
        _check_tied(tensors, found.unused, table, task, path)
        kept = _read(found, tensors, target, str(path))
    return _with_new(kept, found.absent, module, mesh, rules, seed, str(path))


def from_stored(
    stored: Stored, source: str, stored_config: ModelConfig, module: Model, task: str | None,
    mesh: Mesh | None, rules: str | Rules, seed: int, new_head: bool = False,
) -> Any:  # fmt: skip
    """Parameters that `jbert.save` or a training wrote, their files verified."""
    as_stored = build_module(stored_config, stored.task, unrolled(module).execution)
    target = flatten(_target(as_stored, mesh, rules))
    flat = rerooted(stored.restore(target), stored.task, task)
    wanted = unrolled(module)
    shapes = target if wanted == as_stored else flatten(abstract_params(wanted))
    # Heads of different tasks share names: a classifier of texts, and one of choices.
    new_head = new_head or stored.task != task
    kept, absent = {}, []
    problems = [
        f"{path}: expected no such weight, found {leaf.shape}"
        for path, leaf in flat.items()
        if path not in shapes and is_encoder(path, task)
    ]
    for path, leaf in shapes.items():
        if path in flat and flat[path].shape == leaf.shape:
            kept[path] = flat[path]
        elif not is_encoder(path, task) and (path not in flat or new_head):
            absent.append(path)
        else:
            found = flat[path].shape if path in flat else "nothing"
            problems.append(f"{path}: expected {leaf.shape}, found {found}")
    if problems:
        raise ConversionError(f"{source} does not fit the model:\n  " + "\n  ".join(problems))
    if module.execution.param_dtype == "float16":
        # Orbax casts without a word.
        shards = {path: leaf.addressable_shards for path, leaf in kept.items()}
        counts = {p: sum(_not_finite(np.asarray(s.data)) for s in a) for p, a in shards.items()}
        with together_on(mesh):
            _refuse_not_finite(counts, source)
    return _with_new(kept, absent, module, mesh, rules, seed, source)


def _target(module: Model, mesh: Mesh | None, rules: str | Rules) -> Any:
    """The parameters' shapes and dtypes, and where they will lie."""
    boxed = abstract_params(module, boxed=True)
    abstract = nn.meta.unbox(boxed)
    if mesh is None:
        here = SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: here, abstract)
    else:
        shardings = param_shardings(boxed, mesh, rules)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract, shardings,
    )  # fmt: skip


def rerooted(flat: Flat, stored_task: str | None, task: str | None) -> Flat:
    """Paths as a model of another task has them: its encoder below `encoder/`, or at the root."""
    if (stored_task is None) == (task is None):
        return flat
    if task is None:
        return {p.removeprefix("encoder/"): x for p, x in flat.items() if p.startswith("encoder/")}
    return {f"encoder/{p}": x for p, x in flat.items()}


# -- reading --------------------------------------------------------------------------------


def _read(found: Matched, tensors: Mapping[str, Tensor], target: Flat, source: str) -> Flat:
    """Read, cast and place one parameter after the other; only a few are ever held twice."""

    def read(path: str) -> tuple[np.ndarray, int]:
        rule, name = found.sources[path]
        leaf = target[path]
        stored = rule.transform.to_jbert(tensors[name].read(), leaf.shape)
        return _cast(stored, leaf.dtype, path)

    kept, not_finite = {}, {}
    # Only on a terminal, and only when it takes longer than a blink.
    progress = tqdm(found.sources, "loading", unit=" arrays", delay=1.0, disable=None, leave=False)
    for path, (values, count) in zip(progress, _ahead(read, list(found.sources)), strict=True):
        kept[path], not_finite[path] = _place(values, target[path].sharding), count
    _refuse_not_finite(not_finite, source)
    return kept


def _ahead(make: Callable[[str], Made], names: list[str]) -> Iterator[Made]:
    """`make` of each name, in their order, in as many threads as there is work at once for: a
    processor copies less than the memory can give."""
    with ThreadPoolExecutor(THREADS) as threads:
        pending: collections.deque[Future[Made]] = collections.deque()
        for name in names:
            pending.append(threads.submit(make, name))
            if len(pending) == THREADS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _not_finite(values: np.ndarray) -> int:
    """How many values are NaN or infinite."""
    values = values.astype(np.float32, copy=False)
    # The extremes tell without an array as long as the values; they too are NaN if any is.
    if values.size == 0 or (np.isfinite(values.min()) and np.isfinite(values.max())):
        return 0
    return values.size - int(np.isfinite(values).sum())


def _refuse_not_finite(counts: Mapping[str, int], source: str) -> None:
    lines = [f"  {path}: {count} of its values" for path, count in counts.items() if count]
    if lines:
        raise ConversionError(
            f"{source}: weights that are NaN or infinite, or beyond the range of float16 if that "
            "is the param_dtype:\n" + "\n".join(lines) + "\nThe file is broken, or needs "
            "param_dtype='float32'"
        )


def _cast(values: np.ndarray, dtype, path: str) -> tuple[np.ndarray, int]:
    """A copy in another dtype, and how many of its values are not finite."""
    if not jax.numpy.issubdtype(values.dtype, jax.numpy.floating):
        raise ConversionError(
            f"{path} is stored as {values.dtype}; expected floating-point weights. Quantised "
            "checkpoints cannot be read: use the original one"
        )
    if values.dtype != dtype:
        logger.debug("%s: cast from %s to %s", path, values.dtype, dtype)
    # A copy even where nothing changes: the file may be deleted or rewritten later.
    copy, not_finite = _aligned(values.shape, dtype), 0
    with np.errstate(over="ignore"):  # reported by name, as not finite
        for source, target in _blocks(values, copy):
            source = source.astype(dtype, copy=False)
            not_finite += _not_finite(source)
            target[...] = source
    return copy, not_finite


def _blocks(values: np.ndarray, copy: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Views of both, in the order of the first one's memory, and small enough for a cache.

    The first look at a mapped file is the slow one, and a transposition its worst way.
    """
    values = _merged(values)
    copy = copy.reshape(values.shape)
    if values.ndim == 2 and values.strides[0] == values.itemsize:
        values, copy = values.T, copy.T
    rows = {1: BLOCK, 2: STRIP}.get(values.ndim)
    if rows is None:
        yield values, copy
        return
    for i in range(0, len(values), rows):
        yield values[i : i + rows], copy[i : i + rows]


def _merged(values: np.ndarray) -> np.ndarray:
    """The same with axes made one where memory allows it: of an attention's heads a matrix."""
    shape, strides = list(values.shape), list(values.strides)
    for axis in range(values.ndim - 2, -1, -1):
        if strides[axis] == shape[axis + 1] * strides[axis + 1]:
            shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
            del strides[axis]
    return values.reshape(shape)


def _aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An empty array at an address at which a CPU device takes it over without another copy."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


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
    params = unflatten(kept)
    if not module.execution.scan_layers:
        return params
    return _stacked(kept, module, mesh, rules)


def _stacked(flat: Flat, module: Model, mesh: Mesh | None, rules: str | Rules) -> Any:
    """The tree of a scanned model, made leaf by leaf so that little is held twice."""
    target = flatten(_target(module, mesh, rules))
    result = {}
    for path, leaf in target.items():
        if f"{SCANNED}/" not in path:
            result[path] = flat[path]
            continue
        names = [path.replace(f"{SCANNED}/", f"layer_{i}/", 1) for i in range(leaf.shape[0])]
        stack = jax.jit(_stack, out_shardings=leaf.sharding)
        result[path] = stack(*(flat.pop(name) for name in names))
    return unflatten(result)


def _stack(*layers: jax.Array) -> jax.Array:
    return jax.numpy.stack(layers)


_TIED = re.compile(
    r"(.*\.)?(?P<name>(cls\.predictions\.decoder|vocab_projector|generator_lm_head)\.weight)"
)


def _check_tied(
    tensors: Mapping[str, Tensor], unused: list[str], table: NameTable, task: str | None, path: Path
) -> None:
    """Warn when a file's output table is not the token table that the model will use instead."""
    of_task = {rule.hf for rule in table.heads.get(task or "", ())}
    decoders = [name for name in unused if (m := _TIED.fullmatch(name)) and m["name"] in of_task]
    words = [name for name in tensors if re.fullmatch(r"(.*\.)?word_embeddings\.weight", name)]
    if not decoders or not words or tensors[decoders[0]].storage == tensors[words[0]].storage:
        return
    ours, theirs = tensors[words[0]].read(), tensors[decoders[0]].read()
    if ours.shape == theirs.shape:
        gap = np.abs(np.subtract(ours, theirs, dtype=np.float32)).max()
        if gap == 0:
            return
        by = f"by up to {gap:.3g}"
    else:
        by = f"in shape: {theirs.shape}, not {ours.shape}"
    warnings.warn(
        f"{path}: {decoders[0]} differs from {words[0]} {by}, though the configuration ties them; "
        "the token table is used. To keep both pass tie_word_embeddings=False",
        stacklevel=4,
    )
