"""next-sentence: does the second text follow the first?"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jbert.pipelines.base import Encoded, Options, Pipeline, softmax, whole
from jbert.pipelines.text_classification import encode_pairs, pair_of

LABELS = ("is_next", "not_next")


@dataclasses.dataclass(frozen=True)
class NextSentenceOptions(Options):
    """truncation: cut texts that are too long instead of refusing them."""

    truncation: bool = False


class NextSentence(Pipeline):
    """Pairs, as {"text", "text_pair"} or two-tuples in a list, in; {"label", "score"} out.

    The label is "is_next" or "not_next" and the score its probability.
    """

    name = "next-sentence"
    task = "next_sentence"
    also = ("pretraining",)
    options_class = NextSentenceOptions
    example = ("a", "a")

    def check(self, item: Any) -> tuple[str, str | None]:
        text, pair = pair_of(item)
        if pair is None:
            raise ValueError("expected two texts, found one; pass {'text': …, 'text_pair': …}")
        return text, pair

    def encode(self, items: list[Any], options: Any, numbers: list[int]) -> Encoded:
        return whole(encode_pairs(self, items, options.truncation))

    @staticmethod
    def program(module, params, inputs, extra):  # pyright: ignore
        output = module.apply({"params": params}, **inputs)
        logits = output.logits if output.logits is not None else output.seq_relationship_logits
        return {"logits": logits}

    def answer(self, item: Any, rows: list[dict], notes: Sequence[Any], options: Any) -> Any:
        scores = softmax(np.asarray(rows[0]["logits"], np.float32))
        best = int(scores.argmax())
        return {"label": LABELS[best], "score": float(scores[best])}
