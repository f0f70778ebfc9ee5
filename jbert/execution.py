"""How a model is computed, as opposed to what it computes: never part of a config.json."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jbert import backend

ATTENTION = ("auto", "xla", "cudnn", "splash", "fused")
# Under these names the backward pass may keep what is dear to compute again: products of
# activations with weights, in the dtype of the computation (JAX's own policies name their float32
# sums, which XLA then narrows, but `jbert plan` would count); products of two activations; and
# what a kernel has attended to, which is as small as a projection.
PRODUCT, MAP, ATTENDED = "product", "map", "attended"

_named = jax.checkpoint_policies.save_only_these_names
# What the backward pass keeps from each layer; everything else is computed again.
REMAT_POLICIES = {
    "none": None,  # keep every intermediate: no rematerialisation
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": _named(PRODUCT, ATTENDED, MAP),
    "dots_no_batch": _named(PRODUCT, ATTENDED),
}
DTYPES = ("float32", "bfloat16", "float16")


def made_again(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, of which the backward pass keeps the arguments alone and makes the rest again.

    For what has no products. A scan over layers keeps all that it is told to, of a norm in bfloat16
    several arrays of float32. Outside of one XLA sees both passes, and decides by itself; on a CPU,
    where layers are seldom scanned, it decides better untold (a step was 2 % slower).
    """
    return function if backend.current() == "cpu" else jax.checkpoint(function, prevent_cse=False)


@dataclasses.dataclass(frozen=True)
class Execution:
    """Options of `load` and `from_config` that change speed, memory or precision, not the model.

    dtype:        of activations and matrix products; softmax, norm statistics and losses stay
                  float32 whatever it is.
    param_dtype:  of the stored parameters.
    remat:        gradient checkpointing, one of REMAT_POLICIES, applied to each layer.
    scan_layers:  compile one layer and loop over stacked parameters, instead of unrolling.
    attention:    the attention implementation, one of ATTENTION.
    """

    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = False
    attention: str = "auto"

    def __post_init__(self):
        for name in ("dtype", "param_dtype"):
            object.__setattr__(self, name, dtype_name(name, getattr(self, name)))
        for name, allowed in (("remat", tuple(REMAT_POLICIES)), ("attention", ATTENTION)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {allowed}")
        if not isinstance(self.scan_layers, bool):
            raise ValueError(f"scan_layers is {self.scan_layers!r}; expected True or False")

    def wide(self) -> "Execution":
        """The same in float32, for heads on one vector a text: too small to save anything on."""
        return dataclasses.replace(self, dtype="float32")

    def check_model_type(self, model_type: str) -> None:
        """Refuse what the architecture cannot do in this precision."""
        if model_type == "mobilebert" and "float16" in (self.dtype, self.param_dtype):
            raise ValueError(
                "MobileBERT cannot run in float16: its activations reach 1e8, beyond the format's "
                "65504, and turn into NaN. Use dtype='bfloat16' (same speed, same range as float32)"
            )


def dtype_name(option: str, dtype: Any) -> str:
    """The canonical name of a floating dtype given as a name, numpy or JAX dtype."""
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = None
    if name not in DTYPES:
        raise ValueError(f"{option} is {dtype!r}; expected one of {DTYPES}")
    return name
