"""Losses: for each task the number that transformers reports as `.loss`, in float32.

Each loss is a sum of terms, and each term a total and a count, so that batches of any size, on any
number of devices, can be added up before anything is divided.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jbert.config import ModelConfig
from jbert.cross_entropy import IGNORE, token_losses
from jbert.heads import Output
from jbert.inputs import concrete


class LossError(ValueError):
    """Labels that do not fit the task or the model's outputs."""


class Term(NamedTuple):
    """One addend of a loss: scale · total / count."""

    total: jax.Array
    count: jax.Array
    scale: float = 1.0

    def mean(self, count: Any = None) -> jax.Array:
        """The addend; 0 where nothing counts. Another count, where this is a part of something."""
        count = self.count if count is None else count
        return self.scale * self.total / jnp.where(count > 0, count, 1)


class _Losses(NamedTuple):
    """One addend of a loss before it is summed: a value for each prediction, and which ones count.
    The first dimension is the examples; values that do not count are 0."""

    values: jax.Array
    kept: jax.Array
    scale: float = 1.0

    def term(self, weights: Any) -> Term:
        values, kept = self.values, self.kept.astype(jnp.float32)
        if weights is not None:
            weights = jnp.asarray(weights, jnp.float32)
            if weights.shape != values.shape[:1]:
                raise LossError(
                    f"weights has shape {weights.shape}; expected {values.shape[:1]}, "
                    "one for each example"
                )
            weights = weights.reshape(-1, *(1,) * (values.ndim - 1))
            # Not 0 · NaN: an example that weighs nothing must not be able to spoil the sum.
            values = jnp.where(weights == 0, 0.0, values * weights)
            kept = kept * weights
        return Term(jnp.sum(values), jnp.sum(kept), self.scale)


def loss(
    task: str | None, config: ModelConfig, output: Output, labels: Mapping[str, Any]
) -> jax.Array:
    """The mean loss of a batch.

    `labels` is a dict under transformers' argument names: `labels`, and `next_sentence_label`
    for pretraining, `start_positions` and `end_positions` for question answering; replaced-token
    detection also takes `attention_mask`, to leave padding out. Where every label is ignored the
    loss is 0, not NaN.
    """
    return sum_terms(terms(task, config, output, labels))


def sum_terms(parts: list[Term]) -> jax.Array:
    return jnp.sum(jnp.stack([part.mean() for part in parts]))


def terms(
    task: str | None,
    config: ModelConfig,
    output: Output,
    labels: Mapping[str, Any],
    weights: Any = None,
) -> list[Term]:
    """The same loss as totals and counts.

    weights: (batch,), how much each example counts; 0 takes one out of totals and counts.
    """
    if task not in _LOSSES:
        raise LossError(f"task {task!r} has no loss; expected one of {sorted(_LOSSES)}")
    if not isinstance(labels, Mapping):
        raise LossError(f"labels is a {type(labels).__name__}; expected a dict of named arrays")
    return [losses.term(weights) for losses in _LOSSES[task](config, output, labels)]


def cross_entropy(logits, labels, name: str = "labels", ignore: int = IGNORE) -> Term:
    """Softmax cross-entropy over the last axis, without the positions labelled `ignore`."""
    return _cross_entropy(logits, labels, name, ignore).term(None)


def _cross_entropy(logits, labels, name: str = "labels", ignore: int = IGNORE) -> _Losses:
    if labels.shape != logits.shape[:-1]:
        raise LossError(
            f"{name} has shape {labels.shape}; expected {logits.shape[:-1]}, "
            f"for logits of shape {logits.shape}"
        )
    _check_range(labels, name, logits.shape[-1], ignore)
    return _Losses(token_losses(logits, labels, ignore), labels != ignore)


def _check_range(labels, name: str, size: int, ignore: int) -> None:
    values = concrete(labels)
    if values is None:
        return
    bad = (values != ignore) & ((values < 0) | (values >= size))
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise LossError(
            f"{name}{list(where)} is {values[where]}; expected 0 <= label < {size}, "
            f"or {ignore} for a position to ignore"
        )


def _label(labels: Mapping[str, Any], name: str, integers: bool = True):
    if labels.get(name) is None:
        raise LossError(f"labels need {name!r}; found {sorted(labels)}")
    _check_width(labels[name], name)
    value = jnp.asarray(labels[name])
    if integers and not jnp.issubdtype(value.dtype, jnp.integer):
        raise LossError(f"{name} is of type {value.dtype}; expected integers")
    return value


