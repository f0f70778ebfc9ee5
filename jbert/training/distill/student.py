"""What a student starts from: its teacher's embeddings and heads, and some of its layers."""

import dataclasses
import logging
import re
from collections.abc import Sequence
from typing import Any

import jax

from jbert.loaded import Bert
from jbert.stack import stack_layers, unstack_layers
from jbert.training.config import RunError
from jbert.training.distill.layers import check_range, spread_layers
from jbert.trees import flatten, unflatten

logger = logging.getLogger("jbert")

_LAYER = re.compile(r"(?P<before>(?:encoder/)?layer_)(?P<number>\d+)(?P<after>/.*)")
# The scales and biases of an encoder's norms: MobileBERT's NoNorm has no use for a LayerNorm's.
_NORM = re.compile(r"encoder/.*norm/(scale|bias)")


def student_of(
    student: Bert, teacher: Bert, layers: Sequence[int] | None = None, *, heads: bool = True
) -> Bert:
    """The student with the teacher's weights wherever both have the same; neither is changed.

    layers: for each layer of the student the teacher's that it starts from; None spreads them, as
            `spread_layers` says, and () leaves the student's own.
    heads:  also take what is outside the encoder.

    Embeddings and the named layers have to fit; of the rest, what the teacher has not, or not in
    this shape, stays the student's. DistilBERT has BERT's embeddings but for the token types, which
    nothing makes up for.
    """
    sizes: Any = student.config, teacher.config
    depths = tuple(config.num_hidden_layers for config in sizes)
    chosen = spread_layers(*depths) if layers is None else tuple(layers)
    if chosen and len(chosen) != depths[0]:
        raise RunError(
            f"initial.layers names {len(chosen)} layers of the teacher; expected {depths[0]}, one "
            "for each layer of the student"
        )
    check_range("initial.layers", chosen, depths[1])
    own, theirs = (flatten(unstack_layers(bert.params)) for bert in (student, teacher))
    kinds = {getattr(config, "normalization_type", "layer_norm") for config in sizes}
    mine = {path: x for path, x in own.items() if len(kinds) == 1 or not _NORM.search(path)}
    sources, problems, kept = _sources(mine, theirs, chosen, heads)
    if problems:
        raise RunError(
            "the student cannot start from its teacher, whose weights are of other shapes; take "
            "less of it (--initial.take), or change the student:\n  " + "\n  ".join(problems)
        )
    if kept:
        logger.info("the student's own, not its teacher's: %s", ", ".join(kept))
    new = own | {path: _like(theirs[source], own[path]) for path, source in sources.items()}
    params: Any = unflatten(new)
    if student.execution.scan_layers:
        params = stack_layers(params)
    placed = jax.tree.map(lambda x, old: jax.device_put(x, old.sharding), params, student.params)
    return dataclasses.replace(student, params=placed)


def _sources(
    mine: dict[str, Any], theirs: dict[str, Any], chosen: tuple[int, ...], heads: bool
) -> tuple[dict[str, str], list[str], list[str]]:
    """The teacher's path for each of the student's, what is wrong, and what has no source."""
    sources: dict[str, str] = {}
    problems, kept = [], []
    for path, leaf in mine.items():
        layer = _LAYER.fullmatch(path)
        if layer and not chosen:
            continue
        source = path
        if layer:
            source = f"{layer['before']}{chosen[int(layer['number'])]}{layer['after']}"
        if not heads and not path.startswith("encoder/"):
            continue
        found = theirs.get(source)
        if found is not None and found.shape == leaf.shape:
            sources[path] = source
        elif layer or (found is not None and "embeddings/" in path):
            what = "nothing" if found is None else f"{found.shape}"
            problems.append(f"{path}: expected {leaf.shape}, the teacher's {source} is {what}")
        elif path.endswith("embeddings/word/embedding"):
            problems.append(f"{path}: the teacher has none")
        else:
            kept.append(path)
    return sources, problems, kept


def _like(value: jax.Array, own: jax.Array) -> jax.Array:
    """A copy, for both are used up in training, in the dtype of the student's."""
    return jax.device_put(value.astype(own.dtype), own.sharding, may_alias=False)
