"""One step: pure functions of state and batch that know no mesh and no loop.

A batch is a flat dict under Hugging Face's argument names, inputs and labels together, with
`weights`, (batch,): 0 for a row that is only there to fill the shape. Results are totals and
counts, so that the sum over any batches, on any devices, is the same number.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jbert.data.batches import WEIGHTS
from jbert.heads import Output
from jbert.losses import Term, terms
from jbert.models.base import Model
from jbert.training.optimizer import Flat, Optimizer, global_norm, only_if
from jbert.trees import unflatten

# Named, as the default is a user's to change, and would change what a resumed run draws.
PRNG = "threefry2x32"

Batch = Mapping[str, jax.Array]
# What an evaluation keeps of each row of what its objective gave.
Predict = Callable[[Any, Batch], dict[str, jax.Array]]
LABELS = ("labels", "next_sentence_label", "start_positions", "end_positions")


class State(NamedTuple):
    """All that a step reads and writes. Parameters are flat: {"encoder/…/kernel": array}.

    step:   how many updates were made, which is also how many batches were seen.
    params, opt_state: as `Optimizer` takes them; the latter only for what is trained.
    average: an exponential average of the trained parameters, or None.
    fixed: parameters that the objective reads beside these, such as a teacher's: they have no
            gradient, never change, and no checkpoint holds them.
    """

    step: Any
    params: Flat
    opt_state: Flat
    average: Flat | None = None
    fixed: Flat | None = None

    def evaluated(self) -> Flat:
        """The parameters that count: the averaged ones, where there is an average."""
        return self.params | (self.average or {})


class Objective(Protocol):
    """What is minimised, and what an evaluation looks at.

    `names` are those of the terms of its loss, to be told one by one; empty, if their sum tells
    enough. The counts of terms depend on the batch alone.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def __call__(self, params: Flat, batch: Batch, key: jax.Array) -> list[Term]:
        """The loss of a training step."""
        ...

    def output(self, params: Flat, batch: Batch) -> Any:
        """What an evaluation sees of a batch; `params` are without the fixed ones."""
        ...

    def terms(self, output: Any, batch: Batch) -> list[Term]:
        """The loss of an evaluation."""
        ...


@runtime_checkable
class Scheduled(Protocol):
    """An objective that is another one at each step: a function of the step's number alone."""

    def at(self, step: jax.Array) -> Objective: ...

    def rate(self, step: jax.Array, path: str, ndim: int) -> jax.Array:
        """What multiplies the learning rate of a parameter."""
        ...


