"""The generator of replaced-token detection: its size, and the embeddings that it shares."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jbert.config import ConfigError, ModelConfig
from jbert.initial import init_params
from jbert.loaded import Bert, abstract_params, build_module
from jbert.models.base import Model
from jbert.training.config import RunError
from jbert.training.optimizer import Flat
from jbert.training.pretrain.config import GeneratorConfig
from jbert.trees import flatten, unflatten

# Before the names of a generator's parameters among those of a run.
PREFIX = "generator/"
SHARED = "encoder/embeddings/"
PROJECTION = f"{PREFIX}embedding_projection/kernel"
# The fields of each architecture that grow with its width.
WIDTHS = {
    "bert": ("hidden_size", "intermediate_size"),
    "distilbert": ("dim", "hidden_dim"),
    "mobilebert": ("hidden_size", "intra_bottleneck_size", "intermediate_size"),
    "convbert": ("hidden_size", "intermediate_size"),
}
# Heads and layers, where they are not called as in the others.
NAMES = {"distilbert": ("n_heads", "n_layers")}


def generator_config(model: ModelConfig, size: GeneratorConfig) -> ModelConfig:
    """The same architecture, narrower by whole heads."""
    heads_name, layers_name = NAMES.get(
        model.model_type, ("num_attention_heads", "num_hidden_layers")
    )
    heads, layers = getattr(model, heads_name), getattr(model, layers_name)
    fewer = max(1, round(size.width * heads))
    widths = {name: getattr(model, name) * fewer // heads for name in WIDTHS[model.model_type]}
    names = {heads_name: fewer, layers_name: max(1, round(size.layers * layers)), **widths}
    try:
        return model.replace(**names)
    except ConfigError as error:
        raise RunError(
            f"generator.width is {size.width}: there is no {model.model_type} that narrow; choose "
            f"another width ({error})"
        ) from error


@dataclasses.dataclass(frozen=True)
class Generator:
    """A masked language model that has some of its parameters from another model.

    config, module: of a model on its own, which is what it is saved as.
    shared:         the names of parameters that are the other model's.
    projected:      of those that are the other model's, projected to the generator's width.
    """

    config: ModelConfig
    module: Model
    shared: tuple[str, ...]
    projected: tuple[str, ...]

    def params(self, params: Flat) -> Flat:
        """All of its parameters, out of a run's."""
        own = {
            path.removeprefix(PREFIX): leaf for path, leaf in params.items()
            if path.startswith(PREFIX) and path != PROJECTION
        }  # fmt: skip
        own |= {path: params[path] for path in self.shared}
        return own | {path: params[path] @ params[PROJECTION] for path in self.projected}

    def model(self, discriminator: Bert, companions: Flat) -> Bert:
        """What has been learned as a model of its own."""
        params = jax.jit(self.params)(flatten(discriminator.params) | companions)
        return dataclasses.replace(
            discriminator, config=self.config, module=self.module, params=unflatten(params),
            task="masked_lm",
        )  # fmt: skip


def new_generator(
    discriminator: Bert, size: GeneratorConfig, seed: int
) -> tuple[Generator, dict[str, jax.Array]]:
    """A generator for a discriminator on its mesh, and the parameters that it has for itself."""
    config = generator_config(discriminator.config, size)
    module = build_module(config, "masked_lm", discriminator.execution)
    its, mine = flatten(discriminator.params), flatten(abstract_params(module))
    both = [path for path in mine if path.startswith(SHARED) and path in its]
    shared = tuple(path for path in both if its[path].shape == mine[path].shape)
    # Norms are no tables: where they differ in width, each model has its own.
    tables = tuple(path for path in both if path.endswith("embedding") and path not in shared)
    mesh: Any = discriminator.mesh
    own = tuple(path for path in mine if path not in shared + tables)
    # Another seed, or both models would begin with the same layers where they have the same size.
    new = init_params(module, seed + 1, mesh, discriminator.rules, only=own)
    companions = {PREFIX + path: leaf for path, leaf in new.items()}
    if tables:
        shape = its[tables[0]].shape[-1], mine[tables[0]].shape[-1]
        companions[PROJECTION] = _projection(shape, seed, mesh)
    return Generator(config, module, shared, tables), companions


def _projection(shape: tuple[int, int], seed: int, mesh: Mesh) -> jax.Array:
    """Keeps the size of what it projects, on the average."""

    def make():
        return jax.random.normal(jax.random.key(seed), shape, jnp.float32) / shape[0] ** 0.5

    return jax.jit(make, out_shardings=NamedSharding(mesh, PartitionSpec()))()
