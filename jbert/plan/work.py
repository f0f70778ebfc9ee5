"""What is planned: a model, its task, and the shapes of a step."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jbert.config import ModelConfig
from jbert.data.batches import WEIGHTS
from jbert.execution import Execution
from jbert.loaded import build_module
from jbert.models import model_class
from jbert.plan.beside import Beside, Generating, Taught
from jbert.plan.chips import PlanError
from jbert.sharding import batch_sharding
from jbert.training.config import MeshConfig, OptimizerConfig

CHOICES = 4  # as many as SWAG's questions have
PREDICTING = ("masked_lm", "pretraining")


@dataclasses.dataclass(frozen=True)
class Work:
    """One step.

    batch_size:   rows over all devices, and over the micro-batches that `accumulate` makes.
    predictions:  positions of a row that a masked language model predicts; 0 is every one.
    chunked:      its loss never holds the logits of all of them.
    packed:       rows hold several sequences, which do not see each other.
    train:        a training step with its optimizer, or a forward pass.
    beside:       another model in the same step.
    """

    name: str
    config: ModelConfig
    task: str | None
    batch_size: int
    length: int
    execution: Execution = Execution("bfloat16", scan_layers=True)
    predictions: int = 0
    chunked: bool = False
    packed: bool = False
    accumulate: int = 1
    train: bool = True
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    beside: Beside | None = None

    def __post_init__(self):
        module = model_class(self.config, self.task)
        room = self.config.max_position_embeddings
        if not 1 <= self.length <= room:
            raise PlanError(
                f"length is {self.length}; {self.name} has {room} positions, expected at most that"
            )
        for name in ("batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.train and self.task is None:
            raise PlanError(
                "a bare encoder has nothing to train on; name a task with --task, or ask for "
                "--inference"
            )
        if self.batch_size % self.accumulate:
            raise PlanError(
                f"batch_size is {self.batch_size}, which does not divide into {self.accumulate} "
                "micro-batches; expected a multiple of accumulate"
            )
        fills_in = module.fills_in or isinstance(self.beside, Generating)
        if not 0 <= self.predictions <= self.length or self.predictions and not fills_in:
            raise PlanError(
                f"predictions is {self.predictions}; expected 0 to {self.length} positions a row, "
                "and of a masked language model"
            )

    def module(self) -> Any:
        return build_module(self.config, self.task, self.execution)

    def tokens(self) -> int:
        """Of a step; each choice of a multiple-choice row is a sequence of its own."""
        choices = CHOICES if self.task == "multiple_choice" else 1
        return self.batch_size * self.length * choices

    def inputs(self, mesh: Mesh, rows: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays that the model is called with."""
        rows = self.batch_size if rows is None else rows
        shape = (CHOICES, self.length) if self.task == "multiple_choice" else (self.length,)
        names = ["input_ids", "attention_mask"]
        readers = [self.config] + ([self.beside.config] if isinstance(self.beside, Taught) else [])
        if any(config.model_type != "distilbert" for config in readers):
            names.append("token_type_ids")
        if self.packed:
            names += ["segment_ids", "position_ids"]
        arrays = {name: (rows, *shape) for name in names}
        if self.predictions:
            arrays["logits_at"] = (rows, self.predictions)
        return {name: self._array(mesh, shape) for name, shape in arrays.items()}

    def batch(self, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of a training step: inputs, labels and the weights of rows."""
        labels = {
            name: self._array(mesh, (self.batch_size, *shape), dtype)
            for name, (shape, dtype) in self._labels().items()
        }
        weights = self._array(mesh, (self.batch_size,), jnp.float32)
        return {**self.inputs(mesh), **labels, WEIGHTS: weights}

    def _array(self, mesh: Mesh, shape: tuple[int, ...], dtype: Any = jnp.int32):
        sharding = batch_sharding(mesh, self.mesh.rules, shape[0])
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def _labels(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        row: tuple[int, ...] = ()
        per_token = (self.predictions or self.length,)
        if self.task == "question_answering":
            return {name: (row, jnp.int32) for name in ("start_positions", "end_positions")}
        if self.task == "next_sentence":
            return {"labels": (row, jnp.int32)}
        if self.task == "pretraining":
            return {"labels": (per_token, jnp.int32), "next_sentence_label": (row, jnp.int32)}
        if self.task == "sequence_classification":
            kind = self.config.problem_type
            if kind == "multi_label_classification":
                return {"labels": ((self.config.num_labels or 2,), jnp.float32)}
            return {"labels": (row, jnp.float32 if kind == "regression" else jnp.int32)}
        return {"labels": (row if self.task == "multiple_choice" else per_token, jnp.int32)}


def mesh_sizes(work: Work, devices: int) -> tuple[int, int, int]:
    """data, fsdp and tensor, with -1 resolved."""
    sizes = [work.mesh.data, work.mesh.fsdp, work.mesh.tensor]
    rest = math.prod(size for size in sizes if size != -1)
    data, fsdp, tensor = (devices // rest if size == -1 else size for size in sizes)
    return data, fsdp, tensor
