"""What goes wrong in a run, and what is left of it then; see fault_suite.py for more kills."""

import dataclasses
import json
import re
import time
from pathlib import Path

import fault_suite
import pytest
import tiny
import training_program as program
from test_training_resume import job, resumed, uninterrupted
from training_program import Rows, assert_same_run

import jbert
from jbert.data.batches import TrainingOrder
from jbert.data.table import DataError
from jbert.training.config import (
    CheckpointConfig,
    EvaluationConfig,
    OptimizerConfig,
    RunConfig,
    RunError,
)
from jbert.training.evaluation import Evaluation
from jbert.training.loop import Trainer
from jbert.training.parallel import mesh_of

# -- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signals", "code", "saved"), [("SIGINT", 130, True), ("SIGTERM SIGTERM", 143, False)]
)
def test_the_first_signal_saves_and_the_second_ends_at_once(tmp_path, signals, code, saved):
    result = program.run(job(tmp_path, fault=signals, at=(7,)), code=code)
    assert "saving, then stopping; once more to stop at once" in result.log
    assert (7 in result.steps()) == saved


@pytest.mark.parametrize("parallel", ["jit", pytest.param("pmap", marks=pytest.mark.faults)])
def test_a_run_survives_being_killed(tmp_path, parallel):
    met = fault_suite.survive(tmp_path, kills=2, parallel=parallel)
    assert sum(met.values()) == 2


# -- numbers that are none --------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    rows = TrainingOrder(Rows(21), 8, 0).batch(2).examples().tolist()
    often = CheckpointConfig(steps=1)
    broken = job(tmp_path, poison=rows[0], checkpoints=often)
    result = program.run(broken, code=1)
    assert "NonFiniteError: step 3: the loss is inf, the gradient's norm" in result.log
    assert f"The batch was rows {rows}" in result.log.replace("…", "")
    assert "the newest checkpoint is step 2" in result.log
    failed = json.loads((result.directory / "failed_batch.json").read_text())
    assert failed == {"step": 3, "epoch": 0, "rows": rows}
    assert result.steps() == [1, 2]
    assert [line["step"] for line in result.lines()] == [2]
    # With the row put right the run goes on as if it had always been so.
    result = program.run(dataclasses.replace(resumed(broken), poison=None))
    assert_same_run(result, program.run(job(tmp_path / "right", checkpoints=often)))


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    far = OptimizerConfig(learning_rate=1e39, warmup_steps=0)
    result = program.run(job(tmp_path, optimizer=far, checkpoints=CheckpointConfig(steps=1)), 1)
    assert "step 1: a parameter is not finite, though the loss still was" in result.log
    assert result.steps() == []


# -- disks ------------------------------------------------------------------------------------


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(tmp_path):
    stopped = job(tmp_path, fault="SIGTERM", at=(7,))
    directory = program.run(stopped, code=143).directory / "checkpoints"
    damage(directory / "7")
    # It goes on from the one before, and is stopped where there is the damaged one.
    again = dataclasses.replace(resumed(stopped), fault="SIGTERM")
    result = program.run(again, code=143)
    assert "going on from step 5" in result.log
    assert "It is now called 7.damaged; step 5 is used instead" in result.log
    assert result.steps()[-1] == 7 and (directory / "7.damaged").is_dir()
    assert_same_run(program.run(resumed(stopped)), uninterrupted("jit"))


def damage(step: Path) -> None:
    largest = max(step.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_a_full_disk_ends_no_run(tmp_path):
    """Full from step 3 to 9: the saves of 4, 5 and 8 fail."""
    result = program.run(job(tmp_path, fault="full disk", at=(3, 9)))
    for step in (4, 5, 8):
        assert f"step {step} could not be written ([Errno 28] No space left on device" in result.log
    expected = uninterrupted("jit")
    assert (result.lines(), result.order) == (expected.lines(), expected.order)
    assert result.steps() == [10, 12]
    for name in expected.state:
        if not name.startswith("final/"):  # the best one could not be saved
            assert result.state[name].tobytes() == expected.state[name].tobytes()


@pytest.mark.parametrize("fault", program.FULL)
def test_a_disk_that_stays_full_is_an_error_in_the_end(tmp_path, fault):
    full = job(tmp_path, fault=fault, at=(6,))
    result = program.run(full, code=1)
    assert re.match("OSError: .*No space left on device", result.log.splitlines()[-1])
    assert result.steps() == [4, 5]
    assert_same_run(program.run(resumed(full)), uninterrupted("jit"))


def test_two_runs_in_one_directory(tmp_path):
    first = job(tmp_path, "first", fault="hang", at=(7,))
    process = program.start(first)
    end = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < end and phase(first) != "hanging":
        time.sleep(0.05)
    for changes in ({"resume": True}, {"overwrite": True}):
        second = job(tmp_path, "second", **changes)
        result = program.run(second, code=1)
        assert f"is being written by process {process.pid} on" in result.log
    process.kill()
    assert program.code_of(process) == -9
    assert_same_run(program.run(resumed(first)), uninterrupted("jit"))


def phase(of: program.Job) -> str:
    path = of.path("phase")
    return path.read_text() if path.exists() else ""


# -- before anything is compiled --------------------------------------------------------------


@pytest.fixture(scope="module")
def bert():
    mesh, rules = mesh_of(RunConfig())
    config = tiny.config("distilbert", n_layers=1, num_labels=1, problem_type="regression")
    return jbert.from_config(config, "sequence_classification", mesh=mesh, rules=rules)


def test_runs_that_cannot_be_done(bert, tmp_path):
    run = RunConfig(output_dir=str(tmp_path), batch_size=8)
    with pytest.raises(DataError, match="no example to train on; expected at least one"):
        Trainer(run, bert, Rows(0))
    with pytest.raises(RunError, match="the split 'validation' has no example"):
        Trainer(run, bert, Rows(5), {"validation": Evaluation(Rows(0))})
    with pytest.raises(RunError, match=r"batch_size / accumulate is 6, .* expected a multiple of"):
        Trainer(dataclasses.replace(run, batch_size=12, accumulate=2), bert, Rows(5))
    with pytest.raises(RunError, match="the model lies on no mesh; load it with the one that"):
        Trainer(run, dataclasses.replace(bert, mesh=None), Rows(5))
    assert list(tmp_path.iterdir()) == []


def test_a_metric_that_there_is_not_costs_no_step(tmp_path):
    wrong = EvaluationConfig(steps=4, metric="accuracy")
    result = program.run(job(tmp_path, evaluation=wrong), code=1)
    assert "evaluation.metric is 'accuracy'; validation has ['loss', 'mean', 'score']" in result.log
    assert result.steps() == [4]


def test_a_checkpoint_of_another_model_or_other_data(tmp_path):
    stopped = job(tmp_path, fault="SIGTERM", at=(3,))
    program.run(stopped, code=143)
    result = program.run(dataclasses.replace(resumed(stopped), layers=2), code=1)
    assert "the checkpoint is of another model" in result.log
    assert "n_layers: 1 there, 2 here" in result.log
    result = program.run(dataclasses.replace(resumed(stopped), examples=22), code=1)
    assert "rows is 22, was 21" in result.log
    assert result.steps() == [3]