@dataclasses.dataclass(frozen=True)
class TaskObjective:
    """The loss of a task's model; dropout is on when there is a key."""

    module: Model
    task: str | None
    names = ()

    def __call__(self, params: Flat, batch: Batch, key: jax.Array | None = None) -> list[Term]:
        return self.terms(self.output(params, batch, key), batch)

    def output(self, params: Flat, batch: Batch, key: jax.Array | None = None) -> Output:
        inputs: Any = {k: v for k, v in batch.items() if k not in LABELS and k != WEIGHTS}
        rngs = {} if key is None else {"dropout": key}
        variables = {"params": unflatten(params)}
        output: Any = self.module.apply(variables, **inputs, deterministic=key is None, rngs=rngs)
        return output

    def terms(self, output: Output, batch: Batch) -> list[Term]:
        labels = {k: v for k, v in batch.items() if k in LABELS}
        if self.task == "replaced_token_detection" and "attention_mask" in batch:
            labels["attention_mask"] = batch["attention_mask"]
        return terms(self.task, self.module.config, output, labels, batch.get(WEIGHTS))


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """State and batch to the next state, and what there is to tell about the step.

    seed: dropout's keys follow from it and the number of the step, so that a run that was resumed
          draws what it would have drawn.
    axis: the name of pmap's axis, over which totals and gradients are added; under jit the compiler
          adds over the mesh by itself.
    """

    objective: Objective
    optimizer: Optimizer
    accumulate: int = 1
    seed: int = 0
    axis: str | None = None

    def __call__(self, state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        batch = blank_fillers(batch)
        trained = self.optimizer.trainable(state.params)
        key = self._key(state.step)
        params = state.params | (state.fixed or {})
        now, rate = self, None
        if isinstance(self.objective, Scheduled):
            now = dataclasses.replace(self, objective=self.objective.at(state.step))
            rate = functools.partial(self.objective.rate, state.step)
        gradients, parts = now._gradients(trained, params, batch, key)
        norm = global_norm(gradients)
        # One bad gradient would spoil every parameter for good; the loop stops the run when it
        # hears of it, and until then the state stays what it was.
        finite = jnp.isfinite(norm) & jnp.isfinite(jnp.stack([p.mean() for p in parts])).all()
        new, opt_state = self.optimizer.update(
            gradients, state.opt_state, state.params, rate, finite
        )
        average = state.average
        if average is not None:
            keep = self.optimizer.config.ema
            moved = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, average, new)
            average = only_if(finite, moved, average)
        figures = {
            "terms": parts,
            "grad_norm": norm,
            "learning_rate": self.optimizer.learning_rate(state.opt_state["count"]),
            "finite": finite,
            **_sum(seen(batch), self.axis),
        }
        params = state.params | new
        return State(state.step + 1, params, opt_state, average, state.fixed), figures

    def _key(self, step: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(self.seed, impl=PRNG), step)
        return key if self.axis is None else jax.random.fold_in(key, jax.lax.axis_index(self.axis))

    def _gradients(
        self, trained: Flat, params: Flat, batch: Batch, key: jax.Array
    ) -> tuple[Flat, list[Term]]:
        """The gradient of the batch's loss, and its terms: one micro-batch after the other."""
        if self.accumulate == 1:
            gradients, parts = self._micro(trained, params, batch, key)
            return _sum(gradients, self.axis), _sum_terms(parts, self.axis)
        # Each term is divided by its count over the whole batch, so that is needed first. Nothing
        # else of this call is used, and the compiler drops the rest of it.
        counted = self.objective(params, batch, key)
        counts = _sum([jax.lax.stop_gradient(part.count) for part in counted], self.axis)

        def add(carry, micro):
            number, one = micro
            gradients, parts = self._micro(
                trained, params, one, jax.random.fold_in(key, number), counts
            )
            sums = [(part.total, part.count) for part in parts]
            return jax.tree.map(jnp.add, carry, (gradients, sums)), None

        zero = jnp.zeros((), jnp.float32)
        start = (jax.tree.map(jnp.zeros_like, trained), [(zero, zero) for _ in counted])
        micro = micro_batches(batch, self.accumulate)
        (gradients, sums), _ = jax.lax.scan(add, start, (jnp.arange(self.accumulate), micro))
        parts = [
            part._replace(total=total, count=count)
            for part, (total, count) in zip(counted, sums, strict=True)
        ]
        return _sum(gradients, self.axis), _sum_terms(parts, self.axis)

    def _micro(
        self, trained: Flat, params: Flat, batch: Batch, key: jax.Array, counts: Any = None
    ) -> tuple[Flat, list[Term]]:
        def loss(trained):
            parts = self.objective(params | trained, batch, key)
            whole = counts
            if whole is None:
                whole = _sum([jax.lax.stop_gradient(p.count) for p in parts], self.axis)
            means = [part.mean(count) for part, count in zip(parts, whole, strict=True)]
            return sum(means), parts

        return jax.grad(loss, has_aux=True)(trained)


def _sum(tree: Any, axis: str | None) -> Any:
    return tree if axis is None else jax.lax.psum(tree, axis)


def _sum_terms(parts: list[Term], axis: str | None) -> list[Term]:
    # Not the scales: they are the same everywhere.
    return [part._replace(total=_sum(part.total, axis), count=_sum(part.count, axis))
            for part in parts]  # fmt: skip


def blank_fillers(batch: Batch) -> Batch:
    """Zeros in the rows that weigh nothing: what is there may be anything, and 0 · NaN in their
    gradient would be NaN."""
    real = batch[WEIGHTS] != 0

    def blank(x):
        return jnp.where(real.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.zeros_like(x))

    return {name: blank(x) for name, x in batch.items()}


def micro_batches(batch: Batch, n: int) -> Batch:
    """Rows j, n + j, 2n + j, … as micro-batch j of n: each device keeps the rows that it has."""
    return jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(x.shape[0] // n, n, *x.shape[1:]), 0, 1), dict(batch)
    )


def seen(batch: Batch) -> dict[str, jax.Array]:
    """How many examples and tokens a batch holds, fillers and padding left out."""
    weights = batch[WEIGHTS]
    mask = batch.get("attention_mask")
    if mask is None and "segment_ids" in batch:
        mask = batch["segment_ids"] > 0
    if mask is None:
        mask = jnp.ones(batch["input_ids"].shape)
    per_row = jnp.sum(mask.astype(jnp.float32), axis=tuple(range(1, mask.ndim)))
    return {"examples": jnp.sum(weights), "tokens": jnp.sum(per_row * weights)}


@dataclasses.dataclass(frozen=True)
class EvalStep:
    """Parameters and batch to totals, counts and whatever `predict` keeps of the outputs."""

    objective: Objective
    predict: Predict
    axis: str | None = None

    def __call__(self, params: Flat, batch: Batch) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        output = self.objective.output(params, batch)
        parts = self.objective.terms(output, batch) if has_labels(batch) else []
        sums = {"terms": _sum_terms(parts, self.axis), **_sum(seen(batch), self.axis)}
        predictions = self.predict(output, batch)
        if self.axis is not None:
            gather = lambda x: jax.lax.all_gather(x, self.axis, tiled=True)  # noqa: E731
            predictions = jax.tree.map(gather, predictions)
        return sums, predictions


def has_labels(batch: Batch) -> bool:
    return any(name in batch for name in LABELS)
