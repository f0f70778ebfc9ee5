"""Options of XLA: whose calls have them, and that they change no result."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import jbert
from jbert import backend, compiled
from jbert.compiled import FEW_TOKENS, Compiled, step_options

_FUSED = re.compile(r"^%fused_computation\S* \((.*)\) -> ", re.MULTILINE)


@pytest.fixture(scope="module")
def mobilebert():
    module, params = tiny.model("mobilebert", None)
    return jbert.Bert(module.config, module, params)


def test_mobilebert_on_a_cpu_and_nothing_else(monkeypatch):
    program = Compiled(lambda x: x, ())
    monkeypatch.setattr(compiled, "_known", lambda option: True)
    monkeypatch.setattr(compiled, "_avx2_alone", lambda: False)

    def of(model_type="mobilebert", tokens=FEW_TOKENS, params=0.0):
        inputs = {"input_ids": np.zeros((1, tokens), np.int32)}
        return program.of(model_type, params, inputs)

    few, many, plain = of(), of(tokens=FEW_TOKENS + 1), of("bert")
    assert len({few, many, plain}) == 3 and plain is program.plain
    assert of(tokens=1) is few and of(tokens=2 * FEW_TOKENS) is many
    assert jax.jit(lambda: int(of() is plain))() == 1
    assert jax.grad(lambda x: x * (of(params=x) is plain))(1.0) == 1.0
    with backend.lowering_for("tpu"):
        assert of() is plain


@pytest.mark.parametrize(
    ("flags", "all_sizes"),
    [("sse4_2 avx2 fma", True), ("sse4_2 avx2 avx512f", False), ("sse4_2", False), (None, False)],
)
def test_which_processors_have_small_products_at_all_sizes(monkeypatch, flags, all_sizes):
    monkeypatch.setattr(backend, "host_cpu", lambda: {} if flags is None else {"flags": flags})
    monkeypatch.setattr(compiled, "_known", lambda option: True)
    compiled._avx2_alone.cache_clear()
    try:
        assert compiled.SMALL_PRODUCTS in compiled._options("mobilebert", FEW_TOKENS)
        many = compiled._options("mobilebert", FEW_TOKENS + 1)
        assert (compiled.SMALL_PRODUCTS in many) == all_sizes and compiled.BARRIERS in many
    finally:
        compiled._avx2_alone.cache_clear()


def test_an_option_that_this_jaxlib_lacks_is_not_given(monkeypatch):
    lacking = ("xla_cpu_no_such_thing", "1")
    monkeypatch.setattr(compiled, "SMALL_PRODUCTS", lacking)
    assert compiled._options("mobilebert", 1) == [compiled.BARRIERS]
    monkeypatch.setattr(compiled, "BARRIERS", lacking)
    program = Compiled(lambda x: x, ())
    inputs = {"input_ids": np.zeros((1, 1), np.int32)}
    assert program.of("mobilebert", (), inputs) is program.plain


def test_a_step_on_a_tpu_may_hold_more_in_a_loop(monkeypatch):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    assert step_options() == {}
    for kind in ("", "TPU v4", "TPU v6 lite"):
        with backend.lowering_for("tpu", kind):
            assert step_options() == {}
    name, of_v5p = compiled.LOOP_LIMIT, {compiled.LOOP_LIMIT: "50000"}
    with backend.lowering_for("tpu", "TPU v5 lite"):
        assert step_options() == {name: "32768"}
    with backend.lowering_for("tpu", "TPU v5"):
        assert step_options() == of_v5p
        monkeypatch.setenv("LIBTPU_INIT_ARGS", f"--{name}=98304")
        assert step_options() == {}
        monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_something_else=1")
        assert step_options() == of_v5p
        # Where there is one, it is asked whether it knows the option, as CPUs do not.
        monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
        assert step_options() == {}


def test_no_layer_is_made_again_by_the_layers_after_it():
    """What one fused loop reads does not grow with the layers before it."""

    def most_read(layers):
        module, params = tiny.model("mobilebert", None, num_hidden_layers=layers)
        inputs = tiny.batch("mobilebert")
        program = Compiled(lambda params, inputs: module.apply({"params": params}, **inputs), ())
        compiled = program.of("mobilebert", params, inputs).lower(params, inputs).compile()
        return max(map(read_by_a_loop, _FUSED.findall(compiled.as_text())))

    def read_by_a_loop(parameters):
        return parameters.count(": ")

    assert most_read(7) == most_read(4)


def test_the_results_are_those_of_the_plain_program(mobilebert, monkeypatch):
    inputs = tiny.batch("mobilebert")

    def with_options(*chosen):
        monkeypatch.setattr(compiled, "_options", lambda model_type, tokens: chosen)
        return mobilebert(**inputs).last_hidden_state

    plain = with_options()
    atol = 1e-5 * float(jnp.abs(plain).max())
    known = filter(compiled._known, (compiled.BARRIERS, compiled.SMALL_PRODUCTS))
    for found in map(with_options, known):
        np.testing.assert_allclose(found, plain, rtol=1e-5, atol=atol)


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
