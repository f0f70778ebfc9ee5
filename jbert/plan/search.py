"""The mesh and the rematerialisation that fit and are fastest."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from jbert.plan.chips import PlanError, Slice
from jbert.plan.program import Facts, counted
from jbert.plan.roofline import Estimate, Prediction, estimate, predict
from jbert.plan.work import Work

REMAT = ("none", "dots_no_batch", "full")
# Estimates of memory may be so much too high for a candidate that fits.
MARGIN = 1.3

Compile = Callable[[Work], Facts]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to run the step: by estimate, and where it was compiled by the compiler's figures."""

    work: Work
    estimate: Estimate
    facts: Facts | None = None
    prediction: Prediction | None = None

    def fits(self, wanted: Slice) -> bool:
        return self.facts is not None and self.facts.memory() <= wanted.chip.memory

    def label(self) -> str:
        mesh, remat = self.work.mesh, self.work.execution.remat
        return f"data {mesh.data} × fsdp {mesh.fsdp} × tensor {mesh.tensor}, remat {remat}"


def candidates(work: Work, wanted: Slice) -> list[Candidate]:
    """Every mesh and policy, the fastest by estimate first; what cannot fit left out."""
    config: Any = work.config
    possible = [
        (data, fsdp, tensor)
        for data, fsdp, tensor in meshes(wanted.devices, config.attention_heads)
        if (work.batch_size // work.accumulate) % (data * fsdp) == 0
    ]
    if not possible:
        raise PlanError(
            f"no mesh of {wanted.devices} devices divides a batch of {work.batch_size} in "
            f"{work.accumulate} micro-batches; change --batch-size"
        )
    found = []
    for remat in REMAT if work.train else ("none",):
        execution = dataclasses.replace(work.execution, remat=remat)
        arithmetic = counted(dataclasses.replace(work, execution=execution))
        for data, fsdp, tensor in possible:
            mesh = dataclasses.replace(work.mesh, data=data, fsdp=fsdp, tensor=tensor)
            one = dataclasses.replace(work, execution=execution, mesh=mesh)
            found.append(Candidate(one, estimate(one, wanted, arithmetic)))
    fitting = [one for one in found if one.estimate.memory <= MARGIN * wanted.chip.memory]
    # Where nothing seems to fit, what comes closest may all the same.
    ranked = fitting or sorted(found, key=lambda one: one.estimate.memory)[:2]
    return sorted(ranked, key=lambda one: one.estimate.seconds)


def meshes(devices: int, heads: int) -> Iterator[tuple[int, int, int]]:
    """Sizes of ("data", "fsdp", "tensor"): whole heads, and no more of `tensor` than pays."""
    for tensor in (1, 2, 4, 8):
        if devices % tensor or heads % tensor:
            continue
        rest = devices // tensor
        for fsdp in range(1, rest + 1):
            if rest % fsdp == 0:
                yield rest // fsdp, fsdp, tensor


def search(work: Work, wanted: Slice, run: Compile, compiles: int) -> list[Candidate]:
    """Compile the most promising candidates; the fastest that fits is first, then the rest of
    what was compiled.

    At least `compiles` are, and as many more until one fits.
    """
    tried: list[Candidate] = []
    for one in candidates(work, wanted):
        if len(tried) >= compiles and any(each.fits(wanted) for each in tried):
            break
        facts = run(one.work)
        done = None if facts.needed else predict(one.work, wanted, facts)
        tried.append(dataclasses.replace(one, facts=facts, prediction=done))
    return sorted(tried, key=lambda one: (not one.fits(wanted), _seconds(one)))


def _seconds(one: Candidate) -> float:
    return one.estimate.seconds if one.prediction is None else one.prediction.step()
