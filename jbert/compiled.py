"""How a forward pass is compiled: by the options of XLA that pay for its model and its size."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jbert import backend

# YNNPACK's products cost tens of microseconds each to start, and MobileBERT has 400 small ones:
# Eigen's, which XLA takes instead, made one text of 128 tokens 1.3 times as fast on two cores.
SMALL_PRODUCTS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
FEW_TOKENS = 512


class Compiled:
    """`jax.jit` of a function whose programs are compiled with the options that suit each call."""

    def __init__(self, function: Callable[..., Any], static_argnames: tuple[str, ...]):
        jit = functools.partial(jax.jit, function, static_argnames=static_argnames)
        self.plain, self._small = jit(), jit(compiler_options=SMALL_PRODUCTS)

    def of(self, model_type: str, params: Any, inputs: Mapping[str, Any]) -> Callable[..., Any]:
        """The one for a call with these arguments."""
        few = np.size(inputs["input_ids"]) <= FEW_TOKENS
        if model_type != "mobilebert" or not few or backend.current() != "cpu":
            return self.plain
        # Inside of another function's transformation there is nothing to choose.
        leaves = jax.tree.leaves((params, inputs, jnp.zeros(())))
        traced = any(isinstance(leaf, Tracer) for leaf in leaves)
        return self.plain if traced or not _known() else self._small


@functools.cache
def _known() -> bool:
    """Whether this jaxlib has such an option: no list of them can be asked for."""
    try:
        jax.jit(lambda x: x, compiler_options=SMALL_PRODUCTS).lower(0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
