"""MobileBERT's feed-forward layers, all of a layer's in one kernel for TPUs.

They are narrow: what lies between their products is as wide as four of their inputs, and is what a
backward pass would keep most of. The kernel keeps its inputs alone, and computes the rest again.

It works on transposed blocks, features by tokens: then each product, in both passes, is one that
the matrix units do as it stands, and only what is 128 wide is transposed.
"""

import functools
import logging
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from jbert import backend
from jbert.attention import OLD_TPUS
from jbert.fused_attention import LANES, product

logger = logging.getLogger("jbert")

# What the kernels' names begin with, in a program.
NAME = "fused_feed_forward"

# How wide all layers may be within, together: more was not tried.
WIDEST = 4 * 512
# Tokens that are worked on at a time; more than the fewest leave no room in a v4's vector memory.
BLOCKS = {"TPU v4": (128,), "": (256, 128)}


class Weights(NamedTuple):
    """Of n layers, each norm(x + down(relu(up(x)))), where norm is scale · x + shift."""

    up: Float[Array, "n d f"]
    up_bias: Float[Array, "n f"]
    down: Float[Array, "n f d"]
    down_bias: Float[Array, "n d"]
    scale: Float[Array, "n d"]
    shift: Float[Array, "n d"]


@functools.lru_cache(maxsize=256)  # also what makes each choice be logged once
def takes(dtype: str, width: int, hidden: int, layers: int, tokens: int, device: str) -> bool:
    """Whether the kernel is for such layers, and so many tokens on a device; says so in the log."""
    against = why_not(dtype, width, hidden, layers, tokens, device)
    chosen = f"xla; not fused: {', '.join(against)}" if against else "fused"
    logger.info("feed-forward layers: %s", chosen)
    return not against


def why_not(
    dtype: str, width: int, hidden: int, layers: int, tokens: int, device: str
) -> list[str]:
    against = []
    if dtype == "float16":
        against.append("there is no float16")
    if device in OLD_TPUS:
        against.append(f"there is none for a {device}")
    if width != LANES or hidden % LANES:
        against.append(
            f"needs a width of {LANES}, and multiples of it within, not {width}, {hidden}"
        )
    if layers * hidden > WIDEST:
        against.append(f"{layers} × {hidden} is wider than {WIDEST}")
    if tokens % LANES:
        against.append(f"needs tokens in multiples of {LANES}")
    return against


def feed_forward(
    x: Float[Array, "b l d"], weights: Weights, interpret: bool = False
) -> Float[Array, "b l d"]:
    """The layers, one after another; products are of x's dtype, everything else is float32."""
    wide = (one.astype(jnp.float32) for one in weights)
    # Vectors as columns, which transposed blocks are added to and multiplied by.
    columns = Weights(*(one if one.ndim == 3 else one[..., None] for one in wide))
    y: Any = _stack(interpret, x.reshape(-1, x.shape[-1]), columns)
    return y.reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stack(interpret: bool, x, weights: Weights):
    return _forward(interpret, x, weights)[0]


def _forward(interpret: bool, x, weights: Weights):
    inputs = (x, *_operands(weights, x.dtype))
    y = _call(_forward_kernel, interpret, inputs, (x, ()), 2 * weights.up.size)
    return y, (x, weights)


def _backward(interpret: bool, kept: Any, gradient):
    x, weights = kept
    # As the forward pass reads them, and as products with gradients do.
    matrices = (weights.up.astype(x.dtype), weights.down.astype(x.dtype))
    operands = (x, gradient, *_operands(weights, x.dtype), *matrices)
    found = _call(_backward_kernel, interpret, operands, (x, weights), 6 * weights.up.size)
    return found[0], Weights(*(one.sum(0) for one in found[1:]))


_stack.defvjp(_forward, _backward)


def _operands(weights: Weights, dtype: Any) -> tuple[Array, ...]:
    """Matrices as transposed blocks are multiplied by them."""
    up, down = (jnp.swapaxes(one, 1, 2).astype(dtype) for one in (weights.up, weights.down))
    return tuple(weights._replace(up=up, down=down))


