"""sequence_classification: a class, several, or a number for a text or a pair of texts."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from jbert.config import PROBLEM_TYPES
from jbert.data import tokenise
from jbert.data.features import Features
from jbert.data.processors.base import Built, Notices, Predictor, lists, texts
from jbert.data.processors.labels import Numbers, infer, labelled, spell
from jbert.data.table import DataError, Table
from jbert.pipelines.base import softmax
from jbert.texts import check_choice
from jbert.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Predictor):
    """text, pair:    the columns to read; without `pair`, one text a row.
    label:        the column of labels: a name or number, for multi-label a list of them.
    labels:       the names of all classes, by default those of the training split, sorted.
    problem_type: as in a model's configuration.
    """

    task: ClassVar[str] = "sequence_classification"

    text: str = "text"
    pair: str | None = None
    label: str = "label"
    labels: tuple[str, ...] | None = None
    problem_type: str = "single_label_classification"

    def __post_init__(self):
        super().__post_init__()
        check_choice("problem_type", self.problem_type, PROBLEM_TYPES)

    @property
    def target(self) -> str:
        return self.label

    def fit(self, table: Table) -> Self:
        super().fit(table)
        if self.labels is not None or self.problem_type == "regression":
            return self
        names = [
            spell(table, self.label, row, value)
            for row, values in enumerate(self._all_labels(table))
            for value in values
        ]
        return dataclasses.replace(self, labels=infer(table, self.label, names))

    def _all_labels(self, table: Table) -> list[list[Any]]:
        """Every row's labels as a list."""
        if self.problem_type == "multi_label_classification":
            return lists(table, self.label)
        return [[value] for value in table.columns[self.label]]

    def build(self, table: Table, tokenizer: Tokenizer) -> Built:
        notices = Notices()
        # First, so that a wrong one is found before minutes are spent on tokenising.
        targets = {"labels": self._targets(table)} if labelled(table, self.label) else {}
        first = tokenise.encode(tokenizer, texts(table, self.text, notices))
        second = None
        if self.pair is not None:
            second = tokenise.encode(tokenizer, texts(table, self.pair, notices))
        where = tokenise.cut(first, second, self.max_length)
        lost = where.first_length < first.lengths
        if second is not None:
            lost |= where.second_length < second.lengths
        notices.add(f"have more than {self.max_length} tokens and were cut off", lost)
        rows = tokenise.lay_out(tokenizer, first, second, where)
        return Built(rows, where.sample, notices, targets=targets)

    def _targets(self, table: Table) -> np.ndarray:
        if self.problem_type == "regression":
            values = enumerate(table.columns[self.label])
            return np.array([self._number(table, row, x) for row, x in values], np.float32)
        if self.labels is None:
            raise ValueError("the labels are not known; call fit on the training split first")
        numbers = Numbers(table, self.label, self.labels)
        found = [
            [numbers.number(row, value) for value in values]
            for row, values in enumerate(self._all_labels(table))
        ]
        if self.problem_type == "single_label_classification":
            return np.array(found, np.int32)[:, 0]
        several = np.zeros((len(table), len(self.labels)), np.float32)
        for row, chosen in enumerate(found):
            several[row, chosen] = 1
        return several

    def _number(self, table: Table, row: int, value: Any) -> float:
        try:
            number = float("nan" if value is None else value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"{table.where(row)}: expected a number in {self.label!r}, found {value!r:.80}"
            )
        return number

    def decode(
        self, table: Table, features: Features, outputs: Mapping[str, Sequence[np.ndarray]]
    ) -> list[dict[str, Any]]:
        logits = np.asarray(outputs["logits"], np.float32)
        if self.problem_type == "regression":
            return [{"score": float(value)} for value in logits.reshape(-1)]
        names = self.labels or ()
        if self.problem_type == "multi_label_classification":
            scores = 1 / (1 + np.exp(-logits))
            chosen = [[names[i] for i in np.flatnonzero(row > 0)] for row in logits]
            return [
                {"labels": some, "scores": dict(zip(names, row, strict=True))}
                for some, row in zip(chosen, scores.tolist(), strict=True)
            ]
        scores = softmax(logits)
        best = scores.argmax(axis=-1)
        return [
            {"label": names[i], "score": row[i], "scores": dict(zip(names, row, strict=True))}
            for i, row in zip(best.tolist(), scores.tolist(), strict=True)
        ]
