"""`jbert plan`: from a name and a slice to what it takes."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Iterator

import jax

from jbert.plan.cache import Cache
from jbert.plan.chips import PlanError, slice_of
from jbert.plan.program import Facts, compiled
from jbert.plan.report import ROW_NAMES, ranking, report, row
from jbert.plan.roofline import predict
from jbert.plan.search import search
from jbert.plan.topology import compiler_version
from jbert.plan.wish import Wish, work_of
from jbert.plan.work import Work


@dataclasses.dataclass(frozen=True)
class Request:
    """What to plan, and how to look for it."""

    what: str
    topology: str
    wish: Wish = Wish()
    steps: int = 1000
    find: bool = False
    compiles: int = 4
    cache: bool = True

    def __post_init__(self):
        for name in ("steps", "compiles"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} is {getattr(self, name)}; expected at least 1")


def plan(request: Request) -> str:
    """The plan as text.

    Switches this process to JAX's CPU backend: a machine that has a TPU does not need it for this.
    """
    wanted, cache = slice_of(request.topology), Cache(enabled=request.cache)
    compiler_version()
    jax.config.update("jax_platforms", "cpu")
    work = work_of(request.what, wanted.devices, request.wish)

    def run(one: Work) -> Facts:
        return compiled(one, wanted, cache)

    with _quietly():
        if not request.find:
            facts = run(work)
            found = [] if facts.needed else [predict(work, wanted, facts)]
            return report(work, wanted, facts, next(iter(found), None), request.steps)
        ranked = search(work, wanted, run, request.compiles)
        best = ranked[0]
        assert best.facts is not None  # of what was compiled; not of what a user gave
        prediction = best.prediction if best.fits(wanted) else None
        text = report(best.work, wanted, best.facts, prediction, request.steps)
        return f"{text}\n{ranking(ranked, wanted)}"


def table(rows: Iterable[tuple[str, str, Wish]]) -> Iterator[str]:
    """The table of docs/plan.md: a line for each recipe on a slice."""
    jax.config.update("jax_platforms", "cpu")
    yield ROW_NAMES
    for name, topology, wish in rows:
        wanted = slice_of(topology)
        work = work_of(name, wanted.devices, wish)
        with _quietly():
            facts = compiled(work, wanted, Cache())
            prediction = None if facts.needed else predict(work, wanted, facts)
        yield row(work, wanted, facts, prediction)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the library logs of each trace: a plan makes several."""
    noisy = logging.getLogger("jbert")
    level = noisy.level
    noisy.setLevel(logging.WARNING)
    try:
        yield
    finally:
        noisy.setLevel(level)
