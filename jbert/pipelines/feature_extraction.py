"""feature-extraction: the last hidden state of every token."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jbert.loaded import Bert, build_module
from jbert.pipelines.base import Encoded, Options, Pipeline, text_of, whole


@dataclasses.dataclass(frozen=True)
class FeatureExtractionOptions(Options):
    """truncation: cut texts that are too long instead of refusing them."""

    truncation: bool = False


class FeatureExtraction(Pipeline):
    """Texts in; arrays of shape (1, tokens, hidden), as transformers returns tensors, out.

    Any model will do: of one with a head only the encoder is used.
    """

    name = "feature-extraction"
    task = None
    options_class = FeatureExtractionOptions
    # A text's answer may be a megabyte.
    look_ahead = 64

    def fit(self, bert: Bert) -> Bert:
        return encoder_of(bert)

    def check(self, item: Any) -> str:
        return text_of(item)

    def encode(self, items: list[str], options: Any, numbers: list[int]) -> Encoded:
        limit: Any = {"max_length": self.limit} if options.truncation else {}
        return whole(self.tokenizer(items, **limit))

    @staticmethod
    def program(module, params, inputs, extra):  # pyright: ignore
        return {"hidden": module.apply({"params": params}, **inputs).last_hidden_state}

    def answer(self, item: Any, rows: list[dict], notes: Sequence[Any], options: Any) -> Any:
        return rows[0]["hidden"][None, : rows[0]["length"]]


def encoder_of(bert: Bert) -> Bert:
    """The encoder of a model, without head and pooler."""
    module: Any = build_module(bert.config, None, bert.execution)
    params = bert.params if bert.task is None else bert.params["encoder"]
    params = {name: value for name, value in params.items() if name != "pooler"}
    return dataclasses.replace(bert, module=module.clone(pooler=False), params=params, task=None)
