"""What scales the hidden size of a layer: with means and variances, and without."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jbert import backend
from jbert.execution import Execution, made_again
from jbert.parameters import bias_of, weight
from jbert.sharding import constrain


class LayerNorm(nn.Module):
    """Normalisation over the hidden size, with float32 statistics."""

    eps: float
    execution: Execution

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        scale, bias = _scale_and_bias(self, x)

        @made_again
        def normalised(x: Array, scale: Array, bias: Array) -> Array:
            wide = x.astype(jnp.float32)
            mean = jnp.mean(wide, axis=-1, keepdims=True)
            # Two passes: E[x²] - E[x]² cancels catastrophically beside an epsilon of 1e-12.
            centred = wide - mean
            variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
            y = centred * jax.lax.rsqrt(variance + self.eps) * scale + bias
            return y.astype(self.execution.dtype)

        return _constrain_hidden(normalised(x, scale, bias))


class NoNorm(nn.Module):
    """MobileBERT's replacement for LayerNorm: a scale and a bias for each channel."""

    execution: Execution

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        scale, bias = _scale_and_bias(self, x)

        @made_again
        def scaled(x: Array, scale: Array, bias: Array) -> Array:
            return (x * scale + bias).astype(self.execution.dtype)

        x = _constrain_hidden(scaled(x, scale, bias))
        # A sum with a residual follows. XLA on a CPU would make each reader's x again from what it
        # is made of, which nothing ends: there is no mean here. The last layer would add up all.
        return jax.lax.optimization_barrier(x) if backend.current() == "cpu" else x


def _scale_and_bias(module: Any, x: Array) -> tuple[Array, Array]:
    scale = weight(module, "scale", nn.initializers.ones, (None,), x.shape[-1:], "float32")
    bias = bias_of(module, (None,), x.shape[-1], read_as="float32")
    return _last_axis(scale, x).astype(jnp.float32), _last_axis(bias, x).astype(jnp.float32)


def _last_axis(vector: Array, x: Array) -> Array:
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def _constrain_hidden(x: Array) -> Array:
    return constrain(x, "batch", *(None,) * (x.ndim - 1))
