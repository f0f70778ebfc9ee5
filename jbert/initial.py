"""Random parameters, each drawn by itself where it will lie."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax.core.scope import LazyRng
from jax.sharding import Mesh, Sharding

from jbert.loaded import abstract_params
from jbert.models.base import Model
from jbert.parameters import Weight
from jbert.sharding import EVERYTHING, Rules, param_shardings
from jbert.stack import SCANNED
from jbert.trees import flatten, unflatten


def init_params(
    module: Model,
    seed: int,
    mesh: Mesh | None = None,
    preset: str | Rules = EVERYTHING,
    only: tuple[str, ...] | None = None,
) -> Any:
    """What `module.init` would draw from the seed; no device holds more than its share.

    Layers are drawn one by one whether they are scanned or not, so that a seed means one model.
    `only` restricts the result to some paths, and makes it flat.

    `module.init` would be compiled with a generator of random numbers for every parameter, a minute
    for MobileBERT on two cores. Here all that have a shape in common share one.
    """
    boxed = abstract_params(module, boxed=True)
    weights = flatten(boxed)
    places = {} if mesh is None else flatten(param_shardings(boxed, mesh, preset))
    key = jax.random.key(seed)
    drawn = {
        path: _draw(key, path, weights[path], places.get(path))
        for path in (weights if only is None else only)
    }
    return unflatten(drawn) if only is None else drawn


def _draw(key: jax.Array, path: str, weight: Weight, place: Sharding | None) -> jax.Array:
    """One parameter; of a scanned layer's, as many as there are layers."""
    scope = path.split("/")[:-1]
    shape, dtype = weight.value.shape, weight.value.dtype
    if SCANNED not in scope:
        return _generator(weight.init, shape, dtype, place)(_own_key(key, scope, weight))
    at = scope.index(SCANNED)
    layers = [[*scope[:at], f"layer_{i}", *scope[at + 1 :]] for i in range(shape[0])]
    keys = jnp.stack([_own_key(key, layer, weight) for layer in layers])
    return _generator(weight.init, shape[1:], dtype, place, stacked=True)(keys)


def _own_key(key: jax.Array, scope: list[str], weight: Weight) -> jax.Array:
    """As flax derives it: from the names of the modules, and how many were drawn there before."""
    return LazyRng.create(key, *scope, weight.number).as_jax_rng()


@functools.lru_cache(maxsize=256)
def _generator(
    init: Any, shape: tuple[int, ...], dtype: Any, place: Sharding | None, stacked: bool = False
) -> Any:
    def one(key: jax.Array) -> jax.Array:
        return init(key, shape, dtype)

    def each(keys: jax.Array) -> jax.Array:
        # Not by vmap, under which JAX's "rbg" generator draws something else.
        return jax.lax.map(one, keys)

    return jax.jit(each if stacked else one, out_shardings=place)
