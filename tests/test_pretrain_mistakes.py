"""What a pretraining run refuses before it begins, and what it then leaves: nothing."""

import re
from pathlib import Path

import numpy as np
import pytest
from pretrain_runs import LENGTH, again, config, one_device  # noqa: F401

import jbert
from jbert.config import read_config_json
from jbert.data.pretraining import Masking
from jbert.data.table import DataError, DataWarning
from jbert.training.config import EvaluationConfig, RunError
from jbert.training.directory import RunDirectory
from jbert.training.pretrain import (
    CorpusConfig,
    GeneratorConfig,
    PackingConfig,
    Phase,
    PretrainConfig,
    Pretraining,
    pretrain,
)
from jbert.training.start import StartConfig


@pytest.fixture(autouse=True)
def never_trains(monkeypatch):
    monkeypatch.setattr(Pretraining, "run", lambda self: pytest.fail("it began"))


def refused(run: PretrainConfig, message: str, kind: type[Exception] = RunError) -> None:
    with pytest.raises(kind, match=message):
        pretrain(run)
    left = [path for path in Path(run.output_dir).iterdir() if not path.name.startswith(".")]
    assert left == []


def text(place: Path, content: str, **options) -> CorpusConfig:
    (place / "other.txt").write_text(content, "utf-8")
    options = {"validation_share": 0.2, "cache_dir": str(place / "cache")} | options
    return CorpusConfig(train_files=(str(place / "other.txt"),), **options)


def test_text_that_the_task_cannot_use(tmp_path):
    run, pairs = config(tmp_path), config(tmp_path, task="pretraining")
    refused(again(run, data=CorpusConfig()), "Name at least one", DataError)
    blank = {"data": text(tmp_path, "\n \n")}
    refused(again(run, **blank), "no token in 1 files", DataError)
    new = StartConfig(scratch=True, vocab_size=100)
    refused(again(run, start=new, **blank), "no token in 1 files", DataError)
    one = text(tmp_path, "the sea was calm .\nand the boat .\n")
    refused(again(run, data=one), r"has 1 document\(s\), too few to hold 1", DataError)
    single = text(tmp_path, "\n\n".join(["the sea was calm and warm ."] * 9))
    refused(again(pairs, data=single), "each of the 7 documents has a single sentence", DataError)
    held_out = text(
        tmp_path, "the sea .\nthe boat .\n\n" * 9, validation_files=(str(tmp_path / "text.txt"),)
    )
    (tmp_path / "text.txt").write_text("the sea .\n", "utf-8")
    refused(
        again(pairs, data=held_out), "text for validation: the corpus is one document", DataError
    )
    strange = text(tmp_path, "海 は 静か\n\n" * 9)
    refused(again(run, data=strange), r"100% of the text's tokens are \[UNK\]", DataError)
    mixed = text(tmp_path, "the sea 海 は 静か\n\n" * 9)
    with pytest.warns(DataWarning, match=r"67% of the text's tokens are \[UNK\]"):
        Pretraining(again(run, data=mixed, output_dir=str(tmp_path / "mixed")))
    gone = CorpusConfig(train_files=(str(tmp_path / "gone.txt"),))
    refused(again(run, data=gone), "there is no file .*gone.txt", FileNotFoundError)


def test_a_run_that_was_to_be_overwritten_is_still_there(tmp_path):
    run = config(tmp_path)
    with RunDirectory(run).prepare(run) as directory:
        (directory.path / "model").mkdir()
        before = (directory.path / "config.json").read_text()
    other = again(run, overwrite=True, steps=7, data=text(tmp_path, "\n \n"))
    with pytest.raises(DataError, match="no token in 1 files"):
        pretrain(other)
    assert (directory.path / "model").is_dir()
    assert (directory.path / "config.json").read_text() == before


def test_a_tokenizer_of_another_size_than_the_model(tmp_path):
    run = config(tmp_path)
    fewer = StartConfig(scratch=True, tokenizer=run.start.tokenizer, overrides={"vocab_size": 20})
    refused(again(run, start=fewer), "the tokenizer has 32 tokens", ValueError)
    bert = jbert.from_config(read_config_json(run.model), "masked_lm", vocab_size=40)
    jbert.save(bert, tmp_path / "learned")
    more = again(run, model=str(tmp_path / "learned"))
    theirs = StartConfig(tokenizer=run.start.tokenizer)
    refused(again(more, start=theirs), "start.tokenizer has 32 tokens, but .* embeddings of 40")


