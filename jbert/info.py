"""What `jbert info` prints."""

import dataclasses
from typing import Any

from jbert.convert import TABLES
from jbert.convert.dialects import in_pytorch_words
from jbert.convert.weights import match
from jbert.execution import Execution
from jbert.formats import open_weights
from jbert.load import default_task, read_config
from jbert.loaded import abstract_params, build_module, decoder_config
from jbert.locate import locate
from jbert.restore import rerooted
from jbert.stored import stored_in
from jbert.trees import flatten

# Bytes a parameter takes while training with AdamW: itself, its gradient and two moments, float32.
TRAINING_BYTES = 16


def describe(
    source: str,
    task: str | None = None,
    devices: tuple[int, ...] = (1, 8),
    depth: int = 2,
    revision: str | None = None,
) -> str:
    """A model's architecture, task, size, memory and parameters, as text."""
    if any(count < 1 for count in devices):
        raise ValueError(f"devices: expected numbers of at least 1, found {list(devices)}")
    path, origin = locate(source, revision)
    directory = path if path.is_dir() else path.parent
    saved = stored_in(path)
    wanted = default_task(source, revision) if task is None else task
    wanted = None if wanted == "encoder" else wanted
    config = decoder_config(read_config(directory, path), wanted)
    shapes = flatten(abstract_params(build_module(config, wanted, Execution())))
    total = sum(leaf.size for leaf in shapes.values())
    lines = [
        f"source        {origin}",
        f"architecture  {config.model_type}, {type(config).__name__}",
        f"task          {wanted or 'none (the bare encoder)'}",
        f"format        {'orbax' if saved else _format(path)}",
        f"stored as     {_stored(path, saved)}",
        f"parameters    {total:,}",
        *_memory(total, devices),
    ]
    if saved is None:
        lines += _lacking(path, config, wanted, shapes)
    else:
        lines += _lacking_in_saved(directory, path, saved, wanted, shapes)
    return "\n".join([*lines, "", *_tree(shapes, depth)])


def _format(path) -> str:
    with open_weights(path) as weights:
        return weights.format


def _stored(path, saved) -> str:
    if saved is not None:
        return f"task {saved.task or 'none'}, {saved.about}"
    with open_weights(path) as weights:
        sizes: dict[str, int] = {}
        for tensor in weights.values():
            sizes[str(tensor.dtype)] = sizes.get(str(tensor.dtype), 0) + tensor.size
        kinds = ", ".join(f"{count:,} {dtype}" for dtype, count in sorted(sizes.items()))
        return f"{len(weights)} arrays: {kinds}"


def _memory(total: int, devices: tuple[int, ...]) -> list[str]:
    lines = []
    for count in devices:
        share = [_bytes(total * size / count) for size in (4, 2, TRAINING_BYTES)]
        label = "memory        " if not lines else " " * 14
        plural = "" if count == 1 else "s"
        lines.append(
            f"{label}{count} device{plural}: {share[0]} each in float32, {share[1]} in bfloat16, "
            f"{share[2]} to train with AdamW (without activations)"
        )
    return lines


def _lacking(path, config, task, shapes) -> list[str]:
    with open_weights(path) as weights:
        tensors = in_pytorch_words(weights, config.model_type)
        found = match(
            {name: tensor.shape for name, tensor in tensors.items()},
            TABLES[config.model_type], task, shapes, str(path),
        )  # fmt: skip
    lines = [f"would be new  {name}" for name in found.absent]
    return lines + [f"not used      {name}" for name in found.unused]


def _lacking_in_saved(directory, path, saved, task, shapes) -> list[str]:
    module = build_module(read_config(directory, path), saved.task, Execution())
    stored = rerooted(flatten(abstract_params(module)), saved.task, task)
    return [f"would be new  {name}" for name in shapes if name not in stored]


@dataclasses.dataclass
class _Node:
    size: int = 0
    shape: Any = None


def _tree(shapes, depth: int) -> list[str]:
    nodes: dict[str, _Node] = {}
    for path, leaf in shapes.items():
        parts = path.split("/")
        for level in range(1, min(len(parts), depth) + 1):
            node = nodes.setdefault("/".join(parts[:level]), _Node())
            node.size += leaf.size
            if level == len(parts):
                node.shape = leaf.shape
    lines = []
    for path, node in nodes.items():
        level = path.count("/")
        name = "  " * level + path.rsplit("/", 1)[-1]
        shape = "" if node.shape is None else f"  {node.shape}"
        lines.append(f"{name:<32}{node.size:>14,}{shape}")
    return lines


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
