"""The checkpoints of a run in processes of their own: at every end of one, and shared by two."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import disk
import pytest
from checkpoint_states import placed, state, target

import jbert
from jbert.training.checkpoints import Checkpoints
from jbert.training.step_files import open_step

TESTS = Path(__file__).parent


ENDINGS = """
import json, os, sys, jax
jax.config.update("jax_platforms", "cpu")
from checkpoint_states import state
from jbert.training.checkpoints import Checkpoints
codes = {}
for how in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        break
    codes[how] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
else:
    print(json.dumps(codes))
    sys.exit()
def saved():
    checkpoints = Checkpoints(os.path.join(sys.argv[1], how))
    checkpoints.save(1, state(1, 1 << 20), {})
    return checkpoints
if how == "exception inside":
    with saved():
        raise KeyError("the reason")
elif how == "sys.exit inside":
    with saved():
        sys.exit(3)
else:
    checkpoints = saved()
    if how == "exception":
        raise KeyError("the reason")
"""
CODES = {"nothing": 0, "exception": 1, "exception inside": 1, "sys.exit inside": 3}


def test_the_last_save_is_committed_however_the_process_ends(tmp_path):
    """Also where nobody waits for it, and `with` was forgotten."""
    finished = subprocess.run(
        [sys.executable, "-c", ENDINGS, str(tmp_path), *CODES],
        capture_output=True, text=True, timeout=120, env=environment(),
    )  # fmt: skip
    assert json.loads(finished.stdout) == CODES, finished.stderr
    assert finished.stderr.count("KeyError: 'the reason'") == 2
    expected = state(1, 1 << 20)
    for how in CODES:
        disk.assert_same(open_step(tmp_path / how / "1").restore(target(expected)), expected)


def environment() -> dict[str, str]:
    places = [str(TESTS), str(Path(jbert.__file__).parents[1])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes saw that met a directory written by one; see checkpoint_pair.py."""
    directory = tmp_path_factory.mktemp("pair") / "c"
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, placed(state(1), 8), {}, metric=0.5)
        checkpoints.save(2, placed(state(2), 8), {})
    (directory / "2" / "state" / "_METADATA").unlink()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, str(TESTS / "checkpoint_pair.py"), address, str(i), str(directory)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    return directory, [json.loads(said.splitlines()[-1]) for said, _ in outputs]


def test_two_processes_read_what_one_wrote_and_one_what_two_wrote(pair):
    directory, seen = pair
    for process in seen:
        # The first verifies, warns and renames, and both use the same step.
        assert (process["latest"], process["restored"]) == (1, True)
        assert (process["steps"], process["again"]) == ([2, 3], True)
    assert [process["warnings"] for process in seen] == [1, 0]
    with Checkpoints(directory) as checkpoints:
        assert (checkpoints.steps(), checkpoints.best()) == ([2, 3, 4], 2)
        found = checkpoints.latest()
        assert found is not None and (found.step, found.info) == (4, {"by": 2})
    for step in (2, 3, 4):
        files = open_step(directory / str(step))
        assert len(list((files.path / "state").glob("ocdbt.process_*"))) == 2
        disk.assert_same(files.restore(target(state(step))), state(step))
        disk.assert_same(files.restore(target(state(step), 8)), state(step))


def test_an_error_of_one_process_is_an_error_of_all(pair):
    _, (first, second) = pair
    assert first["locked"].startswith("LockedError: ")
    assert second["locked"] == first["locked"].replace("LockedError:", "LockedError: process 0:")
    assert "step 4 could not be written ([Errno 28] No space" in first["full"]
    assert second["full"] == first["full"].replace("OSError:", "OSError: process 0:")
    assert "step 3 is to be saved" in first["order"]
    assert second["order"] == first["order"].replace("ValueError:", "ValueError: process 0:")
