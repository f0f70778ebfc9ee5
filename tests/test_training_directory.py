"""Whose a run's directory is, and the lines of its metrics.jsonl."""

import dataclasses
import json
import os
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from jbert.lock import LockedError
from jbert.training import replaced
from jbert.training.attempt import attempt
from jbert.training.config import LoggingConfig, OptimizerConfig, RunConfig, RunError
from jbert.training.directory import OWN, MetricsLog, RunDirectory, write_whole


def prepare(place: Path, **changes: Any) -> RunDirectory:
    run = RunConfig(output_dir=str(place), **changes)
    return RunDirectory(run).prepare(run)


def prepared(place: Path, **changes: Any) -> Path:
    with prepare(place, **changes) as directory:
        return directory.path


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_a_new_directory_holds_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = prepared(Path("~/runs/a"), seed=3)
    assert path == tmp_path / "runs" / "a"
    stored = json.loads((path / "config.json").read_text())
    assert (stored["kind"], stored["seed"]) == ("RunConfig", 3)
    assert stored["optimizer"] == dataclasses.asdict(OptimizerConfig()) | {"freeze": []}
    assert names(path) == [".lock", "config.json"]


def test_a_run_is_not_begun_twice_in_one_directory(tmp_path):
    prepared(tmp_path / "r")
    with pytest.raises(RunError, match="holds this run already; --resume goes on with it, --over"):
        prepare(tmp_path / "r")
    with pytest.raises(RunError, match="holds another run already") as caught:
        prepare(tmp_path / "r", seed=1, optimizer=OptimizerConfig(learning_rate=1.0))
    assert str(caught.value).splitlines()[1:] == [
        "  optimizer.learning_rate: 5e-05 there, 1.0 here", "  seed: 0 there, 1 here",
    ]  # fmt: skip


def test_to_resume_is_to_compute_the_same(tmp_path):
    prepared(tmp_path / "r")
    with pytest.raises(RunError, match="cannot be resumed with this one") as caught:
        prepare(tmp_path / "r", resume=True, batch_size=64)
    assert "batch_size: 32 there, 64 here" in str(caught.value)
    # Where and how it runs may change, and is what the file says from then on.
    changes: dict[str, Any] = {"parallel": "pmap", "logging": LoggingConfig(steps=3)}
    path = prepared(tmp_path / "r", resume=True, **changes)
    assert json.loads((path / "config.json").read_text())["logging"]["steps"] == 3
    assert prepared(tmp_path / "new", resume=True) == tmp_path / "new"


def test_overwriting_deletes_the_run_and_nothing_else(tmp_path):
    path = prepared(tmp_path / "r")
    for name in OWN:
        if name != "config.json":
            (path / name).mkdir() if "." not in name else (path / name).touch()
    (path / "notes.txt").write_text("mine")
    prepared(path / "seed-3")
    (path / "seed-of-mine").mkdir()
    prepared(tmp_path / "r", overwrite=True, seed=1)
    replaced.forget(path)
    assert names(path) == [".lock", "config.json", "notes.txt", "seed-of-mine"]
    assert stored_seed(path) == 1


def overwritten(path: Path) -> None:
    """A run with a model and a note beside it, in whose place there is another one."""
    (prepared(path) / "model").mkdir()
    (path / "model" / "weights").write_text("learned")
    (path / "notes.txt").write_text("mine")
    prepared(path, overwrite=True, seed=1)
    assert stored_seed(path) == 1 and not (path / "model").exists()


def stored_seed(path: Path) -> int:
    return json.loads((path / "config.json").read_text())["seed"]


def as_it_was(path: Path) -> bool:
    whole = [".lock", "config.json", "model", "notes.txt"]
    return names(path) == whole and stored_seed(path) == 0 and (path / "model/weights").exists()


@pytest.mark.parametrize("made", [[], ["tokenizer"]])
def test_a_run_is_there_again_if_the_one_in_its_place_does_not_begin(tmp_path, made):
    overwritten(tmp_path)
    with pytest.raises(ValueError), attempt(tmp_path, *made):
        for name in made:
            (tmp_path / name).mkdir()
        raise ValueError
    assert as_it_was(tmp_path)


def test_a_run_is_there_again_if_the_one_in_its_place_was_killed_before_it_began(
    tmp_path, monkeypatch
):
    overwritten(tmp_path / "r")
    with pytest.raises(RunError, match="holds this run already"):
        prepare(tmp_path / "r")
    assert as_it_was(tmp_path / "r")
    # Killed while it moved the former one away, and then while it moved it back.
    rename = os.rename
    for moves, option in ((2, {"overwrite": True}), (1, {})):
        left = iter(range(moves))

        def dies(source, target, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            rename(source, target)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "rename", dies)
            prepare(tmp_path / "r", **option)
        assert not as_it_was(tmp_path / "r")
    with pytest.raises(RunError, match="holds this run already"):
        prepare(tmp_path / "r")
    assert as_it_was(tmp_path / "r")


def test_it_is_too_late_when_the_first_of_several_seeds_has_begun(tmp_path):
    overwritten(tmp_path)
    (tmp_path / "seed-1").mkdir()
    (tmp_path / "seed-1" / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError), attempt(tmp_path):
        raise ValueError
    prepared(tmp_path, resume=True, seed=1)
    assert names(tmp_path) == [".lock", "config.json", "notes.txt", "seed-1"]


