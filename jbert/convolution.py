"""ConvBERT's convolutions over the length, as sums of shifted copies.

A grouped `lax.conv` with one channel a group is 4 to 30 times slower than these sums on CPU, and
their automatic derivative is the slow part of what is left; so both have one written by hand.
Each takes a `gate` (b, l, w): whether a tap may be read, so that packed sequences stay apart.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jbert.execution import Execution
from jbert.layers import KERNEL_AXES
from jbert.parameters import kernel_of


class DepthwiseKernel(nn.Module):
    """The weights of a convolution with one kernel a channel: [w, d]."""

    taps: int
    features: int
    stddev: float
    execution: Execution

    @nn.compact
    def __call__(self) -> Float[Array, "w d"]:
        axes = KERNEL_AXES["depthwise"]
        return kernel_of(self, axes, self.taps, self.features, read_as="float32")


def tap_gate(segment_ids: Int[Array, "b l"] | None, taps: int) -> Bool[Array, "b l w"] | None:
    """Which taps around each position lie in the position's own segment."""
    if segment_ids is None:
        return None
    length, half = segment_ids.shape[1], taps // 2
    padded = jnp.pad(segment_ids, ((0, 0), (half, half)), constant_values=-1)
    neighbours = [padded[:, k : k + length] == segment_ids for k in range(taps)]
    return jnp.stack(neighbours, axis=-1)


def _shifts(x: Array, taps: int, axis: int) -> list[Array]:
    """x moved so that element t of copy k is x[t + k - taps // 2], and zero beyond the ends."""
    half, length = taps // 2, x.shape[axis]
    widths = [(half, half) if i == axis else (0, 0) for i in range(x.ndim)]
    padded = jnp.pad(x, widths)
    return [jax.lax.slice_in_dim(padded, k, k + length, axis=axis) for k in range(taps)]


def depthwise(
    x: Float[Array, "b l d"], kernel: Float[Array, "w d"], gate: Bool[Array, "b l w"] | None
) -> Float[Array, "b l d"]:
    """y[t] = Σ_k x[t + k - w//2] · kernel[k], for each channel by itself."""
    return _depthwise(x, kernel, gate)


@jax.custom_vjp
def _depthwise(x, kernel, gate):
    total = 0.0
    for k, shifted in enumerate(_shifts(x, kernel.shape[0], 1)):
        term = shifted.astype(jnp.float32) * kernel[k][None, None].astype(jnp.float32)
        total = total + (term if gate is None else jnp.where(gate[..., k, None], term, 0))
    return jnp.asarray(total).astype(x.dtype)


def _depthwise_fwd(x, kernel, gate):
    return _depthwise(x, kernel, gate), (x, kernel, gate)


def _depthwise_bwd(saved, g):
    x, kernel, gate = saved
    taps = kernel.shape[0]
    # Seen from x, tap k of its reader lies at the mirrored shift.
    mirrored = _shifts(g.astype(jnp.float32), taps, 1)[::-1]
    gates = [None] * taps if gate is None else [_shifts(gate[..., k], taps, 1)[taps - 1 - k]
                                                for k in range(taps)]  # fmt: skip
    dx, dkernel = 0.0, []
    for k, shifted in enumerate(_shifts(x, taps, 1)):
        term = mirrored[k] * kernel[k][None, None].astype(jnp.float32)
        dx = dx + (term if gate is None else jnp.where(gates[k][..., None], term, 0))
        product = g.astype(jnp.float32) * shifted.astype(jnp.float32)
        if gate is not None:
            product = jnp.where(gate[..., k, None], product, 0)
        dkernel.append(jnp.sum(product, axis=(0, 1)))
    return jnp.asarray(dx).astype(x.dtype), jnp.stack(dkernel).astype(kernel.dtype), None


_depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)


def dynamic(
    value: Float[Array, "b h l e"],
    weights: Float[Array, "b h l w"],
    gate: Bool[Array, "b l w"] | None,
) -> Float[Array, "b h l e"]:
    """y[t] = Σ_k value[t + k - w//2] · weights[t, k]: a kernel for each head and position."""
    if gate is not None:
        weights = jnp.where(gate[:, None], weights, 0)
    return _dynamic(value, weights)


@jax.custom_vjp
def _dynamic(value, weights):
    wide = weights.astype(jnp.float32)
    terms = (
        shifted.astype(jnp.float32) * wide[..., k, None]
        for k, shifted in enumerate(_shifts(value, weights.shape[-1], 2))
    )
    return functools.reduce(jnp.add, terms).astype(value.dtype)


def _dynamic_fwd(value, weights):
    return _dynamic(value, weights), (value, weights)


def _dynamic_bwd(saved, g):
    value, weights = saved
    taps = weights.shape[-1]
    g = g.astype(jnp.float32)
    wide = weights.astype(jnp.float32)
    readers = _shifts(g, taps, 2)[::-1]
    kernels = _shifts(wide, taps, 2)[::-1]
    dvalue = functools.reduce(jnp.add, (readers[k] * kernels[k][..., k, None] for k in range(taps)))
    dweights = jnp.stack(
        [jnp.sum(g * s.astype(jnp.float32), axis=-1) for s in _shifts(value, taps, 2)], axis=-1
    )
    return dvalue.astype(value.dtype), dweights.astype(weights.dtype)


_dynamic.defvjp(_dynamic_fwd, _dynamic_bwd)
