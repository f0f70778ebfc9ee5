"""multiple_choice: which of several texts goes with a context."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from jbert.data import tokenise
from jbert.data.features import Features
from jbert.data.processors.base import Built, Notices, Predictor, lists_of_texts, texts
from jbert.data.processors.labels import labelled
from jbert.data.table import DataError, Table
from jbert.pipelines.base import softmax
from jbert.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultipleChoice(Predictor):
    """context: the column that goes with every choice.
    choices: the column of lists of texts, as many in every row.
    label:   the column of the right choice's number, from 0.
    """

    task: ClassVar[str] = "multiple_choice"

    context: str = "context"
    choices: str = "choices"
    label: str = "label"

    @property
    def target(self) -> str:
        return self.label

    def build(self, table: Table, tokenizer: Tokenizer) -> Built:
        notices = Notices()
        choices = self._choices(table, notices)
        count = len(choices[0])
        targets = {"labels": self._targets(table, count)} if labelled(table, self.label) else {}
        contexts = texts(table, self.context, notices)
        first = tokenise.encode(tokenizer, [text for text in contexts for _ in range(count)])
        second = tokenise.encode(tokenizer, list(chain.from_iterable(choices)), unit=" choices")
        where = tokenise.cut(first, second, self.max_length)
        lost = (where.first_length < first.lengths) | (where.second_length < second.lengths)
        notices.add(
            f"have a choice of more than {self.max_length} tokens, which was cut off",
            lost.reshape(-1, count).any(axis=1),
        )
        rows = tokenise.lay_out(tokenizer, first, second, where)
        return Built(rows, np.arange(len(table)), notices, targets=targets, choices=count)

    def _choices(self, table: Table, notices: Notices) -> list[list[str]]:
        choices = lists_of_texts(table, self.choices, notices)
        count = len(choices[0])
        for row, some in enumerate(choices):
            if len(some) != count or count < 2:
                wanted = f"{count} choices as in the first row" if row else "two choices or more"
                raise DataError(
                    f"{table.where(row)}: expected {wanted} in {self.choices!r}, found {len(some)}"
                )
        return choices

    def _targets(self, table: Table, count: int) -> np.ndarray:
        for row, value in enumerate(table.columns[self.label]):
            whole = isinstance(value, int | str) and str(value).isdecimal()
            if not whole or int(value) >= count:
                raise DataError(
                    f"{table.where(row)}: expected the number of a choice in {self.label!r}, 0 to "
                    f"{count - 1}, found {value!r:.80}"
                )
        return np.array([int(value) for value in table.columns[self.label]], np.int32)

    def decode(
        self, table: Table, features: Features, outputs: Mapping[str, Sequence[np.ndarray]]
    ) -> list[dict[str, Any]]:
        scores = softmax(np.asarray(outputs["logits"], np.float32))
        return [{"choice": int(row.argmax()), "scores": row.tolist()} for row in scores]
