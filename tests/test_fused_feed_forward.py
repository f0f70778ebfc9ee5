"""The kernel of MobileBERT's feed-forward layers, interpreted, against plain operations."""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jbert import backend, fused_feed_forward
from jbert.execution import Execution
from jbert.fused_feed_forward import Weights, feed_forward, takes, why_not
from jbert.plan.kernels import kernels_of
from jbert.plan.program import traced
from jbert.plan.work import Work
from jbert.sharding import activations_on, make_mesh
from jbert.stack import stack_layers

WIDTH = 128


@pytest.fixture(autouse=True)
def forget_choices():
    takes.cache_clear()
    yield
    takes.cache_clear()


def normal(*shape, seed, scale=1.0):
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    return jnp.asarray(values, jnp.float32)


def weights(layers, hidden):
    return Weights(
        normal(layers, WIDTH, hidden, seed=1, scale=0.08), normal(layers, hidden, seed=2),
        normal(layers, hidden, WIDTH, seed=3, scale=0.06), normal(layers, WIDTH, seed=4),
        1 + normal(layers, WIDTH, seed=5, scale=0.1), normal(layers, WIDTH, seed=6),
    )  # fmt: skip


def plainly(x, w):
    up_bias, down_bias, scale, shift = (v[:, None, None] for v in (w[1], w[3], w[4], w[5]))
    for i in range(len(w.up)):
        hidden = jax.nn.relu(x @ w.up[i] + up_bias[i])
        x = (hidden @ w.down[i] + down_bias[i] + x) * scale[i] + shift[i]
    return x


def with_gradients(function, x, w):
    weight = normal(*x.shape, seed=9)
    scalar = lambda x, w: jnp.sum(function(x, w).astype(jnp.float32) * weight)  # noqa: E731
    return jax.jit(lambda x, w: (function(x, w), jax.grad(scalar, (0, 1))(x, w)))(x, w)


