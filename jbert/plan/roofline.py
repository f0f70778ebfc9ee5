"""How long a step takes and what it needs, from what is known of it: by estimate before it is
compiled, and by the compiler's own figures after."""

import dataclasses
from typing import Any

import jax

from jbert.loaded import abstract_params
from jbert.plan.arithmetic import Count
from jbert.plan.chips import Slice
from jbert.plan.hlo import Collective
from jbert.plan.program import Facts, attached_to, counted, kernel_seconds, useful_flops
from jbert.plan.work import Work, mesh_sizes
from jbert.sharding import make_mesh

# Of the published peak, what products of a model's own shapes reach.
ATTAINABLE = 0.6


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The least time that a device's arithmetic, its memory and its links could take, in seconds:
    each of them alone at its published speed."""

    arithmetic: float
    memory: float
    links: float

    def seconds(self) -> float:
        return max(self.arithmetic, self.memory, self.links)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Before anything is compiled: memory on a device, and the time of a step."""

    memory: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A compiled step, in seconds.

    cycles:      the compiler's estimate of every operation, added up; 0 where it states none.
    kernels:     what Pallas' kernels take, by jbert's own estimate: these have no cycles.
    links:       its collectives at the links' speed, if nothing else goes on meanwhile.
    optimal:     the compiler's estimate of the whole, or None and then `why_not`.
    """

    cycles: float
    kernels: float
    links: float
    roofline: Roofline
    optimal: float | None
    why_not: str
    flops: int
    useful: int

    def step(self) -> float:
        return max(self.cycles + self.kernels + self.links, self.roofline.seconds())


def predict(work: Work, wanted: Slice, facts: Facts) -> Prediction:
    flops, useful = counted(work).flops, useful_flops(work)
    chip, reading = wanted.chip, facts.reading
    links = sum(seconds_of(one, chip.links) for one in reading.collectives)
    # Arguments are read and results written at least once; what is temporary is both.
    moved = facts.arguments + facts.results + 2 * facts.temporary
    roofline = Roofline(flops / wanted.devices / chip.flops, moved / chip.bandwidth, links)
    why_not = why_not_optimal(wanted, facts, roofline)
    optimal = None if why_not else facts.optimal_seconds
    cycles = reading.cycles / chip.clock
    kernels = kernel_seconds(work, wanted, facts) if facts.kernels() else 0.0
    return Prediction(cycles, kernels, links, roofline, optimal, why_not, flops, useful)


def why_not_optimal(wanted: Slice, facts: Facts, roofline: Roofline) -> str:
    """Why the compiler's `optimal_seconds` say nothing here; "" where they may be believed."""
    if not wanted.chip.optimal_seconds:
        return f"not plausible for whole models on {wanted.generation}"
    if facts.reading.loops:
        return "counts the body of a loop once; --unrolled has no loop over layers"
    if (value := facts.optimal_seconds) < roofline.arithmetic:
        return f"{value:.3g} s, which is less than the arithmetic alone takes"
    return ""


def seconds_of(one: Collective, links: float) -> float:
    """A ring's time over all links of a chip."""
    n = one.devices
    factor = {
        "all-reduce": 2 * (n - 1) / n,
        "reduce-scatter": float(n - 1),  # of what it makes, a share of what it takes
        "collective-permute": 1.0,
        "collective-broadcast": 1.0,
    }.get(one.kind, (n - 1) / n)
    return factor * one.bytes / links


# -- before compiling -----------------------------------------------------------------------


def estimate(work: Work, wanted: Slice, of: Count | None = None) -> Estimate:
    """From shapes alone; memory within a third or so, which is enough to leave candidates out."""
    of = counted(work) if of is None else of
    chip = wanted.chip
    data, fsdp, tensor = mesh_sizes(work, wanted.devices)
    attached = attached_to(work, make_mesh(1, 1, 1, jax.devices("cpu")[:1]))
    whole = _bytes(abstract_params(work.module())) + _bytes(attached.companions)
    params = whole / (fsdp * tensor)
    kept = of.kept / (data * fsdp * tensor)
    state = params
    if work.train:
        # The gradient, and AdamW's two moments.
        state = params * (2 + 2 / (data if work.mesh.zero else 1))
    state += _bytes(attached.fixed) / (fsdp * tensor)
    memory = state + kept + 2 * of.widest / (data * fsdp * tensor)
    arithmetic = of.flops / wanted.devices / (ATTAINABLE * chip.flops)
    moved = (2 * state + 2 * kept) / chip.bandwidth
    return Estimate(memory, max(arithmetic, moved) + _links(work, wanted, params, whole))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _links(work: Work, wanted: Slice, params: float, whole: float) -> float:
    """Seconds of collectives: gradients over `data`, parameters over `fsdp`, activations over
    `tensor`."""
    data, fsdp, tensor = mesh_sizes(work, wanted.devices)
    passes = 2 if work.train else 1
    config: Any = work.config
    layers, hidden = config.num_hidden_layers, config.hidden_size
    itemsize = 4 if work.execution.dtype == "float32" else 2
    moved = 0.0
    if data > 1 and work.train:
        moved += 2 * (data - 1) / data * params
    if fsdp > 1:
        moved += (passes + work.train) * (fsdp - 1) / fsdp * whole / tensor
    if tensor > 1:
        activations = work.tokens() * hidden * itemsize / (data * fsdp)
        moved += passes * 2 * layers * 2 * (tensor - 1) / tensor * activations
    return moved / wanted.chip.links
