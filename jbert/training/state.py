"""A state made new, and a state as a checkpoint holds it: flat, layers one by one."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jbert.stack import SCANNED
from jbert.training.optimizer import Flat, Optimizer
from jbert.training.parallel import Parallel
from jbert.training.step import State


def new_state(
    params: Flat, optimizer: Optimizer, parallel: Parallel, fixed: Flat | None = None
) -> Any:
    """The state before the first step; `params` are used up."""

    def make(params):
        # An average of its own: both are donated to the first step.
        average = jax.tree.map(jnp.copy, optimizer.trainable(params))
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            average=average if optimizer.config.ema else None,
        )

    shardings = parallel.shardings(jax.eval_shape(make, params))
    state = jax.jit(make, out_shardings=shardings, donate_argnums=0)(params)
    return parallel.take(state._replace(fixed=fixed))


def abstract_state(params: Flat, optimizer: Optimizer, parallel: Parallel) -> State:
    """Shapes and shardings of a state, to restore one to."""
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in params.items()}
    average = optimizer.trainable(shapes) if optimizer.config.ema else None
    opt_state = jax.eval_shape(optimizer.init, shapes)
    state = State(jax.ShapeDtypeStruct((), jnp.int32), shapes, opt_state, average)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state, parallel.shardings(state),
    )  # fmt: skip


def to_flat(state: State) -> dict[str, jax.Array]:
    """{"step": …, "params/encoder/…": …, "opt_state/mu/encoder/…": …}, without stacked layers and
    without what is fixed."""
    flat: dict[str, jax.Array] = {}
    for name, value in _named(state._replace(fixed=None)).items():
        if _is_stacked(name):
            # One at a time: many collectives at once can starve each other of a CPU's threads.
            layers = jax.block_until_ready(_split(value))
            flat |= {_of_layer(name, i): layer for i, layer in enumerate(layers)}
        else:
            flat[name] = value
    return flat


def flat_target(abstract: State) -> dict[str, jax.ShapeDtypeStruct]:
    """The names of `to_flat`, with the shapes, dtypes and shardings to read them with."""
    target: dict[str, jax.ShapeDtypeStruct] = {}
    for name, leaf in _named(abstract).items():
        if not _is_stacked(name):
            target[name] = leaf
            continue
        sharding: NamedSharding = leaf.sharding
        one = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
        layer = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=one)
        target |= {_of_layer(name, i): layer for i in range(leaf.shape[0])}
    return target


def from_flat(flat: Mapping[str, jax.Array], abstract: State) -> State:
    """The inverse of `to_flat`, for a state of these shapes and shardings."""

    def read(name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if not _is_stacked(name):
            return flat[name]
        layers = [flat[_of_layer(name, i)] for i in range(leaf.shape[0])]
        return jax.jit(_stack, out_shardings=leaf.sharding)(*layers)

    leaves = [read(name, leaf) for name, leaf in _named(abstract).items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def state_bytes(state: Any) -> int:
    """What one device holds of a state of global arrays."""
    leaves = jax.tree.leaves(state)
    shares = [math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves]
    return sum(share * leaf.dtype.itemsize for share, leaf in zip(shares, leaves, strict=True))


def _named(state: State) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {"/".join(_word(part) for part in path): leaf for path, leaf in leaves}


def _word(part: Any) -> str:
    return part.name if isinstance(part, jax.tree_util.GetAttrKey) else str(part.key)


def _is_stacked(name: str) -> bool:
    return f"/{SCANNED}/" in name


def _of_layer(name: str, number: int) -> str:
    return name.replace(f"/{SCANNED}/", f"/layer_{number}/", 1)


@jax.jit
def _split(stacked: jax.Array) -> list[jax.Array]:
    return [stacked[i] for i in range(stacked.shape[0])]


def _stack(*layers: jax.Array) -> jax.Array:
    return jnp.stack(layers)
