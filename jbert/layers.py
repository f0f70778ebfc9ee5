"""Layers that more than one architecture is made of; the only file that names parameters' axes.

Letters, in shapes and einsums: b batch, l length (q and k for queries and keys), d hidden size,
h heads, e size of a head, f feed-forward size, v vocabulary, w taps of a convolution.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from jbert import backend
from jbert.activations import ActivationField, activation
from jbert.attention import Visible, attend, wide_einsum
from jbert.dropout import Dropout
from jbert.execution import PRODUCT, Execution
from jbert.parameters import bias_of, fixed, kernel_of, normal, weight
from jbert.sharding import constrain

# What a weight matrix does, and so how its two sides may be sharded.
KERNEL_AXES: dict[str, tuple[str | None, ...]] = {
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
    "inner": ("embed", None),
    "outer": (None, "embed"),
    "heads_in": ("embed", "heads", "head_dim"),
    "heads_out": ("heads", "head_dim", "embed"),
    "depthwise": ("conv", "embed"),
    "vocab": ("embed", "vocab"),
}
# What a lookup table holds a row for.
TABLE_AXES: dict[str, tuple[str | None, str | None]] = {
    "word": ("vocab", "embed"),
    "position": ("length", "embed"),
    "segment": (None, "embed"),
}


@struct.dataclass
class Context:
    """What all layers of one forward pass share."""

    visible: Visible
    segment_ids: Int[Array, "b l"] | None = None
    encoder_states: Float[Array, "b k d"] | None = None
    encoder_visible: Visible = struct.field(default_factory=Visible)
    cache_index: Int[Array, ""] | None = None
    deterministic: bool = struct.field(pytree_node=False, default=True)
    return_hidden: bool = struct.field(pytree_node=False, default=False)
    return_attentions: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class LayerOutput:
    """What a layer reports beside its hidden states; None for what was not asked for."""

    hidden: Any = None
    attention: Any = None
    cross_attention: Any = None
    cache: Any = None


def dot(x: Array, kernel: Array, dtype: str, over: int = 0) -> Float[Array, "..."]:
    """x @ kernel over x's last axis and the kernel's axis `over`.

    Operands are in the compute dtype and the sum in float32. For bfloat16 on a CPU that multiplies
    it, that is the difference between XLA's slow path and one twice as fast as float32 (415 against
    212 GFLOP/s).
    """
    y = jax.lax.dot_general(
        backend.as_multiplied(x.astype(dtype)),
        backend.as_multiplied(kernel.astype(dtype)),
        (((x.ndim - 1,), (over,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    return checkpoint_name(y.astype(dtype), PRODUCT)


def add_shared(x: Array, shared: Array) -> Array:
    """x + what its first axes share. The gradient of that, a sum over all of them, is made in
    float32: one in bfloat16 stops growing after a few hundred terms."""
    wide = shared.astype(jnp.float32)
    # Spelled out for those who run with rank promotion forbidden.
    wide = wide.reshape((1,) * (x.ndim - shared.ndim) + shared.shape)
    return x + jnp.broadcast_to(wide, x.shape).astype(x.dtype)


def add_bias(x: Array, bias: Array) -> Array:
    """x + bias on the last axis."""
    return add_shared(x, bias.reshape(-1))


class Dense(nn.Module):
    """x @ kernel + bias on the last axis; `role` is a key of KERNEL_AXES."""

    features: int
    role: str
    stddev: float
    execution: Execution

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch f"]:
        axes = KERNEL_AXES[self.role]
        kernel = kernel_of(self, axes, x.shape[-1], self.features)
        y = dot(x, kernel, self.execution.dtype)
        y = add_bias(y, bias_of(self, (_vector_axis(axes[-1]),), self.features))
        if self.role == "up":
            y = constrain(y, "batch", *(None,) * (y.ndim - 2), "mlp")
        return y


def _vector_axis(axis: str | None) -> str | None:
    # Vectors along the hidden size are too small to be worth gathering.
    return None if axis == "embed" else axis


class HeadsIn(nn.Module):
    """A projection into attention heads: [b, l, d] to [b, h, l, e], the layout attention reads."""

    heads: int
    head_dim: int
    stddev: float
    execution: Execution

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b h l e"]:
        kernel = kernel_of(self, KERNEL_AXES["heads_in"], x.shape[-1], self.heads, self.head_dim)
        bias = bias_of(self, ("heads", "head_dim"), self.heads, self.head_dim)
        y = dot(x, _joined(kernel, (x.shape[-1], -1)), self.execution.dtype)
        y = add_bias(y, bias)
        y = jnp.swapaxes(y.reshape(*x.shape[:-1], self.heads, self.head_dim), 1, 2)
        return constrain(y, "batch", "heads", "length", "head_dim")


class HeadsOut(nn.Module):
    """The projection out of attention heads: [b, h, l, e] to [b, l, d]."""

    features: int
    stddev: float
    execution: Execution

    @nn.compact
    def __call__(self, x: Float[Array, "b h l e"]) -> Float[Array, "b l d"]:
        b, h, length, e = x.shape
        kernel = kernel_of(self, KERNEL_AXES["heads_out"], h, e, self.features)
        bias = bias_of(self, (None,), self.features)
        joined = jnp.swapaxes(x, 1, 2).reshape(b, length, h * e)
        y = dot(joined, _joined(kernel, (h * e, self.features)), self.execution.dtype)
        return constrain(add_bias(y, bias), "batch", "length", None)


def _joined(kernel: Array, shape: tuple[int, int]) -> Array:
    """The kernel with heads and their features as one side of a matrix. XLA for TPUs would take the
    two apart again in the product, and copy what it is multiplied with, four times a layer."""
    joined = kernel.reshape(shape)
    return jax.lax.optimization_barrier(joined) if backend.current() == "tpu" else joined


class Embed(nn.Module):
    """A lookup table; `role` is a key of TABLE_AXES.

    An id outside the table gives NaN, where JAX would wrap or clamp in silence.
    """

    num: int
    features: int
    stddev: float
    execution: Execution
    padding_idx: int | None = None
    role: str = "word"
    table_init: Callable[[int, int], Any] | None = None  # a fixed table instead of a random one
    trainable: bool = True

    @nn.compact
    def __call__(self, ids: Int[Array, "..."]) -> Float[Array, "... d"]:
        random = normal(self.stddev, zero_row=self.padding_idx)
        init = random if self.table_init is None else fixed(self.table_init)
        shape = (self.num, self.features)
        table = weight(self, "embedding", init, TABLE_AXES[self.role], shape, self.execution.dtype)
        if not self.trainable:
            table = jax.lax.stop_gradient(table)
        # Gathered whole before the lookup: of rows split over devices the partitioner would make
        # whole activations, and split those again.
        table = constrain(table, "vocab", None)
        # Negative ids count as out of range too, not from the end.
        in_range = jnp.where(ids < 0, self.num, ids)
        rows = jnp.take(table, in_range, axis=0, mode="fill", fill_value=jnp.nan)
        if self.padding_idx is not None:
            # torch.nn.Embedding(padding_idx=...): the padding row is read but never trained.
            frozen = (ids == self.padding_idx)[..., None]
            rows = jnp.where(frozen, jax.lax.stop_gradient(rows), rows)
        return rows.astype(self.execution.dtype)


class RelativeScores(nn.Module):
    """BERT's relative positions: q·E[distance], and for "relative_key_query" k·E[distance] too."""

    max_positions: int
    keys_too: bool
    stddev: float
    execution: Execution

    @nn.compact
    def __call__(
        self, query: Float[Array, "b h q e"], key: Float[Array, "b h k e"], first_query: Any
    ) -> Float[Array, "b h q k"]:
        table = weight(
            self,
            "embedding",
            normal(self.stddev),
            (None, "head_dim"),
            (2 * self.max_positions - 1, query.shape[-1]),
            self.execution.dtype,
        )
        q_positions = first_query + jnp.arange(query.shape[2])
        distance = q_positions[:, None] - jnp.arange(key.shape[2])[None, :]
        rows = table[distance + self.max_positions - 1].astype(query.dtype)
        scores = wide_einsum("bhqe,qke->bhqk", query, rows)
        if self.keys_too:
            scores = scores + wide_einsum("bhke,qke->bhqk", key, rows)
        return scores


