"""Lower precision stays near float32, and what must be wide stays wide."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jbert import backend
from jbert.attention import _xla
from jbert.execution import Execution
from jbert.layers import add_shared, dot
from jbert.load import from_config
from jbert.loaded import Bert
from jbert.losses import loss
from jbert.norms import LayerNorm
from jbert.plan.arithmetic import inner_jaxprs
from jbert.sharding import make_mesh
from jbert.trees import flatten

# Largest distance from float32, relative to the largest number: some tens of roundings deep.
BOUNDS = {"bfloat16": 6e-2, "float16": 8e-3}
PAIRS = [(arch, dtype) for arch in tiny.ARCHITECTURES for dtype in BOUNDS
         if (arch, dtype) != ("mobilebert", "float16")]  # fmt: skip
WIDE_WEIGHTS = ("pooler", "classifier")
WIDE_HEADS = ("sequence_classification", "token_classification", "question_answering")


@functools.cache
def outputs(arch, execution):
    options = {"output_hidden_states": True, "output_attentions": True}
    module, params = tiny.model(arch, None, execution)
    run = jax.jit(lambda p, x: module.apply({"params": p}, **x, **options))
    return run(params, tiny.batch(arch))


def distance(found, expected):
    found, expected = np.asarray(found, np.float32), np.asarray(expected, np.float32)
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("arch", "dtype"), PAIRS)
def test_lower_precision_stays_near_float32(arch, dtype):
    exact = outputs(arch, Execution())
    for execution in (Execution(dtype=dtype), Execution(dtype=dtype, param_dtype=dtype)):
        found = outputs(arch, execution)
        assert found.last_hidden_state.dtype == dtype
        assert all(h.dtype == dtype for h in (*found.hidden_states, *found.attentions))
        for one, other in zip(
            (*found.hidden_states, *found.attentions), (*exact.hidden_states, *exact.attentions),
            strict=True,
        ):  # fmt: skip
            # And it is the lower precision that ran: equality would mean it did not.
            assert 0 < distance(one, other) < BOUNDS[dtype]
        if found.pooler_output is not None:
            assert found.pooler_output.dtype == jnp.float32


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_parameters_have_the_dtype_asked_for_and_gradients_follow(arch):
    module, params = tiny.model(arch, "masked_lm", Execution("bfloat16", "bfloat16"))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    inputs = tiny.batch(arch)
    labels = tiny.labels("masked_lm", inputs)

    @jax.jit
    def run(params):
        out = lambda p: module.apply({"params": p}, **inputs)  # noqa: E731
        of = lambda p: loss("masked_lm", module.config, out(p), labels)  # noqa: E731
        return jax.value_and_grad(of)(params)

    value, grads = run(params)
    assert value.dtype == jnp.float32 and np.isfinite(value)
    for leaf in jax.tree.leaves(grads):
        assert leaf.dtype == jnp.bfloat16 and np.isfinite(np.asarray(leaf, np.float32)).all()


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
@pytest.mark.parametrize("task", WIDE_HEADS)
def test_small_heads_are_float32_whatever_the_compute_dtype(arch, task):
    module, params = tiny.model(arch, task, Execution(dtype="bfloat16"))
    run = lambda p, x: module.apply({"params": p}, **x)  # noqa: E731
    out = jax.eval_shape(run, params, tiny.batch(arch))
    assert {out[name].dtype.name for name in out.keys()} == {"float32"}


@pytest.mark.parametrize(
    ("shape", "over"), [((8,), (0, 1)), ((1, 4, 8), 0)], ids=["a bias", "positions"]
)
def test_what_many_rows_share_has_a_gradient_summed_in_float32(shape, over):
    x = jnp.zeros((8192, 4, 8), jnp.bfloat16)
    slopes = 0.3 + jax.random.normal(jax.random.key(0), x.shape, jnp.bfloat16)

    def total(shared):
        return jnp.vdot(add_shared(x, shared).astype(jnp.float32), slopes.astype(jnp.float32))

    found = jax.jit(jax.grad(total))(jnp.zeros(shape))
    expected = np.asarray(slopes, np.float64).sum(over).reshape(shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_head_mask_has_a_gradient_summed_in_float32():
    query, key, value = jax.random.normal(jax.random.key(0), (3, 64, 2, 64, 4), jnp.bfloat16)

    def total(mask, dtype):
        parts = (part.astype(dtype) for part in (query, key, jnp.abs(value)))
        return jnp.sum(_xla(*parts, None, None, mask, None)[0].astype(jnp.float32))

    found, expected = (jax.jit(jax.grad(total), static_argnums=1)(jnp.ones(2), dtype)
                       for dtype in ("bfloat16", "float32"))  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize(
    ("arch", "task"), [p for p in tiny.PAIRS if tiny.labels(p[1], tiny.batch(p[0], p[1]))]
)
def test_a_training_step_sums_nothing_in_bfloat16(arch, task, scan_layers):
    module, params = tiny.model(arch, task, Execution("bfloat16", scan_layers=scan_layers))
    inputs = tiny.batch(arch, task)

    def mean_loss(params):
        rngs = {"dropout": jax.random.key(0)}
        output = module.apply({"params": params}, **inputs, deterministic=False, rngs=rngs)
        return loss(task, module.config, output, tiny.labels(task, inputs))

    traced = list(equations(jax.make_jaxpr(jax.grad(mean_loss))(params)))
    assert any(equation.primitive.name == "reduce_sum" for equation in traced)
    for equation in traced:
        if equation.primitive.name in ("reduce_sum", "scatter-add", "cumsum"):
            assert equation.outvars[0].aval.dtype != jnp.bfloat16, equation


def equations(jaxpr):
    """All of a traced function, those within others' too."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for inner in inner_jaxprs(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("instructions", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_products_are_of_the_compute_dtype_where_there_are_such(
    platform, instructions, dtype, monkeypatch
):
    monkeypatch.setattr(backend, "_cpu_multiplies_bfloat16", lambda: instructions)
    x, kernel = jnp.ones((4, 8)), jnp.ones((8, 2))
    with backend.lowering_for(platform):
        traced = jax.make_jaxpr(lambda x, kernel: dot(x, kernel, dtype))(x, kernel)
    (product,) = [e for e in traced.eqns if e.primitive.name == "dot_general"]
    new_enough = jax.__version_info__ >= (0, 8)
    native = platform == "tpu" or (instructions and new_enough) or dtype == "float16"
    assert {v.aval.dtype for v in product.invars} == {jnp.dtype(dtype if native else "float32")}
    assert product.outvars[0].aval.dtype == "float32"
    assert traced.out_avals[0].dtype == dtype


