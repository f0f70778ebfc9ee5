"""Activation functions under the names that config.json files use."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Activation = Callable[[jax.Array], jax.Array]
# `hidden_act` and its like: a name of ACTIVATIONS, or a function.
ActivationField = str | Activation

ACTIVATIONS: dict[str, Activation] = {
    # "gelu" is the exact error-function form; the tanh forms below differ from it by up to 5e-4.
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_python": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_fast": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_accurate": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_python_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_10": lambda x: jnp.clip(jax.nn.gelu(x, approximate=False), -10.0, 10.0),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
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
