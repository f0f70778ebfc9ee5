"""Dropout whose choices are a hash of row and place: every device makes those of its own rows.

XLA does not split the draws of rbg and philox: on several devices each of them would draw for the
whole batch, and write it all to memory. A hash is split as any other arithmetic, is done within the
loop that reads it, and chooses the same on any number of devices of any kind.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jbert.execution import made_again


class Dropout(nn.Module):
    """As nn.Dropout.

    leading: of how many dimensions each entry makes its own choices: 1 is rows, 2 rows and heads.
    """

    rate: float
    deterministic: bool = False
    leading: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.deterministic or self.rate == 0.0:
            return x
        if self.rate == 1.0:
            return jnp.zeros_like(x)

        @made_again
        def dropped(x: Array, streams: Array) -> Array:
            stay = kept(streams, x.shape[self.leading :], self.rate)
            return jnp.where(stay, x / (1.0 - self.rate), jnp.zeros_like(x))

        return dropped(x, self.streams(x.shape))

    def streams(self, shape: tuple[int, ...]) -> Int[Array, "..."]:
        """What `kept` takes, for an array of this shape."""
        return streams_of(self.make_rng("dropout"), shape[: self.leading])


def streams_of(rng: Any, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Two numbers for each entry, which tell its choices from those of all others."""
    return jax.lax.bitcast_convert_type(jax.random.bits(rng, (*shape, 2), jnp.uint32), jnp.int32)


def kept(streams: Int[Array, "..."], shape: tuple[int, ...], rate: float) -> Bool[Array, "..."]:
    """Which values stay, of an array of this shape for each entry."""
    place = jnp.zeros((1,) * len(shape), jnp.int32)
    for axis, size in enumerate(shape):
        along = [size if other == axis else 1 for other in range(len(shape))]
        index = jax.lax.broadcasted_iota(jnp.int32, along, axis)
        place = place + index * wrapped(FIRST * math.prod(shape[axis + 1 :]))
    first, second = (
        streams[..., i].reshape(*streams.shape[:-1], *(1,) * len(shape)) for i in range(2)
    )
    return mixed(place.reshape(*(1,) * (streams.ndim - 1), *shape) + first, second) >= least(rate)


def wrapped(x: int) -> int:
    """As 32 bits with a sign."""
    return (x + 2**31) % 2**32 - 2**31


# Odd factors that spread a bit over all higher ones (those of MurmurHash3 and xxHash).
FIRST, _SECOND, _THIRD = wrapped(0x9E3779B1), wrapped(0x85EBCA6B), wrapped(0xC2B2AE35)


def mixed(x: Array, second: Any) -> Array:
    """A permutation of 32 bits for each `second`, so that a rate is exact; the highest are best."""
    x = (x ^ jax.lax.shift_right_logical(x, jnp.full_like(x, 16)) ^ second) * _SECOND
    return (x ^ jax.lax.shift_right_logical(x, jnp.full_like(x, 15))) * _THIRD


def least(rate: float) -> int:
    """The least hash that stays, of numbers with a sign."""
    return min(round(rate * 2**32), 2**32 - 1) - 2**31
