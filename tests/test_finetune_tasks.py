"""Every task with every architecture: from files to a model that loads and answers."""

import itertools
from pathlib import Path
from typing import Any

import finetune_runs as runs
import pytest
import tiny
from finetune_runs import one_device  # noqa: F401

import jbert
from jbert.training.finetune import finetune

FIGURES: dict[str, set[str]] = {
    "sequence_classification": {"loss", "accuracy", "f1", "matthews"},
    "token_classification": {
        "loss", "accuracy", "precision", "recall", "f1", "macro_precision", "macro_recall",
        "macro_f1",
    },
    "question_answering": {"loss", "exact_match", "f1"},
    "multiple_choice": {"loss", "accuracy"},
    "masked_lm": {"loss", "accuracy", "perplexity"},
}  # fmt: skip
# MobileBERT and ConvBERT read padding, which a run has and a pipeline has not.
BLIND_TO_PADDING = ("bert", "distilbert")


# Every architecture and every task at once, in the default tests; the other pairs when asked for.
FIRST, *OTHERS = tiny.ARCHITECTURES
PAIRS = [
    *((FIRST, task) for task in runs.TASKS),
    *((arch, runs.TASKS[place]) for place, arch in enumerate(OTHERS)),
]
REST = [pair for pair in itertools.product(OTHERS, runs.TASKS) if pair not in PAIRS]


@pytest.mark.parametrize(
    ("arch", "task"), [*PAIRS, *(pytest.param(*pair, marks=pytest.mark.faults) for pair in REST)]
)
def test_from_files_to_answers(tmp_path, arch, task):
    config = runs.config(tmp_path, task, arch)
    figures = finetune(config)
    assert list(figures) == ["validation"] and set(figures["validation"]) == FIGURES[task]
    directory = Path(config.output_dir)
    train = runs.logged(config, "train")
    assert [line["step"] for line in train] == [1, 2]
    assert runs.logged(config, "validation")[-1] == {
        "step": 2, "split": "validation", **figures["validation"],
    }  # fmt: skip
    assert (directory / "report.html").stat().st_size > 1000
    model = jbert.load(directory / "model")
    assert model.task == task and model.config.model_type == arch
    ANSWERS[task](model, runs.rows(task, 10, 1), directory / "predictions.jsonl", arch)


def classified(model: Any, rows: list[dict], path: Path, arch: str) -> None:
    assert model.config.id2label == {0: "bad", 1: "good"}
    pipe = jbert.pipeline("text-classification", model, buckets=(runs.LENGTH,))
    answers = pipe([row["text"] for row in rows])
    found = runs.lines(path)
    places = [line["where"].partition("validation.jsonl:")[2] for line in found]
    assert places == [str(number) for number in range(1, 11)]
    for answer, line in zip(answers, found, strict=True):
        assert set(line["scores"]) == {"bad", "good"}
        if arch in BLIND_TO_PADDING:
            assert answer["label"] == line["label"]
            assert answer["score"] == pytest.approx(line["score"], abs=1e-5)


def tagged(model: Any, rows: list[dict], path: Path, arch: str) -> None:
    assert model.config.id2label == {0: "B-LOC", 1: "B-PER", 2: "O"}
    pipe = jbert.pipeline("token-classification", model, buckets=(runs.LENGTH,), ignore_labels=[])
    answers = pipe([" ".join(row["tokens"]) for row in rows])
    for answer, line in zip(answers, runs.lines(path), strict=True):
        assert len(line["tags"]) == 4
        if arch in BLIND_TO_PADDING:
            assert [token["entity"] for token in answer] == line["tags"]


def answered(model: Any, rows: list[dict], path: Path, arch: str) -> None:
    pipe = jbert.pipeline("question-answering", model, buckets=(runs.LENGTH,), max_answer_len=30)
    for row, line in zip(rows, runs.lines(path), strict=True):
        assert line["id"] == row["id"]
        assert row["context"][line["start"] : line["end"]] == line["answer"] != ""
        if arch in BLIND_TO_PADDING:
            answer = pipe({"question": row["question"], "context": row["context"]})
            assert answer["answer"] == line["answer"]


def chosen(model: Any, rows: list[dict], path: Path, arch: str) -> None:
    pipe = jbert.pipeline("multiple-choice", model, buckets=(runs.LENGTH,))
    for row, line in zip(rows, runs.lines(path), strict=True):
        assert len(line["scores"]) == 3
        if arch in BLIND_TO_PADDING:
            answer = pipe({"question": row["context"], "choices": row["choices"]})
            assert answer[0]["index"] == line["choice"]


def guessed(model: Any, rows: list[dict], path: Path, arch: str) -> None:
    assert not path.exists()
    (answer,) = jbert.pipeline("fill-mask", model)(["the [MASK] was calm ."])
    assert all(one["token_str"] in runs.VOCABULARY for one in answer)


ANSWERS = dict(zip(runs.TASKS, (classified, tagged, answered, chosen, guessed), strict=True))
