"""Dot-product attention: its implementations, and how one is chosen.

Letters, here and in layers.py: b batch, q and k query and key length (l when equal), d hidden size,
h heads, e size of a head.
"""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from jbert import backend
from jbert.dropout import Dropout
from jbert.execution import MAP
from jbert.sharding import on_own_shares

logger = logging.getLogger("jbert")

# What `auto` tries, in this order, before XLA. By `jbert plan` (docs/plan.md) the fused kernel is
# nowhere slower than splash.
KERNELS = {"gpu": ("cudnn",), "tpu": ("fused", "splash")}
# The shortest key length at which `auto` leaves XLA's fused softmax for a flash kernel. Below it
# the scores are small enough that the kernel's fixed cost decides.
FLASH_FROM = {"cudnn": 256, "splash": 512}
SPLASH_BLOCK = 128
# Kernels for them multiply no bfloat16, and the fused one asks for more vector memory.
OLD_TPUS = ("TPU v2", "TPU v3")


@struct.dataclass
class Visible:
    """Which keys each query may attend to.

    `mask` is the whole truth. `keys` and `segments` are there only while the mask is nothing but
    "real tokens of my own segment", the form in which a flash kernel can be told without a mask.
    """

    mask: Bool[Array, "b 1 #q k"] | None = None
    keys: Bool[Array, "b k"] | None = None
    segments: Int[Array, "b k"] | None = None
    simple: bool = struct.field(pytree_node=False, default=True)


def attend(
    query: Float[Array, "b h q e"],
    key: Float[Array, "b h k e"],
    value: Float[Array, "b h k e"],
    visible: Visible,
    *,
    relative: Float[Array, "b h q k"] | None = None,
    head_mask: Float[Array, "h"] | None = None,
    dropout: Dropout | None = None,
    return_weights: bool = False,
    implementation: str = "auto",
) -> tuple[Float[Array, "b h q e"], Float[Array, "b h q k"] | None]:
    """softmax((q·k + relative) / sqrt(e)) · v over the visible keys, and the weights if asked."""
    needs_scores = {
        "attention weights were asked for": return_weights,
        "relative positions add to the scores": relative is not None,
        "a head mask multiplies the weights": head_mask is not None,
        "the mask is causal or per query": not visible.simple,
    }
    reasons = [reason for reason, true in needs_scores.items() if true]
    chosen = choose(implementation, query.dtype.name, query.shape[2], key.shape[2],
                    query.shape[3], tuple(reasons), dropout is not None,
                    visible.segments is not None, backend.current(), backend.kind())  # fmt: skip
    if chosen == "cudnn":
        return _cudnn(query, key, value, visible), None
    if chosen == "splash":
        return _splash(query, key, value, visible), None
    if chosen == "fused":
        return _fused(query, key, value, visible, dropout), None
    return _xla(query, key, value, visible.mask, relative, head_mask, dropout)


@functools.lru_cache(maxsize=256)  # also what makes each choice be logged once
def choose(
    requested: str,
    dtype: str,
    q_len: int,
    k_len: int,
    head_dim: int,
    needs_scores: tuple[str, ...],
    dropout: bool,
    packed: bool,
    platform: str,
    device: str,
) -> str:
    """The implementation for one shape of attention; says once in the log what it chose and why."""
    for home, kernels in KERNELS.items():
        if requested in kernels and platform != home:
            raise ValueError(f"attention={requested!r} needs a {home.upper()}, but this is a "
                             f"{platform.upper()}; use attention='auto', or 'xla', which runs "
                             "everywhere")  # fmt: skip

    def against(kernel: str) -> list[str]:
        found = list(needs_scores)
        if kernel == "cudnn":
            if dtype not in ("bfloat16", "float16"):
                found.append(f"cuDNN attention has no {dtype}")
            if head_dim % 8:
                found.append(f"cuDNN attention needs a head size in multiples of 8, not {head_dim}")
            if requested == "auto" and packed:
                found.append("cuDNN attention would need the dense mask of a packed row")
        if kernel == "splash" and (q_len % SPLASH_BLOCK or k_len % SPLASH_BLOCK):
            found.append(f"splash attention needs lengths in multiples of {SPLASH_BLOCK}")
        if kernel == "fused":
            # Pallas, which takes a moment to import, is only for those who have a TPU.
            from jbert.fused_attention import why_not

            found += why_not(dtype, q_len, k_len, head_dim)
        elif dropout:
            found.append("dropout of attention weights is on")
        if device in OLD_TPUS and (kernel == "fused" or kernel == "splash" and dtype == "bfloat16"):
            found.append(f"there is no {kernel} attention in {dtype} for a {device}")
        if requested == "auto" and k_len < FLASH_FROM.get(kernel, 0):
            found.append(f"{k_len} keys are fewer than {FLASH_FROM[kernel]}")
        return found

    chosen, refused = "xla", []
    for kernel in KERNELS.get(platform, ()) if requested == "auto" else (requested,):
        reasons = against(kernel) if kernel != "xla" else []
        if not reasons:
            chosen = kernel
            break
        refused.append(f"; not {kernel}: {', '.join(reasons)}")
    if platform != "cpu":  # where there is nothing to choose between
        logger.info("attention: %s for %s, %d queries, %d keys%s", chosen, dtype, q_len, k_len,
                    "".join(refused))  # fmt: skip
    return chosen