def distances(found, expected):
    """By length: what is rounded in another way may come to lie on the other side of relu. What has
    no gradient but for rounding, as biases of keys, is held against the largest."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    pairs = [(np.asarray(one, np.float32), np.asarray(two, np.float32)) for one, two in pairs]
    least = 1e-3 * max(np.linalg.norm(two) for _, two in pairs)
    return [np.linalg.norm(one - two) / max(np.linalg.norm(two), least) for one, two in pairs]


@pytest.mark.parametrize("device", ["TPU v4", "TPU v5"])
@pytest.mark.parametrize(
    ("rows", "length", "layers", "hidden"),
    [
        (2, 128, 3, 256),  # one block, or one for each core
        (3, 128, 1, 128),  # blocks that two cores cannot share
        (8, 64, 4, 512),  # several blocks a core
    ],
)
def test_values_and_gradients_are_those_of_plain_operations(rows, length, layers, hidden, device):
    x, w = normal(rows, length, WIDTH, seed=0), weights(layers, hidden)
    with backend.lowering_for("tpu", device):
        found = with_gradients(functools.partial(feed_forward, interpret=True), x, w)
    assert max(distances(found, with_gradients(plainly, x, w))) < 2e-6


def test_bfloat16_is_nearer_than_plain_operations_in_it():
    x, w = normal(2, 256, WIDTH, seed=0), weights(2, 256)
    exact = with_gradients(plainly, x, w)
    found = with_gradients(functools.partial(feed_forward, interpret=True), x.astype("bfloat16"), w)
    plain = with_gradients(plainly, *jax.tree.map(lambda v: v.astype("bfloat16"), (x, w)))
    assert found[0].dtype == found[1][0].dtype == "bfloat16"
    assert found[1][1].up.dtype == "float32"
    for near, far in zip(distances(found, exact), distances(plain, exact), strict=True):
        assert 0 < near < far


# -- in the library -------------------------------------------------------------------------


@pytest.fixture
def interpreted(monkeypatch):
    """Of what shape the inputs are that a program gives the kernel, which is interpreted here."""
    calls = []

    def kernel(x, w):
        calls.append(x.shape)
        return feed_forward(x, w, interpret=True)

    monkeypatch.setattr(fused_feed_forward, "feed_forward", kernel)
    return calls


def gradients(execution, platform, mesh=None, **changes):
    """Of a small model in training."""
    sizes = {"intra_bottleneck_size": WIDTH, "intermediate_size": 256,
             "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 64,
             **changes}  # fmt: skip
    _, params = tiny.model("mobilebert", "masked_lm", **sizes)
    module, _ = tiny.model("mobilebert", "masked_lm", execution, **sizes)
    # Small enough that attention is not all on one key: its derivative would be rounding alone.
    params = tiny.random_params(params, scale=0.05)
    params = stack_layers(params) if execution.scan_layers else params
    inputs = tiny.batch("mobilebert", "masked_lm", length=64)
    inputs = {name: jnp.concatenate([x, x, x[:2]]) for name, x in inputs.items()}

    def loss(params):
        rngs = {"dropout": jax.random.key(5)}
        out: Any = module.apply({"params": params}, **inputs, deterministic=False, rngs=rngs)
        return (out.logits.astype(jnp.float32) ** 2).mean()

    with backend.lowering_for(platform), activations_on(mesh):
        return jax.jit(jax.value_and_grad(loss))(params)


def assert_same_gradients(found, expected):
    assert max(distances(found, expected)) < 1e-5


@pytest.mark.parametrize(("remat", "scan"), [("none", False), ("none", True), ("full", True)])
def test_a_whole_model_learns_as_by_plain_operations(remat, scan, interpreted):
    execution = Execution(attention="xla", remat=remat, scan_layers=scan)
    expected = gradients(execution, "cpu")
    assert not interpreted
    assert_same_gradients(gradients(execution, "tpu"), expected)
    assert set(interpreted) == {(8, 64, WIDTH)}


@pytest.mark.parametrize("sizes", [(4, 1, 1), (2, 2, 1)])
def test_devices_take_their_own_rows(sizes, interpreted):
    execution = Execution(attention="xla")
    mesh = make_mesh(*sizes, devices=jax.devices()[:4])
    expected = gradients(execution, "cpu", num_feedforward_networks=2)
    found = gradients(execution, "tpu", mesh, num_feedforward_networks=2)
    assert_same_gradients(found, expected)
    assert set(interpreted) == {(2, 64, WIDTH)}


@pytest.mark.parametrize(
    "changes",
    [
        {"normalization_type": "layer_norm"},
        {"use_bottleneck": False, "hidden_size": WIDTH},
        {"hidden_act": "gelu"},
        {"intermediate_size": 200},
    ],
)
def test_other_layers_are_computed_as_before(changes, interpreted):
    gradients(Execution(attention="xla"), "tpu", **changes)
    assert not interpreted


@pytest.mark.parametrize(("remat", "runs"), [("none", 2), ("dots_no_batch", 2), ("full", 4)])
def test_only_full_rematerialisation_computes_the_layers_twice(remat, runs):
    config = tiny.config("mobilebert", intra_bottleneck_size=WIDTH, intermediate_size=256,
                         max_position_embeddings=64, num_hidden_layers=2)  # fmt: skip
    execution = Execution(attention="xla", remat=remat, scan_layers=True)
    work = Work("tiny", config, "masked_lm", 2, 64, execution, predictions=5)
    found = kernels_of(traced(work, jax.devices("cpu")[:1]).jaxpr, 128)
    # The backward pass has a kernel of its own, in as many layers.
    assert sum(times for times, _ in found) == runs + 2


def test_split_layers_are_computed_as_before(interpreted):
    mesh = make_mesh(1, 1, 2, devices=jax.devices()[:2])
    gradients(Execution(attention="xla"), "tpu", mesh)
    assert not interpreted


GOOD = ("bfloat16", 128, 512, 4, 4096, "TPU v5")


def test_what_the_kernel_is_not_for(caplog):
    with caplog.at_level(logging.INFO, "jbert"):
        assert takes(*GOOD) and takes(*GOOD)
    assert caplog.messages == ["feed-forward layers: fused"]
    for place, value, reason in [
        (0, "float16", "no float16"),
        (1, 256, "needs a width of 128"),
        (2, 500, "multiples of it within, not 128, 500"),
        (3, 5, "5 × 512 is wider than 2048"),
        (4, 4000, "multiples of 128"),
        (5, "TPU v3", "none for a TPU v3"),
    ]:
        asked: Any = (*GOOD[:place], value, *GOOD[place + 1 :])
        (found,) = why_not(*asked)
        assert reason in found
        with caplog.at_level(logging.INFO, "jbert"):
            assert not takes(*asked)
        assert f"xla; not fused: {found}" in caplog.text
