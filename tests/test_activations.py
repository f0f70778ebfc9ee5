"""Activation functions: what they keep for a backward pass. Their values are in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbert.activations import ACTIVATIONS

PLAIN = {"gelu": False, "gelu_new": True}


@pytest.mark.parametrize(("name", "approximate"), PLAIN.items())
def test_gelu_and_its_derivatives_are_jax_s(name, approximate):
    x = jnp.linspace(-3, 3, 101)
    gelu = ACTIVATIONS[name]

    def plain(x):
        return jax.nn.gelu(x, approximate=approximate)

    for mine, theirs in ((gelu, plain), (jax.grad(gelu), jax.grad(plain)),
                         (jax.jacfwd(jax.grad(gelu)), jax.jacfwd(jax.grad(plain)))):  # fmt: skip
        np.testing.assert_allclose(jax.vmap(mine)(x), jax.vmap(theirs)(x), rtol=1e-6, atol=1e-6)


def test_gelu_keeps_less_than_jax_s():
    x, up, down = jnp.ones((256, 64)), jnp.ones((64, 512)), jnp.ones((512, 64))

    def temporaries(act):
        def loss(up, down):
            return jnp.sum(jnp.square(act(x @ up) @ down))

        program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(up, down).compile()
        return program.memory_analysis().temp_size_in_bytes

    plain = temporaries(lambda x: jax.nn.gelu(x, approximate=False))
    assert temporaries(ACTIVATIONS["gelu"]) <= plain - 256 * 512 * 4
