"""Attention, with dropout of its weights or without, in one kernel for TPUs that writes no map to
memory.

A program of the grid attends for one row and as many heads as fill the 128 lanes, with all of
their keys at hand. The maps are transposed, keys by queries: what is taken of all keys (maximum,
sum) then goes down the rows of a register, and neither pass transposes anything as large as a map.

Which weights dropout takes is a hash of where they are, so that the backward pass makes the same
choice again, whatever the tiling, and any other program can: `kept` is the same by plain
operations.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from jbert.dropout import FIRST, least, mixed, wrapped
from jbert.execution import ATTENDED

LANES = 128
# The most keys, and queries, whose maps leave room for everything else in the chip's vector memory.
LONGEST = 1024
# Weights of a head that are worked on at a time: more leave no room on a v4, fewer take longer.
_AT_A_TIME = 512 * 512

# What the kernels' names begin with, in a program.
NAME = "fused_attention"

_HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)
_LOG2E = math.log2(math.e)


def why_not(dtype: str, q_len: int, k_len: int, head_dim: int) -> list[str]:
    """What speaks against the kernel for such arrays."""
    against = []
    if dtype == "float16":
        against.append("fused attention has no float16")
    if q_len % LANES or k_len % LANES:
        against.append(f"fused attention needs lengths in multiples of {LANES}")
    if max(q_len, k_len) > LONGEST:
        against.append(f"fused attention takes {LONGEST} positions at most")
    if LANES % head_dim:
        against.append(f"fused attention needs a head size that divides {LANES}, not {head_dim}")
    return against


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a kernel is made for: heads of so many features, side by side in the last axis."""

    heads: int
    head_dim: int
    rate: float
    interpret: bool

    def lanes(self) -> int:
        return min(LANES, self.heads * self.head_dim)

    def heads_a_block(self) -> int:
        return self.lanes() // self.head_dim

    def blocks(self) -> int:
        return -(-self.heads // self.heads_a_block())

    def scale_of_kept(self) -> float:
        return 0.0 if self.rate == 1.0 else 1.0 / (1.0 - self.rate)


def attend_fused(
    query: Float[Array, "b h q e"],
    key: Float[Array, "b h k e"],
    value: Float[Array, "b h k e"],
    query_ids: Int[Array, "b q"],
    key_ids: Int[Array, "b k"],
    streams: Int[Array, "b h 2"],
    rate: float,
    interpret: bool = False,
) -> Float[Array, "b h q e"]:
    """softmax(q·k / sqrt(e)) over the keys of a query's own id, each weight dropped with
    probability `rate`, times v. Every query needs a key of its id."""
    _, heads, _, head_dim = query.shape
    kind = _Kind(heads, head_dim, rate, interpret)
    ragged = kind.blocks() * kind.heads_a_block() - heads
    streams = jnp.pad(streams, ((0, 0), (0, ragged), (0, 0)))
    joined = (_join(query), _join(key), _join(value))
    b = len(streams)
    ids = (query_ids[:, None, :], key_ids[:, :, None])
    context: Any = _attention(kind, *joined, *ids, streams.reshape(b, 1, -1))
    return jnp.swapaxes(context.reshape(*context.shape[:2], heads, head_dim), 1, 2)


def _join(x: Array) -> Array:
    """[b, h, l, e] to [b, l, h·e], which is how projections leave it: no lane of it is empty."""
    b, h, length, e = x.shape
    return jnp.swapaxes(x, 1, 2).reshape(b, length, h * e)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(kind: _Kind, query, key, value, query_ids, key_ids, streams):
    return _forward(kind, query, key, value, query_ids, key_ids, streams)[0]


def _forward(kind: _Kind, query, key, value, query_ids, key_ids, streams):
    inputs = (streams, query_ids, key_ids, query, key, value)
    context, sums = _call(_forward_kernel, kind, inputs, [query, _sums_of(kind, query)], products=2)
    context = checkpoint_name(context, ATTENDED)
    sums = checkpoint_name(sums, ATTENDED)
    return context, (query, key, value, query_ids, key_ids, streams, sums)


def _backward(kind: _Kind, kept_of_forward, gradient):
    query, key, value, query_ids, key_ids, streams, sums = kept_of_forward
    inputs = (streams, query_ids, key_ids, query, key, value, sums, gradient)
    wide = pltpu.VMEM((key.shape[1], kind.lanes()), jnp.float32)
    gradients = _call(
        _backward_kernel, kind, inputs, [query, key, value], products=5, scratch=[wide, wide]
    )
    return (*gradients, None, None, None)


_attention.defvjp(_forward, _backward)


def _sums_of(kind: _Kind, query):
    """The logarithm of each query's sum of exponentials, to base 2."""
    b, q_len, _ = query.shape
    return jax.ShapeDtypeStruct((b, kind.blocks(), kind.heads_a_block(), q_len), jnp.float32)


def _call(body: Any, kind: _Kind, inputs, outputs, products: int, scratch=()):
    """A kernel over rows and blocks of heads."""
    b, q_len, _ = inputs[3].shape
    k_len = inputs[4].shape[1]
    weights = b * kind.heads * q_len * k_len
    outputs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs]
    moved = sum(math.prod(x.shape) * x.dtype.itemsize for x in (*inputs, *outputs))
    return pl.pallas_call(
        functools.partial(body, kind=kind),
        grid=(b, kind.blocks()),
        in_specs=[_spec(kind, inputs[0], pltpu.SMEM), *(_spec(kind, x) for x in inputs[1:])],
        out_specs=[_spec(kind, x) for x in outputs],
        out_shape=outputs,
        scratch_shapes=list(scratch),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=64 * 2**20
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * products * weights * kind.head_dim,
            transcendentals=weights,
            bytes_accessed=moved,
        ),
        interpret=kind.interpret,
        name=f"{NAME}{body.__name__}",
    )(*inputs)


