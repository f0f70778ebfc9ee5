"""Dropout by a hash: what stays, how evenly, and on how many devices."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jbert.dropout import Dropout, kept, least, mixed, streams_of
from jbert.sharding import make_mesh

KEY = jax.random.key(3)


def dropped(x, rate=0.1, key=KEY, **options) -> Any:
    return Dropout(rate, **options).apply({}, x, rngs={"dropout": key})


def streams(b, heads, seed=0):
    return streams_of(jax.random.key(seed), (b, heads))


# -- as nn.Dropout ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_what_stays_is_scaled_as_flax_scales_it(rate, dtype):
    x = jax.random.normal(jax.random.key(0), (4, 9, 32)).astype(dtype)
    found = dropped(x, rate)
    theirs = nn.Dropout(rate, deterministic=False).apply({}, x, rngs={"dropout": KEY})
    both = (found != 0) & (theirs != 0)
    assert found.dtype == theirs.dtype == x.dtype and both.any() and (found == 0).any()
    np.testing.assert_array_equal(found[both], theirs[both])


def test_nothing_is_dropped_and_no_key_needed_where_it_is_off():
    x = jnp.arange(6.0).reshape(2, 3)
    for off in (Dropout(0.0), Dropout(0.5, deterministic=True)):
        np.testing.assert_array_equal(off.apply({}, x), x)
    np.testing.assert_array_equal(dropped(x, 1.0), jnp.zeros_like(x))
    with pytest.raises(Exception, match="dropout"):
        Dropout(0.5).apply({}, x)


def test_a_gradient_passes_where_a_value_stayed():
    x = jnp.ones((3, 5, 7))
    stayed, gradient = jax.value_and_grad(lambda x: dropped(x, 0.3).sum())(x)
    np.testing.assert_allclose(gradient, dropped(x, 0.3), rtol=1e-6)
    assert float(stayed) == pytest.approx(float(gradient.sum()), rel=1e-5)


@pytest.mark.parametrize("shape", [(5,), (3, 8), (2, 3, 4, 5)])
def test_any_shape_and_other_choices_by_another_key(shape):
    x = jnp.ones((64, *shape))
    one, two = dropped(x, 0.5), dropped(x, 0.5, jax.random.key(4))
    assert one.shape == x.shape and 0.3 < float((one == 0).mean()) < 0.7
    assert (one != two).any()


# -- on several devices ----------------------------------------------------------------------


@pytest.mark.parametrize("spec", [("data",), (None, None, "data"), ("data", None, "tensor")])
def test_each_device_chooses_for_its_own_share_what_one_device_would(spec):
    mesh = make_mesh(4, 1, 2)
    x = jax.random.normal(jax.random.key(0), (8, 64, 32))
    shares = NamedSharding(mesh, PartitionSpec(*spec))
    run = jax.jit(dropped, in_shardings=shares, out_shardings=shares).lower(x).compile()
    np.testing.assert_array_equal(run(jax.device_put(x, shares)), jax.jit(dropped)(x))
    # Nothing of the size of the batch is made or sent.
    assert not re.search("all-(gather|reduce|to-all)|collective", run.as_text())
    assert run.memory_analysis().temp_size_in_bytes < x.nbytes / 8


def test_rows_and_heads_choose_for_themselves():
    x = jnp.ones((3, 4, 16, 32))
    layer = Dropout(0.5, leading=2)
    own = layer.apply({}, x.shape, rngs={"dropout": KEY}, method="streams")
    found = np.asarray(dropped(x, 0.5, leading=2) != 0)
    np.testing.assert_array_equal(found, kept(own, (16, 32), 0.5))
    assert len({share.tobytes() for share in found.reshape(12, -1)}) == 12


# -- how evenly ------------------------------------------------------------------------------


def test_hidden_states_are_dropped_evenly():
    rate = 0.1
    stay = np.asarray(dropped(jnp.ones((16, 128, 768)), rate)) != 0
    deviation = np.sqrt(rate * (1 - rate) / stay.size)
    for axis in range(3):
        share = 1 - stay.mean(axis=tuple(i for i in range(3) if i != axis))
        assert np.abs(share - rate).max() <= 5 * deviation * np.sqrt(share.size)
    # A value and the one beside it, along each axis.
    away = stay - (1 - rate)
    for axis in range(3):
        beside = (away * np.roll(away, 1, axis)).mean() / (rate * (1 - rate))
        assert abs(beside) < 4.5 / np.sqrt(stay.size), axis


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 1e-3])
def test_as_many_are_dropped_as_the_rate_says(rate):
    stay = np.asarray(kept(streams(4, 4), (256, 256), rate))
    deviation = np.sqrt(rate * (1 - rate) / stay.size)
    assert abs(1 - stay.mean() - rate) <= 4 * deviation
    # No row, head, query or key is spared or singled out.
    for axis in range(4):
        others = tuple(i for i in range(4) if i != axis)
        share = 1 - stay.mean(axis=others)
        assert np.abs(share - rate).max() <= 5 * deviation * np.sqrt(share.size)


def test_the_rate_is_exact_over_all_the_numbers_that_there_are():
    # A hash of 32 bits that never meets itself takes every number once.
    some = jnp.arange(2**20, dtype=jnp.int32) * 4093
    assert len(np.unique(mixed(some, jnp.int32(77)))) == 2**20
    for rate in (0.0, 0.1, 0.5, 1 / 3):
        assert (least(rate) + 2**31) / 2**32 == pytest.approx(rate, abs=2**-32)


def test_no_two_weights_of_a_map_are_dropped_together_more_often_than_by_chance():
    # Of the map and itself moved by any number of queries and keys.
    rate, n = 0.1, 256
    stay = np.asarray(kept(streams(2, 4), (n, n), rate)).reshape(-1, n, n) - (1 - rate)
    together = np.fft.irfft2(np.abs(np.fft.rfft2(stay)) ** 2) / (n * rate * (1 - rate))
    together[:, 0, 0] = 0
    assert np.abs(together).max() < 6
    assert np.abs(together.sum(0) / np.sqrt(len(stay))).max() < 5.5
    assert together.std() < 1.01


def test_rows_heads_seeds_and_squares_are_independent():
    dropped = 0.5 - np.asarray(kept(streams(3, 4), (256, 256), 0.5), np.float32)
    other = 0.5 - np.asarray(kept(streams(3, 4, seed=1), (256, 256), 0.5), np.float32)
    # Corners of squares: what a hash that mixes queries and keys too little gives away.
    upper, lower = dropped[:, :, :-1], dropped[:, :, 1:]
    squares = upper[..., :-1] * upper[..., 1:] * lower[..., :-1] * lower[..., 1:]
    pairs = {
        "seeds": dropped * other,
        "rows": dropped[1:] * dropped[:-1],
        "heads": dropped[:, 1:] * dropped[:, :-1],
        "squares": 4 * squares,
    }
    for name, product in pairs.items():
        assert abs(product.mean()) < 4.5 * 0.25 / np.sqrt(product.size), name


def test_each_bit_of_a_stream_changes_half_of_the_choices():
    base = streams(1, 1)
    stay = np.asarray(kept(base, (256, 256), 0.5))
    for word in range(2):
        for bit in (0, 7, 16, 23):
            flip = jax.lax.bitcast_convert_type(jnp.uint32(1 << bit), jnp.int32)
            flipped = base.at[0, 0, word].set(base[0, 0, word] ^ flip)
            changed = (np.asarray(kept(flipped, (256, 256), 0.5)) != stay).mean()
            assert 0.49 < changed < 0.51, (word, bit)
