"""ConvBERT's convolutions and their hand-written derivatives, against a gather and an einsum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jbert.convolution import depthwise, dynamic, tap_gate

B, H, E, D = 2, 3, 4, 6
# Kernel sizes below, at and above the length; 1 is a kernel without neighbours.
SIZES = [(7, 1), (7, 3), (7, 5), (2, 5), (1, 9), (4, 9)]
SEGMENTS = {
    7: [[1, 1, 1, 2, 2, 3, 0], [1, 2, 2, 2, 2, 0, 0]],
    4: [[1, 1, 2, 2], [1, 1, 1, 0]], 2: [[1, 2], [1, 1]], 1: [[1], [0]],
}  # fmt: skip


def normal(*shape, seed=0):
    values = np.random.default_rng(seed + len(shape)).standard_normal(shape)
    return jnp.asarray(values, jnp.float32)


def neighbours(x, taps):
    """[b, l, ...] to [b, l, w, ...] by gathering, with zeros where there is no neighbour."""
    length = x.shape[1]
    index = np.arange(length)[:, None] + np.arange(taps)[None] - taps // 2
    inside = (index >= 0) & (index < length)
    gathered = x[:, np.clip(index, 0, length - 1)]
    return jnp.where(inside.reshape((1, length, taps) + (1,) * (x.ndim - 2)), gathered, 0)


def naive_depthwise(x, kernel, gate):
    around = neighbours(x, kernel.shape[0])
    if gate is not None:
        around = around * gate[..., None]
    return jnp.einsum("blwd,wd->bld", around, kernel)


def naive_dynamic(value, weights, gate):
    around = neighbours(jnp.swapaxes(value, 1, 2), weights.shape[-1])
    if gate is not None:
        around = around * gate[..., None, None]
    return jnp.einsum("blwhe,bhlw->bhle", around, weights)


CASES = {
    "depthwise": (depthwise, naive_depthwise, lambda n, w: (normal(B, n, D), normal(w, D))),
    "dynamic": (dynamic, naive_dynamic, lambda n, w: (normal(B, H, n, E), normal(B, H, n, w))),
}


@pytest.mark.parametrize("gated", [False, True], ids=["open", "gated"])
@pytest.mark.parametrize(("length", "taps"), SIZES)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_definition(case, length, taps, gated):
    ours, naive, make = CASES[case]
    arguments = make(length, taps)
    gate = tap_gate(jnp.asarray(SEGMENTS[length]), taps) if gated else None
    out_shape = jax.eval_shape(ours, *arguments, gate).shape
    weight = normal(*out_shape, seed=9)

    @jax.jit
    def both(*arguments):
        def value_and_grad(function):
            scalar = lambda *a: jnp.sum(function(*a, gate) * weight)  # noqa: E731
            return function(*arguments, gate), jax.grad(scalar, (0, 1))(*arguments)

        return value_and_grad(ours), value_and_grad(naive)

    found, expected = both(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


@pytest.mark.parametrize("gated", [False, True], ids=["open", "gated"])
@pytest.mark.parametrize("case", CASES)
def test_derivative_agrees_with_finite_differences(case, gated):
    ours, _, make = CASES[case]
    gate = tap_gate(jnp.asarray(SEGMENTS[4]), 3) if gated else None
    check_grads(lambda *a: ours(*a, gate), make(4, 3), order=1, modes=["rev"], rtol=1e-2)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_sums_in_float32(case):
    ours, naive, make = CASES[case]
    narrow = [x.astype(jnp.bfloat16) for x in make(7, 5)]
    exact = naive(*(x.astype(jnp.float32) for x in narrow), None)

    def scalar(*arguments):
        return jnp.sum(ours(*arguments, None).astype(jnp.float32))

    found = jax.jit(ours)(*narrow, None)
    assert found.dtype == jnp.bfloat16
    grads = jax.jit(jax.grad(scalar, (0, 1)))(*narrow)
    # One rounding at the end: half a unit in the last of 8 bits.
    np.testing.assert_allclose(np.asarray(found, np.float32), exact, rtol=2**-8, atol=1e-6)
    for gradient, argument in zip(grads, narrow, strict=True):
        assert gradient.dtype == jnp.bfloat16 and gradient.shape == argument.shape
        assert np.isfinite(np.asarray(gradient, np.float32)).all()


def test_gate_opens_taps_of_the_same_segment_only():
    gate = tap_gate(jnp.array([[1, 1, 2, 0]]), 3)
    expected = [[0, 1, 1], [1, 1, 0], [0, 1, 0], [0, 1, 0]]
    np.testing.assert_array_equal(gate[0], np.array(expected, bool))
    assert tap_gate(None, 3) is None


def test_gate_does_not_open_beyond_the_ends():
    # Padding has segment 0 and lies at the end; beyond the end there is nothing to read.
    np.testing.assert_array_equal(tap_gate(jnp.array([[0]]), 3)[0], [[False, True, False]])