def _spec(kind: _Kind, x: Any, memory: Any = pltpu.VMEM) -> pl.BlockSpec:
    """A row's share of an array: all of its numbers, or what belongs to a block of heads."""
    if x.ndim == 4:
        return pl.BlockSpec((1, 1, *x.shape[2:]), lambda row, block: (row, block, 0, 0))
    if x.dtype == jnp.int32:
        whole = (1, *x.shape[1:])
        return pl.BlockSpec(whole, lambda row, block: (row, 0, 0), memory_space=memory)
    return pl.BlockSpec((1, x.shape[1], kind.lanes()), lambda row, block: (row, 0, block))


# -- kernels --------------------------------------------------------------------------------


def _forward_kernel(streams, query_ids, key_ids, query, key, value, context, sums, *, kind: _Kind):
    lanes = _Lanes(kind, pl.program_id(1))
    keys, values_t = lanes.filled(key[0]), _transposed(lanes.filled(value[0]))
    k_len, dtype = keys.shape[0], keys.dtype

    def some(queries, first):
        at = pl.ds(first, queries)
        visible = key_ids[0] == query_ids[0, :, at]
        found = []
        for head in range(kind.heads_a_block()):
            scores = _scores(keys, lanes.of(head, query[0, at, :]), visible, kind)
            largest = jnp.max(scores, axis=0, keepdims=True)
            weights = jnp.exp2(scores - largest)
            total = jnp.sum(weights, axis=0, keepdims=True)
            sums[0, 0, head : head + 1, at] = largest + jnp.log2(total)
            if kind.rate:
                stay = _stay(streams, lanes.head(head), first, (k_len, queries), kind.rate)
                weights = jnp.where(stay, weights, 0.0)
            mine = values_t[head * kind.head_dim : (head + 1) * kind.head_dim]
            part = product(mine, weights.astype(dtype), (1, 0))
            found.append(part * (kind.scale_of_kept() / total))
        context[0, at, :] = jnp.concatenate(found, axis=0).T.astype(context.dtype)

    _over_queries(some, query.shape[1], k_len)


