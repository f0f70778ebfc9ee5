"""question_answering: where in a context the answer to a question is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from jbert.data import tokenise
from jbert.data.features import Features
from jbert.data.processors.base import Built, Notices, Predictor, texts
from jbert.data.processors.labels import labelled
from jbert.data.table import DataError, Table
from jbert.pipelines.spans import NEVER, Window, n_best
from jbert.texts import check_positive
from jbert.tokenizer import Tokenizer
from jbert.windows import Windows, sliding

LONGEST_STRIDE = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Predictor):
    """The columns are SQuAD's: question, context, and answers with their text and answer_start.

    doc_stride:          tokens that the rows of a long context share; by default 128, or half of
                         what a row has room for.
    max_question_length: questions are cut to so many tokens.
    max_answer_length:   tokens of a predicted answer.
    null_threshold:      by how much the score of no answer must exceed the best answer's for "" to
                         be predicted; without it some answer is, as for SQuAD 1.1.
    n_best:              how many answers a prediction lists.
    """

    task: ClassVar[str] = "question_answering"
    later: ClassVar[tuple[str, ...]] = ("buckets", "max_answer_length", "null_threshold", "n_best")

    max_length: int = 384
    doc_stride: int | None = None
    max_question_length: int = 64
    max_answer_length: int = 30
    null_threshold: float | None = None
    n_best: int = 20

    def __post_init__(self):
        super().__post_init__()
        for name in ("max_question_length", "max_answer_length", "n_best"):
            check_positive(name, getattr(self, name))
        room = self.max_length - tokenise.added(pair=True) - self.max_question_length
        if not 0 <= self._stride < room:
            raise ValueError(
                f"doc_stride is {self._stride}, but with max_length={self.max_length} and "
                f"max_question_length={self.max_question_length} a row has room for {room} tokens "
                "of context, which must be more; raise max_length or lower the others"
            )

    @property
    def _stride(self) -> int:
        room = self.max_length - tokenise.added(pair=True) - self.max_question_length
        return min(LONGEST_STRIDE, room // 2) if self.doc_stride is None else self.doc_stride

    @property
    def target(self) -> str:
        return "answers"

    def build(self, table: Table, tokenizer: Tokenizer) -> Built:
        notices = Notices()
        _check_ids(table)
        answers = _answers(table) if labelled(table, self.target) else None
        questions, contexts = (texts(table, name, notices) for name in ("question", "context"))
        first = tokenise.encode(tokenizer, questions, unit=" questions")
        second = tokenise.encode(tokenizer, contexts, offsets=True, unit=" contexts")
        long = first.lengths > self.max_question_length
        notices.add(
            f"have a question of more than {self.max_question_length} tokens, the rest of which "
            "was cut off", long,
        )  # fmt: skip
        first = first._replace(lengths=np.minimum(first.lengths, self.max_question_length))
        where = self._windows(first, second)
        rows = tokenise.lay_out(tokenizer, first, second, where)
        spans = np.full((len(rows.ids), 2), -1, np.int32)
        real = rows.second >= 0
        spans[real] = second.offsets[rows.second[real]]
        targets = {}
        if answers is not None:
            targets = _targets(where, _token_spans(second, answers), notices)
        return Built(rows, where.sample, notices, targets=targets, notes={"spans": spans})

    def _windows(self, first: tokenise.Texts, second: tokenise.Texts) -> Windows:
        """As many rows for each question as its context needs."""
        rooms = self.max_length - tokenise.added(pair=True) - first.lengths
        kept = first.lengths, np.minimum(second.lengths, rooms)
        return sliding(first.lengths, second.lengths, kept, self._stride)

    def decode(
        self, table: Table, features: Features, outputs: Mapping[str, Sequence[np.ndarray]]
    ) -> list[dict[str, Any]]:
        """The best answers by the sum of their first and last token's logits, over all rows.

        `no_answer_score` is by how much the score of no answer, the least of any row, exceeds that
        of the best answer: what SQuAD 2.0's scorer is to find a threshold for.
        """
        windows: list[list[Window]] = [[] for _ in range(len(table))]
        for row, owner in enumerate(features.owners.tolist()):
            spans = features.tokens_of("spans", row)
            start, end = (
                np.asarray(outputs[name][row], np.float32)[: len(spans)]
                for name in ("start_logits", "end_logits")
            )
            windows[owner].append(Window(start, end, spans[:, 0] >= 0, spans))
        contexts = table.columns["context"]
        return [self._answer(*pair) for pair in zip(contexts, windows, strict=True)]

    def _answer(self, context: str, windows: list[Window]) -> dict[str, Any]:
        found, null = n_best(context, windows, self.n_best, self.max_answer_length)
        # A context without a token has no answer, whatever the threshold.
        nothing = {"answer": "", "start": 0, "end": 0}
        best = found[0] if found else {**nothing, "score": NEVER}
        difference = null - best["score"]
        if self.null_threshold is not None and difference > self.null_threshold:
            best = {**nothing, "score": null}
        return {**best, "no_answer_score": difference, "n_best": found}


def _check_ids(table: Table) -> None:
    """Where questions have ids, predictions go by them."""
    first_of: dict[Any, int] = {}
    for row, name in enumerate(table.columns.get("id", ())):
        first = first_of.setdefault(name, row)
        if first != row:
            raise DataError(
                f"{table.where(row)}: the id {name!r:.80} is also that of {table.where(first)}; "
                "expected each id once"
            )


def _answers(table: Table) -> list[tuple[int, int] | None]:
    """The characters of each row's first answer; None where there is none."""
    table.require("context", "answers")
    found: list[tuple[int, int] | None] = []
    for row, answers in enumerate(table.columns["answers"]):
        try:
            pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
        except (TypeError, KeyError, ValueError):
            raise DataError(
                f"{table.where(row)}: expected answers as lists 'text' and 'answer_start' of one "
                f"length, found {answers!r:.80}"
            ) from None
        if not pairs:
            found.append(None)
            continue
        text, start = pairs[0]
        context = table.columns["context"][row]
        stands = context[start : start + len(text)] if isinstance(start, int) else None
        if not text.strip() or stands != text or start < 0:
            raise DataError(
                f"{table.where(row)}: expected the answer {text!r:.80} at character {start} of the "
                f"context, found {stands!r:.80}"
            )
        found.append((start, start + len(text)))
    return found


