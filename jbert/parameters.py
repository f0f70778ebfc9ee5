"""How a layer declares its parameters: the names of their axes, and the dtype it reads them in."""

from typing import Any

import flax.linen as nn
import jax
from flax import struct
from jaxtyping import Array


class Weight(nn.LogicallyPartitioned):
    """A parameter with the names of its axes. Whoever runs a model many times may cast it to
    `read_as` once: its layer would, at every call, before anything else is done with it."""

    read_as: str = struct.field(default="float32", pytree_node=False)


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
        return Weight(init(*arguments), axes, read_as=read_as)

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


def normal(stddev: float) -> jax.nn.initializers.Initializer:
    # transformers draws from an untruncated normal whatever its documentation says.
    return nn.initializers.normal(stddev)
