"""Small models of random weights where the pages name published ones, and what else of their own
readers of a page have."""

import json
from pathlib import Path

import disk
import numpy as np
from huggingface_hub import constants

import jbert

WORDS = "the capital of france is where does amy live lives in amsterdam what a film mess . ?"
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split())
PUBLISHED = {
    "google/mobilebert-uncased": "mobilebert",
    "google-bert/bert-base-uncased": "bert",
    "google-bert/bert-large-uncased": "bert",
}
COMMIT = "0" * 40


def publish(cache: Path, monkeypatch) -> None:
    """They lie in a cache of the hub, as if they had been downloaded."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    for name, arch in PUBLISHED.items():
        place = cache / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(COMMIT)
        export(arch, "pretraining", place / "snapshots" / COMMIT)


def belongings(place: Path) -> dict:
    """Puts there what README says the reader has, and returns its variables."""
    export("bert", "question_answering", place / "my-squad-model")
    export("bert", "sequence_classification", place / "my-classifier")
    question = {"question": "Where does Amy live?", "context": "Amy lives in Amsterdam."}
    (place / "questions.jsonl").write_text(json.dumps(question) + "\n")
    return {"labels": np.full((1, 9), -100, np.int32)}


def export(arch: str, task: str, place: Path) -> None:
    place.mkdir(parents=True)
    (place / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    tokenizer = jbert.Tokenizer.from_vocab(place / "vocab.txt")
    model = disk.bert(arch, task, tokenizer=tokenizer, vocab_size=len(VOCABULARY))
    jbert.export(model, place, force=True)
