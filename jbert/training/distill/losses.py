"""What a student is measured by beside its teacher: a value for each prediction, query or token.

All of it in float32. `total` sums the values that count, so that batches can be added up.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jbert.cross_entropy import chunks_of
from jbert.losses import Term

# The smallest probability that is told from 0, for logarithms.
TINY = float(jnp.finfo(jnp.float32).tiny)
# Added under the roots of norms, as torch's CosineEmbeddingLoss and MobileBERT's transfer add it.
EPS = 1e-12


def total(values: Float[Array, "..."], kept: Float[Array, "..."], scale: float = 1.0) -> Term:
    """The values that are kept, each as often as its weight says; the others may be anything."""
    kept = jnp.broadcast_to(kept, values.shape)
    return Term(jnp.sum(jnp.where(kept == 0, 0.0, values * kept)), jnp.sum(kept), scale)


# -- predictions --------------------------------------------------------------------------------


def divergence(
    student: Float[Array, "... c"], teacher: Float[Array, "... c"], temperature: float
) -> Float[Array, "..."]:
    """KL(teacher ‖ student) of softmax(logits / temperature), times temperature².

    The square keeps gradients as large as those of hard labels at any temperature (Hinton et al.
    2015, arXiv:1503.02531).
    """
    found = jax.nn.log_softmax(student.astype(jnp.float32) / temperature, axis=-1)
    wanted = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature, axis=-1)
    return jnp.sum(jnp.exp(wanted) * (wanted - found), axis=-1) * temperature**2


def binary_divergence(
    student: Float[Array, "..."], teacher: Float[Array, "..."], temperature: float
) -> Float[Array, "..."]:
    """The same of two classes, yes or no, with one logit for both."""

    def both(logits):
        return jnp.stack([logits, jnp.zeros_like(logits)], axis=-1)

    return divergence(both(student), both(teacher), temperature)


def chunked_divergence(
    student_logits: Callable[[Float[Array, "b k d"]], Float[Array, "b k v"]],
    teacher_logits: Callable[[Float[Array, "b k f"]], Float[Array, "b k v"]],
    student: Float[Array, "b l d"],
    teacher: Float[Array, "b l f"],
    temperature: float,
    vocab_size: int,
) -> Float[Array, "b l"]:
    """`divergence` at every position without ever holding all logits, some positions at a time."""
    b, length = student.shape[:2]
    chunks, width = chunks_of(b, length, vocab_size)

    def cut(x):
        x = jnp.pad(x, ((0, 0), (0, chunks * width - length), (0, 0)))
        return jnp.swapaxes(x.reshape(b, chunks, width, x.shape[-1]), 0, 1)

    @jax.checkpoint
    def one(chunk):
        return divergence(student_logits(chunk[0]), teacher_logits(chunk[1]), temperature)

    found = jax.lax.map(one, (cut(student), cut(teacher)))
    return jnp.swapaxes(found, 0, 1).reshape(b, -1)[:, :length]


# -- hidden states ------------------------------------------------------------------------------


def cosine_distance(
    student: Float[Array, "... d"], teacher: Float[Array, "... d"]
) -> Float[Array, "..."]:
    """1 - cos of the angle between two vectors; 1 beside a vector of zeros."""
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    product = jnp.sum(student * teacher, axis=-1)
    # One after the other: of MobileBERT's vectors the product of both squares is beyond float32.
    for x in (student, teacher):
        product = product * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1) + EPS)
    return 1.0 - product


def squared_error(
    student: Float[Array, "... d"], teacher: Float[Array, "... d"]
) -> Float[Array, "..."]:
    """The mean over features."""
    difference = student.astype(jnp.float32) - teacher.astype(jnp.float32)
    return jnp.mean(jnp.square(difference), axis=-1)


def normalised(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Layer norm without scale and bias."""
    mean, variance = _moments(x)
    return (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(variance + EPS)


def normalised_error(
    student: Float[Array, "... d"], teacher: Float[Array, "... d"]
) -> Float[Array, "..."]:
    """Between MobileBERT's feature maps."""
    return squared_error(normalised(student), normalised(teacher))


def mean_error(
    student: Float[Array, "... d"], teacher: Float[Array, "... d"]
) -> Float[Array, "..."]:
    """The squared difference of the means over features."""
    return jnp.square(_moments(student)[0] - _moments(teacher)[0])[..., 0]


def variance_error(
    student: Float[Array, "... d"], teacher: Float[Array, "... d"]
) -> Float[Array, "..."]:
    """The difference of the variances over features."""
    return jnp.abs(_moments(student)[1] - _moments(teacher)[1])[..., 0]


def _moments(x: Array) -> tuple[Array, Array]:
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    return mean, jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)


# -- attention ----------------------------------------------------------------------------------


def attention_divergence(
    student: Float[Array, "b h q k"], teacher: Float[Array, "b h q k"]
) -> Float[Array, "b h q"]:
    """KL(teacher ‖ student) of each query's weights."""
    found, wanted = _log(student), _log(teacher)
    return jnp.sum(teacher.astype(jnp.float32) * (wanted - found), axis=-1)


def score_error(
    student: Float[Array, "b h q k"],
    teacher: Float[Array, "b h q k"],
    visible: Bool[Array, "b #q k"],
) -> Float[Array, "b h q"]:
    """The mean squared difference of the scores behind each query's weights.

    Scores are known from the weights but for what is added to all of a query's, which the softmax
    does not see: both are compared with their means over the visible keys taken off.
    """
    there = visible[:, None]
    count = jnp.maximum(jnp.sum(there, axis=-1, keepdims=True), 1)

    def centred(weights):
        scores = jnp.where(there, _log(weights), 0.0)
        return scores - jnp.sum(scores, axis=-1, keepdims=True) / count

    difference = jnp.where(there, centred(student) - centred(teacher), 0.0)
    return jnp.sum(jnp.square(difference), axis=-1) / count[..., 0]


def _log(weights: Array) -> Array:
    return jnp.log(jnp.maximum(weights.astype(jnp.float32), TINY))
