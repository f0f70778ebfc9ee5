"""The loss of a student beside its teacher, both in the same step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jbert.data.batches import WEIGHTS
from jbert.heads import Output
from jbert.losses import IGNORE, Term, problem_type
from jbert.models.base import Model
from jbert.training.distill import losses
from jbert.training.distill.config import BESIDE, TransferConfig
from jbert.training.distill.layers import Pairs
from jbert.training.optimizer import Flat
from jbert.training.step import LABELS, Batch, TaskObjective
from jbert.trees import unflatten

# Where the parameters lie that are not the student's: the teacher's, and projections to its width.
TEACHER, MAPPING = "teacher/", "mapping/"
# What a batch has that names the positions of its labels.
PLACES = "logits_at"
# Tasks whose predictions are tokens.
OF_TOKENS = ("masked_lm", "pretraining")
TASK_NAMES = {
    "masked_lm": ("mlm",),
    "pretraining": ("mlm", "nsp"),
    "question_answering": ("start", "end"),
}
# Less than any logit, and far enough from float32's end to be divided by a temperature.
NEVER = -1e30


@dataclasses.dataclass(frozen=True)
class DistillObjective:
    """The task's own loss and the differences from the teacher, each a term.

    pairs:   the layers that are compared.
    classes: for each class of the student its number at the teacher, where they differ.
    gate:    for each layer of the student how much it counts; None is all alike.
    """

    student: TaskObjective
    teacher: Model
    transfer: TransferConfig
    pairs: Pairs = ()
    classes: tuple[int, ...] | None = None
    gate: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        own = tuple(name for name, weight in self._of_task() if weight)
        return own + tuple(name for name in BESIDE if getattr(self.transfer, name))

    def _of_task(self) -> list[tuple[str, float]]:
        """The terms of the task's own loss, and what they weigh."""
        names = TASK_NAMES.get(self.student.task or "", ("task",))
        want = self.transfer
        return [(name, want.next_sentence if name == "nsp" else want.task) for name in names]

    # -- evaluation: the student alone ----------------------------------------------------------

    def output(self, params: Flat, batch: Batch) -> Output:
        return self.student.output(_own(params), _arguments(self.student.module, batch))

    def terms(self, output: Output, batch: Batch) -> list[Term]:
        return self.student.terms(output, batch)

    # -- training -------------------------------------------------------------------------------

    def __call__(self, params: Flat, batch: Batch, key: jax.Array | None) -> list[Term]:
        want = self.transfer
        own, theirs = _own(params), _below(params, TEACHER)
        student = self._run(self.student.module, own, batch, key)
        teacher = jax.lax.stop_gradient(self._run(self.teacher, theirs, batch, None))
        parts: list[Term] = []
        if any(weight for _, weight in self._of_task()):
            terms = zip(self._of_task(), self.student.terms(student, batch), strict=True)
            parts += [x._replace(scale=weight * x.scale) for (_, weight), x in terms if weight]
        if want.soft:
            part = self._soft(student, teacher, own, theirs, batch)
            parts.append(part._replace(scale=want.soft))
        return parts + self._compared(student, teacher, _below(params, MAPPING), batch)

    def _run(self, module: Model, params: Flat, batch: Batch, key: jax.Array | None) -> Output:
        want = self.transfer
        inputs: Any = {
            name: value for name, value in _arguments(module, batch).items()
            if name not in LABELS and name != WEIGHTS
        }  # fmt: skip
        output: Any = module.apply(
            {"params": unflatten(params)},
            **inputs,
            output_hidden_states=bool(want.of_layers or want.cosine or want.embeddings)
            or self._in_chunks(batch),
            output_attentions=bool(want.attention),
            deterministic=key is None,
            rngs={} if key is None else {"dropout": key},
        )
        return output

    # -- predictions ----------------------------------------------------------------------------

    def _in_chunks(self, batch: Batch) -> bool:
        """Whether predictions are compared at all positions, and logits asked for at a few."""
        return bool(self.transfer.soft and self.transfer.positions == "all" and PLACES in batch)

    def _soft(self, student: Output, teacher: Output, own: Flat, theirs: Flat, batch: Any) -> Term:
        task, temperature = self.student.task, self.transfer.temperature
        weights = batch[WEIGHTS]
        if task == "question_answering":
            return self._spans(student, teacher, batch)
        if self._in_chunks(batch):
            values = losses.chunked_divergence(
                _logits_of(self.student.module, own), _logits_of(self.teacher, theirs),
                student.hidden_states[-1], teacher.hidden_states[-1], temperature,
                self.teacher.config.vocab_size,
            )  # fmt: skip
            return losses.total(values, real_tokens(batch))
        found, wanted = _predictions(student), self._in_order(_predictions(teacher))
        if task in OF_TOKENS and self.transfer.positions == "all":
            kept = real_tokens(batch)
        elif task in (*OF_TOKENS, "token_classification"):
            kept = (batch["labels"] != IGNORE) * weights[:, None]
        else:
            kept = weights
        kind = None
        if task == "sequence_classification":
            kind = problem_type(self.student.module.config, batch["labels"])
        if kind == "regression":
            return losses.total(losses.squared_error(found, wanted), kept)
        if kind == "multi_label_classification":
            values = losses.binary_divergence(found, wanted, temperature)
            return losses.total(values, kept[:, None])
        return losses.total(losses.divergence(found, wanted, temperature), kept)

    def _spans(self, student: Output, teacher: Output, batch: Any) -> Term:
        """The mean of both ends, over the real tokens: padding is no answer at any length."""
        real = real_tokens(batch) > 0
        values = [
            losses.divergence(
                jnp.where(real, student[name], NEVER), jnp.where(real, teacher[name], NEVER),
                self.transfer.temperature,
            )
            for name in ("start_logits", "end_logits")
        ]  # fmt: skip
        return losses.total((values[0] + values[1]) / 2, batch[WEIGHTS])

    def _in_order(self, logits: jax.Array) -> jax.Array:
        return logits if self.classes is None else logits[..., list(self.classes)]

    # -- what is inside -------------------------------------------------------------------------

    def _compared(self, student: Output, teacher: Output, mapping: Flat, batch: Any) -> list[Term]:
        want, kept, parts = self.transfer, real_tokens(batch), []
        if want.cosine:
            values = losses.cosine_distance(
                _mapped(student.hidden_states[-1], mapping, "cosine"), teacher.hidden_states[-1]
            )
            parts.append(losses.total(values, kept, want.cosine))
        if want.of_layers:
            parts += self._of_layers(student, teacher, mapping, kept)
        if want.embeddings:
            values = losses.squared_error(
                _mapped(student.hidden_states[0], mapping, "embeddings"), teacher.hidden_states[0]
            )
            parts.append(losses.total(values, kept, want.embeddings))
        if want.attention:
            parts.append(self._of_attention(student, teacher, kept, batch))
        return parts

    def _of_layers(self, student: Output, teacher: Output, mapping: Flat, kept: Any) -> list[Term]:
        want = self.transfer
        states = [
            (_mapped(student.hidden_states[i + 1], mapping, "hidden"), teacher.hidden_states[j + 1])
            for i, j in self.pairs
        ]
        measures = (
            (want.hidden, losses.normalised_error if want.normalise else losses.squared_error),
            (want.means, losses.mean_error),
            (want.variances, losses.variance_error),
        )
        return [
            self._over_pairs([losses.total(measure(*pair), kept) for pair in states], weight)
            for weight, measure in measures
            if weight
        ]

    def _of_attention(self, student: Output, teacher: Output, kept: Any, batch: Any) -> Term:
        queries = kept[:, None, :]
        parts = []
        for i, j in self.pairs:
            found, wanted = student.attentions[i], teacher.attentions[j]
            if self.transfer.heads == "mean":
                found, wanted = (x.mean(axis=1, keepdims=True) for x in (found, wanted))
            if self.transfer.maps == "scores":
                values = losses.score_error(found, wanted, _visible(batch))
            else:
                values = losses.attention_divergence(found, wanted)
            parts.append(losses.total(values, queries))
        return self._over_pairs(parts, self.transfer.attention)

    def _over_pairs(self, parts: list[Term], weight: float) -> Term:
        """The mean of all pairs, also where only one of them counts in its turn."""
        gates = [1.0 if self.gate is None else self.gate[i] for i, _ in self.pairs]
        summed = sum(gate * part.total for gate, part in zip(gates, parts, strict=True))
        return Term(jnp.asarray(summed) / len(parts), parts[0].count, weight)


