"""multiple-choice: which of several endings or answers fits?"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jbert.loaded import Bert
from jbert.pipelines.base import (
    Encoded,
    Options,
    Pipeline,
    PipelineError,
    check_keys,
    check_text,
    softmax,
)
from jbert.pipelines.text_classification import encode_pairs


@dataclasses.dataclass(frozen=True)
class MultipleChoiceOptions(Options):
    """truncation: cut texts that are too long instead of refusing them."""

    truncation: bool = False


class MultipleChoice(Pipeline):
    """{"question" (or "prompt"), "choices"} in; a {"index", "choice", "score"} for each choice, the
    most probable first, out. There may be any number of choices, and each question its own.
    """

    name = "multiple-choice"
    task = "multiple_choice"
    options_class = MultipleChoiceOptions
    look_ahead = 256
    example = {"question": "a", "choices": ["a"]}

    def fit(self, bert: Bert) -> Bert:
        summary = getattr(bert.config, "summary_type", "first")
        # ConvBERT may sum a row up by its last token, which on the right would be padding.
        self.left = summary != "first"
        if summary == "mean":
            raise PipelineError(
                "multiple-choice with summary_type='mean' averages over padding, so that answers "
                "would depend on the batch; call the model itself with rows of one length"
            )
        return super().fit(bert)

    def check(self, item: Any) -> dict[str, Any]:
        if isinstance(item, Mapping) and "prompt" in item and "question" not in item:
            item = {**item, "question": item["prompt"]}
        check_keys(item, ["question", "choices"])
        check_text(item["question"], "the question")
        choices = item["choices"]
        if not isinstance(choices, list | tuple) or not choices:
            raise ValueError(f"'choices' is {choices!r:.80}; expected a list of texts")
        for place, choice in enumerate(choices):
            check_text(choice, f"choice {place}")
        return dict(item)

    def encode(self, items: list[Any], options: Any, numbers: list[int]) -> Encoded:
        pairs = [(item["question"], choice) for item in items for choice in item["choices"]]
        owners = np.repeat(np.arange(len(items)), [len(item["choices"]) for item in items])
        return Encoded(encode_pairs(self, pairs, options.truncation), owners)

    @staticmethod
    def program(module, params, inputs, extra):  # pyright: ignore
        return {"logits": module.apply({"params": params}, **inputs).logits[:, 0]}

    def answer(self, item: Any, rows: list[dict], notes: Sequence[Any], options: Any) -> Any:
        scores = softmax(np.asarray([row["logits"] for row in rows], np.float32))
        return [
            {"index": int(i), "choice": item["choices"][i], "score": float(scores[i])}
            for i in np.argsort(-scores, kind="stable")
        ]
