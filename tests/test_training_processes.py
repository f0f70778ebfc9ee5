"""Two real processes, with two devices each, that train as one run."""

import dataclasses
import functools
import json
import re
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import pytest
import training_program as program
from test_training_resume import job, resumed
from training_program import Job, Result, assert_close_run

from jbert.training.config import ClusterConfig, RunError
from jbert.training.step_files import open_step

GONE = "Polled an error from coordination service"


def address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def cluster(number: int, where: str, **changes: Any) -> ClusterConfig:
    options = {"num_processes": 2, "timeout": 60, "heartbeat": 10, **changes}
    return ClusterConfig(True, where, process_id=number, **options)


def two(of: Job, **of_second: Any) -> list[Job]:
    """The job as two processes of it, the second one with a fault of its own."""
    where = address()
    return [
        dataclasses.replace(
            of, devices=2, name=f"{of.name}-{i}",
            run=dataclasses.replace(of.run, cluster=cluster(i, where)),
            **(of_second if i else {}),
        )
        for i in range(2)
    ]  # fmt: skip


def run_two(jobs: list[Job], codes: tuple[int, ...] = (0, 0)) -> list[Result]:
    processes = [program.start(job) for job in jobs]
    found = tuple(program.code_of(process) for process in processes)
    results = [Result(job) for job in jobs]
    if jax.__version_info__ < (0, 8) and codes == (143, 143) and found == (143, 1):
        # It may abort a process that has saved and is about to end, as process 0 ended before it.
        assert GONE in results[1].log and "stopped and saved" in results[1].log
        return results
    assert found == codes, "\n\n".join(result.log for result in results)
    return results


@functools.cache
def alone(parallel: str) -> Result:
    return program.run(job(Path(tempfile.mkdtemp()), parallel=parallel, devices=4))


@pytest.mark.parametrize("parallel", ["jit", pytest.param("pmap", marks=pytest.mark.faults)])
def test_two_processes_are_one_run(tmp_path, parallel):
    results = run_two(two(job(tmp_path, parallel=parallel)))
    expected = alone(parallel)
    for result in results:
        assert_close_run(result, expected)
    # Each example is read by one of them, and every step has both their shares.
    for step, rows in expected.order.items():
        shares = [result.order[step] for result in results]
        assert sorted(sum(shares, [])) == sorted(rows)
        assert all(len(share) == 4 for share in shares) or len(rows) == 5
    # One voice.
    assert "2 processes, 4 devices" in results[0].log
    assert "4 × cpu, 2 process(es)" in results[0].log
    assert "devices" not in results[1].log and "step 4" not in results[1].log


def test_both_stop_at_the_same_step_when_one_is_told(tmp_path):
    stopped = two(job(tmp_path, slow=0.3), fault="SIGTERM", at=(3,))
    results = run_two(stopped, (143, 143))
    step = results[0].steps()[-1]
    assert 3 <= step < 12
    for result in results:
        assert f"stopped and saved at step {step};" in result.log
    assert_close_run(program.run(resumed(job(tmp_path, devices=4))), alone("jit"))


@pytest.mark.faults
def test_two_go_on_where_one_was_stopped(tmp_path):
    stopped = job(tmp_path, devices=4, parallel="pmap", fault="SIGTERM in evaluation", at=(8,))
    program.run(stopped, code=143)
    for result in run_two(two(resumed(stopped))):
        assert_close_run(result, alone("pmap"))
    assert open_step(result.directory / "checkpoints" / "8").metric == 0.5


@pytest.mark.faults
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_is_killed_the_other_ends_and_the_run_goes_on(tmp_path, killed):
    jobs = two(job(tmp_path))
    jobs[killed] = dataclasses.replace(jobs[killed], fault="SIGKILL", at=(7,))
    processes = [program.start(job) for job in jobs]
    assert program.code_of(processes[killed]) == -9
    start = time.monotonic()
    assert program.code_of(processes[1 - killed], 60) != 0
    assert time.monotonic() - start < 30
    results = run_two(two(resumed(job(tmp_path, "again"))))
    assert re.search("going on from step [45]", results[0].log)
    assert_close_run(results[0], alone("jit"))


@pytest.mark.faults
def test_more_processes_than_examples(tmp_path):
    few = job(tmp_path, examples=1, held_out=1)
    results = run_two(two(few))
    assert_close_run(results[0], program.run(job(tmp_path / "alone", examples=1, held_out=1)))
    assert results[0].lines()[-2]["examples"] == 12


@pytest.mark.faults
def test_what_process_0_refuses_all_refuse(tmp_path):
    first = job(tmp_path)
    Path(first.run.output_dir).mkdir()
    Path(first.run.output_dir, "notes.txt").touch()
    for result in run_two(two(first), (1, 1)):
        assert "holds files that are no run of jbert" in result.log


def test_a_coordinator_that_is_not_there(tmp_path):
    start = time.monotonic()
    result = program.run(lonely(tmp_path, 1, timeout=2), code=1)
    assert "RunError: process 0 does not answer at 127.0.0.1:" in result.log
    assert time.monotonic() - start < 30


@pytest.mark.faults
def test_processes_that_do_not_come(tmp_path):
    result = program.run(lonely(tmp_path, 0, timeout=3), code=1)
    assert "RunError: not all of the 2 processes have joined within 3 s" in result.log


@pytest.mark.faults
def test_a_number_that_another_process_has(tmp_path):
    one = lonely(tmp_path, 0, timeout=3)
    jobs = [one, dataclasses.replace(one, name="other")]
    # Which of them finds out first, and how, is a matter of chance.
    assert all(program.code_of(process, 60) for process in [program.start(job) for job in jobs])


def lonely(place: Path, number: int, **changes: Any) -> Job:
    one = job(place)
    where = cluster(number, address(), **changes)
    return dataclasses.replace(one, run=dataclasses.replace(one.run, cluster=where))


def test_numbers_and_addresses_that_cannot_be():
    with pytest.raises(RunError, match=r"process_id is 2; expected a number from 0 to below"):
        ClusterConfig(num_processes=2, process_id=2)
    assert json.dumps(dataclasses.asdict(ClusterConfig()))
