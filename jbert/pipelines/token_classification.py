"""token-classification: a label for each token, word or entity of a text."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jbert.pipelines.base import (
    Encoded,
    Options,
    Pipeline,
    check_choice,
    check_count,
    check_text,
    softmax,
    text_of,
)
from jbert.pipelines.entities import STRATEGIES, aggregate, without_overlaps

logger = logging.getLogger("jbert")


@dataclasses.dataclass(frozen=True)
class TokenClassificationOptions(Options):
    """aggregation_strategy: none (tokens), simple (neighbours with one label), or first, average
                          or max (words agree on one label, then as simple).
    ignore_labels:        labels to leave out of the answer.
    stride:               read long texts in windows that share so many tokens, instead of cutting
                          them off; needs an aggregation strategy.
    is_split_into_words:  inputs are lists of words, which `delimiter` joins into the text that
                          `start` and `end` count in.
    """

    aggregation_strategy: str = "none"
    ignore_labels: Sequence[str] = ("O",)
    stride: int | None = None
    is_split_into_words: bool = False
    delimiter: str = " "

    def __post_init__(self):
        check_choice("aggregation_strategy", self.aggregation_strategy, STRATEGIES)
        if isinstance(self.ignore_labels, str):
            raise TypeError(f"ignore_labels is {self.ignore_labels!r}; expected a list of labels")
        if self.stride is not None:
            check_count("stride", self.stride, 0)
            if self.aggregation_strategy == "none":
                raise ValueError("stride needs an aggregation_strategy other than 'none'")


class TokenClassification(Pipeline):
    """Texts in; lists of {"entity", "score", "index", "word", "start", "end"}, or with a strategy
    {"entity_group", "score", "word", "start", "end"}, out.

    `start` and `end` count characters of the text as given. Labels may be marked by IOB1, IOB2,
    BILOU or IOBES, or not at all.
    """

    name = "token-classification"
    task = "token_classification"
    options_class = TokenClassificationOptions

    def __call__(self, inputs: Any, *, on_error: str = "raise", **options: Any) -> Any:
        chosen = self._options(self.options, options)
        if chosen.is_split_into_words and isinstance(inputs, list | tuple) and inputs:
            if all(isinstance(word, str) for word in inputs):
                return super().__call__([inputs], on_error=on_error, **options)[0]
        return super().__call__(inputs, on_error=on_error, **options)

    def check(self, item: Any) -> str | list[str]:
        if not isinstance(item, list | tuple):
            return text_of(item)
        return [check_text(word, f"word {place}") for place, word in enumerate(item)]

    def encode(self, items: list[Any], options: Any, numbers: list[int]) -> Encoded:
        split = options.is_split_into_words
        for item in items:
            if isinstance(item, str) == split:
                wanted = "a list of words" if split else "a text"
                raise TypeError(
                    f"is_split_into_words={split}, so expected {wanted}, found {item!r:.80}"
                )
        tokens = self.tokenizer(
            items, max_length=self.limit, truncation=True, return_offsets=True,
            return_special_tokens_mask=True, return_word_ids=split, is_split_into_words=split,
            return_overflowing_tokens=True, stride=options.stride or 0,
        )  # fmt: skip
        owners = tokens.pop("overflow_to_sample_mapping")
        if options.stride is None:
            tokens, owners = self._first_windows(tokens, owners, numbers)
        fields = ("input_ids", "offset_mapping", "special_tokens_mask", "word_ids")
        notes = [
            {name: tokens[name][row, :n] for name in fields if name in tokens}
            for row, n in enumerate(tokens["attention_mask"].sum(axis=1))
        ]
        return Encoded(tokens, owners, notes=notes)

    def _first_windows(self, tokens, owners, numbers):
        first = np.diff(owners, prepend=-1) > 0
        if not first.all():
            logger.warning(
                "token-classification: %d texts, first inputs[%d], are longer than %d tokens and "
                "only their beginning is read; pass stride= to read them whole",
                len(set(owners[~first])), numbers[owners[~first][0]], self.limit,
            )  # fmt: skip
        return {name: value[first] for name, value in tokens.items()}, owners[first]

    @staticmethod
    def program(module, params, inputs, extra):  # pyright: ignore
        return {"logits": module.apply({"params": params}, **inputs).logits}

    def answer(self, item: Any, rows: list[dict], notes: Sequence[Any], options: Any) -> Any:
        text, starts = item, None
        if options.is_split_into_words:
            text = options.delimiter.join(item)
            sizes = [len(word) + len(options.delimiter) for word in item]
            starts = np.cumsum([0, *sizes])
        names: Mapping[int, str] = self.bert.config.id2label or {}
        entities = []
        for row, note in zip(rows, notes, strict=True):
            scores = softmax(np.asarray(row["logits"][: row["length"]], np.float32))
            tokens = self._tokens(text, note, scores, starts)
            found = aggregate(
                tokens, options.aggregation_strategy, names,
                self.tokenizer.convert_tokens_to_string,
            )  # fmt: skip
            label = "entity" if options.aggregation_strategy == "none" else "entity_group"
            entities += [entity for entity in found if entity[label] not in options.ignore_labels]
        return without_overlaps(entities) if len(rows) > 1 else entities

    def _tokens(self, text: str, note: dict, scores: np.ndarray, starts) -> list[dict[str, Any]]:
        tokens = []
        words = self.tokenizer.convert_ids_to_tokens(note["input_ids"])
        for index in np.flatnonzero(note["special_tokens_mask"] == 0).tolist():
            start, end = note["offset_mapping"][index].tolist()
            if starts is not None:
                shift = int(starts[note["word_ids"][index]])
                start, end = start + shift, end + shift
            word = words[index]
            subword = len(word) != end - start
            if note["input_ids"][index] == self.tokenizer.unk_token_id:
                word, subword = text[start:end], False
            tokens.append({
                "word": word, "scores": scores[index], "start": start, "end": end,
                "index": index, "is_subword": subword,
            })  # fmt: skip
        return tokens