def _check_width(value, name: str) -> None:
    """Refuse what does not fit 32 bits: JAX would keep the lower half of it, and say nothing."""
    values = concrete(value)
    if values is None or not np.issubdtype(values.dtype, np.integer) or values.size == 0:
        return
    for value in (int(values.max()), int(values.min())):
        if not -(2**31) <= value < 2**31:
            raise LossError(f"{name} holds {value}, beyond 32 bits; expected class numbers")


def _per_position(config, output: Output, labels) -> list[_Losses]:
    return [_of_tokens(output, output.logits, labels)]


def _of_tokens(output: Output, logits, labels) -> _Losses:
    """Of logits, or as the model has already computed it from its `targets`."""
    target = _label(labels, "labels")
    if output.token_losses is None:
        return _cross_entropy(logits, target)
    if target.shape != output.token_losses.shape:
        raise LossError(
            f"labels has shape {target.shape}; expected {output.token_losses.shape}, as targets"
        )
    kept = target != IGNORE
    return _Losses(jnp.where(kept, output.token_losses, 0.0), kept)


def _causal(config, output: Output, labels) -> list[_Losses]:
    # Position t predicts token t + 1.
    target = _label(labels, "labels")
    if target.shape != output.logits.shape[:-1]:
        raise LossError(f"labels has shape {target.shape}; expected {output.logits.shape[:-1]}")
    return [_cross_entropy(output.logits[:, :-1], target[:, 1:])]


def _pretraining(config, output: Output, labels) -> list[_Losses]:
    sentence = _label(labels, "next_sentence_label").reshape(-1)
    return [
        _of_tokens(output, output.prediction_logits, labels),
        _cross_entropy(output.seq_relationship_logits, sentence, "next_sentence_label"),
    ]


def _one_per_text(config, output: Output, labels) -> list[_Losses]:
    return [_cross_entropy(output.logits, _label(labels, "labels").reshape(-1))]


def problem_type(config: ModelConfig, labels: jax.Array) -> str:
    """The configured problem type, or transformers' guess from the labels."""
    if config.problem_type is not None:
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    integers = jnp.issubdtype(labels.dtype, jnp.integer)
    return "single_label_classification" if integers else "multi_label_classification"


def _classification(config, output: Output, labels) -> list[_Losses]:
    target = _label(labels, "labels", integers=False)
    kind, logits = problem_type(config, target), output.logits.astype(jnp.float32)
    if kind == "single_label_classification":
        return _one_per_text(config, output, labels)
    if kind == "regression" and config.num_labels == 1:
        # (batch,) and (batch, 1) mean the same; broadcasting one against the other does not.
        logits, target = logits.reshape(-1), target.reshape(-1)
    if target.shape != logits.shape:
        raise LossError(f"labels has shape {target.shape}; expected {logits.shape} for {kind}")
    target = target.astype(jnp.float32)
    if kind == "regression":
        values = jnp.square(logits - target)
    else:
        values = binary_cross_entropy(logits, target)
    return [_Losses(values, jnp.ones_like(values))]


def binary_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def _spans(config, output: Output, labels) -> list[_Losses]:
    parts = []
    for name in ("start", "end"):
        logits = output[f"{name}_logits"]
        length = logits.shape[1]
        # transformers clamps positions to [0, length] and ignores `length`: the answer of a window
        # that does not contain it.
        position = jnp.clip(_label(labels, f"{name}_positions").reshape(-1), 0, length)
        losses = _cross_entropy(logits, position, f"{name}_positions", length)
        parts.append(losses._replace(scale=0.5))
    return parts


def _replaced(config, output: Output, labels) -> list[_Losses]:
    target = _label(labels, "labels", integers=False)
    if target.shape != output.logits.shape:
        raise LossError(f"labels has shape {target.shape}; expected {output.logits.shape}")
    kept = target != IGNORE
    _check_range(target, "labels", 2, IGNORE)
    if labels.get("attention_mask") is not None:
        real = jnp.asarray(labels["attention_mask"])
        if real.shape != target.shape:
            raise LossError(f"attention_mask has shape {real.shape}; expected {target.shape}")
        kept = kept & (real == 1)
    target = jnp.where(kept, target, 0).astype(jnp.float32)
    losses = binary_cross_entropy(output.logits.astype(jnp.float32), target)
    losses = jnp.where((target == 0) | (target == 1), losses, jnp.nan)
    return [_Losses(jnp.where(kept, losses, 0.0), kept)]


_LOSSES = {
    "pretraining": _pretraining,
    "masked_lm": _per_position,
    "causal_lm": _causal,
    "next_sentence": _one_per_text,
    "sequence_classification": _classification,
    "multiple_choice": _one_per_text,
    "token_classification": _per_position,
    "question_answering": _spans,
    "replaced_token_detection": _replaced,
}
