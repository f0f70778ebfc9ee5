"""What is wrong with a fine-tuning run: found early, said clearly, and nothing left in the way."""

import dataclasses
from pathlib import Path
from typing import Any

import disk
import finetune_runs as runs
import pytest
import tiny
from finetune_runs import again, config, one_device  # noqa: F401

import jbert
from jbert.data.splits import DataConfig
from jbert.training.config import EvaluationConfig, RunError
from jbert.training.finetune import FinetuneConfig, finetune
from jbert.training.start import StartConfig

TASK = "sequence_classification"


def _broken(place: Path, kind: str) -> dict[str, Any]:
    """Fields of a run, of which something is wrong."""
    task = {
        "answer": "question_answering",
        "id": "question_answering",
        "ragged": "token_classification",
        "tags": "token_classification",
        "choices": "multiple_choice",
    }.get(kind, TASK)
    data = runs.write_splits(place, task, train=12, validation=4)
    rows = runs.rows(task, 4, 1)
    if kind == "label":
        rows[2]["label"] = "god"
    elif kind == "unlabelled row":
        rows[1]["label"] = ""
    elif kind == "answer":
        rows[1]["answers"]["text"] = ["harbor"]
    elif kind == "id":
        rows[3]["id"] = rows[0]["id"]
    elif kind == "tags":
        rows[0]["tags"].pop()
    elif kind == "choices":
        rows[2]["choices"].pop()
    runs.write_jsonl(place / "validation.jsonl", rows)
    if kind == "empty":
        (place / "validation.jsonl").write_text("")
    elif kind == "utf-8":
        text = (place / "train.jsonl").read_bytes()
        (place / "train.jsonl").write_bytes(text.replace(b"good", b"g\xf6\xf6d", 1))
    elif kind == "no labels":
        runs.write_jsonl(place / "train.jsonl", [{"text": "the sea", "label": ""}] * 8)
    elif kind == "ragged":
        (place / "train.conll").write_text("anna B-PER\nwrote\n\n")
        data = DataConfig(train_file=str(place / "train.conll"))
    elif kind == "tfds":
        data = DataConfig(dataset="imdb_reviews", data_dir=str(place))
    return {"task": task, "data": data}


