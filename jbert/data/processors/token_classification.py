"""token_classification: a tag for each word of a sentence."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from jbert.data import tokenise
from jbert.data.features import Features
from jbert.data.processors.base import Built, Notices, Predictor, lists, lists_of_texts
from jbert.data.processors.labels import Numbers, infer, labelled, spell
from jbert.data.table import DataError, Table
from jbert.losses import IGNORE
from jbert.texts import check_choice
from jbert.tokenizer import Tokenizer

PIECES = ("first", "all")
OUTSIDE = "O"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassification(Predictor):
    """tokens, tags: the columns of words and of their tags, a list each.
    labels:       the names of all tags, by default those of the training split, sorted.
    pieces:       which of a word's pieces carry its tag: the first, or all, those after the first
                  with I- for B-. A word is read from its first piece in any case.
    truncate:     cut long sentences off; otherwise they make several rows, so that each word has a
                  prediction.
    stride:       tokens that such rows share, by default a quarter of them. Words that are in two
                  rows are read where they have more context.
    """

    task: ClassVar[str] = "token_classification"

    tokens: str = "tokens"
    tags: str = "tags"
    labels: tuple[str, ...] | None = None
    pieces: str = "first"
    truncate: bool = False
    stride: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check_choice("pieces", self.pieces, PIECES)
        room = self.max_length - tokenise.added(pair=False)
        if self.stride is not None and not 0 <= self.stride < room:
            raise ValueError(
                f"stride is {self.stride}; expected at least 0 and less than the {room} tokens "
                f"that max_length={self.max_length} leaves beside the special ones"
            )

    @property
    def target(self) -> str:
        return self.tags

    def fit(self, table: Table) -> Self:
        super().fit(table)
        if self.labels is not None:
            return self
        names = [
            spell(table, self.tags, row, tag)
            for row, tags in enumerate(lists(table, self.tags))
            for tag in tags
        ]
        return dataclasses.replace(self, labels=infer(table, self.tags, names))

    def build(self, table: Table, tokenizer: Tokenizer) -> Built:
        notices = Notices()
        sentences = lists_of_texts(table, self.tokens, notices)
        tags = self._numbers(table) if labelled(table, self.tags) else None
        pieces = tokenise.encode(tokenizer, sentences, split=True, unit=" sentences")
        where = tokenise.cut(pieces, None, self.max_length, self._shared)
        if self.truncate:
            lost = where.first_length < pieces.lengths
            notices.add(f"have more than {self.max_length} tokens and were cut off", lost)
        words, firsts = np.array([len(words) for words in sentences]), _first_pieces(pieces)
        count = np.concatenate([[0], np.cumsum(firsts)])
        vanished = count[pieces.starts + pieces.lengths] - count[pieces.starts] < words
        notices.add(f"have words of which no token is left; they are read as {OUTSIDE}", vanished)

        rows = tokenise.lay_out(tokenizer, pieces, None, where)
        real = rows.first >= 0
        word, first = pieces.words[rows.first[real]], firsts[rows.first[real]]
        heads = np.full(len(rows.ids), -1, np.int32)
        heads[real] = np.where(first, word, -1)
        labels = None
        if tags is not None:
            owners = np.repeat(where.sample, np.diff(rows.offsets))[real]
            tag = tags[(np.cumsum(words) - words)[owners] + word]
            rest = self._inside()[tag] if self.pieces == "all" else IGNORE
            labels = np.full(len(rows.ids), IGNORE, np.int32)
            labels[real] = np.where(first, tag, rest)
        return Built(rows, where.sample, notices, labels=labels, notes={"words": heads})

    @property
    def _shared(self) -> int | None:
        if self.truncate:
            return None
        room = self.max_length - tokenise.added(pair=False)
        return room // 4 if self.stride is None else self.stride

    def _numbers(self, table: Table) -> np.ndarray:
        """The numbers of all tags, end to end."""
        if self.labels is None:
            raise ValueError("the labels are not known; call fit on the training split first")
        numbers = Numbers(table, self.tags, self.labels)
        flat = []
        columns = zip(table.columns[self.tokens], lists(table, self.tags), strict=True)
        for row, (words, tags) in enumerate(columns):
            if len(words) != len(tags):
                raise DataError(
                    f"{table.where(row)}: expected a tag for each of the {len(words)} words, found "
                    f"{len(tags)} tags"
                )
            flat += [numbers.number(row, tag) for tag in tags]
        return np.array(flat, np.int32)

    def _inside(self) -> np.ndarray:
        """For each label, that of the same kind for what follows in the word."""
        labels = list(self.labels or ())
        inside = [f"I-{name[2:]}" if name.startswith("B-") else name for name in labels]
        return np.array([
            labels.index(name) if name in labels else number for number, name in enumerate(inside)
        ], np.int32)  # fmt: skip

    def references(self, table: Table) -> list[list[str]]:
        """The right tags of every sentence, by name."""
        numbers, names = self._numbers(table), list(self.labels or ())
        ends = np.cumsum([len(words) for words in table.columns[self.tokens]])[:-1]
        return [[names[number] for number in part] for part in np.split(numbers, ends)]

    def decode(
        self, table: Table, features: Features, outputs: Mapping[str, Sequence[np.ndarray]]
    ) -> list[dict[str, Any]]:
        names = list(self.labels or ())
        nothing = OUTSIDE if OUTSIDE in names else names[0]
        found = [[nothing] * len(words) for words in table.columns[self.tokens]]
        context = [[-1] * len(words) for words in found]
        for row, owner in enumerate(features.owners.tolist()):
            heads = features.tokens_of("words", row)
            places = np.flatnonzero(heads >= 0)
            best = np.asarray(outputs["logits"][row])[places].argmax(axis=-1)
            around = np.minimum(places, len(heads) - 1 - places)
            read = zip(heads[places].tolist(), best.tolist(), around.tolist(), strict=True)
            for word, label, width in read:
                if width > context[owner][word]:
                    context[owner][word], found[owner][word] = width, names[label]
        return [{"tags": tags} for tags in found]


def _first_pieces(pieces: tokenise.Texts) -> np.ndarray:
    """Whether each token is the first of its word."""
    firsts = np.diff(pieces.words, prepend=-1) != 0
    firsts[pieces.starts[pieces.lengths > 0]] = True
    return firsts
