"""Softmax cross-entropy, also without ever holding all of the logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jbert.sharding import own_rows

IGNORE = -100
# The logits that a device has at once where they are computed in chunks: 64 MB of float32.
CHUNK = 1 << 24


def token_losses(
    logits: Float[Array, "... c"], labels: Int[Array, "..."], ignore: int = IGNORE
) -> Float[Array, "..."]:
    """-log p(label), 0 where the label is to be ignored, NaN where it is no class."""
    kept = labels != ignore
    # The ignored label is no valid index: replace it before the lookup, or it gives NaN.
    safe = jnp.where(kept, labels, 0)
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, safe[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - picked
    # A label beyond the classes cannot be checked while tracing; NaN says so, a clamp would not.
    in_range = (safe >= 0) & (safe < logits.shape[-1])
    return jnp.where(kept, jnp.where(in_range, losses, jnp.nan), 0.0)


def chunks_of(rows: int, positions: int, vocab_size: int) -> tuple[int, int]:
    """Into how many chunks, of how many positions of every row each.

    Rows stay whole: they may be split over devices, each of which holds the logits of its own.
    """
    most = max(1, CHUNK // (own_rows(rows) * vocab_size))
    chunks = max(1, -(-positions // most))
    return chunks, -(-positions // chunks)


def chunked_losses(
    logits_of: Callable[[Float[Array, "b k f"]], Float[Array, "b k v"]],
    x: Float[Array, "b k f"],
    labels: Int[Array, "b k"],
    vocab_size: int,
) -> Float[Array, "b k"]:
    """`token_losses(logits_of(x), labels)`, some positions of every row at a time.

    The backward pass computes each chunk's logits again, so that memory does not grow with the
    vocabulary.
    """
    b, k, features = x.shape
    chunks, width = chunks_of(b, k, vocab_size)
    if chunks == 1:
        return token_losses(logits_of(x), labels)
    fill = chunks * width - k
    x = jnp.pad(x, ((0, 0), (0, fill), (0, 0))).reshape(b, chunks, width, features)
    labels = jnp.pad(labels, ((0, 0), (0, fill)))
    labels = labels.reshape(b, chunks, width)

    @jax.checkpoint
    def losses(chunk):
        return token_losses(logits_of(chunk[0]), chunk[1])

    found = jax.lax.map(losses, (jnp.swapaxes(x, 0, 1), jnp.swapaxes(labels, 0, 1)))
    return jnp.swapaxes(found, 0, 1).reshape(b, -1)[:, :k]
