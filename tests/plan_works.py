"""Small and real steps to plan, and what a compiler may say of one."""

import dataclasses

import tiny

from jbert.execution import Execution
from jbert.models import presets
from jbert.plan.chips import GIB
from jbert.plan.hlo import Collective, Reading
from jbert.plan.program import Facts
from jbert.plan.work import Work

BASE = presets()["bert-base-uncased"].config
READING = Reading(
    cycles=15_000_000,
    parts={"attention": 9_000_000, "optimizer": 6_000_000},
    collectives=(Collective("all-reduce", 8, 4, 400 * 10**6, 200 * 10**6),),
    loops=(12, 12),
)
FACTS = Facts("libtpu 9", 60.0, arguments=2 * GIB, results=2 * GIB, aliased=2 * GIB,
              temporary=3 * GIB, optimal_seconds=0.04, reading=READING)  # fmt: skip


def small(task="masked_lm", arch="bert", **changes) -> Work:
    work = Work("small", tiny.config(arch), task, 8, 16, Execution(scan_layers=True))
    return dataclasses.replace(work, **changes)


def base(**changes) -> Work:
    work = Work("base", BASE, "masked_lm", 32, 512, predictions=77)
    return dataclasses.replace(work, **changes)