def test_sequences_longer_than_the_model(tmp_path):
    run = config(tmp_path)
    refused(again(run, max_length=33), "max_length is 33, but the model has 32 positions")
    phases = (Phase(length=16, steps=2), Phase(length=64, steps=1))
    refused(again(run, phases=phases), "a phase's length is 64, but the model has 32 positions")


def test_a_task_that_the_architecture_has_not(tmp_path):
    run = config(tmp_path, arch="distilbert", task="pretraining")
    refused(run, "distilbert has no task .pretraining.", ValueError)


def test_a_generator_that_cannot_be_built(tmp_path):
    run = config(tmp_path, arch="convbert", task="replaced_token_detection")
    odd = StartConfig(
        scratch=True, tokenizer=run.start.tokenizer,
        overrides={"num_attention_heads": 2, "hidden_size": 36, "num_groups": 4},
    )  # fmt: skip
    refused(again(run, start=odd), "generator.width is 0.25: there is no convbert that narrow")


MISTAKES = {
    "the phases have 3 in all": {
        "phases": (Phase(length=8, steps=2), Phase(length=9, steps=1)), "steps": 4},
    "at least 1 step": {"phases": (Phase(steps=0),), "steps": None},
    "does not divide into 3 micro-batches": {
        "phases": (Phase(batch_size=4),), "accumulate": 3, "batch_size": 9, "steps": None},
    "packing.row_length is 16, but sequences have up to 24": {
        "packing": PackingConfig(row_length=16)},
    "nothing to say of packed rows": {"packing": PackingConfig(enabled=False, max_sequences=2)},
    "a packed row holds several pairs": {
        "task": "pretraining", "packing": PackingConfig(enabled=True)},
    "leave packing away": {"task": "pretraining", "packing": PackingConfig(row_length=64)},
    "of sentence pairs; masked_lm masks": {
        "data": CorpusConfig(train_files=("text",), duplicates=2)},
    "masked_lm has perplexity, loss to choose by": {
        "evaluation": EvaluationConfig(metric="accuracy")},
    "leaves nothing to predict": {"masking": Masking(rate=0.0)},
    "is of replaced_token_detection": {"generator": GeneratorConfig(width=0.5)},
    "pretraining expects 5 or more": {"task": "pretraining", "max_length": 4},
}  # fmt: skip


@pytest.mark.parametrize("message", MISTAKES)
def test_settings_that_contradict_each_other(tmp_path, message):
    with pytest.raises(RunError, match=re.escape(message)):
        config(tmp_path, **MISTAKES[message])


def test_a_string_is_not_several_files_and_shares_are_shares():
    with pytest.raises(RunError, match="such as"):
        CorpusConfig(train_files="corpus")  # pyright: ignore
    with pytest.raises(RunError, match="validation_share is 1"):
        CorpusConfig(validation_share=1)
    with pytest.raises(RunError, match="data.duplicates is 0"):
        CorpusConfig(duplicates=0)
    with pytest.raises(RunError, match="data.short_share is 1.5"):
        CorpusConfig(short_share=1.5)
    with pytest.raises(RunError, match="packing.max_sequences is 0"):
        PackingConfig(max_sequences=0)
    with pytest.raises(RunError, match="generator.width is 0"):
        GeneratorConfig(width=0)
    with pytest.raises(RunError, match="generator.weight is 0"):
        GeneratorConfig(weight=0)


@pytest.mark.parametrize(
    ("task", "metric", "up"),
    [("masked_lm", "", False), ("replaced_token_detection", "accuracy", True)],
)
def test_the_best_is_the_highest_or_the_lowest(tmp_path, task, metric, up):
    run = config(tmp_path, task=task, evaluation=EvaluationConfig(metric=metric))
    trainer = Pretraining(run).trainer
    assert (trainer.metric, trainer.greater_is_better) == (metric or "perplexity", up)


def test_longer_rows_than_sequences_are_packed(tmp_path):
    run = config(tmp_path, packing=PackingConfig(row_length=2 * LENGTH))
    order = Pretraining(run).trainer.order
    batch = order.batch(0).read(order.source_at(0), np.arange(8))
    assert batch["input_ids"].shape == (8, 2 * LENGTH) and batch["position_ids"].max() < LENGTH
