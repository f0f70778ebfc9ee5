"""Kills a run with SIGKILL again and again, and compares what comes out with a run left alone.

    python tests/fault_suite.py --kills 30

Each time it goes on, that is from a step that was committed; in the end the parameters, the
optimizer's state, the order of the examples and every line of metrics.jsonl are the same.
"""

import argparse
import collections
import dataclasses
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import training_program as program
from training_program import Job, Result, assert_same_run

from jbert.training.config import (
    CheckpointConfig,
    EvaluationConfig,
    LoggingConfig,
    OptimizerConfig,
    RunConfig,
)
from jbert.training.step_files import open_step

CHECKPOINT = 3
# A killed run advances about five steps, and loses up to three of them.
STEPS_A_KILL = 8


def survive(place: Path, kills: int, seed: int = 0, parallel: Any = "jit") -> dict[str, int]:
    """Kill a run so many times; how many of the kills were in what the run was doing."""
    draw, met = random.Random(seed), collections.Counter()
    alone = program.run(long_run(place, "alone", kills, parallel))
    job = long_run(place, "killed", kills, parallel)
    for number in range(kills):
        process = program.start(job)
        wait_for_steps(job, process, draw.randint(0, 10))
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        if program.code_of(process) == 0:
            raise RuntimeError(f"the run ended after {number} of {kills} kills")
        met[where_it_was(job)] += 1
        check_checkpoints(job)
        job = dataclasses.replace(job, run=dataclasses.replace(job.run, resume=True))
    assert_same_run(program.run(job), alone)
    return dict(met)


def long_run(place: Path, name: str, kills: int, parallel: Any) -> Job:
    run = RunConfig(
        output_dir=str(place / name), batch_size=8, accumulate=2, parallel=parallel,
        steps=STEPS_A_KILL * kills + 20,
        optimizer=OptimizerConfig(learning_rate=1e-2, ema=0.9),
        evaluation=EvaluationConfig(steps=4, batch_size=2),
        checkpoints=CheckpointConfig(steps=CHECKPOINT), logging=LoggingConfig(steps=2),
    )  # fmt: skip
    return Job(run, str(place), name)


def wait_for_steps(job: Job, process: Any, count: int) -> None:
    """Until it has begun so many steps more than it had, or has ended."""
    end, wanted = time.monotonic() + 120, begun(job) + count
    while process.is_alive() and begun(job) < wanted and time.monotonic() < end:
        time.sleep(0.01)


def begun(job: Job) -> int:
    path = job.path("order")
    return len(path.read_text().splitlines()) if path.exists() else 0


def where_it_was(job: Job) -> str:
    if list(Path(job.run.output_dir).glob("checkpoints/.writing.*")):
        return "saving"
    phase = job.path("phase")
    return phase.read_text() if phase.exists() and phase.read_text() else "starting"


def check_checkpoints(job: Job) -> None:
    """Every step that is there is whole, and at most one interval and what was being saved lost."""
    checkpoints = Path(job.run.output_dir, "checkpoints")
    steps = Result(job).steps() if checkpoints.is_dir() else []
    for step in steps:
        open_step(checkpoints / str(step)).verify()
    trained = max(Result(job).order, default=0)
    assert trained - max(steps, default=0) <= 2 * CHECKPOINT, (trained, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parallel", choices=("jit", "pmap"), default="jit")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        met = survive(Path(place), options.kills, options.seed, options.parallel)
    print(f"{options.kills} kills survived in {time.monotonic() - start:.0f} s: {met}")


if __name__ == "__main__":
    main()
