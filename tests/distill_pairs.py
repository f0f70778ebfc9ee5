"""A tiny student beside a tiny teacher, and steps of both: for the tests of distillation."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tiny

from jbert.data.batches import WEIGHTS
from jbert.execution import Execution
from jbert.loaded import abstract_params
from jbert.losses import IGNORE
from jbert.models import model_class
from jbert.sharding import make_mesh
from jbert.training.config import OptimizerConfig
from jbert.training.distill.config import TransferConfig
from jbert.training.distill.layers import pair_layers
from jbert.training.distill.objective import MAPPING, OF_TOKENS, TEACHER, DistillObjective
from jbert.training.distill.teacher import new_mapping
from jbert.training.optimizer import Optimizer
from jbert.training.parallel import JitParallel, PmapParallel
from jbert.training.state import new_state
from jbert.training.step import State, TaskObjective, TrainStep
from jbert.trees import flatten

QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
QUIET_DISTIL = {"dropout": 0.0, "attention_dropout": 0.0, "qa_dropout": 0.0,
                "seq_classif_dropout": 0.0}  # fmt: skip
EVERYTHING = TransferConfig(
    cosine=1.0, hidden=1.0, means=1.0, variances=1.0, embeddings=1.0, attention=1.0
)


PLAIN = Execution()


def module(arch: str, task: str, execution: Execution = PLAIN, **fields: Any) -> Any:
    quiet = QUIET_DISTIL if arch == "distilbert" else QUIET
    config = tiny.config(arch, task, **{**quiet, **fields})
    return model_class(config, task)(config, execution)


def params(module: Any, seed: int) -> dict[str, Any]:
    return flatten(tiny.random_params(nn.meta.unbox(abstract_params(module)), seed))


def shapes(pair: "Pair") -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the parameters of student and teacher, at no cost."""
    student, teacher = (flatten(nn.meta.unbox(abstract_params(m))) for m in pair.modules())
    return student, {TEACHER + path: x for path, x in teacher.items()}


def batch(task: str, rows: int = 8, types: bool = True) -> dict[str, np.ndarray]:
    """Ragged rows with labels; the last row only fills the shape, with what must not count."""
    parts = []
    for seed in range(-(-rows // tiny.BATCH)):
        inputs = tiny.batch("bert" if types else "distilbert", task, seed)
        parts.append(inputs | tiny.labels(task, inputs, seed))
    made = {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}
    if task in OF_TOKENS:
        made["labels"] = np.where(made["attention_mask"] == 1, made["labels"], IGNORE)
    weights = np.ones(rows, np.float32)
    weights[-1] = 0
    return {**made, WEIGHTS: weights}


def gathered(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with labels of the masked positions alone, and where these are."""
    labels = batch["labels"]
    most = int((labels != IGNORE).sum(axis=1).max())
    places = np.argsort(labels == IGNORE, axis=1, kind="stable")[:, :most].astype(np.int32)
    return {**batch, "labels": np.take_along_axis(labels, places, 1), "logits_at": places}


@dataclasses.dataclass(frozen=True)
class Pair:
    """How a tiny student learns beside a tiny teacher of twice as many layers."""

    student: str = "distilbert"
    teacher: str = "bert"
    task: str = "masked_lm"
    transfer: TransferConfig = EVERYTHING
    width: int = 32
    execution: Execution = Execution()
    teachers: Execution = Execution()
    accumulate: int = 1
    wrapper: str = "jit"
    mesh: tuple[int, int, int] = (1, 1, 1)

    def modules(self) -> tuple[Any, Any]:
        deep = {"n_layers" if self.teacher == "distilbert" else "num_hidden_layers": 4}
        width = {"dim" if self.student == "distilbert" else "hidden_size": self.width}
        task = "masked_lm" if self.task == "pretraining" else self.task
        return (
            module(self.student, self.task, self.execution, **width),
            module(self.teacher, task, self.teachers, **deep),
        )

    def objective(self) -> DistillObjective:
        student, teacher = self.modules()
        pairs = pair_layers(self.transfer.layers, 2, 4)
        return DistillObjective(TaskObjective(student, self.task), teacher, self.transfer, pairs)

    def trained(self) -> dict[str, Any]:
        student, teacher = self.modules()
        mesh = make_mesh(devices=jax.devices()[:1])
        mapping = new_mapping(self.transfer, student.config, teacher.config, mesh, 0)
        return params(student, 0) | {
            name: jnp.asarray(np.asarray(x)) for name, x in mapping.items()
        }

    def fixed(self) -> dict[str, Any]:
        """The teacher's parameters, in the dtype that they are kept in."""
        return {TEACHER + path: x for path, x in params(self.modules()[1], 1).items()}

    def run(self, batches: list[dict[str, np.ndarray]]) -> tuple[list[list[float]], State]:
        """The means of the terms of each step, and the last state, whole."""
        objective = self.objective()
        mesh = make_mesh(*self.mesh, devices=jax.devices()[: math.prod(self.mesh)])
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        trained, fixed = self.trained(), self.fixed()
        others = {
            path: everywhere for path in trained | fixed if path.startswith((TEACHER, MAPPING))
        }
        parallel: Any = PmapParallel(mesh)
        if self.wrapper == "jit":
            parallel = JitParallel(objective.student.module, mesh, "data+fsdp", others=others)
        optimizer = Optimizer(
            OptimizerConfig(learning_rate=3e-3, warmup_steps=0, epsilon=1e-4), 20, 2
        )
        step = TrainStep(objective, optimizer, self.accumulate, axis=parallel.axis)
        program = parallel.train(step)
        places = parallel.shardings(State(None, trained, {}, None, fixed))
        trained = jax.device_put(trained, places.params)
        state = new_state(trained, optimizer, parallel, jax.device_put(fixed, places.fixed))
        found = []
        for one in batches:
            rows = len(one[WEIGHTS])
            placed = parallel.put(rows, lambda i, one=one: {n: x[i] for n, x in one.items()})
            state, figures = program(state, placed)
            found.append([float(term.mean()) for term in figures["terms"]])
        return found, parallel.give(state)