def real_tokens(batch: Batch) -> jax.Array:
    """(rows, length), the weight of each token, 0 for padding; of choices each is a row."""
    if "attention_mask" in batch:
        real = batch["attention_mask"] > 0
    elif "segment_ids" in batch:
        real = batch["segment_ids"] > 0
    else:
        real = jnp.ones(batch["input_ids"].shape, bool)
    weights = batch[WEIGHTS].reshape(-1, *(1,) * (real.ndim - 1))
    return (real * weights).reshape(-1, real.shape[-1])


def _visible(batch: Batch) -> jax.Array:
    """(rows, queries, keys) or (rows, 1, keys): which keys a query attends to."""
    if "segment_ids" not in batch:
        return real_tokens(batch)[:, None, :] > 0
    segments = batch["segment_ids"]
    return (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None, :]


def _mapped(x: jax.Array, mapping: Flat, name: str) -> jax.Array:
    """The student's states in the teacher's width."""
    kernel = mapping.get(f"{name}/kernel")
    if kernel is None:
        return x
    bias = mapping[f"{name}/bias"].reshape(*(1,) * (x.ndim - 1), -1)
    return jnp.einsum("...d,df->...f", x.astype(jnp.float32), kernel) + bias


def _logits_of(module: Model, params: Flat) -> Any:
    """The head of a masked LM alone."""
    variables: Any = {"params": unflatten(params)}
    return lambda hidden: module.apply(variables, None, hidden, method="forward")


def _predictions(output: Output) -> jax.Array:
    return output.logits if output.prediction_logits is None else output.prediction_logits


def _arguments(module: Model, batch: Batch) -> dict[str, Any]:
    """The batch without token types where the model has none: DistilBERT beside BERT."""
    types = getattr(module.config, "type_vocab_size", 0)
    return {k: v for k, v in batch.items() if k != "token_type_ids" or types > 1}


def _below(params: Flat, prefix: str) -> Flat:
    found = params.items()
    return {path.removeprefix(prefix): x for path, x in found if path.startswith(prefix)}


def _own(params: Flat) -> Flat:
    return {p: x for p, x in params.items() if not p.startswith((TEACHER, MAPPING))}
