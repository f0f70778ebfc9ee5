"""The `jbert` command: convert and info, their exit codes, and what they leave behind."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import disk
import pytest

import jbert
from jbert.cli import main
from jbert.restore import HeadWarning


@pytest.fixture
def source(tmp_path):
    model = disk.bert("bert", "masked_lm", tokenizer=disk.tokenizer(tmp_path))
    jbert.export(model, tmp_path / "source")
    (tmp_path / "vocab.txt").unlink()
    return model, tmp_path / "source"


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.mark.parametrize("to", ["orbax", "safetensors", "stablehlo"])
def test_convert_writes_what_can_be_loaded(to, source, tmp_path, capsys):
    model, directory = source
    assert run("convert", directory, tmp_path / "out", "--to", to) == 0
    assert capsys.readouterr().out == ""
    if to == "stablehlo":
        assert jbert.load_stablehlo(tmp_path / "out")(input_ids=[[1, 2]])["logits"].shape[0] == 1
        return
    loaded = jbert.load(tmp_path / "out", None if to == "orbax" else "masked_lm")
    assert loaded.task == "masked_lm" and loaded.tokenizer is not None
    disk.assert_same(loaded.params, model.params)


def test_convert_there_and_back_in_another_dtype(source, tmp_path):
    _, directory = source
    half = ["--dtype", "bfloat16"]
    assert run("convert", directory, tmp_path / "orbax", *half) == 0
    assert run("convert", tmp_path / "orbax", tmp_path / "hf", "--to", "safetensors", *half) == 0
    assert run("convert", directory, tmp_path / "direct", "--to", "safetensors", *half) == 0
    files = [tmp_path / name / "model.safetensors" for name in ("hf", "direct")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size < 0.6 * (directory / "model.safetensors").stat().st_size


def test_convert_to_another_task_and_to_the_encoder(source, tmp_path):
    model, directory = source
    with pytest.warns(HeadWarning, match="qa_outputs/kernel"):
        assert run("convert", directory, tmp_path / "qa", "--task", "question_answering") == 0
    assert jbert.load(tmp_path / "qa").task == "question_answering"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadWarning)  # the pooler
        assert run("convert", directory, tmp_path / "encoder", "--task", "encoder") == 0
    encoder = jbert.load(tmp_path / "encoder")
    assert encoder.task is None
    del encoder.params["pooler"]
    disk.assert_same(encoder.params, model.params["encoder"])


def refused(capsys, *words: object) -> str:
    """What a command that must fail says: one error, and no traceback."""
    assert run(*words) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "Traceback" not in printed.err
    (error,) = [line for line in printed.err.splitlines() if line.startswith("jbert: ")]
    return error


def test_an_existing_destination_stays_unless_forced(source, tmp_path, capsys):
    _, directory = source
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    for to in ("orbax", "safetensors", "stablehlo"):
        assert "is not empty" in refused(capsys, "convert", directory, out, "--to", to)
    assert "is a file" in refused(capsys, "convert", directory, out / "thesis.tex")
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    assert run("convert", directory, out, "--force") == 0
    assert jbert.load(out).task == "masked_lm"
    # A model that jbert itself wrote is not overwritten unasked either.
    before = (out / "jbert.json").read_bytes()
    assert "is not empty" in refused(capsys, "convert", directory, out)
    assert (out / "jbert.json").read_bytes() == before


def test_a_failed_conversion_leaves_what_was_there(source, tmp_path, capsys):
    _, directory = source
    assert run("convert", directory, tmp_path / "out") == 0
    before = sorted(path.name for path in tmp_path.iterdir())
    jbert_json = (tmp_path / "out" / "jbert.json").read_bytes()
    data = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(data[:-100])
    for out in (tmp_path / "out", tmp_path / "new"):
        assert "truncated" in refused(capsys, "convert", directory, out, "--force")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "out" / "jbert.json").read_bytes() == jbert_json


def test_mistakes_are_explained(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _, directory = source
    out = tmp_path / "out"
    assert "found nothing" in refused(capsys, "convert", tmp_path / "gone", out)
    assert "Nearest names: bert-base-uncased" in refused(capsys, "info", "bert-bas-uncased")
    assert "did you mean 'masked_lm'" in refused(
        capsys, "convert", directory, out, "--task", "mask_lm"
    )
    assert "param_dtype is 'int4'" in refused(capsys, "convert", directory, out, "--dtype", "int4")
    assert "at least 1" in refused(capsys, "info", directory, "--devices", "0")
    assert not out.exists()
    with pytest.raises(FileNotFoundError):
        run("convert", tmp_path / "gone", out, "--debug")
    for wrong in (["convert", directory], ["convert", directory, out, "--to", "onnx"], ["xyz"]):
        with pytest.raises(SystemExit) as stopped:
            run(*wrong)
        assert stopped.value.code == 2
    capsys.readouterr()


def test_info_of_a_published_model(source, tmp_path, capsys):
    model, directory = source
    assert run("info", directory) == 0
    text = capsys.readouterr().out
    lines = {line[:14].strip(): line[14:] for line in text.splitlines()}
    assert lines["source"] == str(directory)
    assert lines["architecture"] == "bert, BertConfig"
    assert lines["task"] == "masked_lm" and lines["format"] == "safetensors"
    assert lines["parameters"] == f"{model.num_params():,}"
    assert re.fullmatch(r"\d\d arrays: [\d,]+ float32", lines["stored as"])
    assert "1 device: " in text and "8 devices: " in text
    assert "layer_1" in text and "would be new" not in text
    assert run("info", directory, "--devices", "3", "--depth", "1") == 0
    text = capsys.readouterr().out
    assert "3 devices" in text and "8 devices" not in text and "layer_1" not in text


def test_info_says_what_a_task_would_lack(source, tmp_path, capsys):
    _, directory = source
    assert run("info", directory, "--task", "sequence_classification") == 0
    published = capsys.readouterr().out
    assert "not used      cls.predictions.bias" in published
    assert run("convert", directory, tmp_path / "saved") == 0
    assert run("info", tmp_path / "saved", "--task", "sequence_classification") == 0
    saved = capsys.readouterr().out
    new = [[line[14:] for line in text.splitlines() if line.startswith("would be new")]
           for text in (published, saved)]  # fmt: skip
    pooler = [f"encoder/pooler/dense/{name}" for name in ("bias", "kernel")]
    assert sorted(new[0]) == sorted(new[1]) == ["classifier/bias", "classifier/kernel", *pooler]
    assert run("info", tmp_path / "saved") == 0
    plain = capsys.readouterr().out
    assert "task masked_lm, written by jbert" in plain and "would be new" not in plain
    assert run("info", tmp_path / "saved", "--task", "encoder") == 0
    assert "none (the bare encoder)" in capsys.readouterr().out


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"jbert {jbert.__version__}\n"


def test_as_a_process_of_its_own(source, tmp_path):
    _, directory = source
    environ = {**os.environ, "PYTHONPATH": str(Path(jbert.__file__).parents[1])}
    environ["JAX_PLATFORMS"] = "cpu"

    def call(*words: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "jbert", *map(str, words)],
            capture_output=True, text=True, timeout=120, env=environ,
        )  # fmt: skip

    done = call("convert", directory, tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert f"done: jbert.load('{tmp_path / 'out'}')" in done.stderr
    assert json.loads((tmp_path / "out" / "jbert.json").read_text())["task"] == "masked_lm"
    failed = call("convert", directory, tmp_path / "out")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("jbert: ") and "Traceback" not in failed.stderr
