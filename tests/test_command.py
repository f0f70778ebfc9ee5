"""The command line of training: configuration files, overrides, help, exit codes, resuming."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import finetune_runs as runs
import pytest
from finetune_runs import again, config, logged, one_device  # noqa: F401

import jbert
from jbert.cli import main as jbert_main
from jbert.training import command
from jbert.training.command import load_config, main, parse
from jbert.training.config import RunError
from jbert.training.distill import DistillConfig
from jbert.training.finetune import FinetuneConfig, explain_settings
from jbert.training.pretrain import PretrainConfig

ROOT = Path(__file__).parents[1]
PLAIN = "from jbert.training.finetune import FinetuneConfig\n"
SCRIPT = '''"""Reviews, read by nobody."""

from jbert.data.splits import DataConfig
from jbert.training.config import *
from jbert.training.finetune import FinetuneConfig
from jbert.training.start import StartConfig

config = {}
'''


def write(place: Path, text: str, name: str = "run.py") -> str:
    (place / name).write_text(text, "utf-8")
    return str(place / name)


def write_run(place: Path, **changes) -> str:
    """A configuration file of a run that works."""
    return write(place, SCRIPT.format(repr(config(place, **changes))))


def parsed(*words: object) -> FinetuneConfig:
    return parse(FinetuneConfig, "jbert finetune", [str(word) for word in words])


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    """pytest has its own ways with logs and warnings."""
    monkeypatch.setattr(command, "_talk", lambda: None)


def unboxed(text: str) -> str:
    """What tyro prints, without frames and line breaks."""
    return re.sub(r"\s+", " ", re.sub("[│╭╮╰╯─]", " ", text))


# -- overrides ------------------------------------------------------------------------------------


def test_fields_are_overridden_by_their_dotted_names(tmp_path):
    run = parsed(
        write_run(tmp_path), "--steps", "9", "--optimizer.learning_rate", "0.5",
        "--output_dir", tmp_path / "there", "--seeds", "3", "4", "--resume",
    )  # fmt: skip
    assert (run.steps, run.optimizer.learning_rate, run.seeds) == (9, 0.5, (3, 4))
    assert run.output_dir == str(tmp_path / "there") and run.resume
    assert run.optimizer.warmup_steps == 0 and run.processing["max_length"] == runs.LENGTH
    assert parsed(write_run(tmp_path), "--batch-size", "16").batch_size == 16


@pytest.mark.parametrize("given", ["--processing.max_length 16", "--processing.max_length=16"])
def test_entries_of_dicts_are_overridden_and_added(tmp_path, given):
    """Whether the file has them already or not."""
    words = given.split() + "--processing.label kind --processing.buckets 8 16".split()
    words += "--start.overrides.hidden_dropout_prob 0 --start.overrides.hidden_act=relu".split()
    run = parsed(write_run(tmp_path), *words)
    assert run.processing == {"max_length": 16, "label": "kind", "buckets": (8, 16)}
    assert run.start.overrides == {"hidden_dropout_prob": 0, "hidden_act": "relu"}
    empty = write(tmp_path, f"{PLAIN}config = FinetuneConfig()")
    assert parsed(empty, *words).processing == run.processing
    kinds = parsed(empty, "--start.overrides.a", "TRUE", "--start.overrides.b", "-1e-3")
    assert kinds.start.overrides == {"a": True, "b": -1e-3}


def test_help_lists_every_field_with_its_default(tmp_path, capsys):
    path = write_run(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        parse(FinetuneConfig, "jbert finetune", [path, "--help"], explain_settings)
    assert stopped.value.code == 0
    text = unboxed(capsys.readouterr().out)
    assert "usage: jbert finetune CONFIG" in text and "Reviews, read by nobody." in text
    assert "--optimizer.learning_rate FLOAT The highest, at the end" in text
    assert "(default: 0.01)" in text and "--data.validation_share FLOAT" in text
    assert "- pair: the columns to read; without `pair`, one text a row. (default: None)" in text
    assert (
        "- max_length: rows of more tokens are cut" in text and f"(default: {runs.LENGTH})" in text
    )


@pytest.mark.parametrize("task", runs.TASKS)
def test_every_setting_of_every_processor_is_explained(task):
    text = explain_settings(FinetuneConfig(task=task))
    settings = re.findall(r"^- (\w+): (.*) \(default: (.*)\)$", text, re.MULTILINE)
    assert len(settings) == len(text.splitlines()) - 1 >= 5
    assert all(meaning for _, meaning, _ in settings)


# -- mistakes -------------------------------------------------------------------------------------


def refused(capsys, *words: object) -> str:
    """The one line that a command says which must fail, above the one that names the guide."""
    assert main(FinetuneConfig, lambda run: None, "jbert finetune", [*map(str, words)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    line, guide = printed.err.splitlines()
    assert guide == "guide: docs/finetune.md"
    return line.removeprefix("jbert finetune: ")


@pytest.mark.parametrize(
    "text, error",
    [
        ("x = 1", "expected it to define config = FinetuneConfig(…), found no such name"),
        ("config = 1", "expected it to define config = FinetuneConfig(…), found int"),
        ("\nconfig = (", ":2: expected Python, found '(' was never closed"),
        (f"{PLAIN}config = FinetuneConfig(batch_sice=3)", ":2: TypeError: .*batch_sice"),
        (f"{PLAIN}config = FinetuneConfig(seed=-1)", ":2: FinetuneConfig: seed is -1; expected 0"),
        ("import nothing_of_this_name", ":1: ModuleNotFoundError: No module named 'nothing_of"),
    ],
)
def test_a_file_that_is_no_configuration_is_explained(tmp_path, capsys, text, error):
    path = write(tmp_path, text)
    line = refused(capsys, path)
    assert line.startswith(path)
    assert re.search(error.replace("(…)", r"\(…\)").replace("'('", r"'\('"), line), line


def test_a_configuration_that_is_not_there_gets_its_nearest_name(tmp_path, capsys):
    assert "nearest is quickstart" in refused(capsys, "quickstrat")
    assert "no such file" in refused(capsys, tmp_path / "quickstart.py")
    line = refused(capsys)
    assert "expected a configuration file first: jbert finetune CONFIG" in line
    assert "quickstart" in line


def test_wrong_words_are_explained(tmp_path, capsys):
    path = write_run(tmp_path)
    for words, expected in (
        ("--optimizer.learning_rat 1", "--optimizer.learning_rate FLOAT"),
        ("--optimizer.learning_rate fast", "could not convert string to float"),
        ("--batch_size", "Missing value"),
        ("--parallel pjit", "jit"),
        ("--batch_size 0", "batch_size is 0; expected at least 1"),
        ("--resume --overwrite", "not both"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(FinetuneConfig, lambda run: None, "jbert finetune", [path, *words.split()])
        assert stopped.value.code == 2
        assert expected in unboxed(capsys.readouterr().err)
    for words, expected in (
        ("--processing.max_lenght 1", "nearest is max_length"),
        ("--processing.label", "--processing.label: expected a value after it"),
    ):
        assert expected in refused(capsys, path, *words.split())


def test_errors_have_a_traceback_on_demand_and_interruptions_a_code(capsys):
    def interrupted(run):
        raise KeyboardInterrupt

    with pytest.raises(RunError):
        main(FinetuneConfig, lambda run: None, "x", ["--debug"])
    assert main(FinetuneConfig, interrupted, "x", ["quickstart"]) == 130
    assert "x: interrupted; --resume goes on" in capsys.readouterr().err


# -- runs -----------------------------------------------------------------------------------------


def test_figures_are_printed(tmp_path, capsys):
    assert jbert_main(["finetune", write_run(tmp_path), "--steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(
        r"validation: loss \d\.\d{4}  accuracy \d\.\d{4}  f1 \d\.\d{4}  matthews -?\d\.\d{4}\n",
        printed,
    )
    assert jbert_main(["finetune", write_run(tmp_path), "--steps", "1"]) == 1
    assert "--resume goes on with it" in capsys.readouterr().err


KINDS = {"pretrain": PretrainConfig, "distill": DistillConfig, "transfer": DistillConfig}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_configuration_that_comes_with_jbert_is_one(path):
    kind = KINDS.get(path.stem.rpartition("_")[2], FinetuneConfig)
    found, text = load_config(path.stem, kind)
    assert isinstance(found, kind) and len(text) > 20
    assert path.stem in command.known_configs()


def call(*words: object, **options) -> subprocess.Popen:
    environ = {**os.environ, "PYTHONPATH": str(Path(jbert.__file__).parents[1])}
    environ["JAX_PLATFORMS"] = "cpu"
    return subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environ, **options,
    )  # fmt: skip


def test_a_run_that_is_told_to_stop_goes_on_to_the_same_figures(tmp_path):
    """As processes: the script stopped by SIGTERM, `jbert finetune` that resumes it, and both in
    one go elsewhere."""
    script = write_run(tmp_path, steps=60, data=runs.write_splits(tmp_path, runs.TASKS[0]))
    log = tmp_path / "run" / "metrics.jsonl"
    stopped = call(ROOT / "train" / "finetune.py", script)
    while not log.exists() or log.read_bytes().count(b"\n") < 5:
        assert stopped.poll() is None, stopped.communicate()[1]
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    _, said = stopped.communicate(timeout=120)
    assert stopped.returncode == 143 and "--resume goes on" in said
    assert not (tmp_path / "run" / "model").exists()
    whole = call("-m", "jbert", "finetune", script, "--output_dir", tmp_path / "whole")
    resumed = call("-m", "jbert", "finetune", script, "--resume")
    (found, said), (expected, _) = resumed.communicate(timeout=120), whole.communicate(timeout=120)
    assert resumed.returncode == whole.returncode == 0, said
    assert "going on from step" in said and found == expected != ""
    assert "Warning" not in said and "absl" not in said
    names = ("figures.json", "predictions.jsonl")
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if '"train"' in line]
    assert steps == list(range(1, 61))
    answer = call(
        "-m", "jbert", "predict", "text-classification", "--model", tmp_path / "run" / "model",
        "the sea was calm and fine .",
    )  # fmt: skip
    (line,) = answer.communicate(timeout=120)[0].splitlines()
    assert json.loads(line)["result"]["label"] in ("bad", "good")
