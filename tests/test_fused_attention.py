"""The kernel that drops attention weights, interpreted, against plain operations."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jbert import attention, backend, fused_attention
from jbert.attention import Visible, _xla, choose
from jbert.dropout import Dropout, kept, streams_of
from jbert.execution import Execution
from jbert.fused_attention import attend_fused, why_not
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
    return streams_of(jax.random.key(seed), (b, heads))


def plainly(q, k, v, mask, chosen, rate):
    def dropout(weights):
        stay = kept(chosen, (q.shape[2], k.shape[2]), rate)
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

    @jax.jit
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
        return attention._fused(q, k, v, seen, Dropout(RATE, leading=2), True)


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


def test_a_whole_model_learns_as_by_plain_operations(on_a_tpu):
    expected = gradients(Execution(attention="xla"))
    assert_same_gradients(gradients(Execution()), expected)


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
