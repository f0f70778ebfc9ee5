"""What happens to a saved model when a save is killed, the disk is full, or a file is damaged."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import disk
import dying
import orbax.checkpoint
import pytest

import jbert
from jbert import atomic
from jbert.manifest import DamagedError

TESTS = str(Path(__file__).parent)


# -- killed ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saver():
    """A process that saves until killed, again and again; see dying.py."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(Path(TESTS, "dying.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def save(**job) -> int:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({k: str(v) if k == "directory" else v
                                        for k, v in job.items()}) + "\n")  # fmt: skip
        process.stdin.flush()
        return int(process.stdout.readline())

    yield save
    process.kill()
    process.communicate()


def assert_is(directory: Path, *seeds: int) -> int:
    """The directory holds exactly one of the models; which one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*earlier save was interrupted")
        found = jbert.load(directory)
    words = found.params["embeddings"]["word"]["embedding"]
    for seed in seeds:
        expected = dying.model(seed).params
        if (words == expected["embeddings"]["word"]["embedding"]).all():
            disk.assert_same(found.params, expected)
            return seed
    raise AssertionError(f"{directory} holds none of the models {seeds}")


def test_a_save_killed_at_any_moment_leaves_the_old_or_the_new(saver, tmp_path):
    moments = random.Random(0)
    directory, last = tmp_path / "m", 0
    jbert.save(dying.model(0), directory)
    for _ in range(8):
        saved = saver(directory=directory, first=last + 1, after=moments.uniform(0.02, 0.8))
        last = assert_is(directory, saved, saved + 1)
    jbert.save(dying.model(1), directory)  # as if nothing had been
    assert_is(directory, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(("step", "survivor"), [(0, 1), (1, 1), (2, 1), (3, 2)])
def test_a_save_killed_while_it_replaces_the_old(saver, step, survivor, tmp_path):
    """Before and after each of the two renames that put the new in the old one's place."""
    directory = tmp_path / "m"
    assert saver(directory=directory, first=1, step=step) == 1
    assert directory.exists() == (step in (0, 3))
    if not directory.exists():
        with pytest.warns(UserWarning, match="contents before it are back in place") as caught:
            jbert.load(directory)
        assert [w.filename for w in caught] == [__file__]
    assert assert_is(directory, 1, 2) == survivor
    jbert.save(dying.model(3), directory)
    assert_is(directory, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_saving_over_an_interrupted_replacement(saver, tmp_path):
    assert saver(directory=tmp_path / "m", first=1, step=1) == 1
    jbert.save(dying.model(3), tmp_path / "m")
    assert_is(tmp_path / "m", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_reader_waits_for_a_writer_that_is_alive(tmp_path, monkeypatch):
    """It must not take a replacement under way for an interrupted one, and undo it."""
    first, second = disk.bert(seed=1), disk.bert(seed=2)
    jbert.save(first, tmp_path / "m")
    rename, between, go_on = os.rename, threading.Event(), threading.Event()

    def slow(source, target):
        rename(source, target)
        if str(target).endswith("previous"):
            between.set()
            assert go_on.wait(30)

    monkeypatch.setattr(atomic.os, "rename", slow)
    writer = threading.Thread(target=jbert.save, args=(second, tmp_path / "m"))
    writer.start()
    assert between.wait(30)
    loaded = []
    reader = threading.Thread(target=lambda: loaded.append(jbert.load(tmp_path / "m")))
    reader.start()
    reader.join(0.2)
    assert reader.is_alive()
    go_on.set()
    writer.join()
    reader.join()
    disk.assert_same(loaded[0].params, second.params)


def test_of_two_writers_one_wins_whole(tmp_path):
    models = [disk.bert("distilbert", seed=seed) for seed in range(4)]
    threads = [threading.Thread(target=jbert.save, args=(m, tmp_path / "m")) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = jbert.load(tmp_path / "m").params["embeddings"]["norm"]["bias"]
    (winner,) = [m for m in models if (m.params["embeddings"]["norm"]["bias"] == found).all()]
    disk.assert_same(jbert.load(tmp_path / "m").params, winner.params)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


# -- no room, no right ----------------------------------------------------------------------


def test_a_full_disk_is_noticed_before_anything_is_written(little_room):
    small, large = disk.bert("distilbert"), disk.bert(vocab_size=40000)
    jbert.save(small, little_room / "m")
    for write in (jbert.save, jbert.export):
        with pytest.raises(OSError, match=r"5\.\d MB are to be written, but only") as caught:
            write(large, little_room / "m", force=True)
        assert caught.value.errno == errno.ENOSPC
    disk.assert_same(jbert.load(little_room / "m").params, small.params)
    assert [path.name for path in little_room.iterdir()] == ["m"]


FULL = """
import resource, signal, sys
import disk, jax
jax.config.update("jax_platforms", "cpu")
import jbert
bert = disk.bert(vocab_size=40000, seed=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
for write in (jbert.save, jbert.export):
    try:
        write(bert, sys.argv[1], force=True)
    except OSError as error:
        print(error)
"""


def test_a_disk_that_fills_up_on_the_way(tmp_path):
    """A limit on the size of files fails where a full disk does; the old model survives."""
    model = disk.bert()
    jbert.save(model, tmp_path / "m")
    finished = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "m")],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path_here()},
    )  # fmt: skip
    saving, exporting = finished.stdout.splitlines()
    assert "could not be written: File too large" in saving
    assert "model.safetensors: could not be written" in exporting
    disk.assert_same(jbert.load(tmp_path / "m").params, model.params)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_threads_that_outlive_a_failed_save_leave_nothing_behind(tmp_path, monkeypatch):
    """Orbax' threads go on after the first error, and make directories anew that were deleted."""

    class Failing:
        def __init__(self, *_, **__):
            self.other = threading.Thread(target=self.write)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def save(self, path, **_):
            self.path = path
            self.other.start()

        def wait_until_finished(self):
            raise ValueError("Error writing: File too large")

        def write(self):
            for i in range(20):
                time.sleep(0.03)
                self.path.mkdir(parents=True, exist_ok=True)
                (self.path / str(i)).write_text("late")

    threads = set(threading.enumerate())
    monkeypatch.setattr(orbax.checkpoint, "AsyncCheckpointer", Failing)
    with pytest.raises(OSError, match="File too large"):
        jbert.save(disk.bert(), tmp_path / "m")
    for other in set(threading.enumerate()) - threads:
        other.join()
    assert list(tmp_path.iterdir()) == []