@pytest.mark.parametrize(
    "kind, changes, error",
    [
        ("column", {"processing": {"text": "sentence"}}, "train.jsonl: expected the columns 'sent"),
        ("label", {}, "validation.jsonl:3: 'label' is 'god'.*nearest to it is 'good'"),
        ("unlabelled row", {}, "validation.jsonl:2: expected a label in 'label', found ''"),
        ("no labels", {}, "train.jsonl: expected labels in 'label' to train on, found none"),
        ("empty", {}, "validation.jsonl: expected data, found an empty file"),
        ("utf-8", {}, "train.jsonl:.: expected UTF-8, found the byte 0xf6"),
        ("answer", {}, "validation.jsonl:2: expected the answer 'harbor' at"),
        ("id", {}, "validation.jsonl:4: the id 'q0' is also .*validation.jsonl:1"),
        ("ragged", {}, "train.conll:2: expected 2 columns as in the first sentence, found 1"),
        ("tags", {}, "validation.jsonl:1: expected a tag for each of the 4 words, found 3"),
        ("choices", {}, "validation.jsonl:3: expected 3 choices as in the first row"),
        ("tfds", {}, "imdb_reviews: expected it prepared in .* run: python -c"),
        ("length", {"processing": {"max_length": 64}}, "max_length is 64.* 32 positions"),
        ("vocabulary", {"overrides": {"vocab_size": 12}}, "has 32 tokens and the model 12 embedd"),
        ("tokenizer", {"tokenizer": ""}, "has no tokenizer; say which one with --start.tokenizer"),
        ("metric", {"evaluation": EvaluationConfig(metric="acc")}, "'acc' is no metric"),
        ("field", {"overrides": {"hidden_sise": 12}}, "did you mean 'hidden_size'"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_anything_is_compiled(
    tmp_path, monkeypatch, kind, changes, error
):
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("parameters were made")

    monkeypatch.setattr("jbert.training.start.from_config", fail)
    run = config(tmp_path, **_broken(tmp_path, kind), **{
        name: value for name, value in changes.items() if name in ("processing", "evaluation")
    })  # fmt: skip
    of_start = {k: v for k, v in changes.items() if k in ("overrides", "tokenizer")}
    run = again(run, start=dataclasses.replace(run.start, **of_start))
    if kind == "tokenizer":
        (tmp_path / "vocab.txt").unlink()
    with pytest.raises((ValueError, OSError), match=error) as raised:
        finetune(run)
    assert "\n" not in str(raised.value).strip()
    # Corrected, it is not told that there is a run in its directory already.
    visible = [path.name for path in Path(run.output_dir).iterdir() if path.name[0] != "."]
    assert visible == []


def test_an_attempt_takes_back_only_what_is_its_own(tmp_path):
    data = runs.write_splits(tmp_path, TASK, train=16, validation=4)
    run = config(tmp_path, data=data, seeds=(1, 2), steps=1)
    broken = again(run, processing={**run.processing, "text": "sentence"})
    with pytest.raises(ValueError, match="sentence"):
        finetune(broken)
    assert [path.name for path in Path(run.output_dir).glob("[!.]*")] == []
    finetune(again(run, seeds=(1,)))
    (Path(run.output_dir) / "seed-1" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="sentence"):
        finetune(again(broken, seeds=(1,), resume=True))
    assert (Path(run.output_dir) / "seed-1" / "notes.txt").exists()


@pytest.mark.parametrize(
    "fields, error",
    [
        ({"processing": {"max_lenght": 3}}, "processing.max_lenght: .*nearest is max_length"),
        ({"processing": {"max_length": 0}}, "processing: max_length"),
        ({"processing": {"max_length": "long"}}, "processing: max_length"),
        ({"seeds": (1, 1)}, "expected each of them once"),
        ({"start": {"vocab_size": 100}}, "that expects start.scratch"),
        ({"start": {"vocab_size": 100, "scratch": True, "tokenizer": "x"}}, "no start.tokenizer"),
        ({"start": {"vocab_size": -1, "scratch": True}}, "expected at least 0"),
        ({"data": DataConfig(dataset="glue/xyz")}, "GLUE tasks"),
    ],
)
def test_a_configuration_that_cannot_be_right_is_refused(fields, error):
    with pytest.raises(ValueError, match=error):
        start = StartConfig(**fields.pop("start", {}))
        FinetuneConfig(start=start, **fields)


def test_the_processing_of_glue_is_known(tmp_path):
    from jbert.training.finetune import processor_of

    run = FinetuneConfig(data=DataConfig(dataset="glue/stsb"), processing={"max_length": 16})
    processor = processor_of(run)
    assert (processor.text, processor.pair, processor.max_length) == ("sentence1", "sentence2", 16)
    assert processor.problem_type == "regression"
    plain = again(run, task="masked_lm", processing={"text": "sentence1", "buckets": 16})
    assert processor_of(plain).buckets == (16,)


def test_a_model_that_is_no_model_is_explained(tmp_path):
    data = runs.write_splits(tmp_path, TASK)
    run = config(tmp_path, model=str(tmp_path / "gone"), data=data)
    with pytest.raises(OSError, match="gone: expected a model's directory"):
        finetune(run)
    scratch = again(run, start=StartConfig(scratch=True))
    with pytest.raises(RunError, match="expected a config.json, a directory with one"):
        finetune(scratch)
    tiny.config("bert").to_json(tmp_path / "config.json")
    model = disk.bert("bert", TASK)
    jbert.export(model, tmp_path / "bare")
    with pytest.raises(RunError, match="has no tokenizer"):
        finetune(again(run, model=str(tmp_path / "bare")))