def _xla(query, key, value, mask, relative, head_mask, dropout):
    # Scores, mask and softmax are float32 whatever the compute dtype: in bfloat16 the differences
    # between large scores vanish, and in float16 a mask's fill value overflows.
    scores = wide_einsum("bhqe,bhke->bhqk", query, key)
    if relative is not None:
        scores = scores + relative
    scores = scores * (query.shape[-1] ** -0.5)
    if mask is not None:
        # A finite fill keeps a row without any visible key finite (uniform), and its gradients.
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)
    if head_mask is not None:
        # In float32, as its gradient is a sum over all there is.
        masked = weights.astype(jnp.float32) * head_mask[None, :, None, None].astype(jnp.float32)
        weights = masked.astype(value.dtype)
    context = wide_einsum("bhqk,bhke->bhqe", weights, value).astype(value.dtype)
    return context, weights


def wide_einsum(letters: str, one: Array, other: Array) -> Float[Array, "..."]:
    """With sums of float32, whatever it multiplies."""
    one, other = backend.as_multiplied(one), backend.as_multiplied(other)
    y = jnp.einsum(letters, one, other, preferred_element_type=jnp.float32)
    return checkpoint_name(y, MAP)


def _cudnn(query, key, value, visible: Visible, implementation: Any = "cudnn"):
    # jax.nn's convention is [b, l, h, e]; XLA folds these transposes into the projections.
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    flash = functools.partial(jax.nn.dot_product_attention, implementation=implementation)

    def by_mask(q, k, v):
        if visible.mask is None:
            return flash(q, k, v)
        full = (q.shape[0], 1, q.shape[1], k.shape[1])
        return flash(q, k, v, mask=jnp.broadcast_to(visible.mask, full))

    if visible.keys is None or visible.segments is not None:
        return jnp.swapaxes(by_mask(q, k, v), 1, 2)
    # Sequence lengths spare cuDNN the mask (and, in the backward pass, a gradient for it), but can
    # only say "the first n keys": true of right padding, checked here because masks are traced.
    lengths = jnp.sum(visible.keys, axis=-1, dtype=jnp.int32)
    prefix = jnp.arange(k.shape[1])[None] < lengths[:, None]

    def by_length(q, k, v):
        return flash(q, k, v, key_value_seq_lengths=lengths)

    right_padded = jnp.all(prefix == visible.keys) & jnp.all(lengths > 0)
    return jnp.swapaxes(jax.lax.cond(right_padded, by_length, by_mask, q, k, v), 1, 2)


def _splash(query, key, value, visible: Visible, interpret: bool = False):
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    b, _, q_len, e = query.shape
    k_len = key.shape[2]
    query_ids, key_ids = _ids_of(visible, b, q_len, k_len)
    scaled = query * np.asarray(e**-0.5, query.dtype)

    def run(q, k, v, query_ids, key_ids):
        everything = masks.MultiHeadMask([masks.FullMask((q_len, k_len))] * q.shape[1])
        kernel = kernels.make_splash_mha(
            everything, head_shards=1, q_seq_shards=1, interpret=interpret
        )
        one = lambda q, k, v, qi, ki: kernel(q, k, v, kernels.SegmentIds(q=qi, kv=ki))  # noqa: E731
        return jax.vmap(one)(q, k, v, query_ids, key_ids)

    heads, ids = ("batch", "heads"), ("batch",)
    arrays = (scaled, key, value, query_ids, key_ids)
    attended: Any = on_own_shares(run, arrays, (heads, heads, heads, ids, ids))
    return attended.astype(value.dtype)


def _fused(query, key, value, visible: Visible, dropout, interpret: bool = False):
    from jbert.fused_attention import attend_fused

    b, h, q_len, _ = query.shape
    query_ids, key_ids = _ids_of(visible, b, q_len, key.shape[2])
    rate, streams = 0.0, jnp.zeros((b, h, 2), jnp.int32)
    if dropout is not None:
        rate = dropout.rate
        streams = dropout.streams(query.shape)
    heads, ids = ("batch", "heads"), ("batch",)
    arrays = (query, key, value, query_ids, key_ids, streams)
    run = functools.partial(attend_fused, rate=rate, interpret=interpret)
    attended: Any = on_own_shares(run, arrays, (heads, heads, heads, ids, ids, heads))
    return attended


def _ids_of(visible: Visible, b: int, q_len: int, k_len: int):
    """Ids such that "same id" means "visible" and no query is left without a key.

    The kernels divide by zero for a query that sees nothing, so padding that sees nothing in the
    dense form attends to other padding here: nobody reads what it computes.
    """
    if visible.segments is not None:
        ids = visible.segments
        if visible.keys is not None:
            ids = jnp.where(visible.keys, ids, 0)
        return ids, ids
    keys = jnp.ones((b, k_len), bool) if visible.keys is None else visible.keys
    nothing = ~jnp.any(keys, axis=-1, keepdims=True)
    return jnp.ones((b, q_len), jnp.int32), (keys | nothing).astype(jnp.int32)