def path_here() -> str:
    return os.pathsep.join([TESTS, str(Path(jbert.__file__).parents[1])])


@pytest.fixture
def unprivileged():
    """A directory to work in, and whoever it is that may not write wherever root may."""
    directory = Path(tempfile.mkdtemp())  # pytest's own are closed to other users
    directory.chmod(0o755)
    yield directory
    os.seteuid(os.getuid())
    shutil.rmtree(directory)


def test_directories_that_must_not_be_written(unprivileged):
    model = disk.bert()
    jbert.save(model, unprivileged / "m")
    unprivileged.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(65534)
    for write in (jbert.save, jbert.export):
        with pytest.raises(PermissionError, match=str(unprivileged)):
            write(model, unprivileged / "new")
        with pytest.raises(PermissionError, match=str(unprivileged)):
            write(model, unprivileged / "m", force=True)
    # To read it needs no right to write.
    disk.assert_same(jbert.load(unprivileged / "m").params, model.params)


# -- damaged --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    model = disk.bert("distilbert", "masked_lm", tokenizer=disk.tokenizer(directory))
    jbert.save(model, directory / "m")
    return model, directory / "m"


def flip(data: bytes, at: int) -> bytes:
    return data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]


@pytest.mark.parametrize("damage", ["truncated", "emptied", "deleted", "flipped"])
def test_no_damage_to_any_file_goes_unnoticed(damage, saved, tmp_path):
    model, source = saved
    chance = random.Random(damage)
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    assert len(files) > 10
    for path in files:
        name, data = path.relative_to(source), path.read_bytes()
        if not data:
            continue
        shutil.copytree(source, tmp_path / "m")
        target = tmp_path / "m" / name
        if damage == "deleted":
            target.unlink()
        elif damage == "flipped":
            target.write_bytes(flip(data, chance.randrange(8 * len(data))))
        else:
            target.write_bytes(data[: len(data) // 2 if damage == "truncated" else 0])
        assert_named(model, tmp_path / "m", name.as_posix(), damage)
        shutil.rmtree(tmp_path / "m")


def assert_named(model, directory: Path, name: str, damage: str) -> None:
    try:
        loaded = jbert.load(directory)
    except DamagedError as error:
        assert name in str(error)
    except (ValueError, FileNotFoundError) as error:
        # Without its description this is no saved model; with a flipped one of a newer format.
        assert name == "jbert.json" and str(directory) in str(error), f"{name}: {error!r}"
    else:
        # JSON has blanks and spellings that say the same.
        assert (name, damage) == ("jbert.json", "flipped")
        disk.assert_same(loaded.params, model.params)
        assert loaded.source == str(directory)


def test_no_flipped_bit_of_the_description_gives_other_weights(saved, tmp_path):
    """It names the task and where the model came from, and lists the checksums."""
    model, source = saved
    shutil.copytree(source, tmp_path / "m")
    data = (source / "jbert.json").read_bytes()
    end = data.index(b'"files"') + 200  # what follows is more of the same
    for at in range(0, 8 * end, 3):
        (tmp_path / "m" / "jbert.json").write_bytes(flip(data, at))
        assert_named(model, tmp_path / "m", "jbert.json", "flipped")


def test_a_half_written_directory_is_not_mistaken_for_a_model(saved, tmp_path):
    _, source = saved
    shutil.copytree(source, tmp_path / "m")
    (tmp_path / "m" / "jbert.json").unlink()
    with pytest.raises(FileNotFoundError, match="found no weights"):
        jbert.load(tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "params")
    shutil.copy(source / "jbert.json", tmp_path / "m")
    with pytest.raises(DamagedError, match="params/.*: missing"):
        jbert.load(tmp_path / "m")
