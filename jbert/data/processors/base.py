"""What the processors of all tasks share: settings, checks, the cache and what they report."""

import abc
import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from jbert.data import tokenise
from jbert.data.cache import cached, default_directory, digest
from jbert.data.features import Features, make_buckets
from jbert.data.processors.labels import require_labels
from jbert.data.table import DataError, Table
from jbert.texts import check_positive
from jbert.tokenizer import Tokenizer
from jbert.vocabulary import replace_surrogates

logger = logging.getLogger("jbert")

# To be raised when the same table and settings give other features than before.
VERSION = 1


class Notices:
    """What happened to some of the rows, for the user to know."""

    def __init__(self):
        self.entries: list[dict[str, Any]] = []

    def add(self, what: str, rows: Any) -> None:
        """rows: their numbers, or a truth value for each; without any there is nothing to say."""
        rows = np.asarray(rows)
        numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
        if len(numbers):
            self.entries.append({"what": what, "count": len(numbers), "row": int(numbers[0])})


@dataclasses.dataclass
class Built:
    """What a processor makes of a table: see `Features`."""

    rows: tokenise.Rows
    owners: np.ndarray
    notices: Notices
    labels: np.ndarray | None = None
    targets: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    choices: int | None = None

    def arrays(self, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
        tokens = self.rows.columns(tokenizer)
        if self.labels is not None:
            tokens["labels"] = self.labels.astype(np.int32)
        groups = {"tokens": tokens, "targets": self.targets, "notes": self.notes}
        flat = {f"{g}.{name}": x for g, group in groups.items() for name, x in group.items()}
        owners = self.owners.astype(np.int32)
        return {"offsets": self.rows.offsets, "owners": owners, **flat}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processor(abc.ABC):
    """max_length: rows of more tokens are cut, or make several rows.
    buckets:    the lengths that batches are padded to, (max_length,) for one fixed length.
    """

    task: ClassVar[str]
    # The settings that only matter to what is done with the features.
    later: ClassVar[tuple[str, ...]] = ("buckets",)

    max_length: int = 128
    buckets: tuple[int, ...] | None = None

    def __post_init__(self):
        check_positive("max_length", self.max_length)
        for length in self.buckets or ():
            check_positive("buckets", length)
        # Beside [CLS] and two [SEP], a token of each segment.
        if self.max_length < 5:
            raise ValueError(f"max_length is {self.max_length}; a row of a pair takes at least 5")

    def fit(self, table: Table) -> Self:
        """These settings with what they leave open, such as label names, taken from the training
        split; they then serve all splits."""
        return self

    def process(
        self, table: Table, tokenizer: Tokenizer, cache: str | Path | bool = True
    ) -> Features:
        """Tokenises a table, or takes the result from the cache.

        cache: the directory to keep results in; True for the user's own, False for none.
        """
        if not len(table):
            raise DataError(f"{table.source}: expected rows, found none")

        def make():
            built = self.build(table, tokenizer)
            facts = {"choices": built.choices, "notices": built.notices.entries}
            return built.arrays(tokenizer), facts

        key, buckets = self._key(table, tokenizer), make_buckets(self.max_length, self.buckets)
        if cache is False:
            arrays, facts = make()
        else:
            directory = default_directory() if cache is True else Path(cache)
            arrays, facts = cached(directory, key, make)
        for notice in facts["notices"]:
            logger.warning(
                "%s: %d of %d rows %s, the first %s", table.source, notice["count"], len(table),
                notice["what"], table.where(notice["row"]),
            )  # fmt: skip
        return Features.from_arrays(
            arrays, fingerprint=digest(key, buckets), buckets=buckets, facts=facts,
            pad_id=tokenizer.pad_token_id, choices=facts["choices"],
        )  # fmt: skip

    def _key(self, table: Table, tokenizer: Tokenizer) -> str:
        settings = {k: v for k, v in dataclasses.asdict(self).items() if k not in self.later}
        names = sorted(table.label_names.items())
        return digest(
            VERSION, self.task, settings, table.fingerprint, names, tokenise.fingerprint(tokenizer)
        )

    @abc.abstractmethod
    def build(self, table: Table, tokenizer: Tokenizer) -> Built:
        """Tokenises a table."""


class Predictor(Processor):
    """A processor of rows with labels, which can also read a model's predictions."""

    @property
    @abc.abstractmethod
    def target(self) -> str:
        """The column of labels."""

    def fit(self, table: Table) -> Self:
        require_labels(table, self.target)
        return self

    @abc.abstractmethod
    def decode(
        self, table: Table, features: Features, outputs: Mapping[str, Sequence[np.ndarray]]
    ) -> list[dict[str, Any]]:
        """A prediction for each row of the table.

        outputs: under their names in a model's output, arrays for each row of the features; those
            of tokens may be longer than the row, by its padding.
        """


def texts(table: Table, name: str, notices: Notices) -> list[str]:
    """A column of texts, without what UTF-8 cannot hold."""
    table.require(name)
    return [text for (text,) in _clean(table, name, ([x] for x in table.columns[name]), notices)]


def lists_of_texts(table: Table, name: str, notices: Notices) -> list[list[str]]:
    """A column of lists of texts, without what UTF-8 cannot hold."""
    return _clean(table, name, lists(table, name), notices)


def lists(table: Table, name: str) -> list[list[Any]]:
    """A column of lists."""
    table.require(name)
    for row, value in enumerate(table.columns[name]):
        if not isinstance(value, list):
            raise DataError(f"{table.where(row)}: expected a list in {name!r}, found {value!r:.80}")
    return list(table.columns[name])


def _clean(table: Table, name: str, rows: Iterable[list[Any]], notices: Notices) -> list[list[str]]:
    cleaned, broken = [], []
    for row, values in enumerate(rows):
        for value in values:
            if not isinstance(value, str):
                raise DataError(
                    f"{table.where(row)}: expected text in {name!r}, found {value!r:.80}"
                )
        pairs = [replace_surrogates(value) for value in values]
        if any(surrogates for _, surrogates in pairs):
            broken.append(row)
        cleaned.append([text for text, _ in pairs])
    notices.add(f"have lone surrogates in {name!r}, which became U+FFFD", broken)
    return cleaned