@pytest.mark.parametrize("option", ["resume", "overwrite"])
@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("notes.txt", "x", "holds files that are no run of jbert"),
        ("config.json", '{"model_type": "bert"}', "holds files that are no run of jbert"),
        ("config.json", "[]", "holds files that are no run of jbert"),
        ("config.json", '{"kind": ', "config.json: expected the configuration of a run"),
    ],
)
def test_what_is_no_run_is_not_touched(tmp_path, option, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match=match):
        prepare(tmp_path, **{option: True})
    assert (names(tmp_path), (tmp_path / name).read_text()) == ([name], text)


def test_what_a_run_that_was_killed_at_once_has_left_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.123").write_text("{")
    prepared(tmp_path)


@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_one_run_at_a_time_and_the_other_changes_nothing(tmp_path, option):
    with prepare(tmp_path / "r") as first:
        (first.path / "metrics.jsonl").write_text("")
        before = (first.path / "config.json").read_text()
        with pytest.raises(LockedError, match=f"is being written by process {os.getpid()} on"):
            prepare(tmp_path / "r", logging=LoggingConfig(steps=7), **{option: True})
        assert (first.path / "config.json").read_text() == before
        assert (first.path / "metrics.jsonl").exists()
    prepared(tmp_path / "r", **{option: True})


def test_a_refused_run_holds_no_lock(tmp_path):
    first = prepare(tmp_path / "r")
    with pytest.raises(LockedError):
        prepare(tmp_path / "r", resume=True)
    first.close()
    prepared(tmp_path / "r", resume=True)


def test_a_file_in_the_place_of_the_directory(tmp_path):
    (tmp_path / "r").write_text("x")
    with pytest.raises(RunError, match="r is a file; expected a directory"):
        prepare(tmp_path / "r", overwrite=True)
    with pytest.raises(NotADirectoryError, match="choose another --output_dir"):
        prepare(tmp_path / "r" / "deeper")
    assert (tmp_path / "r").read_text() == "x"


@pytest.fixture
def unprivileged():
    """A directory to work in, and whoever it is that may not write wherever root may."""
    directory = Path(tempfile.mkdtemp())  # pytest's own are closed to other users
    directory.chmod(0o755)
    yield directory
    os.seteuid(os.getuid())
    shutil.rmtree(directory)


def test_directories_that_cannot_be_written(unprivileged):
    place = prepared(unprivileged / "r")
    (unprivileged / "empty").mkdir()
    place.chmod(0o555)
    unprivileged.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(65534)
    for name in ("r", "empty", "new"):
        with pytest.raises(PermissionError, match="choose another --output_dir") as caught:
            prepare(unprivileged / name, resume=True)
        assert caught.value.filename == str(unprivileged / name)


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path):
    write_whole(tmp_path / "a", "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a", "x" * 10000 + "\ud800")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "before"


# -- metrics.jsonl ----------------------------------------------------------------------------


def written(path: Path) -> list[tuple[int, str]]:
    lines = map(json.loads, path.read_text().splitlines())
    return [(line["step"], line["split"]) for line in lines]


@pytest.fixture
def metrics(tmp_path):
    """Two lines of training, and what an evaluation said at the second."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step, split in [(2, "train"), (4, "train"), (4, "validation"), (6, "train")]:
        log.write(step, split, {"loss": 0.1 + step})
    yield log
    log.close()


def test_lines_of_steps_that_will_be_made_again_are_cut(metrics):
    metrics.cut(4)
    assert written(metrics.path) == [(2, "train"), (4, "train"), (4, "validation")]
    metrics.cut(4, without="train")  # its evaluation will be, too
    assert written(metrics.path) == [(2, "train"), (4, "train")]
    metrics.write(4, "validation", {"loss": 1 / 3})
    assert json.loads(metrics.path.read_text().splitlines()[-1])["loss"] == 1 / 3
    metrics.cut(0)
    assert written(metrics.path) == []


@pytest.mark.parametrize("torn", ["", '{"step": 8, "spl', "\0\0\0", '{"step": 8, "split": "t\xff'])
def test_a_line_that_was_being_written_when_the_process_was_killed(metrics, torn):
    with metrics.path.open("ab") as file:
        file.write(torn.encode("latin-1"))
    metrics.cut(8)
    metrics.write(9, "train", {})
    assert [step for step, _ in written(metrics.path)] == [2, 4, 4, 6, 9]


def test_a_last_line_without_its_end(metrics):
    metrics.path.write_bytes(metrics.path.read_bytes().rstrip(b"\n"))
    metrics.cut(6)
    metrics.write(8, "train", {})
    assert [step for step, _ in written(metrics.path)] == [2, 4, 4, 6, 8]


def test_lines_wait_while_the_disk_is_full(metrics, caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (metrics.path.stat().st_size + 5, hard))
    try:
        metrics.write(8, "train", {})
        metrics.write(10, "train", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "2 lines could not be written yet" in caplog.messages[-1]
    metrics.write(12, "train", {})
    assert [step for step, _ in written(metrics.path)] == [2, 4, 4, 6, 8, 10, 12]