class Attention(nn.Module):
    """Multi-head attention with its four projections, and a key-value cache for decoders."""

    heads: int
    head_dim: int
    features: int
    dropout_rate: float
    stddev: float
    execution: Execution
    position_type: str = "absolute"  # or "relative_key", "relative_key_query"
    max_positions: int = 0  # of the relative types

    @nn.compact
    def __call__(
        self,
        query_from: Float[Array, "b q _"],
        key_from: Float[Array, "b k _"],
        value_from: Float[Array, "b k _"],
        visible: Visible,
        context: Context,
        head_mask: Float[Array, "h"] | None = None,
        cache: Any = None,
    ) -> tuple[Float[Array, "b q d"], Any, Any]:
        project = functools.partial(HeadsIn, self.heads, self.head_dim, self.stddev, self.execution)
        query = project(name="query")(query_from)
        key = project(name="key")(key_from)
        value = project(name="value")(value_from)
        if cache is not None:
            at: Any = (0, 0, context.cache_index, 0)
            key = jax.lax.dynamic_update_slice(cache["key"], key.astype(cache["key"].dtype), at)
            value = jax.lax.dynamic_update_slice(
                cache["value"], value.astype(cache["value"].dtype), at
            )
            cache = {"key": key, "value": value}
        attended, weights = attend(
            query,
            key,
            value,
            visible,
            relative=self._relative_scores(query, key, context),
            head_mask=head_mask,
            dropout=weight_dropout(self.dropout_rate, context),
            return_weights=context.return_attentions,
            implementation=self.execution.attention,
        )
        out = HeadsOut(self.features, self.stddev, self.execution, name="out")(attended)
        return out, weights if context.return_attentions else None, cache

    def _relative_scores(self, query, key, context: Context):
        if self.position_type == "absolute":
            return None
        keys_too = self.position_type == "relative_key_query"
        first_query = 0 if context.cache_index is None else context.cache_index
        return RelativeScores(
            self.max_positions, keys_too, self.stddev, self.execution, name="relative"
        )(query, key, first_query)


