"""Activation functions: what they keep for a backward pass. Their values are in tests/parity."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbert import backend
from jbert.activations import ACTIVATIONS

PLAIN = {"gelu": False, "gelu_new": True}


@pytest.fixture(params=["cpu", "tpu"])
def platform(request):
    with backend.lowering_for(request.param):
        yield request.param


@pytest.mark.usefixtures("platform")
def test_relu_and_its_derivatives_are_jax_s():
    x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0, jnp.inf, -jnp.inf, jnp.nan])
    relu = ACTIVATIONS["relu"]
    for change in (lambda f: f, jax.grad, jax.jacfwd, lambda f: jax.jacfwd(jax.grad(f))):
        found, expected = (jax.vmap(change(f))(x) for f in (relu, jax.nn.relu))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(("name", "approximate"), PLAIN.items())
def test_gelu_and_its_derivatives_are_jax_s(name, approximate):
    x = jnp.linspace(-3, 3, 101)
    gelu = ACTIVATIONS[name]

    def plain(x):
        return jax.nn.gelu(x, approximate=approximate)

    for mine, theirs in ((gelu, plain), (jax.grad(gelu), jax.grad(plain)),
                         (jax.jacfwd(jax.grad(gelu)), jax.jacfwd(jax.grad(plain)))):  # fmt: skip
        np.testing.assert_allclose(jax.vmap(mine)(x), jax.vmap(theirs)(x), rtol=1e-6, atol=1e-6)


def exact_gelu(x):
    """In double precision, with its derivative."""
    below = 0.5 * math.erfc(-x / math.sqrt(2))
    return x * below, below + x * math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def exact_gelu_new(x):
    c, cubic = math.sqrt(2 / math.pi), 0.044715
    t = math.tanh(c * (x + cubic * x**3))
    slope = 0.5 * x * (1 - t * t) * c * (1 + 3 * cubic * x * x)
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + slope


EXACT = {"gelu": exact_gelu, "gelu_new": exact_gelu_new}


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gelu_is_exact_until_it_is_rounded(name, dtype):
    x = jnp.linspace(-8, 8, 2001).astype(dtype)
    exact = np.array([EXACT[name](v) for v in x.tolist()]).T
    functions = ACTIVATIONS[name], jax.vmap(jax.grad(ACTIVATIONS[name]))
    # What float32 loses: one minus the square of tanh, in the derivative, is all cancellation.
    for function, expected, lost in zip(functions, exact, (3e-7, 1.5e-6), strict=True):
        found = jax.jit(function)(x)
        assert found.dtype == dtype
        error = np.abs(np.asarray(found, np.float64) - expected)
        half_a_step = float(jnp.finfo(dtype).eps) / 2 * np.abs(expected)
        assert (error <= half_a_step + lost * np.maximum(1, np.abs(x.astype("float32")))).all()


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", PLAIN)
def test_gelu_far_out(name):
    x = jnp.array([-1e30, -100, 100, 1e30])
    assert ACTIVATIONS[name](x).tolist() == [0, 0, *x[2:].tolist()]
    # The tanh form's derivative, JAX's too, has a cube in it that is infinite there.
    if name == "gelu":
        assert jax.vmap(jax.grad(ACTIVATIONS[name]))(x).tolist() == [0, 0, 1, 1]


def test_what_gelu_leaves_for_its_derivative_is_as_large_as_what_it_is_given(platform):
    x = jnp.ones((4, 8), jnp.bfloat16)
    _, backward = jax.eval_shape(lambda x: jax.vjp(ACTIVATIONS["gelu"], x), x)
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.size == x.size]
    assert [leaf.dtype for leaf in kept] == [x.dtype]


def test_gelu_keeps_less_than_jax_s():
    x, up, down = jnp.ones((256, 64)), jnp.ones((64, 512)), jnp.ones((512, 64))

    def temporaries(act):
        def loss(up, down):
            return jnp.sum(jnp.square(act(x @ up) @ down))

        program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(up, down).compile()
        return program.memory_analysis().temp_size_in_bytes

    plain = temporaries(lambda x: jax.nn.gelu(x, approximate=False))
    assert temporaries(ACTIVATIONS["gelu"]) <= plain - 256 * 512 * 4