@pytest.mark.parametrize("flags", ["fma avx2 avx512_bf16", "fma avx2", "avx512_bf16_not", None])
def test_what_a_cpu_has_is_read_from_the_machine(flags, monkeypatch):
    def read_text(path, **_):
        if flags is None:
            raise FileNotFoundError(path)
        return f"model name\t: avx512_bf16\nflags\t\t: fpu {flags}\nbugs\t: none\n"

    monkeypatch.setattr(backend.Path, "read_text", read_text)
    assert backend._cpu_multiplies_bfloat16.__wrapped__() == (flags == "fma avx2 avx512_bf16")


def test_norm_statistics_are_float32():
    # In bfloat16 the mean of these is 256 and their variance 0.
    x = jnp.asarray(256 + np.arange(8).reshape(1, 8) % 2 * 2, jnp.bfloat16)
    norm = LayerNorm(1e-12, Execution(dtype="bfloat16"))
    found = norm.apply({"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}, x)
    np.testing.assert_array_equal(np.asarray(found[0], np.float32), [-1, 1] * 4)


def test_softmax_is_float32():
    # 300 and 301 are one number in bfloat16, and a mask filled in float16 overflows.
    query = jnp.asarray([[[[300.0]]]], jnp.bfloat16)
    key = jnp.asarray([[[[1.0], [1.0078125]]]], jnp.bfloat16)
    _, weights = _xla(query, key, key, None, None, None, None)
    assert weights.dtype == jnp.bfloat16
    expected = jax.nn.softmax(jnp.asarray([300.0, 302.34375]))
    np.testing.assert_allclose(np.asarray(weights[0, 0, 0], np.float32), expected, atol=4e-3)
    half = query.astype(jnp.float16) / 100, key.astype(jnp.float16)
    mask = jnp.asarray([[[[False, True]]]])
    _, weights = _xla(half[0], half[1], half[1], mask, None, None, None)
    np.testing.assert_array_equal(np.asarray(weights[0, 0, 0], np.float32), [0, 1])


@pytest.mark.parametrize("dtype", BOUNDS)
def test_row_of_padding_alone_is_finite_in_lower_precision(dtype):
    module, params = tiny.model("bert", None, Execution(dtype=dtype))
    inputs = tiny.batch("bert")
    inputs["attention_mask"][1] = 0

    @jax.jit
    def run(params):
        hidden = lambda p: module.apply({"params": p}, **inputs).last_hidden_state  # noqa: E731
        of = lambda p: jnp.sum(hidden(p)[::2].astype(jnp.float32))  # noqa: E731
        return hidden(params), jax.grad(of)(params)

    hidden, grads = run(params)
    assert np.isfinite(np.asarray(hidden, np.float32)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
@pytest.mark.parametrize("task", ["masked_lm", "sequence_classification"])
def test_weights_cast_ahead_change_nothing(arch, task):
    module, params = tiny.model(arch, task, Execution(dtype="bfloat16"))
    bert = Bert(module.config, module, params, None, task)
    run = jax.jit(lambda p, x: module.apply({"params": p}, **x))
    inputs = tiny.batch(arch, task)
    jax.tree.map(np.testing.assert_array_equal, run(bert.as_read(), inputs), run(params, inputs))
    cast = {path: x.dtype.name for path, x in flatten(bert.as_read()).items()}
    # Not one weight of a product is left to be cast, and none that is read in float32 was.
    for path, dtype in cast.items():
        wide = "norm/" in path or "depthwise" in path or any(head in path for head in WIDE_WEIGHTS)
        assert dtype == ("float32" if wide else "bfloat16"), path


def test_weights_are_cast_once_and_again_when_replaced():
    module, params = tiny.model("bert", None, Execution(dtype="bfloat16"))
    bert = Bert(module.config, module, params)
    cast = bert.as_read()
    assert bert.as_read() is cast
    word = params["embeddings"]["word"]["embedding"]
    params["embeddings"]["word"] = {"embedding": word + 1}
    np.testing.assert_array_equal(
        bert.as_read()["embeddings"]["word"]["embedding"], (word + 1).astype("bfloat16")
    )
    other = dataclasses.replace(bert, params=jax.tree.map(jnp.zeros_like, params))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(other.as_read()))
    # What may change in place, and what is not there yet, is left as it is.
    on_host = dataclasses.replace(bert, params=jax.tree.map(np.asarray, params))
    assert on_host.as_read() is on_host.params
    jax.eval_shape(lambda p: dataclasses.replace(bert, params=p).as_read(), params)
    full, _ = tiny.model("bert", None, Execution())
    assert Bert(full.config, full, params).as_read() is params


def test_weights_cast_ahead_stay_where_they_lie():
    config, mesh = tiny.config("bert"), make_mesh(data=2, fsdp=2, tensor=2)
    bert = from_config(config, dtype="bfloat16", mesh=mesh)
    for one, other in zip(
        jax.tree.leaves(bert.as_read()), jax.tree.leaves(bert.params), strict=True
    ):
        assert one.sharding == other.sharding
