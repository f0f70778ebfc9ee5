"""The attention implementations agree, and the right one is chosen and said so."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbert import backend
from jbert.attention import Visible, _cudnn, _ids_of, _splash, _xla, attend, choose
from jbert.inputs import prepare
from jbert.models.bert import BertConfig
from jbert.sharding import activations_on, make_mesh

B, H, L, E = 3, 2, 128, 8
REASON = "attention weights were asked for"
QUIET = {"requested": "auto", "dtype": "bfloat16", "q_len": 512, "k_len": 512, "head_dim": 64,
         "needs_scores": (), "dropout": False, "packed": False, "device": ""}  # fmt: skip


@pytest.fixture(autouse=True)
def forget_choices():
    choose.cache_clear()


# -- the choice -------------------------------------------------------------------------------

CHOICES = [
    # what is asked, on what, with what; the choice, and the reason in the log if it is second best
    ({}, "cpu", "xla", None),
    ({"requested": "xla"}, "cpu", "xla", None),
    ({"requested": "xla"}, "gpu", "xla", None),
    ({"requested": "xla"}, "tpu", "xla", None),
    ({}, "gpu", "cudnn", None),
    ({"dtype": "float16"}, "gpu", "cudnn", None),
    ({"dtype": "float32"}, "gpu", "xla", "no float32"),
    ({"head_dim": 60}, "gpu", "xla", "multiples of 8, not 60"),
    ({"q_len": 255, "k_len": 255}, "gpu", "xla", "255 keys are fewer than 256"),
    ({"q_len": 256, "k_len": 256}, "gpu", "cudnn", None),
    ({"packed": True}, "gpu", "xla", "packed row"),
    ({"needs_scores": (REASON,)}, "gpu", "xla", REASON),
    ({"requested": "cudnn"}, "gpu", "cudnn", None),
    ({"requested": "cudnn", "packed": True}, "gpu", "cudnn", None),
    ({"requested": "cudnn", "k_len": 64, "q_len": 64}, "gpu", "cudnn", None),
    ({"requested": "cudnn", "dtype": "float32"}, "gpu", "xla", "no float32"),
    ({"requested": "cudnn", "needs_scores": (REASON,)}, "gpu", "xla", REASON),
    ({}, "tpu", "fused", None),
    ({"dtype": "float32"}, "tpu", "fused", None),
    ({"packed": True}, "tpu", "fused", None),
    ({"k_len": 128, "q_len": 128}, "tpu", "fused", None),
    ({"k_len": 2048, "q_len": 2048}, "tpu", "splash", "not fused: fused attention takes 1024"),
    ({"head_dim": 96}, "tpu", "splash", "divides 128, not 96"),
    ({"head_dim": 96, "k_len": 384}, "tpu", "xla", "not splash: 384 keys are fewer than 512"),
    ({"k_len": 520, "q_len": 520}, "tpu", "xla", "splash attention needs lengths in multiples"),
    ({"q_len": 500}, "tpu", "xla", "multiples of 128"),
    ({"needs_scores": (REASON,)}, "tpu", "xla", REASON),
    ({"requested": "splash", "k_len": 128, "q_len": 128}, "tpu", "splash", None),
    ({"requested": "splash", "k_len": 130}, "tpu", "xla", "multiples of 128"),
    ({"requested": "splash", "needs_scores": (REASON,)}, "tpu", "xla", REASON),
    ({"dropout": True}, "cpu", "xla", None),
    ({"dropout": True}, "gpu", "xla", "dropout of attention weights is on"),
    ({"dropout": True}, "tpu", "fused", None),
    ({"dropout": True, "k_len": 128, "q_len": 128}, "tpu", "fused", None),
    ({"dropout": True, "packed": True, "dtype": "float32"}, "tpu", "fused", None),
    ({"dropout": True, "k_len": 130}, "tpu", "xla", "multiples of 128"),
    ({"dropout": True, "k_len": 2048}, "tpu", "xla", "1024 positions at most"),
    ({"dropout": True, "needs_scores": (REASON,)}, "tpu", "xla", REASON),
    ({"dropout": True, "requested": "splash"}, "tpu", "xla", "dropout of attention weights is on"),
    ({"requested": "fused"}, "tpu", "fused", None),
    ({"requested": "fused", "head_dim": 60}, "tpu", "xla", "divides 128, not 60"),
    ({"dropout": True, "device": "TPU v3"}, "tpu", "xla", "no fused attention"),
    ({"requested": "fused", "device": "TPU v2"}, "tpu", "xla", "no fused attention"),
    ({"device": "TPU v3"}, "tpu", "xla", "no splash attention in bfloat16 for a TPU v3"),
    ({"device": "TPU v3", "dtype": "float32"}, "tpu", "splash", "no fused attention in float32"),
    ({"device": "TPU v5p"}, "tpu", "fused", None),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "platform", "chosen", "reason"), CHOICES)
def test_choice_and_its_reason(asked, platform, chosen, reason, caplog):
    with caplog.at_level(logging.INFO, "jbert"):
        assert choose(**{**QUIET, **asked}, platform=platform) == chosen
    if platform == "cpu":  # where there is nothing to choose between
        assert not caplog.records
        return
    assert caplog.messages[0].startswith(f"attention: {chosen} for ")
    assert ("; not" in caplog.messages[0]) == (reason is not None)
    assert reason is None or reason in caplog.messages[0]


def test_all_reasons_are_given_at_once(caplog):
    with caplog.at_level(logging.INFO, "jbert"):
        choose(**{**QUIET, "dtype": "float32", "head_dim": 3, "packed": True}, platform="gpu")
    for part in ("no float32", "not 3", "packed row"):
        assert part in caplog.text


def test_choice_is_logged_once_for_each_shape(caplog):
    with caplog.at_level(logging.INFO, "jbert"):
        for _ in range(3):
            choose(**QUIET, platform="gpu")
        choose(**{**QUIET, "k_len": 1024}, platform="gpu")
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("kernel", "platform"),
    [("cudnn", "cpu"), ("cudnn", "tpu"), ("splash", "cpu"), ("splash", "gpu"), ("fused", "cpu"),
     ("fused", "gpu")],
)  # fmt: skip
def test_kernel_of_another_platform_is_refused(kernel, platform):
    told = (
        f"attention='{kernel}' needs a .PU, but this is a {platform.upper()}; use attention='auto'"
    )
    with pytest.raises(ValueError, match=told):
        choose(**{**QUIET, "requested": kernel}, platform=platform)


def test_choice_follows_the_platform_that_is_traced_for():
    q = jax.ShapeDtypeStruct((1, 1, 512, 64), jnp.float32)
    program = lambda q: attend(q, q, q, Visible())[0]  # noqa: E731
    here = str(jax.make_jaxpr(program)(q))
    # Tracing for the other platform only: compiling this needs a TPU.
    with backend.lowering_for("tpu"):
        assert "pallas_call" in str(jax.make_jaxpr(lambda q: program(q))(q))
    # For an old one only what it can compute.
    with backend.lowering_for("tpu", "TPU v3"):
        old = jax.make_jaxpr(lambda q: program(q) + 1)(q.update(dtype=jnp.bfloat16))
    assert "pallas_call" not in here and "pallas_call" not in str(old)
    assert "pallas_call" not in str(jax.make_jaxpr(lambda q: program(q) + 0)(q))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"return_weights": True}, "attention weights"),
        ({"relative": jnp.zeros((1, 1, 512, 512))}, "relative positions"),
        ({"head_mask": jnp.ones(1)}, "a head mask"),
        (
            {"visible": Visible(mask=jnp.ones((1, 1, 512, 512), bool), simple=False)},
            "the mask is causal",
        ),
    ],
)
def test_whatever_needs_scores_goes_to_xla(arguments, reason, caplog):
    q = jax.ShapeDtypeStruct((1, 1, 512, 64), jnp.float32)
    arguments = {"visible": Visible(), **arguments}
    with caplog.at_level(logging.INFO, "jbert"), backend.lowering_for("tpu"):
        jax.eval_shape(lambda q: attend(q, q, q, **arguments), q)
    assert "attention: xla for" in caplog.text
    assert f"not fused: {reason}" in caplog.text and f"not splash: {reason}" in caplog.text


# -- the kernels ------------------------------------------------------------------------------


def visible(attention_mask=None, segment_ids=None, length=L):
    """What the models make of these arguments."""
    arguments = dict.fromkeys(
        ["token_type_ids", "position_ids", "head_mask", "inputs_embeds", "encoder_hidden_states",
         "encoder_attention_mask", "cache", "output_hidden_states", "output_attentions"]
    )  # fmt: skip
    ids = np.ones((B, length), np.int32)
    inputs = prepare(BertConfig(), input_ids=ids, attention_mask=attention_mask,
                     segment_ids=segment_ids, deterministic=True, **arguments)  # fmt: skip
    return inputs.context.visible


def masks(length=L):
    position = np.arange(length)[None]
    lengths = np.array([[length], [length // 2 + 3], [1]])
    right = position < lengths
    packed = np.where(right, 1 + (position >= length // 3), 0)
    empty_row = right & (np.arange(B) != 1)[:, None]
    return {
        "none": ({}, np.ones((B, length), bool)),
        "right": ({"attention_mask": right}, right),
        "left": ({"attention_mask": right[:, ::-1]}, right[:, ::-1]),
        "holes": ({"attention_mask": right & (position % 5 != 2)}, right & (position % 5 != 2)),
        "packed": ({"segment_ids": packed}, right),
        "an empty row": ({"attention_mask": empty_row}, empty_row),
    }


def normal(*shape, seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def assert_same_as_xla(kernel, name, length):
    """Same values at real positions, and same gradients of a loss that reads only those."""
    given, real = masks(length)[name]
    seen = visible(**given, length=length)
    q, k, v, weight = (normal(B, H, length, E, seed=i) for i in range(4))
    weight = weight * real[:, None, :, None]

    @jax.jit
    def run(q, k, v):
        def both(function):
            scalar = lambda *a: jnp.sum(function(*a) * weight)  # noqa: E731
            return function(q, k, v), jax.grad(scalar, (0, 1, 2))(q, k, v)

        return both(kernel(seen)), both(lambda *a: _xla(*a, seen.mask, None, None, None)[0])

    (found, found_grads), (expected, expected_grads) = run(q, k, v)
    assert np.isfinite(found).all()
    at = np.broadcast_to(real[:, None, :], (B, H, length))
    np.testing.assert_allclose(found[at], expected[at], atol=2e-5)
    for a, b in zip(found_grads, expected_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize("name", masks())
def test_cudnn_path_equals_xla(name):
    # The masks and lengths given to cuDNN, carried out by XLA on any machine.
    def kernel(seen):
        return lambda q, k, v: _cudnn(q, k, v, seen, implementation="xla")

    assert_same_as_xla(kernel, name, 16)


@pytest.mark.parametrize("name", masks())
def test_splash_kernel_equals_xla(name):
    def kernel(seen):
        return lambda q, k, v: _splash(q, k, v, seen, interpret=True)

    assert_same_as_xla(kernel, name, L)


@pytest.mark.parametrize("name", masks())
def test_ids_of_agree_with_the_mask_and_leave_no_query_without_a_key(name):
    # The kernel's own arithmetic for such a query differs between machines.
    given, real = masks(16)[name]
    seen = visible(**given, length=16)
    query_ids, key_ids = _ids_of(seen, B, 16, 16)
    same = np.asarray(query_ids)[:, :, None] == np.asarray(key_ids)[:, None, :]
    assert same.any(axis=-1).all()
    mask = np.ones((B, 1, 1, 16), bool) if seen.mask is None else np.asarray(seen.mask)
    expected = np.broadcast_to(mask[:, 0], (B, 16, 16))
    np.testing.assert_array_equal(same[real], expected[real])


def test_right_padding_takes_the_path_of_lengths_and_other_padding_that_of_the_mask(monkeypatch):
    seen = []

    def record(q, k, v, **arguments):
        seen.append(sorted(set(arguments) - {"implementation"}))
        return q

    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    q = jnp.zeros((B, H, 16, E))
    for name in ("right", "packed", "none"):
        _cudnn(q, q, q, visible(**masks(16)[name][0], length=16))
    # Whether padding is on the right is known only when running, so the program holds both.
    both = [["key_value_seq_lengths"], ["mask"]]
    assert sorted(seen[:2]) == both and seen[2:] == [["mask"], []]


def test_row_that_sees_nothing_is_the_mean_and_its_gradient_is_finite():
    q, k, v = (normal(1, 1, 4, E, seed=i) for i in range(3))
    nothing = jnp.zeros((1, 1, 4, 4), bool)
    found, weights = _xla(q, k, v, nothing, None, None, None)
    np.testing.assert_allclose(weights, 0.25)
    np.testing.assert_allclose(
        found, jnp.broadcast_to(v.mean(2, keepdims=True), v.shape), rtol=1e-5
    )
    scalar = lambda *a: jnp.sum(_xla(*a, nothing, None, None, None)[0] ** 2)  # noqa: E731
    for gradient in jax.jit(jax.grad(scalar, (0, 1, 2)))(q, k, v):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("sizes", "rows"), [((2, 2, 2), 4), ((4, 1, 2), 3)])
def test_splash_kernel_on_a_mesh_equals_xla(sizes, rows):
    # The compiler cannot split a kernel: each device runs it on its own rows and heads, and on all
    # of them where they do not divide.
    shape = (rows, H, L, E)
    q, k, v = (jax.random.normal(jax.random.key(i), shape) for i in range(3))
    keys = jnp.arange(L)[None] < jnp.array([[L], [100], [7], [1]])[:rows]
    seen = Visible(mask=keys[:, None, None, :], keys=keys)

    def loss(kernel):
        return lambda q, k, v: (kernel(q, k, v) * keys[:, None, :, None]).sum()

    def sharded(q, k, v):
        with activations_on(make_mesh(*sizes)):
            return _splash(q, k, v, seen, interpret=True)

    plain = lambda q, k, v: _xla(q, k, v, seen.mask, None, None, None)[0]  # noqa: E731
    found = jax.jit(jax.grad(loss(sharded), argnums=(0, 1, 2)))(q, k, v)
    expected = jax.grad(loss(plain), argnums=(0, 1, 2))(q, k, v)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)
