"""Masked language modelling, alone or with next-sentence prediction: its loss and its figures."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jbert.cross_entropy import token_losses
from jbert.heads import Output
from jbert.losses import IGNORE
from jbert.metrics import perplexity
from jbert.training.evaluation import Predictions
from jbert.training.optimizer import Flat
from jbert.training.step import Batch, TaskObjective


@dataclasses.dataclass(frozen=True)
class MaskedTokens(TaskObjective):
    """The task's own loss. chunked: without the logits of all positions at once."""

    chunked: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return ("mlm", "nsp") if self.task == "pretraining" else ()

    def output(self, params: Flat, batch: Batch, key: jax.Array | None = None) -> Output:
        if self.chunked:
            batch = {**batch, "targets": batch["labels"]}
        return super().output(params, batch, key)


def keep(output: Output, batch: Batch) -> dict[str, Any]:
    """Of each row: the sum of its predictions' losses, their number, and the next sentence."""
    kept = row_losses(output, batch["labels"])
    if output.seq_relationship_logits is None:
        return kept
    chosen = jnp.argmax(output.seq_relationship_logits, axis=-1)
    return {**kept, "nsp_right": chosen == batch["next_sentence_label"]}


def row_losses(output: Output, labels: jax.Array) -> dict[str, jax.Array]:
    losses, predicted = output.token_losses, labels != IGNORE
    if losses is None:
        logits = output.prediction_logits if output.logits is None else output.logits
        losses = token_losses(logits, labels)
    losses = jnp.where(predicted, losses, 0.0)
    return {"mlm_loss": losses.sum(axis=-1), "mlm_count": predicted.sum(axis=-1)}


def score(found: Predictions, loss: float) -> dict[str, float]:
    mlm = mean_loss(found)
    if "nsp_right" not in found:
        return {"perplexity": perplexity(mlm)}
    right = float(found["nsp_right"].mean())
    return {"perplexity": perplexity(mlm), "mlm_loss": mlm, "nsp_accuracy": right}


def mean_loss(found: Predictions) -> float:
    """Of each prediction, not of each row."""
    return float(found["mlm_loss"].sum(dtype="float64") / max(int(found["mlm_count"].sum()), 1))
