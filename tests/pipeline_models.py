"""Tiny models with a trained tokenizer, and one way to make pipelines of them."""

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import tiny

import jbert

os.environ.setdefault("JBERT_NO_COMPILE_CACHE", "1")

VOCAB = 300
BUCKETS = (16, 32)
CORPUS = Path(__file__).parent / "tokenizer" / "corpus.txt"
CONTEXT = (
    "The lighthouse keeper wrote every evening in a small grey notebook. He wrote about the "
    "weather, the ships, and the bread he had baked."
)


@functools.cache
def lines() -> list[str]:
    return [line for line in CORPUS.read_text(encoding="utf-8").splitlines() if line.isascii()]


@functools.cache
def tokenizer() -> jbert.Tokenizer:
    return jbert.Tokenizer.train(lines(), vocab_size=VOCAB)


@functools.cache
def _model(arch: str, task: str | None, changes: tuple) -> jbert.Bert:
    changed = {key: dict(v) if key == "id2label" else v for key, v in changes}
    if "id2label" in changed:
        changed["num_labels"] = None
    module, params = tiny.model(arch, task, **{"vocab_size": VOCAB, **changed})
    return jbert.Bert(module.config, module, params, tokenizer(), task)


def model(arch: str = "bert", task: str | None = None, labels=None, **changes: Any) -> jbert.Bert:
    """A tiny random model; `labels` names its classes."""
    if labels is not None:
        changes["id2label"] = tuple(enumerate(labels))
    return _model(arch, task, tuple(sorted(changes.items())))


def pipe(task: str, bert: jbert.Bert, **options: Any) -> Any:
    return jbert.pipeline(task, bert, **{"buckets": BUCKETS, "batch_size": 4, **options})


def ragged(count: int, words: int = 12, seed: int = 0) -> list[str]:
    """Texts of 1 to `words` words of the corpus."""
    rng = np.random.default_rng(seed)
    pool = " ".join(lines()).split()
    short = [word for word in pool if len(word) < 5]
    return [" ".join(rng.choice(short, rng.integers(1, words + 1))) for _ in range(count)]


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Nested answers are equal, numbers to a tolerance."""
    assert type(found) is type(expected), (found, expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key in found:
            close(found[key], expected[key], tolerance)
    elif isinstance(found, list):
        assert len(found) == len(expected), (found, expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other, tolerance)
    elif isinstance(found, float):
        assert abs(found - expected) <= tolerance, (found, expected)
    elif isinstance(found, np.ndarray):
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)
    else:
        assert found == expected
