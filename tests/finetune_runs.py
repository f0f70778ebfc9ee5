"""Small files of every task, and runs of a tiny model on them: for the tests of fine-tuning."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny

from jbert.data.splits import DataConfig
from jbert.sharding import make_mesh
from jbert.training import finetune as module
from jbert.training.config import LoggingConfig, OptimizerConfig
from jbert.training.finetune import FinetuneConfig, finetune
from jbert.training.start import StartConfig

TASKS = (
    "sequence_classification", "token_classification", "question_answering", "multiple_choice",
    "masked_lm",
)  # fmt: skip
GOOD, BAD = ("calm", "warm", "fine"), ("cold", "grim", "rude")
THINGS = ("sea", "wind", "boat", "lamp", "bread", "letter", "island", "harbour")
WORDS = ("the", "was", "and", "in", "what", "who", "anna", "oslo", "wrote", "to", "from", ".", "?")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *GOOD, *BAD, *THINGS)
NAMES = {"B-PER": "anna", "B-LOC": "oslo"}
LENGTH = 24


@pytest.fixture(autouse=True)
def one_device(monkeypatch, tmp_path_factory):
    """Tests that import this run on one device, and keep features where nobody else does."""
    first = make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(module, "mesh_of", lambda run: (first, run.mesh.rules))
    monkeypatch.setenv("JBERT_NO_COMPILE_CACHE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


# -- rows ----------------------------------------------------------------------------------------


def review(random: Any) -> tuple[str, str]:
    label = random.choice(["bad", "good"])
    words = random.choice(GOOD if label == "good" else BAD, 2)
    return f"the {random.choice(THINGS)} was {words[0]} and {words[1]} .", str(label)


def rows(task: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [_ROWS[task](random, number) for number in range(count)]


def _classified(random: Any, number: int) -> dict[str, Any]:
    text, label = review(random)
    return {"text": text, "label": label}


def _tagged(random: Any, number: int) -> dict[str, Any]:
    tags = random.choice(["B-PER", "B-LOC", "O"], 3)
    words = [NAMES.get(tag) or str(random.choice(THINGS)) for tag in tags]
    return {"tokens": [*words, "wrote"], "tags": [*map(str, tags), "O"]}


def _asked(random: Any, number: int) -> dict[str, Any]:
    context, _ = review(random)
    answer = context.split()[1]
    found = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"id": f"q{number}", "question": "what was ?", "context": context, "answers": found}


def _chosen(random: Any, number: int) -> dict[str, Any]:
    context, label = review(random)
    choices = [str(random.choice(words)) for words in (BAD, GOOD, THINGS)]
    return {"context": context, "choices": choices, "label": int(label == "good")}


def _told(random: Any, number: int) -> dict[str, Any]:
    return {"text": " ".join(review(random)[0] for _ in range(3))}


_ROWS = dict(zip(TASKS, (_classified, _tagged, _asked, _chosen, _told), strict=True))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def write_splits(place: Path, task: str, **counts: int) -> DataConfig:
    counts = counts or {"train": 24, "validation": 10}
    files = {
        f"{split}_file": write_jsonl(place / f"{split}.jsonl", rows(task, count, seed))
        for seed, (split, count) in enumerate(counts.items())
    }
    return DataConfig(**files)


# -- runs ----------------------------------------------------------------------------------------


def write_model(place: Path, arch: str = "bert", **changes: Any) -> str:
    """A config.json of one narrow layer."""
    layers = {"n_layers" if arch == "distilbert" else "num_hidden_layers": 1}
    tiny.config(arch, **layers, **changes).to_json(place / "config.json")
    return str(place / "config.json")


def write_vocabulary(place: Path) -> str:
    (place / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    return str(place / "vocab.txt")


def config(
    place: Path, task: str = "sequence_classification", arch: str = "bert", **changes: Any
) -> FinetuneConfig:
    """Two steps of 8 examples, from scratch, on the task's own files."""
    settings: dict[str, Any] = {"max_length": LENGTH, "buckets": (LENGTH,)}
    if task == "question_answering":
        settings["max_question_length"] = 8
    if "data" not in changes:
        changes["data"] = write_splits(place, task)
    processing = settings | changes.pop("processing", {})
    options: dict[str, Any] = {
        "output_dir": str(place / "run"), "task": task, "processing": processing,
        "steps": 2, "batch_size": 8,
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
        "logging": LoggingConfig(steps=1, progress=False),
    }  # fmt: skip
    if "model" not in changes:
        start = StartConfig(scratch=True, tokenizer=write_vocabulary(place))
        options |= {"model": write_model(place, arch), "start": start}
    return FinetuneConfig(**options | changes)


def again(run: FinetuneConfig, **changes: Any) -> FinetuneConfig:
    return dataclasses.replace(run, **changes)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def logged(run: FinetuneConfig, split: str) -> list[dict[str, Any]]:
    found = lines(Path(run.output_dir) / "metrics.jsonl")
    return [line for line in found if line["split"] == split]


__all__ = ["finetune"]
