"""Options of XLA: whose calls have them, and that they change no result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import jbert
from jbert import backend, compiled
from jbert.compiled import FEW_TOKENS, Compiled


@pytest.fixture(scope="module")
def mobilebert():
    module, params = tiny.model("mobilebert", None)
    return jbert.Bert(module.config, module, params)


def test_few_tokens_of_mobilebert_on_a_cpu_and_nothing_else(monkeypatch):
    program = Compiled(lambda x: x, ())
    monkeypatch.setattr(compiled, "_known", lambda: True)

    def plain(model_type="mobilebert", tokens=FEW_TOKENS, params=0.0):
        inputs = {"input_ids": np.zeros((1, tokens), np.int32)}
        return program.of(model_type, params, inputs) is program.plain

    assert not plain()
    assert plain(tokens=FEW_TOKENS + 1) and plain("bert")
    assert jax.jit(lambda: int(plain()))() == 1
    assert jax.grad(lambda x: x * plain(params=x))(1.0) == 1.0
    with backend.lowering_for("tpu"):
        assert plain()


def test_an_option_that_this_jaxlib_lacks_is_not_given(monkeypatch):
    compiled._known.cache_clear()
    monkeypatch.setattr(compiled, "SMALL_PRODUCTS", {"xla_cpu_no_such_thing": "1"})
    try:
        assert not compiled._known()
        inputs = {"input_ids": np.zeros((1, 1), np.int32)}
        assert (program := Compiled(lambda x: x, ())).of("mobilebert", (), inputs) is program.plain
    finally:
        compiled._known.cache_clear()


def test_the_results_are_those_of_the_plain_program(mobilebert, monkeypatch):
    inputs = tiny.batch("mobilebert")
    found = mobilebert(**inputs).last_hidden_state
    monkeypatch.setattr(compiled, "FEW_TOKENS", 0)
    plain = mobilebert(**inputs).last_hidden_state
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5 * float(jnp.abs(plain).max()))


def test_calls_work_within_transformations(mobilebert):
    inputs = tiny.batch("mobilebert")
    outside = mobilebert(**inputs).last_hidden_state
    inside = jax.jit(lambda **inputs: mobilebert(**inputs).last_hidden_state)(**inputs)
    np.testing.assert_allclose(inside, outside, rtol=1e-5, atol=1e-5)

    def total(params):
        return jbert.Bert(mobilebert.config, mobilebert.module, params)(
            **inputs
        ).last_hidden_state.sum()

    gradient = jax.grad(total)(mobilebert.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