def _call(body: Any, interpret: bool, inputs, outputs, products: int):
    """A kernel over blocks of tokens, each multiplied by so many numbers. Of `outputs` the second
    are sums over tokens, one for each of two parts, which a chip of two cores computes at once."""
    like, sums = outputs
    tokens, width = like.shape
    blocks = BLOCKS.get(backend.kind(), BLOCKS[""])
    block = next(size for size in blocks if tokens % size == 0)
    parts = 2 if tokens // block % 2 == 0 else 1
    each = tokens // block // parts
    rows = pl.BlockSpec((block, width), lambda part, i: (part * each + i, 0))
    whole = lambda x: pl.BlockSpec(x.shape, lambda part, i: (0,) * x.ndim)  # noqa: E731
    summed = lambda x: pl.BlockSpec((1, *x.shape), lambda part, i: (part, *(0,) * x.ndim))  # noqa: E731
    shapes = [jax.ShapeDtypeStruct(like.shape, like.dtype)]
    shapes += [jax.ShapeDtypeStruct((parts, *x.shape), jnp.float32) for x in sums]
    in_specs = [rows if x.shape == like.shape else whole(x) for x in inputs]
    out_specs = [rows, *map(summed, sums)]
    moved = sum(math.prod(x.shape) * x.dtype.itemsize for x in (*inputs, *shapes))
    return pl.pallas_call(
        body,
        grid=(parts, each),
        in_specs=in_specs,
        out_specs=out_specs if sums else out_specs[0],
        out_shape=shapes if sums else shapes[0],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=64 * 2**20
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * tokens * products, transcendentals=0, bytes_accessed=moved
        ),
        interpret=interpret,
        name=f"{NAME}{body.__name__}",
    )(*inputs)


# -- kernels --------------------------------------------------------------------------------


def _forward_kernel(x, up, up_bias, down, down_bias, scale, shift, y):
    now = x[...].astype(jnp.float32).T
    for i in range(up.shape[0]):
        _, _, _, now = _layer(i, now, x.dtype, up, up_bias, down, down_bias, scale, shift)
    y[...] = now.T.astype(y.dtype)


def _layer(i: int, now, dtype, up, up_bias, down, down_bias, scale, shift):
    """What a product read, relu's results, what the norm read, and what it made."""
    read = now.astype(dtype)
    hidden = jnp.maximum(product(up[i], read, (1, 0)) + up_bias[i], 0.0).astype(dtype)
    summed = product(down[i], hidden, (1, 0)) + down_bias[i] + now
    return read, hidden, summed, summed * scale[i] + shift[i]


def _backward_kernel(
    x, gradient, up, up_bias, down, down_bias, scale, shift, up_t, down_t,
    d_x, d_up, d_up_bias, d_down, d_down_bias, d_scale, d_shift,
):  # fmt: skip
    dtype, layers = x.dtype, range(up.shape[0])
    sums = (d_up, d_up_bias, d_down, d_down_bias, d_scale, d_shift)

    @pl.when(pl.program_id(1) == 0)
    def _():
        for one in sums:
            one[...] = jnp.zeros_like(one)

    kept, now = [], x[...].astype(jnp.float32).T
    for i in layers:
        *steps, now = _layer(i, now, dtype, up, up_bias, down, down_bias, scale, shift)
        kept.append(steps)
    back = gradient[...].astype(jnp.float32).T
    for i in reversed(layers):
        read, hidden, summed = kept[i]
        d_scale[0, i] += _over_tokens(back * summed)
        d_shift[0, i] += _over_tokens(back)
        back = back * scale[i]
        narrow = back.astype(dtype)
        d_down_bias[0, i] += _over_tokens(back)
        d_down[0, i] += product(hidden, narrow, (1, 1))
        inner = jnp.where(hidden > 0, product(down_t[i], narrow, (1, 0)), 0.0)
        d_up_bias[0, i] += _over_tokens(inner)
        inner = inner.astype(dtype)
        d_up[0, i] += product(read, inner, (1, 1))
        back = back + product(up_t[i], inner, (1, 0))
    d_x[...] = back.T.astype(d_x.dtype)


def _over_tokens(x: Array) -> Array:
    return jnp.sum(x, axis=1, keepdims=True)
