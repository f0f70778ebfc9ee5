"""How a layer declares a parameter: its axes, how it is drawn, the dtype that it is read in."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

Init = Callable[..., Array]


class Weight(nn.LogicallyPartitioned):
    """A parameter with the names of its axes. Whoever runs a model many times may cast it to
    `read_as` once: its layer would, at every call, before anything else is done with it.

    `init` draws it, and `number` is its place among its module's own: with these `initial.py` draws
    it without the others.
    """

    read_as: str = struct.field(default="float32", pytree_node=False)
    init: Any = struct.field(default=None, pytree_node=False)
    number: int = struct.field(default=0, pytree_node=False)


def weight(
    module: Any,
    name: str,
    init: Any,
    axes: tuple[str | None, ...],
    shape: tuple[int, ...],
    read_as: str,
) -> Array:
    """A parameter of `module`, in the dtype its execution stores."""

    def boxed(*arguments: Any) -> Weight:
        # Not flax's own count: a scanned layer is traced twice, and its count goes on.
        before = module.variables.get("params", {}).values()
        number = 1 + sum(isinstance(one, Weight) for one in before)
        return Weight(init(*arguments), axes, read_as=read_as, init=init, number=number)

    return module.param(name, boxed, shape, module.execution.param_dtype)


def kernel_of(
    module: Any, axes: tuple[str | None, ...], *shape: int, read_as: str | None = None
) -> Array:
    dtype: str = read_as or module.execution.dtype
    return weight(module, "kernel", normal(module.stddev), axes, shape, dtype)


def bias_of(
    module: Any, axes: tuple[str | None, ...], *shape: int, read_as: str | None = None
) -> Array:
    dtype: str = read_as or module.execution.dtype
    return weight(module, "bias", nn.initializers.zeros, axes, shape, dtype)


# Both return the same function for the same arguments: what was compiled with it is found again.
@functools.cache
def normal(stddev: float, zero_row: int | None = None) -> Init:
    # transformers draws from an untruncated normal whatever its documentation says.
    draw = nn.initializers.normal(stddev)
    if zero_row is None:
        return draw
    return lambda key, shape, dtype: draw(key, shape, dtype).at[zero_row].set(0)


@functools.cache
def fixed(table: Callable[[int, int], Any]) -> Init:
    """What is computed from the shape instead of drawn."""
    return lambda key, shape, dtype: jnp.asarray(table(*shape), dtype)
