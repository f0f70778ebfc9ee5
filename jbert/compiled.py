"""The options of XLA that programs are compiled with: those that pay for a model and its size."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jbert import backend

# The pass that would remove optimization barriers before anything is fused. `norms.NoNorm` has
# some: 8 texts of 128 tokens took two cores 0.8 of the time with them.
BARRIERS = ("xla_disable_hlo_passes", "cse_barrier_expander")
# YNNPACK's products cost tens of microseconds each to start, and MobileBERT has 400 small ones:
# Eigen's, which XLA takes instead, made one text of 128 tokens 1.3 times as fast on two cores. On
# those that have AVX2 alone 8 texts took 0.96 of the time too, and so did other sizes.
SMALL_PRODUCTS = ("xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_REDUCE")
FEW_TOKENS = 512
# How much vector memory one fused loop of a TPU v5e or v5p may hold, in KiB. Their compiler would
# allow 16 MiB, and by its own estimates steps are sooner with two or three times that. For v4 and
# v6e it makes the same program of 32 MiB as of none (docs/plan.md).
LOOP_LIMIT = "xla_tpu_scoped_vmem_limit_kib"
_V5E, _V5P = "32768", "50000"
LOOP_MEMORY = {"TPU v5 lite": _V5E, "TPU v5e": _V5E, "TPU v5": _V5P, "TPU v5p": _V5P}


def step_options() -> dict[str, str]:
    """Those of a training step, on the devices that it is traced for."""
    limit = LOOP_MEMORY.get(backend.kind())
    # What the user has told the compiler stands.
    if limit is None or LOOP_LIMIT in os.environ.get("LIBTPU_INIT_ARGS", ""):
        return {}
    # A plan compiles by a libtpu that has it, in a process without such a device.
    known = jax.default_backend() != "tpu" or _known((LOOP_LIMIT, limit))
    return {LOOP_LIMIT: limit} if known else {}


class Compiled:
    """`jax.jit` of a function whose programs are compiled with the options that suit each call."""

    def __init__(self, function: Callable[..., Any], static_argnames: tuple[str, ...]):
        jit = functools.partial(jax.jit, function, static_argnames=static_argnames)
        self.plain = jit()
        self._tuned = functools.cache(lambda *chosen: jit(compiler_options=dict(chosen)))

    def of(self, model_type: str, params: Any, inputs: Mapping[str, Any]) -> Callable[..., Any]:
        """The one for a call with these arguments."""
        chosen = _options(model_type, np.size(inputs["input_ids"]))
        # Inside of another function's transformation there is nothing to choose.
        leaves = jax.tree.leaves((params, inputs, jnp.zeros(())))
        traced = any(isinstance(leaf, Tracer) for leaf in leaves)
        return self._tuned(*chosen) if chosen and not traced else self.plain


def _options(model_type: str, tokens: int) -> list[tuple[str, str]]:
    if model_type != "mobilebert" or backend.current() != "cpu":
        return []
    small = tokens <= FEW_TOKENS or _avx2_alone()
    wanted = [BARRIERS, SMALL_PRODUCTS] if small else [BARRIERS]
    return [option for option in wanted if _known(option)]


@functools.cache
def _avx2_alone() -> bool:
    flags = backend.host_cpu().get("flags", "").split()
    return "avx2" in flags and "avx512f" not in flags


@functools.cache
def _known(option: tuple[str, str]) -> bool:
    """Whether this jaxlib compiles with such an option: no list of them can be asked for."""
    barrier = jax.jit(jax.lax.optimization_barrier, compiler_options=dict([option]))
    try:
        barrier.lower(0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