def _backward_kernel(
    streams, query_ids, key_ids, query, key, value, sums, gradient, d_query, d_key, d_value,
    wide_key, wide_value, *, kind: _Kind,
):  # fmt: skip
    lanes = _Lanes(kind, pl.program_id(1))
    keys, values = lanes.filled(key[0]), lanes.filled(value[0])
    keys_t = _transposed(keys)
    k_len, dtype = keys.shape[0], keys.dtype
    wide_key[...] = jnp.zeros_like(wide_key)
    wide_value[...] = jnp.zeros_like(wide_value)

    def some(queries, first):
        at = pl.ds(first, queries)
        visible = key_ids[0] == query_ids[0, :, at]
        found = []
        for head in range(kind.heads_a_block()):
            asked = lanes.of(head, query[0, at, :])
            back = lanes.of(head, gradient[0, at, :])
            scores = _scores(keys, asked, visible, kind)
            weights = jnp.exp2(scores - sums[0, 0, head : head + 1, at])
            d_weights = product(values, back, (1, 1))
            stayed = weights
            if kind.rate:
                stay = _stay(streams, lanes.head(head), first, (k_len, queries), kind.rate)
                stayed = jnp.where(stay, weights, 0.0)
            wide_value[...] += product(stayed.astype(dtype), back, (1, 0))
            # What was dropped has no derivative of its own, but is in every weight's sum.
            through = stayed * d_weights
            mean = jnp.sum(through, axis=0, keepdims=True)
            d_scores = (through - weights * mean).astype(dtype)
            wide_key[...] += product(d_scores, asked, (1, 0))
            mine = keys_t[head * kind.head_dim : (head + 1) * kind.head_dim]
            found.append(product(mine, d_scores, (1, 0)))
        scale = kind.scale_of_kept() * kind.head_dim**-0.5
        d_query[0, at, :] = (jnp.concatenate(found, axis=0) * scale).T.astype(d_query.dtype)

    _over_queries(some, query.shape[1], k_len)
    scale = kind.scale_of_kept()
    d_value[0] = (wide_value[...] * scale).astype(d_value.dtype)
    d_key[0] = (wide_key[...] * (scale * kind.head_dim**-0.5)).astype(d_key.dtype)


def _over_queries(some: Any, q_len: int, k_len: int) -> None:
    """some(queries, first) for all of them, as many at a time as divide their number."""
    queries = max(n for n in range(LANES, q_len + 1, LANES)
                  if q_len % n == 0 and (n == LANES or n * k_len <= _AT_A_TIME))  # fmt: skip
    if queries == q_len:
        return some(queries, 0)

    def turn(i, carry):
        some(queries, pl.multiple_of(i * queries, queries))
        return carry

    jax.lax.fori_loop(0, q_len // queries, turn, 0)


class _Lanes:
    """Which lanes of a block are whose."""

    def __init__(self, kind: _Kind, block: Any):
        self.kind, self.block = kind, block
        self.ragged = kind.heads % kind.heads_a_block() != 0

    def head(self, head: int) -> Any:
        """Among all heads."""
        return self.block * self.kind.heads_a_block() + head

    def filled(self, x: Array) -> Array:
        """The last block reaches beyond the last head, where anything may lie, as NaN."""
        if not self.ragged:
            return x
        there = self.kind.heads * self.kind.head_dim - self.block * self.kind.lanes()
        return jnp.where(self._lane(x) < there, x, jnp.zeros_like(x))

    def of(self, head: int, x: Array) -> Array:
        """The features of one head, and zero in the other lanes: a product over all lanes is then
        that of this head, and costs what one over half of them does."""
        x = self.filled(x)
        if self.kind.heads_a_block() == 1:
            return x
        size = self.kind.head_dim
        lane = self._lane(x)
        mine = (lane >= head * size) & (lane < (head + 1) * size)
        return jnp.where(mine, x, jnp.zeros_like(x))

    def _lane(self, x: Array) -> Array:
        return jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)


def product(one: Array, other: Array, over: tuple[int, int]) -> Array:
    dimensions = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(one, other, dimensions, preferred_element_type=jnp.float32)


def _transposed(x: Array) -> Array:
    return x.astype(jnp.float32).T.astype(x.dtype)


def _scores(keys: Array, asked: Array, visible: Array, kind: _Kind) -> Array:
    """Keys by queries, times log2(e): the exponential of hardware is that of 2."""
    scores = product(keys, asked, (1, 1)) * (kind.head_dim**-0.5 * _LOG2E)
    return jnp.where(visible, scores, _HIDDEN)


# -- dropout --------------------------------------------------------------------------------


def _stay(streams, head: Any, first_query: Any, shape: tuple[int, int], rate: float) -> Array:
    k_len, queries = shape
    # One register of eight keys, from which the others differ by a constant: an addition each.
    tile = (8, queries)
    place = jax.lax.broadcasted_iota(jnp.int32, tile, 1) * wrapped(k_len * FIRST)
    place = place + jax.lax.broadcasted_iota(jnp.int32, tile, 0) * FIRST
    place = place + (first_query * k_len * FIRST + streams[0, 0, 2 * head])
    eights = [place + wrapped(8 * i * FIRST) for i in range(k_len // 8)]
    return mixed(jnp.concatenate(eights), streams[0, 0, 2 * head + 1]) >= least(rate)
