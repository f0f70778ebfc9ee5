"""Replaced-token detection (ELECTRA, Clark et al. 2020, arXiv:2003.10555): which tokens did a
generator put there?

A small masked language model fills in the masked positions by chance, and the discriminator, which
is the model that the run is for, says of every token whether it is still the original. No gradient
goes through what was drawn.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jbert.data.batches import WEIGHTS
from jbert.heads import Output
from jbert.losses import IGNORE, Term, terms
from jbert.metrics import perplexity
from jbert.models.base import Model
from jbert.training.evaluation import Predictions
from jbert.training.optimizer import Flat
from jbert.training.pretrain.generator import PREFIX, Generator
from jbert.training.pretrain.objective import mean_loss, row_losses
from jbert.training.step import LABELS, PRNG, Batch
from jbert.trees import unflatten

REPLACED = "replaced_token_detection"


class Detection(NamedTuple):
    """What both models say of a batch; `replaced` is 1, 0, or to be ignored on padding."""

    generator: Output
    discriminator: Output
    replaced: jax.Array


@dataclasses.dataclass(frozen=True)
class ReplacedTokens:
    """The generator's loss and the discriminator's, each times its weight."""

    discriminator: Model
    generator: Generator
    weights: tuple[float, float] = (1.0, 50.0)
    names = ("generator", "discriminator")

    def __call__(self, params: Flat, batch: Batch, key: jax.Array) -> list[Term]:
        return self.terms(self.detect(params, batch, key), batch)

    def output(self, params: Flat, batch: Batch) -> Detection:
        return self.detect(params, batch)

    def detect(self, params: Flat, batch: Batch, key: jax.Array | None = None) -> Detection:
        """Without a key there is no dropout, and each row has draws of its own that never change:
        they depend neither on the batch nor on the devices."""
        inputs = {k: v for k, v in batch.items() if k not in LABELS and k != WEIGHTS}
        keys = [None] * 3 if key is None else jax.random.split(key, 3)
        guessed = _apply(self.generator.module, self.generator.params(params), inputs, keys[0])
        noise = _noise(guessed.logits, inputs, keys[1])
        chosen = jnp.argmax(jax.lax.stop_gradient(guessed.logits) + noise, axis=-1)
        original, corrupted = fill_in(inputs, batch["labels"], chosen.astype(jnp.int32))
        inputs = {k: v for k, v in inputs.items() if k != "logits_at"} | {"input_ids": corrupted}
        own = {path: leaf for path, leaf in params.items() if not path.startswith(PREFIX)}
        judged = _apply(self.discriminator, own, inputs, keys[2])
        replaced = jnp.where(_real(inputs), (corrupted != original).astype(jnp.int32), IGNORE)
        return Detection(guessed, judged, replaced)

    def terms(self, output: Detection, batch: Batch) -> list[Term]:
        parts = (
            ("masked_lm", self.generator.config, output.generator, batch["labels"]),
            (REPLACED, self.discriminator.config, output.discriminator, output.replaced),
        )
        found = []
        for (task, config, its, labels), scale in zip(parts, self.weights, strict=True):
            (term,) = terms(task, config, its, {"labels": labels}, batch.get(WEIGHTS))
            found.append(term._replace(scale=scale))
        return found


def _apply(module: Model, params: Flat, inputs: Any, key: jax.Array | None) -> Output:
    rngs = {} if key is None else {"dropout": key}
    variables = {"params": unflatten(params)}
    output: Any = module.apply(variables, **inputs, deterministic=key is None, rngs=rngs)
    return output


def _noise(logits: jax.Array, inputs: Batch, key: jax.Array | None) -> jax.Array:
    """Gumbel noise: the highest of noisy logits is a draw from their softmax."""
    if key is not None:
        return jax.random.gumbel(key, logits.shape)
    ids = inputs["input_ids"].astype(jnp.uint32)
    # Any odd numbers do: rows that differ are to have keys that differ.
    factors = jnp.uint32(0x9E3779B1) * (2 * jnp.arange(ids.shape[1], dtype=jnp.uint32) + 1)
    numbers = jnp.sum(ids * factors[None], axis=1, dtype=jnp.uint32)
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(0, impl=PRNG), n))(numbers)
    return jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)


def fill_in(inputs: Batch, labels: jax.Array, chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The text before it was masked, and with what was chosen where it was."""
    ids, masked = inputs["input_ids"], labels != IGNORE
    if "logits_at" not in inputs:
        return jnp.where(masked, labels, ids), jnp.where(masked, chosen, ids)
    # Places that only fill up a row are put beyond its end, where nothing is written.
    places = jnp.where(masked, inputs["logits_at"], ids.shape[1])
    put = jax.vmap(lambda row, at, values: row.at[at].set(values, mode="drop"))
    return put(ids, places, labels), put(ids, places, chosen)


def _real(inputs: Batch) -> jax.Array:
    mask = inputs.get("attention_mask")
    return inputs["segment_ids"] > 0 if mask is None else mask == 1


def keep(output: Detection, batch: Batch) -> dict[str, jax.Array]:
    """Of each row: the generator's losses, and how often which verdict was right."""
    real, replaced = output.replaced != IGNORE, output.replaced == 1
    called = (output.discriminator.logits > 0) & real
    counts = {
        "tokens": real,
        "replaced": replaced,
        "called": called,
        "found": called & replaced,
        "right": (called == replaced) & real,
    }
    sums = {name: jnp.sum(value, axis=-1) for name, value in counts.items()}
    return row_losses(output.generator, batch["labels"]) | sums


def score(found: Predictions, loss: float) -> dict[str, float]:
    """perplexity: the generator's. The others are of the verdict "replaced" over all tokens."""
    count = {name: int(values.sum()) for name, values in found.items() if name != "mlm_loss"}
    return {
        "perplexity": perplexity(mean_loss(found)),
        "accuracy": count["right"] / max(count["tokens"], 1),
        "precision": count["found"] / max(count["called"], 1),
        "recall": count["found"] / max(count["replaced"], 1),
        "replaced": count["replaced"] / max(count["tokens"], 1),
    }
