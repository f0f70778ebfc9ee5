"""What else a step runs: the generator whose guesses a model detects, or a student's teacher."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jbert.config import ModelConfig
from jbert.loaded import Bert, abstract_params, build_module
from jbert.models.base import Model
from jbert.sharding import make_mesh, param_shardings
from jbert.training.distill.config import TransferConfig
from jbert.training.distill.layers import Pairs
from jbert.training.distill.objective import OF_TOKENS, TEACHER, DistillObjective
from jbert.training.distill.progress import LayerByLayer, Turns
from jbert.training.distill.teacher import new_mapping
from jbert.training.optimizer import Flat
from jbert.training.pretrain.config import GeneratorConfig
from jbert.training.pretrain.detection import ReplacedTokens
from jbert.training.pretrain.generator import PREFIX, generator_config, new_generator
from jbert.training.step import Objective, TaskObjective
from jbert.trees import flatten


class Attached(NamedTuple):
    """What a run would tell its trainer, on abstract arrays that know where they lie."""

    objective: Objective
    companions: Flat
    fixed: Flat


@dataclasses.dataclass(frozen=True)
class Generating:
    """A generator of this size, trained along."""

    size: GeneratorConfig
    role = "generator"
    trained = True
    everywhere = False

    def model(self, config: ModelConfig, task: str | None) -> tuple[ModelConfig, str | None]:
        """Of the generator."""
        return generator_config(config, self.size), "masked_lm"

    def attach(self, own: TaskObjective, mesh: Mesh, rules: str) -> Attached:
        module, made = own.module, []
        # Only shapes are wanted of what is made here, and of these every mesh has the same.
        here = make_mesh(1, 1, 1, jax.devices("cpu")[:1])
        params = abstract_params(module)

        def make() -> Flat:
            bert = Bert(module.config, module, params, task=own.task, mesh=here, rules=rules)
            generator, companions = new_generator(bert, self.size, 0)
            made.append(generator)
            return companions

        companions = jax.eval_shape(make)
        shardings = _shardings(made[0].module, PREFIX, mesh, rules)
        weights = self.size.weight, self.size.discriminator_weight
        objective = ReplacedTokens(module, made[0], weights)
        return Attached(objective, _placed(companions, shardings, mesh), {})


@dataclasses.dataclass(frozen=True)
class Taught:
    """A teacher, whose parameters nobody changes, and what its student learns from it.

    dtype, param_dtype: of the teacher.
    turns:              of the student's layers, where they learn one after the other.
    """

    config: ModelConfig
    transfer: TransferConfig
    pairs: Pairs = ()
    turns: Turns | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"
    role = "teacher"
    trained = False

    @property
    def everywhere(self) -> bool:
        """Whether predictions are compared at every position, and not only at the masked ones."""
        return bool(self.transfer.soft and self.transfer.positions == "all")

    def model(self, config: ModelConfig, task: str | None) -> tuple[ModelConfig, str | None]:
        """Of the teacher."""
        return self.config, "masked_lm" if task in OF_TOKENS else task

    def attach(self, own: TaskObjective, mesh: Mesh, rules: str) -> Attached:
        execution = dataclasses.replace(
            own.module.execution, remat="none", dtype=self.dtype, param_dtype="float32"
        )
        config, task = self.model(own.module.config, own.task)
        module = build_module(config, task, execution)
        dtype = jnp.dtype(self.param_dtype)
        fixed = {
            TEACHER + path: jax.ShapeDtypeStruct(leaf.shape, dtype)
            for path, leaf in flatten(abstract_params(module)).items()
        }
        here = make_mesh(1, 1, 1, jax.devices("cpu")[:1])
        mapping = jax.eval_shape(
            lambda: new_mapping(self.transfer, own.module.config, config, here, 0)
        )
        whole = DistillObjective(own, module, self.transfer, self.pairs)
        return Attached(
            whole if self.turns is None else LayerByLayer(whole, self.turns),
            _placed(mapping, {}, mesh),
            _placed(fixed, _shardings(module, TEACHER, mesh, rules), mesh),
        )


Beside = Generating | Taught


def _shardings(module: Model, prefix: str, mesh: Mesh, rules: str) -> Mapping[str, NamedSharding]:
    found = flatten(param_shardings(abstract_params(module, boxed=True), mesh, rules))
    return {prefix + path: sharding for path, sharding in found.items()}


def _placed(flat: Flat, shardings: Mapping[str, NamedSharding], mesh: Mesh) -> Flat:
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(path: str, leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=shardings.get(path, everywhere)
        )

    return {path: place(path, leaf) for path, leaf in flat.items()}
