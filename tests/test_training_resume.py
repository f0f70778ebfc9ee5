"""A run that was interrupted and goes on is the run that never was: to the last bit on the same
devices, and to rounding on others."""

import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import training_program as program
from training_program import Job, Result, assert_close_run, assert_same_run, assert_same_state

from jbert.execution import Execution
from jbert.training.config import (
    CheckpointConfig,
    EvaluationConfig,
    LoggingConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
)
from jbert.training.step_files import open_step

SCORES = {4: 0.1, 8: 0.5, 12: 0.3}


def job(place: Path, name: str = "run", **changes: Any) -> Job:
    """12 steps of 8 examples of 21; lines after 2, checkpoints after 5, evaluations after 4."""
    fields = {field.name for field in dataclasses.fields(Job)}
    extra = {key: changes.pop(key) for key in list(changes) if key in fields}
    options: dict[str, Any] = {
        "output_dir": str(place / "out"), "batch_size": 8, "accumulate": 2, "steps": 12,
        "optimizer": OptimizerConfig(learning_rate=1e-2, ema=0.9),
        "evaluation": EvaluationConfig(steps=4), "checkpoints": CheckpointConfig(steps=5),
        "logging": LoggingConfig(steps=2),
    }  # fmt: skip
    run = RunConfig(**options | changes)
    return Job(run, str(place), name, **{"scores": SCORES, **extra})


def resumed(interrupted: Job, **changes: Any) -> Job:
    run = dataclasses.replace(interrupted.run, resume=True)
    return dataclasses.replace(interrupted, run=run, fault="", **changes)


@functools.cache
def uninterrupted(parallel: str) -> Result:
    return program.run(job(Path(tempfile.mkdtemp()), parallel=parallel))


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, parallel):
    """Inside a window of logging, with accumulation, dropout and an average of the parameters."""
    stopped = job(tmp_path, parallel=parallel, fault="SIGTERM", at=(7,))
    result = program.run(stopped, code=143)
    assert result.steps() == [4, 5, 7][-3:]
    assert "stopped and saved at step 7" in result.log
    result = program.run(resumed(stopped))
    assert "going on from step 7" in result.log
    expected = uninterrupted(parallel)
    assert_same_run(result, expected)
    assert sorted(expected.order) == list(range(12))
    assert [len(rows) for _, rows in sorted(expected.order.items())].count(5) == 4
    # The best one is kept besides the newest two, and is what comes out.
    assert result.steps() == expected.steps() == [8, 10, 12]
    average = {k: v for k, v in expected.state.items() if k.startswith("final/")}
    assert any((v != expected.state[k.replace("final", "average", 1)]).any() for k, v in
               average.items())  # fmt: skip


def test_a_run_that_was_stopped_in_an_evaluation_does_it_again(tmp_path):
    stopped = job(tmp_path, fault="SIGTERM in evaluation", at=(8,))
    result = program.run(stopped, code=143)
    assert open_step(result.directory / "checkpoints" / "8").metric is None
    # The figures of step 8 are known, those of its evaluation are not.
    assert [(line["step"], line["split"]) for line in result.lines()][-1] == (8, "train")
    result = program.run(resumed(stopped))
    assert_same_run(result, uninterrupted("jit"))
    assert result.steps() == uninterrupted("jit").steps()
    assert open_step(result.directory / "checkpoints" / "8").metric == SCORES[8]


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path, where):
    killed = job(tmp_path, fault=f"SIGKILL in {where}", at=(8,))
    result = program.run(killed, code=-9)
    assert result.steps() in ([4], [4, 5])  # what was being written may have come to its end
    assert max(line["step"] for line in result.lines()) == 8
    result = program.run(resumed(killed))
    assert_same_run(result, uninterrupted("jit"))


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path):
    killed = job(tmp_path, fault="SIGKILL", at=(3,))
    assert program.run(killed, code=-9).lines() != []
    assert_same_run(program.run(resumed(killed)), uninterrupted("jit"))


def test_a_run_that_has_ended_gives_its_model_again(tmp_path):
    first = job(tmp_path)
    shutil.copytree(uninterrupted("jit").directory, first.run.output_dir)
    result = program.run(resumed(first))
    assert result.order == {}
    assert_same_state(result, uninterrupted("jit"))
    assert result.lines() == uninterrupted("jit").lines()


# -- on other devices -------------------------------------------------------------------------

PLACES: dict[str, dict[str, Any]] = {
    "jit": {},
    "two devices": {"devices": 2},
    "pmap": {"parallel": "pmap"},
    "cube, scanned": {
        "mesh": MeshConfig(data=2, fsdp=2, tensor=2), "execution": Execution(scan_layers=True),
    },
}  # fmt: skip
OTHERS = [("jit", "pmap"), ("jit", "cube, scanned"), ("pmap", "jit"), ("cube, scanned", "jit")]
CHANGES = [
    ("jit", "two devices"),
    *(pytest.param(*pair, marks=pytest.mark.faults) for pair in OTHERS),
]


def elsewhere(place: Path, name: str, **changes: Any) -> Job:
    # Under pmap each device draws its own dropout.
    options = {"devices": 8, "layers": 2, "accumulate": 1, "dropout": False, **PLACES[name]}
    return job(place, **options, **changes)


@functools.cache
def stopped(name: str) -> Path:
    place = Path(tempfile.mkdtemp())
    program.run(elsewhere(place, name, fault="SIGTERM", at=(7,)), code=143)
    return place


@functools.cache
def uninterrupted_on_eight() -> Result:
    return program.run(elsewhere(Path(tempfile.mkdtemp()), "jit"))


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_run_goes_on_on_other_devices(tmp_path, before, after):
    shutil.copytree(stopped(before), tmp_path, dirs_exist_ok=True)
    result = program.run(resumed(elsewhere(tmp_path, after)))
    assert "going on from step 7" in result.log
    assert_close_run(result, uninterrupted_on_eight())
    assert result.order == uninterrupted_on_eight().order
