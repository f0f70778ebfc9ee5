"""What a traced program computes and keeps, counted before any compiler has seen it."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from jax.interpreters.partial_eval import dce_jaxpr


@dataclasses.dataclass(frozen=True)
class Count:
    """Of a whole program, on all of its devices together.

    flops:    of matrix products, recomputed ones included.
    kept:     bytes that a loop over layers hands to the one that goes back through them.
    widest:   bytes of the largest array that an operation makes.
    """

    flops: int
    kept: int
    widest: int


def count(jaxpr: Any) -> Count:
    """Of a (closed) jaxpr, into all that it calls."""
    return _count(jaxpr)


def used_in(jaxpr: Any) -> list[Any]:
    """Its equations without those of which nobody uses a result: these are not computed."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    left = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)[0]
    read = {id(one) for equation in left.eqns for one in equation.invars}
    read |= {id(one) for one in left.outvars}
    # JAX itself leaves kernels in, the compiler does not.
    return [
        equation
        for equation in left.eqns
        if equation.primitive.name != "pallas_call" or any(id(x) in read for x in equation.outvars)
    ]


def _count(jaxpr: Any) -> Count:
    flops = kept = widest = 0
    for equation in used_in(jaxpr):
        name, params = equation.primitive.name, equation.params
        flops += _FLOPS.get(name, _none)(equation)
        inner = [_count(one) for one in inner_jaxprs(params)]
        if name == "pallas_call" and params["cost_estimate"] is not None:
            flops += params["cost_estimate"].flops
        elif name == "cond":
            flops += max((one.flops for one in inner), default=0)
        else:
            flops += turns(name, params) * sum(one.flops for one in inner)
        kept = max([kept, _stacked(name, equation), *(one.kept for one in inner)])
        if not inner:
            sizes = (bytes_of(out.aval) for out in equation.outvars)
            widest = max([widest, *sizes])
        widest = max([widest, *(one.widest for one in inner)])
    return Count(flops, kept, widest)


def inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """What an equation calls."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(one, "eqns") or hasattr(one, "jaxpr"):
                yield one


def turns(name: str, params: dict[str, Any]) -> int:
    """How often."""
    if name == "scan":
        return params["length"]
    if name == "pallas_call":
        return math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
    return 1


def _stacked(name: str, equation: Any) -> int:
    """What a forward loop over layers gives besides what it carries on."""
    if name != "scan" or equation.params["reverse"]:
        return 0
    return sum(bytes_of(out.aval) for out in equation.outvars[equation.params["num_carry"] :])


def bytes_of(aval: Any) -> int:
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return math.prod(getattr(aval, "shape", ())) * itemsize


def _none(equation: Any) -> int:
    return 0


def _dot(equation: Any) -> int:
    (left, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    contracted = math.prod(shape[axis] for axis in left)
    return 2 * contracted * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features


_FLOPS: dict[str, Callable[[Any], int]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
}
