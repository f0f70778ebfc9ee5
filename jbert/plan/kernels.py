"""What Pallas' kernels take, of which the compiler states no cycles: jbert's own estimate.

A kernel is counted operation by operation, from what it was traced to:

- a product keeps the matrix units busy for as long as one of which the summed axis and the last
  axis of the result are whole tiles: heads of 64 fill half of a tile of 128;
- every other operation on an array is one instruction of the vector units for each 8 × 128
  elements, four of which a core starts in a cycle;
- its operands are read once and its results written once.

The slowest of the three counts, at SCHEDULED of its speed.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from jbert.plan.arithmetic import bytes_of, inner_jaxprs, turns, used_in
from jbert.plan.chips import Slice

# Of the slowest unit's speed, what the compiler's own schedules of fused attention come to: for a
# row and two heads of 64 on v5p, 512 queries and keys, they have 3763 instructions forward and 5955
# backward, where the vector units need 2405 and the matrix units 4600.
SCHEDULED = 0.7
# Elements that a core's vector units work on in a cycle.
_LANES = 4 * 8 * 128
# Said of arrays without computing anything, or done while loading and storing.
_FREE = {
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "concatenate", "slice", "iota",
    "transpose", "get", "swap", "load", "masked_load", "masked_swap", "program_id", "dot_general",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One of the kernels of a program, on all of its devices together.

    products:  FLOPs of products whose tiles are filled up.
    elements:  of all other operations.
    bytes:     read and written.
    """

    products: int = 0
    elements: int = 0
    bytes: int = 0
    name: str = ""

    def seconds(self, wanted: Slice) -> float:
        """On each device."""
        chip = wanted.chip
        slowest = max(
            self.products / chip.flops,
            self.elements / (_LANES * chip.cores * chip.clock),
            self.bytes / chip.bandwidth,
        )
        return slowest / SCHEDULED / wanted.devices


def kernels_of(jaxpr: Any, tile: int) -> list[tuple[int, Kernel]]:
    """How often each kernel of a (closed) jaxpr runs, and what it takes."""
    return list(_find(jaxpr, tile, 1))


def _find(jaxpr: Any, tile: int, times: int) -> Iterator[tuple[int, Kernel]]:
    for equation in used_in(jaxpr):
        name, params = equation.primitive.name, equation.params
        if name == "pallas_call":
            moved = sum(bytes_of(one.aval) for one in (*equation.invars, *equation.outvars))
            products, elements = _inside(params["jaxpr"], tile)
            programs = turns(name, params)
            # Not under "name", which older JAX has not.
            called = params["jaxpr"].debug_info.func_name
            yield times, Kernel(programs * products, programs * elements, moved, called)
            continue
        for inner in inner_jaxprs(params):
            yield from _find(inner, tile, times * turns(name, params))


def _inside(jaxpr: Any, tile: int) -> tuple[int, int]:
    """FLOPs of products, and elements of everything else."""
    products = elements = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        inner = [_inside(one, tile) for one in inner_jaxprs(params)]
        if inner and name == "cond":
            inner = [max(inner)]
        products += turns(name, params) * sum(one[0] for one in inner)
        elements += turns(name, params) * sum(one[1] for one in inner)
        if name == "dot_general":
            products += _filled(equation, tile)
        elif name not in _FREE and not inner:
            avals = [one.aval for one in (*equation.invars, *equation.outvars)]
            shapes = (getattr(aval, "shape", ()) for aval in avals)
            # A reduction reads more than it makes. Scalars have a unit of their own.
            elements += max((math.prod(shape) for shape in shapes if shape), default=0)
    return products, elements


def _filled(equation: Any, tile: int) -> int:
    (left, _), _ = equation.params["dimension_numbers"]
    summed = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
    *others, last = equation.outvars[0].aval.shape
    whole = lambda size: -(-size // tile) * tile  # noqa: E731
    return 2 * whole(summed) * whole(last) * math.prod(others)
