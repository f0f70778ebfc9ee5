"""Activation functions under the names that config.json files use."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jbert import backend
from jbert.execution import made_again

Activation = Callable[[jax.Array], jax.Array]
# `hidden_act` and its like: a name of ACTIVATIONS, or a function.
ActivationField = str | Activation


_SQRT_HALF = 0.5**0.5


def _exact(x: jax.Array) -> jax.Array:
    # JAX's own is by erfc, which takes longer: it computes one approximation
    # for small numbers, another for large ones, and takes one of them. What that gains is digits of
    # results below 1e-5, which PyTorch, and so every BERT so far, does not have either.
    return 0.5 * x * (1.0 + jax.lax.erf(x * _SQRT_HALF))


def _gelu(plain: Activation) -> Activation:
    def wide(x: jax.Array) -> jax.Array:
        # In half precision every step would be rounded, and be slower than one in float32.
        return plain(x.astype(jnp.promote_types(x.dtype, jnp.float32)))

    @jax.custom_jvp
    def with_slope(x: jax.Array) -> jax.Array:
        return wide(x).astype(x.dtype)

    @with_slope.defjvp
    def _(at: Any, by: Any) -> Any:
        # One array for the backward pass, as large as what it is the slope at: scanned layers keep
        # all that they are told to, and of the steps that would be several, in float32.
        y, slope = jax.jvp(wide, at, (jnp.ones_like(at[0]),))
        return y.astype(at[0].dtype), slope.astype(at[0].dtype) * by[0]

    # On a CPU XLA would compute the slope where it is read, and keep both it and what it is the
    # slope at; to make it again takes no longer.
    again = jax.checkpoint(lambda x: wide(x).astype(x.dtype))
    return lambda x: again(x) if backend.current() == "cpu" else with_slope(x)


# "gelu" is the exact error-function form; the tanh form differs from it by up to 5e-4.
_EXACT, _TANH = _gelu(_exact), _gelu(functools.partial(jax.nn.gelu, approximate=True))


@jax.custom_jvp
def _relu(x: jax.Array) -> jax.Array:
    return jax.nn.relu(x)


@_relu.defjvp
def _(at: Any, by: Any) -> Any:
    # The sign of what it made tells as much as that of what it was given, and the product that
    # follows keeps the former anyway.
    y = jax.nn.relu(at[0])
    slope = made_again(lambda y, by: jnp.where(y > 0, by, jnp.zeros_like(by)))
    return y, slope(y, by[0])


ACTIVATIONS: dict[str, Activation] = {
    "gelu": _EXACT,
    "gelu_python": _EXACT,
    "gelu_new": _TANH,
    "gelu_fast": _TANH,
    "gelu_pytorch_tanh": _TANH,
    "gelu_accurate": _TANH,
    "gelu_python_tanh": _TANH,
    "gelu_10": lambda x: jnp.clip(_EXACT(x), -10.0, 10.0),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": _relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "hardswish": jax.nn.hard_swish,
    "laplace": lambda x: jax.scipy.stats.norm.cdf(x, loc=0.707107, scale=0.282095),
    "leaky_relu": jax.nn.leaky_relu,
    "selu": jax.nn.selu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "mish": jax.nn.mish,
    "sqrtsoftplus": lambda x: jnp.sqrt(jax.nn.softplus(x)),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "linear": lambda x: x,
}


def activation(act: ActivationField) -> Activation:
    """The function for a config's `hidden_act`, which is a name or already a function."""
    return act if callable(act) else ACTIVATIONS[act]
