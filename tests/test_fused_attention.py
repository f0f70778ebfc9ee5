"""The kernel that drops attention weights, interpreted, against plain operations."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import quick_jit

from jbert import attention, backend, fused_attention
from jbert.attention import Visible, _xla, choose
from jbert.execution import Execution
from jbert.fused_attention import attend_fused, kept, streams_of, why_not
from jbert.sharding import activations_on, make_mesh

RATE = 0.1


@pytest.fixture(autouse=True)
def forget_choices():
    choose.cache_clear()
    yield
    choose.cache_clear()


def normal(*shape, seed, dtype="float32"):
    values = np.random.default_rng(seed).standard_normal(shape)
    return jnp.asarray(values, jnp.float32).astype(dtype)


def streams(b, heads, seed=0):
    return streams_of(jax.random.key(seed), b, heads)


def plainly(q, k, v, mask, chosen, rate):
    def dropout(weights):
        stay = kept(chosen, q.shape[2], k.shape[2], rate)
        return jnp.where(stay, weights / (1.0 - rate), 0).astype(weights.dtype)

    return _xla(q, k, v, mask, None, None, dropout if rate else None)[0]


def assert_alike(q, k, v, query_ids, key_ids, rate, tolerance, real=None):
    """Values, and the gradients of a loss that reads the real positions alone."""
    b, heads, q_len, _ = q.shape
    chosen, weight = streams(b, heads), normal(*q.shape, seed=9)
    if real is not None:
        weight = weight * real[:, None, :, None]
    mask = query_ids[:, None, :, None] == key_ids[:, None, None, :]

    def fused(q, k, v):
        return attend_fused(q, k, v, query_ids, key_ids, chosen, rate, interpret=True)

    def both(function, *inputs):
        scalar = lambda *a: jnp.sum(function(*a).astype(jnp.float32) * weight)  # noqa: E731
        return function(*inputs), *jax.grad(scalar, (0, 1, 2))(*inputs)

    @quick_jit
    def run(q, k, v):
        wide = (x.astype(jnp.float32) for x in (q, k, v))
        plain = functools.partial(plainly, mask=mask, chosen=chosen, rate=rate)
        return both(fused, q, k, v), both(plain, *wide)

    for found, expected in zip(*run(q, k, v), strict=True):
        assert found.dtype == q.dtype
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found.astype(jnp.float32) / scale, expected / scale, rtol=0,
                                   atol=tolerance)  # fmt: skip


@pytest.mark.parametrize(
    ("heads", "size", "q_len", "k_len", "rate"),
    [
        (2, 64, 128, 128, RATE),
        (3, 64, 128, 128, RATE),  # the last block of lanes is half empty
        (5, 32, 128, 128, 0.5),
        (1, 128, 128, 128, RATE),
        (2, 16, 128, 256, RATE),
        (2, 16, 384, 128, RATE),
        (2, 64, 128, 128, 0.0),
        (2, 16, 128, 128, 1.0),
    ],
)
def test_values_and_gradients_are_those_of_plain_operations(heads, size, q_len, k_len, rate):
    q = normal(2, heads, q_len, size, seed=0)
    k, v = (normal(2, heads, k_len, size, seed=i) for i in (1, 2))
    query_ids = jnp.ones((2, q_len), jnp.int32)
    key_ids = (jnp.arange(k_len)[None] < jnp.array([[k_len], [37]])).astype(jnp.int32)
    if rate == 1.0:
        found = attend_fused(q, k, v, query_ids, key_ids, streams(2, heads), rate, interpret=True)
        assert not np.any(found)
        return
    assert_alike(q, k, v, query_ids, key_ids, rate, 2e-6)


def test_queries_in_several_parts_make_the_same_choices(monkeypatch):
    monkeypatch.setattr(fused_attention, "_AT_A_TIME", 128 * 256)
    q, k, v = (normal(1, 2, 512, 16, seed=i) for i in range(3))
    ids = jnp.ones((1, 512), jnp.int32)
    assert_alike(q, k[:, :, :256], v[:, :, :256], ids, ids[:, :256], RATE, 2e-6)


def test_bfloat16_is_as_near_as_its_own_rounding():
    # Weights and derivatives of scores are rounded to 8 bits before they are multiplied.
    q, k, v = (normal(2, 2, 128, 64, seed=i, dtype="bfloat16") for i in range(3))
    ids = jnp.ones((2, 128), jnp.int32)
    assert_alike(q, k, v, ids, ids, RATE, 1e-2)


@pytest.mark.parametrize("name", ["left padding", "holes", "packed", "an empty row"])
def test_only_what_is_visible_is_seen(name):
    position = np.arange(128)[None]
    real = position < np.array([[128], [70], [1]])
    ids = {
        "left padding": real[:, ::-1].astype(np.int32),
        "holes": (real & (position % 5 != 2)).astype(np.int32),
        "packed": np.where(real, 1 + (position >= 40), 0),
        "an empty row": (real & (np.arange(3) != 1)[:, None]).astype(np.int32),
    }[name]
    keys = jnp.asarray(ids > 0)
    packed = name == "packed"
    seen = Visible(None, None if packed else keys, jnp.asarray(ids) if packed else None)
    query_ids, key_ids = attention._ids_of(seen, 3, 128, 128)
    q, k, v = (normal(3, 2, 128, 16, seed=i) for i in range(3))
    assert_alike(q, k, v, query_ids, key_ids, RATE, 2e-6, real=ids > 0)


# -- which weights are dropped --------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 1e-3])
def test_as_many_are_dropped_as_the_rate_says(rate):
    stay = np.asarray(kept(streams(4, 4), 256, 256, rate))
    deviation = np.sqrt(rate * (1 - rate) / stay.size)
    assert abs(1 - stay.mean() - rate) <= 4 * deviation
    # No row, head, query or key is spared or singled out.
    for axis in range(4):
        others = tuple(i for i in range(4) if i != axis)
        share = 1 - stay.mean(axis=others)
        assert np.abs(share - rate).max() <= 5 * deviation * np.sqrt(share.size)


def test_the_rate_is_exact_over_all_the_numbers_that_there_are():
    from jbert.fused_attention import _hash, _threshold

    # A hash of 32 bits that never meets itself takes every number once.
    some = jnp.arange(2**20, dtype=jnp.int32) * 4093
    assert len(np.unique(_hash(some, jnp.int32(77)))) == 2**20
    for rate in (0.0, 0.1, 0.5, 1 / 3):
        assert (_threshold(rate) + 2**31) / 2**32 == pytest.approx(rate, abs=2**-32)


def test_no_two_weights_of_a_map_are_dropped_together_more_often_than_by_chance():
    # Of the map and itself moved by any number of queries and keys.
    rate, n = 0.1, 256
    stay = np.asarray(kept(streams(2, 4), n, n, rate)).reshape(-1, n, n) - (1 - rate)
    together = np.fft.irfft2(np.abs(np.fft.rfft2(stay)) ** 2) / (n * rate * (1 - rate))
    together[:, 0, 0] = 0
    assert np.abs(together).max() < 6
    assert np.abs(together.sum(0) / np.sqrt(len(stay))).max() < 5.5
    assert together.std() < 1.01


def test_rows_heads_seeds_and_squares_are_independent():
    dropped = 0.5 - np.asarray(kept(streams(3, 4), 256, 256, 0.5), np.float32)
    other = 0.5 - np.asarray(kept(streams(3, 4, seed=1), 256, 256, 0.5), np.float32)
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
    stay = np.asarray(kept(base, 256, 256, 0.5))
    for word in range(2):
        for bit in (0, 7, 16, 23):
            flip = jax.lax.bitcast_convert_type(jnp.uint32(1 << bit), jnp.int32)
            flipped = base.at[0, 0, word].set(base[0, 0, word] ^ flip)
            changed = (np.asarray(kept(flipped, 256, 256, 0.5)) != stay).mean()
            assert 0.49 < changed < 0.51, (word, bit)


# -- in the library -------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "rows"), [((2, 2, 2), 4), ((4, 1, 2), 3)])
def test_a_mesh_makes_the_choices_of_one_device(sizes, rows):
    q, k, v = (normal(rows, 4, 128, 16, seed=i) for i in range(3))
    seen = Visible(keys=jnp.arange(128)[None] < jnp.array([[128], [100], [7], [1]])[:rows])
    layer = Fused()

    def loss(q, k, v):
        out: Any = layer.apply({}, q, k, v, seen, rngs={"dropout": jax.random.key(3)})
        return (out**2).sum()

    def sharded(q, k, v):
        with activations_on(make_mesh(*sizes)):
            return loss(q, k, v)

    found = jax.jit(jax.value_and_grad(sharded, (0, 1, 2)))(q, k, v)
    expected = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)
    assert_same_gradients(found, expected)


class Fused(nn.Module):
    @nn.compact
    def __call__(self, q, k, v, seen):
        return attention._fused(q, k, v, seen, nn.Dropout(RATE, deterministic=False), True)


@pytest.fixture
def on_a_tpu(monkeypatch):
    """Choose as on a TPU, and interpret what is chosen."""
    kernel = functools.partial(attention._fused, interpret=True)
    monkeypatch.setattr(attention, "_fused", kernel)
    with backend.lowering_for("tpu", "TPU v5"):
        yield


def gradients(execution):
    """Of a small model in training."""
    module, params = tiny.model("bert", "masked_lm", execution, max_position_embeddings=128)
    inputs = tiny.batch("bert", "masked_lm", length=128)
    real = inputs["attention_mask"][..., None]

    def loss(params):
        rngs = {"dropout": jax.random.key(5)}
        out: Any = module.apply({"params": params}, **inputs, deterministic=False, rngs=rngs)
        return (out.logits.astype(jnp.float32) ** 2 * real).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


def assert_same_gradients(found, expected):
    # What has no gradient but for rounding, as biases of keys, is held against the largest.
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6 * scale)


def test_a_whole_model_learns_as_by_plain_operations(on_a_tpu, monkeypatch):
    found = gradients(Execution())

    def plain(query, key, value, visible, dropout):
        chosen = streams_of(dropout.make_rng("dropout"), *query.shape[:2])
        return plainly(query, key, value, visible.mask, chosen, dropout.rate)

    monkeypatch.setattr(attention, "_fused", plain)
    assert_same_gradients(found, gradients(Execution()))


@pytest.mark.parametrize(("remat", "scan"), [("dots_no_batch", False), ("full", True)])
def test_rematerialised_layers_make_the_same_choices_again(remat, scan, on_a_tpu):
    expected = gradients(Execution(scan_layers=scan))
    assert_same_gradients(gradients(Execution(remat=remat, scan_layers=scan)), expected)


def test_what_the_kernel_is_not_for():
    assert not why_not("bfloat16", 512, 512, 64) and not why_not("float32", 128, 1024, 32)
    for arguments, reason in [
        (("float16", 512, 512, 64), "no float16"),
        (("bfloat16", 500, 512, 64), "multiples of 128"),
        (("bfloat16", 512, 130, 64), "multiples of 128"),
        (("bfloat16", 512, 1152, 64), "1024 positions at most"),
        (("bfloat16", 512, 512, 60), "divides 128, not 60"),
    ]:
        (found,) = why_not(*arguments)
        assert reason in found