def _token_spans(contexts: tokenise.Texts, answers: Sequence[tuple[int, int] | None]) -> np.ndarray:
    """Each answer's first and last token, counted in its context; (-1, -1) without any.

    The tokens of which some character is in the answer: spaces around it and a border within a
    token make no difference.
    """
    found = np.full((len(answers), 2), -1, np.int64)
    for row, answer in enumerate(answers):
        if answer is not None:
            start, length = contexts.starts[row], contexts.lengths[row]
            spans = contexts.offsets[start : start + length]
            first = int(np.searchsorted(spans[:, 1], answer[0], side="right"))
            last = int(np.searchsorted(spans[:, 0], answer[1], side="left")) - 1
            if first <= last:
                found[row] = first, last
    return found


def _targets(where: Windows, answers: np.ndarray, notices: Notices) -> dict[str, np.ndarray]:
    """Positions in each row; those of [CLS] where the row does not hold the whole answer."""
    first, last = answers[where.sample].T
    held = (first >= where.second_start) & (last < where.second_start + where.second_length)
    answered = np.flatnonzero(answers[:, 0] >= 0)
    notices.add(
        "have an answer that is too long for any row, and count as without answer",
        np.setdiff1d(answered, where.sample[held]),
    )
    shift = where.first_length + 2 - where.second_start
    return {
        "start_positions": np.where(held, first + shift, 0).astype(np.int32),
        "end_positions": np.where(held, last + shift, 0).astype(np.int32),
    }
