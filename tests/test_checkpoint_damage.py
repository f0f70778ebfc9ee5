"""What is left of a run's checkpoints by SIGKILL, a full disk, damaged files and foreign hands.

JBERT_KILLS=30 kills as often; the default is a handful.
"""

import errno
import gc
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import disk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import assert_step, state, target
from checkpoint_writer import NUMBERS

from jbert.manifest import DamagedError
from jbert.training import checkpoints as module
from jbert.training.checkpoints import Checkpoints
from jbert.training.step_files import open_step

TESTS = Path(__file__).parent
KILLS = int(os.environ.get("JBERT_KILLS", "5"))


# -- killed ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def writer():
    """A process whose children save until they are killed; see checkpoint_writer.py."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(TESTS / "checkpoint_writer.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def save(directory: Path, after: float) -> int:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"directory": str(directory), "after": after}) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield save
    process.kill()
    process.communicate()


def test_a_save_killed_at_any_moment_costs_at_most_that_save(writer, tmp_path):
    moments = random.Random(KILLS)
    directory, interrupted = tmp_path / "c", 0
    for kill in range(KILLS):
        # The first at once: how long a save takes is not known here.
        committed = writer(directory, moments.uniform(0.0, 0.6) if kill else 0.0)
        interrupted += any(directory.glob(".writing.*"))
        steps = [int(path.name) for path in directory.iterdir() if path.name.isdecimal()]
        newest = max(steps, default=0)
        # None that it knew of is lost; it tells of a step only after it has begun the next.
        assert committed <= newest <= committed + 2
        for step in steps:  # the best, the first of all, among them
            assert_step(directory, step, state(step, NUMBERS))
    assert interrupted
    with Checkpoints(directory) as checkpoints:  # nobody holds the lock, and nothing is left over
        assert [path.name for path in directory.glob(".*")] == [".lock"]
        found = checkpoints.latest()
        step = 0 if found is None else found.step
        checkpoints.save(step + 1, state(step + 1), {})
    assert_step(directory, step + 1, state(step + 1))


def test_what_killed_processes_leave_is_cleared_away(tmp_path):
    place = tmp_path / "c"
    for name in (".writing.3.0", ".deleting.1"):
        (place / name / "state").mkdir(parents=True)
    (place / ".probe.x").write_text("")
    with Checkpoints(place):
        assert [path.name for path in place.iterdir()] == [".lock"]


# -- damaged --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "c"
    with Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), {"position": step}, metric=step)
    return directory


@pytest.fixture
def copied(saved, tmp_path) -> Path:
    shutil.copytree(saved, tmp_path / "c")
    return tmp_path / "c"


def files_of(step: Path) -> list[Path]:
    return [path for path in sorted(step.rglob("*")) if path.is_file()]


def damages(data: bytes, chance: random.Random):
    """The file deleted, emptied, cut, and with one bit flipped, at a dozen places."""
    yield None
    if data:
        yield b""
        yield data[: len(data) // 2]
        yield data[:-1]
    for _ in range(12 if data else 0):
        bit = chance.randrange(8 * len(data))
        yield data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_no_damage_to_any_file_gives_values_that_were_not_saved(saved, tmp_path):
    chance = random.Random(0)
    place = tmp_path / "c"
    shutil.copytree(saved, place)
    names = [path.relative_to(saved) for path in files_of(saved / "2")]
    assert len(names) > 8 and sum("state" in name.parts for name in names) == len(names) - 1
    cases = 0
    for name in names:
        data = (saved / name).read_bytes()
        for damaged in damages(data, chance):
            cases += 1
            (place / name).unlink()
            if damaged is not None:
                (place / name).write_bytes(damaged)
            assert_older_or_same(place, name)
            if (place / "2.damaged").exists():
                os.rename(place / "2.damaged", place / "2")
            (place / name).write_bytes(data)
    assert cases > 100
    assert_step(place, 2, state(2))


def assert_older_or_same(place: Path, name: Path) -> None:
    with warnings.catch_warnings(record=True) as caught, Checkpoints(place) as checkpoints:
        warnings.simplefilter("always")
        found = checkpoints.latest()
    assert found is not None
    disk.assert_same(found.restore(target(state(found.step))), state(found.step))
    if found.step == 2:
        # JSON has blanks and spellings that say the same.
        assert name.name == "step.json" and not caught
        return
    assert found.step == 1
    (warning,) = caught
    assert str(name.relative_to("2")) in str(warning.message)
    assert "now called 2.damaged; step 1 is used instead" in str(warning.message)
    assert warning.filename == __file__


def test_training_goes_on_past_a_damaged_step(copied):
    for name in ("2.damaged", "2.damaged.2"):
        files_of(copied / "2" / "state")[0].unlink()
        with Checkpoints(copied, keep=1) as checkpoints:
            with pytest.warns(UserWarning, match=f"now called {name};"):
                found = checkpoints.latest()
            assert found is not None and (found.step, found.info) == (1, {"position": 1})
            disk.assert_same(checkpoints.restore(1, target(state(1))), state(1))
            assert (checkpoints.steps(), checkpoints.best()) == ([1], 1)
            checkpoints.save(2, state(2), {}, metric=-1)
        assert_step(copied, 2, state(2))
    steps = {path.name for path in copied.iterdir()}
    assert steps == {".lock", "1", "2", "2.damaged", "2.damaged.2"}


def test_an_empty_step_is_no_step(copied):
    (copied / "5").mkdir()
    (copied / "6").mkdir()
    with Checkpoints(copied) as checkpoints, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = checkpoints.latest()
    assert found is not None and found.step == 2 and len(caught) == 2
    assert {path.name for path in copied.glob("*.damaged")} == {"5.damaged", "6.damaged"}


def test_a_step_under_another_number_is_not_that_step(copied):
    os.rename(copied / "1", copied / "7")
    with Checkpoints(copied) as checkpoints:
        with pytest.warns(UserWarning, match="7 holds step 1"):
            found = checkpoints.latest()
        assert found is not None and found.step == 2


def test_files_that_were_added_change_nothing(copied):
    for place in (copied, copied / "2", copied / "2" / "state", copied / "2" / "state" / "d"):
        (place / "desktop.ini").write_text("x")
    with Checkpoints(copied) as checkpoints:
        found = checkpoints.latest()
        assert found is not None and found.step == 2
        disk.assert_same(found.restore(target(state(2))), state(2))


def test_without_any_whole_step_nothing_is_touched_and_nothing_begins_anew(copied):
    for step in ("1", "2"):
        (copied / step / "step.json").write_text("{}")
    for _ in range(2):  # a second try is no fresh start either
        with Checkpoints(copied) as checkpoints:
            with pytest.raises(DamagedError, match="none of its checkpoints is whole") as caught:
                checkpoints.latest()
            assert checkpoints.steps() == [1, 2]
        for step in ("1", "2"):
            assert str(copied / step) in str(caught.value)
    for step in ("1", "2"):
        os.rename(copied / step, copied / f"{step}.damaged")
    with Checkpoints(copied) as checkpoints, pytest.raises(DamagedError, match="2.damaged was set"):
        checkpoints.latest()


def test_damage_is_noticed_without_asking_for_the_latest(copied):
    (copied / "2" / "state" / "_METADATA").write_text("{}")
    with Checkpoints(copied) as checkpoints:
        with pytest.raises(DamagedError, match="state/_METADATA: its contents have changed"):
            checkpoints.restore(2, target(state(2)))
    with pytest.raises(DamagedError, match="_METADATA"):
        open_step(copied / "2").restore(target(state(2)))


# -- no room, no right ----------------------------------------------------------------------


def noise(step: int, numbers: int) -> dict[str, jax.Array]:
    """Nothing that compresses."""
    return {"x": jnp.asarray(np.random.default_rng(step).standard_normal(numbers, np.float32))}


@pytest.fixture
def short_files():
    """Switches a limit on the size of files, at which writing fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda on: resource.setrlimit(
        resource.RLIMIT_FSIZE, (1 << 20, before[1]) if on else before
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_on_the_way(short_files, tmp_path, caplog):
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        checkpoints.save(1, noise(1, 1000), {})
        checkpoints.wait()
        short_files(True)
        for step in (2, 3):
            checkpoints.save(step, noise(step, 1 << 20), {})
            with pytest.raises(OSError, match=f"step {step} could not be written") as caught:
                checkpoints.wait()
            assert "File too large" in str(caught.value) and str(tmp_path) in str(caught.value)
            assert checkpoints.steps() == [1]
            assert {path.name for path in (tmp_path / "c").iterdir()} == {"1", ".lock"}
        short_files(False)
        assert_step(tmp_path / "c", 1, noise(1, 1000))
        checkpoints.save(3, noise(3, 1 << 20), {})
        checkpoints.wait()
        assert checkpoints.steps() == [3]
    assert_step(tmp_path / "c", 3, noise(3, 1 << 20))
    # One message, and not a traceback from each of Orbax' threads.
    assert [record for record in caplog.records if "orbax" in record.pathname] == []


# Of a write that fails half way Orbax leaves behind what complains when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("noticed", ["before", "on the way"])
def test_a_full_disk(noticed, little_room, monkeypatch):
    if noticed == "on the way":
        monkeypatch.setattr(module, "check_room", lambda directory, size: None)
        words = r"step 2 could not be written .*No space left on device"
    else:
        words = r"4\.6 MB are to be written, but only"
    with Checkpoints(little_room / "c", keep=1) as checkpoints:
        checkpoints.save(1, noise(1, 1 << 18), {})
        with pytest.raises(OSError, match=words) as caught:
            checkpoints.save(2, noise(2, 1 << 20), {})
            checkpoints.wait()
        if noticed == "before":
            assert caught.value.errno == errno.ENOSPC
        assert checkpoints.steps() == [1]
        ballast = little_room / "ballast"
        ballast.write_bytes(bytes(3 << 19))
        with pytest.raises(OSError):
            checkpoints.save(2, noise(2, 1 << 18), {})
            checkpoints.wait()
        ballast.unlink()
        checkpoints.save(2, noise(2, 1 << 18), {})
    assert_step(little_room / "c", 2, noise(2, 1 << 18))
    gc.collect()


@pytest.fixture
def unprivileged():
    """A directory to work in, and whoever it is that may not write wherever root may."""
    directory = Path(tempfile.mkdtemp())  # pytest's own are closed to other users
    directory.chmod(0o755)
    yield directory
    os.seteuid(os.getuid())
    shutil.rmtree(directory)


def test_directories_that_cannot_be_written(unprivileged):
    place = unprivileged / "c"
    with Checkpoints(place) as checkpoints:
        checkpoints.save(1, state(1), {})
    place.chmod(0o555)
    unprivileged.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(65534)
    for directory in (place, unprivileged / "new"):
        with pytest.raises(PermissionError, match="checkpoints cannot be written") as caught:
            Checkpoints(directory)
        assert caught.value.filename == str(directory)
    # To read it needs no right to write.
    assert_step(place, 1, state(1))
    assert sorted(path.name for path in place.iterdir()) == [".lock", "1"]


def test_a_file_in_the_place_of_the_directory(tmp_path):
    (tmp_path / "c").write_text("x")
    with pytest.raises(NotADirectoryError, match="c is a file; expected a directory"):
        Checkpoints(tmp_path / "c")
    with pytest.raises(NotADirectoryError, match="c/deeper"):
        Checkpoints(tmp_path / "c" / "deeper")
    assert (tmp_path / "c").read_text() == "x"
