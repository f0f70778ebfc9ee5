"""text-classification: one label, or a score for every label, for a text or a pair of texts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jbert.pipelines.base import (
    Encoded,
    Options,
    Pipeline,
    check_choice,
    check_count,
    check_keys,
    check_text,
    softmax,
    whole,
)

UNSET = "unset"


@dataclasses.dataclass(frozen=True)
class TextClassificationOptions(Options):
    """top_k:             how many labels to return, the best first; None returns all of them.
    function_to_apply: softmax, sigmoid or none; by default as the model's problem_type says, and
                       without one sigmoid for a single label, softmax for several.
    truncation:        cut texts that are too long instead of refusing them.
    """

    top_k: int | None | str = UNSET
    function_to_apply: str | None = None
    truncation: bool = False

    def __post_init__(self):
        if self.top_k is not None and self.top_k != UNSET:
            check_count("top_k", self.top_k)
        check_choice("function_to_apply", self.function_to_apply,
                     (None, "softmax", "sigmoid", "none"))  # fmt: skip


class TextClassification(Pipeline):
    """Texts, or pairs as {"text", "text_pair"} or two-tuples, in; {"label", "score"} out.

    With `top_k` each answer is a list of those. Without, a single str gives a list of one, as in
    transformers.
    """

    name = "text-classification"
    task = "sequence_classification"
    options_class = TextClassificationOptions

    def __call__(self, inputs: Any, *, on_error: str = "raise", **options: Any) -> Any:
        answer = super().__call__(inputs, on_error=on_error, **options)
        return [answer] if isinstance(inputs, str) and isinstance(answer, dict) else answer

    def check(self, item: Any) -> tuple[str, str | None]:
        return pair_of(item)

    def encode(self, items: list[Any], options: Any, numbers: list[int]) -> Encoded:
        return whole(encode_pairs(self, items, options.truncation))

    @staticmethod
    def program(module, params, inputs, extra):  # pyright: ignore
        return {"logits": module.apply({"params": params}, **inputs).logits}

    def answer(self, item: Any, rows: list[dict], notes: Sequence[Any], options: Any) -> Any:
        logits = np.asarray(rows[0]["logits"], np.float32)
        scores = apply_function(self._function(options), logits)
        names: Any = self.bert.config.id2label
        labelled = [{"label": names[i], "score": float(score)} for i, score in enumerate(scores)]
        labelled.sort(key=lambda entry: entry["score"], reverse=True)
        if options.top_k == UNSET:
            return labelled[0]
        return labelled[: options.top_k]

    def _function(self, options: Any) -> str:
        if options.function_to_apply is not None:
            return options.function_to_apply
        config = self.bert.config
        if config.problem_type == "regression":
            return "none"
        if config.problem_type == "multi_label_classification" or config.num_labels == 1:
            return "sigmoid"
        return "softmax"


def apply_function(name: str, logits: np.ndarray) -> np.ndarray:
    if name == "softmax":
        return softmax(logits)
    if name == "none":
        return logits
    # Both forms are the sigmoid; each where its exponential cannot overflow.
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, small) / (1 + small)


def pair_of(item: Any) -> tuple[str, str | None]:
    """(text, None) or (text, pair) of a str, a two-tuple or a dict."""
    if isinstance(item, Mapping):
        check_keys(item, ["text"])
        text, pair = item["text"], item.get("text_pair")
    elif isinstance(item, list | tuple):
        if len(item) != 2:
            raise ValueError(f"expected a text or a pair of texts, found {len(item)} items")
        text, pair = item
        pair = check_text(pair, "the second text")
    else:
        text, pair = item, None
    if pair is not None:
        check_text(pair, "'text_pair'")
    return check_text(text, "the text"), pair


def encode_pairs(pipeline: Pipeline, items: list[tuple], truncation: bool) -> dict[str, np.ndarray]:
    """Rows for texts and pairs mixed."""
    limit: Any = {"max_length": pipeline.limit} if truncation else {}
    single = [i for i, (_, pair) in enumerate(items) if pair is None]
    paired = [i for i, (_, pair) in enumerate(items) if pair is not None]
    parts = []
    if single:
        texts = [items[i][0] for i in single]
        parts.append((single, pipeline.tokenizer(texts, **limit)))
    if paired:
        columns = zip(*(items[i] for i in paired), strict=True)
        texts, pairs = (list(column) for column in columns)
        parts.append((paired, pipeline.tokenizer(texts, pairs, **limit)))
    if len(parts) == 1:
        return parts[0][1]
    width = max(tokens["input_ids"].shape[1] for _, tokens in parts)
    joined = {}
    for name in parts[0][1]:
        joined[name] = np.zeros((len(items), width), np.int32)
        for rows, tokens in parts:
            joined[name][rows, : tokens[name].shape[1]] = tokens[name]
    return joined