def weight_dropout(rate: float, context: Context):
    """Dropout of attention weights, or None while it is off, so that flash kernels may be used."""
    if context.deterministic or rate == 0.0:
        return None
    return Dropout(rate, leading=2)


class FeedForward(nn.Module):
    """up, activation, down."""

    hidden: int
    features: int
    act: ActivationField
    stddev: float
    execution: Execution
    groups: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        x = self._dense(self.hidden, "up", "in")(x)
        x = activation(self.act)(x)
        return self._dense(self.features, "down", "out")(x)

    def _dense(self, features: int, role: str, name: str):
        if self.groups == 1:
            return Dense(features, role, self.stddev, self.execution, name=name)
        return GroupedDense(features, self.groups, role, self.stddev, self.execution, name=name)


class GroupedDense(nn.Module):
    """A dense layer in `groups` blocks, each from its own share of the features to its own."""

    features: int
    groups: int
    role: str
    stddev: float
    execution: Execution

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l f"]:
        axes = KERNEL_AXES[self.role]
        kernel = kernel_of(
            self, (None, *axes), self.groups, x.shape[-1] // self.groups,
            self.features // self.groups,
        )  # fmt: skip
        bias = bias_of(self, (_vector_axis(axes[-1]),), self.features)
        # Block by block: XLA's CPU backend has no batched product of bfloat16 summed in float32.
        blocks = jnp.split(x, self.groups, axis=-1)
        y = [dot(block, kernel[i], self.execution.dtype) for i, block in enumerate(blocks)]
        return add_bias(jnp.concatenate(y, axis=-1), bias)


def vocab_bias(head: Any, vocab_size: int) -> Float[Array, "v"]:
    """The bias of a language-model head, owned by the head itself beside the tied table."""
    return bias_of(head, ("vocab",), vocab_size)


def vocab_table(head: Any, name: str, stddev: float, shape: tuple[int, int]) -> Float[Array, "d v"]:
    """A [d, v] matrix of a language-model head that is no lookup table."""
    return weight(head, name, normal(stddev), KERNEL_AXES["vocab"], shape, head.execution.dtype)


def word_table(encoder: nn.Module) -> Float[Array, "v d"]:
    """The token table of an encoder that has run, for heads that are tied to it."""
    return nn.meta.unbox(encoder.variables["params"]["embeddings"]["word"]["embedding"])
