"""A tokenizer and small tables for the tests of processors."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from jbert.data.features import Features
from jbert.data.processors import Processor
from jbert.data.table import Table
from jbert.tokenizer import Tokenizer

VOCAB = Path(__file__).parent / "tokenizer" / "vocab-uncased.txt"
STORY = (
    "The lighthouse keeper wrote every evening in a small grey notebook. He wrote about the "
    "weather, the ships, and the bread he had baked. On Mondays the wind came from the north."
)


@functools.cache
def tokenizer(**options: Any) -> Tokenizer:
    return Tokenizer.from_vocab(VOCAB, **options)


def run(processor: Processor, table: Table) -> Any:
    return processor.process(table, tokenizer(), cache=False)


def counts(features: Features) -> dict[str, int]:
    """How many rows each notice is about."""
    return {notice["what"]: notice["count"] for notice in features.facts["notices"]}


def tokens(features: Features, row: int) -> list[str]:
    return tokenizer().convert_ids_to_tokens(features.tokens_of("input_ids", row).tolist())


def answer(text: str, context: str = STORY, after: int = 0) -> dict[str, list]:
    return {"text": [text], "answer_start": [context.index(text, after)]}


def questions(**changes: Any) -> Table:
    """Three questions on one story; the last has no answer."""
    columns = {
        "id": ["a", "b", "c"],
        "question": ["Who wrote?", "What had he baked?", "Where is the capital?"],
        "context": [STORY] * 3,
        "answers": [
            answer("The lighthouse keeper"),
            answer("bread"),
            {"text": [], "answer_start": []},
        ],
    }
    return Table(columns | changes, "story.json", places=[f" question {i}" for i in range(3)])


def sentences(**changes: Any) -> Table:
    columns = {
        "tokens": [["Keepers", "wrote", "in", "Paris"], ["unhappily"], ["The", "crème", "brûlée"]],
        "tags": [["B-PER", "O", "O", "B-LOC"], ["O"], ["O", "B-FOOD", "I-FOOD"]],
    }
    return Table(columns | changes, "ner.conll", places=[1, 6, 8])


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Logits that say each label; where it is ignored they say nonsense."""
    return np.eye(classes, dtype=np.float32)[np.where(labels < 0, classes - 1, labels)]
