"""Tiny models trained for a few steps, under either wrapper: what tests of the engine run on."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tiny

from jbert.data.batches import TrainingOrder
from jbert.execution import Execution
from jbert.loaded import abstract_params
from jbert.losses import Term
from jbert.models import model_class
from jbert.sharding import make_mesh
from jbert.stack import stack_layers
from jbert.training.config import OptimizerConfig
from jbert.training.optimizer import Optimizer
from jbert.training.parallel import JitParallel, Parallel, PmapParallel
from jbert.training.state import new_state
from jbert.training.step import State, TaskObjective, TrainStep
from jbert.trees import flatten

STEPS, BATCH = 20, 16
# With a larger epsilon than anybody trains with: Adam divides by the size of gradients, and makes
# updates of rounding errors where they are all there is, as in the bias of attention's keys.
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, warmup_steps=0, epsilon=1e-4)
DROPOUT = {"distilbert": ("dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout")}


class Rows:
    """A source of rows that all have one length."""

    fingerprint = "rows"

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays
        self.lengths = arrays["attention_mask"].reshape(len(self), -1).sum(axis=1)

    def __len__(self) -> int:
        return len(self.arrays["input_ids"])

    def length(self, rows: np.ndarray) -> int:
        return self.arrays["input_ids"].shape[-1]

    def batch(self, rows: np.ndarray, length: int, epoch: int) -> dict[str, np.ndarray]:
        return {name: values[rows] for name, values in self.arrays.items()}


def make_rows(arch: str, task: str | None, count: int = 21, **labels: np.ndarray) -> Rows:
    """Ragged rows with labels; 21 are a whole batch and one that is filled up."""
    inputs = [tiny.batch(arch, task, seed) for seed in range(-(-count // tiny.BATCH))]
    made = [x | tiny.labels(task, x, seed) for seed, x in enumerate(inputs)]
    arrays = {name: np.concatenate([x[name] for x in made])[:count] for name in made[0]}
    return Rows(arrays | labels)


class Followed(NamedTuple):
    """What a run left: figures of each step, and its last parameters."""

    losses: np.ndarray
    norms: np.ndarray
    params: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Setup:
    """How a tiny model is trained. `config` holds further fields of its configuration."""

    arch: str = "bert"
    task: str | None = "masked_lm"
    wrapper: str = "jit"
    mesh: tuple[int, int, int] = (1, 1, 1)
    zero: bool = False
    accumulate: int = 1
    optimizer: OptimizerConfig = OPTIMIZER
    execution: Execution = Execution()
    dropout: float = 0.0
    seed: int = 0
    config: tuple[tuple[str, Any], ...] = ()

    def fields(self) -> dict[str, Any]:
        names = DROPOUT.get(self.arch, ("hidden_dropout_prob", "attention_probs_dropout_prob"))
        return tiny.FIELDS[self.arch] | dict.fromkeys(names, self.dropout) | dict(self.config)

    def module(self) -> Any:
        config = tiny.config(self.arch, self.task, **self.fields())
        return model_class(config, self.task)(config, self.execution)

    def params(self) -> dict[str, Any]:
        """The same numbers whether layers are scanned or not."""
        unrolled = dataclasses.replace(self, execution=Execution())
        params = tiny.random_params(nn.meta.unbox(abstract_params(unrolled.module())))
        return flatten(stack_layers(params) if self.execution.scan_layers else params)

    def step(self, axis: str | None = None) -> TrainStep:
        module = self.module()
        optimizer = Optimizer(self.optimizer, STEPS, module.config.num_hidden_layers)
        objective = TaskObjective(module, self.task)
        return TrainStep(objective, optimizer, self.accumulate, self.seed, axis)

    def first_state(self) -> State:
        params, optimizer = self.params(), self.step().optimizer
        average = optimizer.trainable(params) if self.optimizer.ema else None
        return State(jnp.int32(0), params, optimizer.init(params), average)

    def run(self) -> "Run":
        return Run(self)


class Run:
    """A state on its devices, and the step that takes it on."""

    def __init__(self, setup: Setup):
        module = setup.module()
        mesh = make_mesh(*setup.mesh, devices=jax.devices()[: math.prod(setup.mesh)])
        self.parallel: Parallel = PmapParallel(mesh)
        if setup.wrapper == "jit":
            self.parallel = JitParallel(module, mesh, "data+fsdp+tensor", setup.zero)
        self.step = setup.step(self.parallel.axis)
        self.program = self.parallel.train(self.step)
        params = setup.params()
        placed = self.parallel.shardings(State(None, params, {})).params
        self.state = new_state(jax.device_put(params, placed), self.step.optimizer, self.parallel)

    def put(self, batch: dict[str, np.ndarray]) -> Any:
        size = len(batch["weights"])
        return self.parallel.put(
            size, lambda places: {name: values[places] for name, values in batch.items()}
        )

    def take(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """One step; its figures."""
        self.state, figures = self.program(self.state, self.put(batch))
        return figures

    def params(self) -> dict[str, np.ndarray]:
        return jax.tree.map(np.asarray, self.parallel.give(self.state).params)


def loss_of(figures: dict[str, Any]) -> float:
    return sum(float(Term(*term).mean()) for term in figures["terms"])


def batches(rows: Rows, steps: int, size: int = BATCH) -> list[dict[str, Any]]:
    order = TrainingOrder(rows, size, 0)
    made = [order.batch(number) for number in range(steps)]
    return [dict(batch.read(rows, np.arange(size))) for batch in made]


def follow(run: Run, batches: Iterable[dict[str, np.ndarray]]) -> Followed:
    figures = [run.take(batch) for batch in batches]
    losses = np.array([loss_of(one) for one in figures])
    norms = np.array([float(one["grad_norm"]) for one in figures])
    return Followed(losses, norms, run.params())


def assert_same(found: Followed, expected: Followed, tolerance: float) -> None:
    np.testing.assert_allclose(found.losses, expected.losses, rtol=tolerance)
    np.testing.assert_allclose(found.norms, expected.norms, rtol=tolerance)
    assert sorted(found.params) == sorted(expected.params)
    for path, value in expected.params.items():
        np.testing.assert_allclose(found.params[path], value, atol=tolerance, err_msg=path)
