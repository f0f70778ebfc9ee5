"""question-answering: the span of a context that answers a question."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jbert.pipelines.base import (
    Encoded,
    Options,
    Pipeline,
    check_count,
    check_keys,
    check_text,
)
from jbert.pipelines.spans import Window, answers

LONGEST_WINDOW, LONGEST_STRIDE = 384, 128


@dataclasses.dataclass(frozen=True)
class QuestionAnsweringOptions(Options):
    """top_k:            how many answers; 1 gives a dict, more a list.
    doc_stride:       tokens that neighbouring windows over a long context share; by default 128,
                      or less where that leaves no room to move on.
    max_seq_len:      tokens of a window, question included; by default 384, or what the model has.
    max_question_len: questions are cut to so many tokens.
    max_answer_len:   tokens of an answer.
    handle_impossible_answer: "" may be the answer, with its probability as the score.
    null_threshold:   by how much the score of "" must exceed the best other answer's to win.
    align_to_words:   widen answers to whole words.
    """

    top_k: int = 1
    doc_stride: int | None = None
    max_seq_len: int | None = None
    max_question_len: int = 64
    max_answer_len: int = 15
    handle_impossible_answer: bool = False
    null_threshold: float = 0.0
    align_to_words: bool = True

    def __post_init__(self):
        for name in ("top_k", "max_seq_len", "max_question_len", "max_answer_len"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.doc_stride is not None:
            check_count("doc_stride", self.doc_stride, 0)
            if self.max_seq_len is not None and self.doc_stride >= self.max_seq_len:
                raise ValueError(
                    f"doc_stride is {self.doc_stride} and max_seq_len {self.max_seq_len}; windows "
                    "move on only if they share less than they hold"
                )


class QuestionAnswering(Pipeline):
    """Call it as pipe(question=…, context=…), each a str or a list, or with dicts of the two.

    Answers are {"score", "start", "end", "answer"}; `start` and `end` count characters of the
    context as given, so that context[start:end] == answer. A long context is read in windows.
    """

    name = "question-answering"
    task = "question_answering"
    options_class = QuestionAnsweringOptions
    look_ahead = 256
    example = {"question": "a", "context": "a"}

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: Any = None,
        *,
        question: Any = None,
        context: Any = None,
        on_error: str = "raise",
        **options: Any,
    ) -> Any:
        if question is not None or context is not None:
            if inputs is not None:
                raise TypeError("pass either question= and context=, or dicts of the two, not both")
            inputs = _examples(question, context)
        elif inputs is None:
            raise TypeError("pass question= and context=, or dicts of the two")
        return super().__call__(inputs, on_error=on_error, **options)

    def check(self, item: Any) -> dict[str, Any]:
        check_keys(item, ["question", "context"])
        for name in ("question", "context"):
            if not check_text(item[name], f"the {name}").strip():
                raise ValueError(f"the {name} is empty")
        return item

    def encode(self, items: list[Any], options: Any, numbers: list[int]) -> Encoded:
        size = self._window_size(options)
        questions = [item["question"] for item in items]
        tokens = self.tokenizer(questions, return_offsets=True, add_special_tokens=False)
        lengths = tokens["attention_mask"].sum(axis=1)
        for row in np.flatnonzero(lengths > options.max_question_len).tolist():
            stop = tokens["offset_mapping"][row, options.max_question_len - 1, 1]
            questions[row] = questions[row][:stop]
        rooms = size - 3 - np.minimum(lengths, options.max_question_len)
        strides = self._strides(rooms, size, options)
        parts = []
        for stride in sorted(set(strides.tolist())):
            rows = np.flatnonzero(strides == stride)
            part = self.tokenizer(
                [questions[row] for row in rows], [items[row]["context"] for row in rows],
                max_length=size, truncation="only_second", stride=stride,
                return_overflowing_tokens=True, return_offsets=True, return_word_ids=True,
                return_sequence_ids=True, padding=True,
            )  # fmt: skip
            part["owners"] = rows[part.pop("overflow_to_sample_mapping")]
            parts.append(part)
        tokens = parts[0] if len(parts) == 1 else _joined(parts)
        owners = tokens.pop("owners")
        notes = [
            {
                "context": tokens["sequence_ids"][row, :n] == 1,
                "spans": tokens["offset_mapping"][row, :n],
                "words": tokens["word_ids"][row, :n],
            }
            for row, n in enumerate(tokens["attention_mask"].sum(axis=1))
        ]
        if not all(note["context"].any() for note in notes):
            raise ValueError("the context has no token")
        return Encoded(tokens, owners, notes=notes)

    def _window_size(self, options: Any) -> int:
        if options.max_seq_len is None:
            return min(self.limit, LONGEST_WINDOW)
        if options.max_seq_len > self.limit:
            raise ValueError(
                f"max_seq_len is {options.max_seq_len}, but the model has {self.limit} positions"
            )
        return options.max_seq_len

    def _strides(self, rooms: np.ndarray, size: int, options: Any) -> np.ndarray:
        """The stride for contexts that get `rooms` tokens of a window."""
        if rooms.min() < 1:
            raise ValueError(
                f"the question has {size - 3 - int(rooms.min())} tokens, which leave none of the "
                f"window's {size} for the context; lower max_question_len"
            )
        if options.doc_stride is None:
            return np.minimum(min(size // 2, LONGEST_STRIDE), rooms - 1)
        if options.doc_stride >= rooms.min():
            raise ValueError(
                f"doc_stride is {options.doc_stride}, but the question leaves {int(rooms.min())} "
                f"of the window's {size} tokens for the context, which must be more"
            )
        return np.full(len(rooms), options.doc_stride)

    @staticmethod
    def program(module, params, inputs, extra):  # pyright: ignore
        output = module.apply({"params": params}, **inputs)
        return {"start": output.start_logits, "end": output.end_logits}

    def answer(self, item: Any, rows: list[dict], notes: Sequence[Any], options: Any) -> Any:
        windows = [
            Window(*(np.asarray(row[x][: row["length"]], np.float32) for x in ("start", "end")),
                   **note)
            for row, note in zip(rows, notes, strict=True)
        ]  # fmt: skip
        found, null = answers(
            item["context"], windows, options.top_k, options.max_answer_len, options.align_to_words
        )
        if options.handle_impossible_answer:
            nothing = {"score": null, "start": 0, "end": 0, "answer": ""}
            wins = null - options.null_threshold
            place = sum(answer["score"] >= wins for answer in found)
            found.insert(place, nothing)
        return found[0] if options.top_k == 1 else found[: options.top_k]


def _examples(question: Any, context: Any) -> Any:
    """Dicts of questions and contexts; one context serves many questions."""
    if not isinstance(question, list | tuple) and not isinstance(context, list | tuple):
        return {"question": question, "context": context}
    if not isinstance(question, list | tuple):
        raise ValueError("context is a list but question is not; pass a question for each")
    if isinstance(context, str) or context is None:
        context = [context] * len(question)
    if len(context) != len(question):
        raise ValueError(f"there are {len(question)} questions but {len(context)} contexts")
    return [{"question": q, "context": c} for q, c in zip(question, context, strict=True)]


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows of several calls as one, in the order of their inputs."""
    width = max(part["input_ids"].shape[1] for part in parts)

    def widened(value: np.ndarray, fill: int) -> np.ndarray:
        if value.ndim == 1:
            return value
        gap = [(0, 0), (0, width - value.shape[1]), *[(0, 0)] * (value.ndim - 2)]
        return np.pad(value, gap, constant_values=fill)

    fills = {"word_ids": -1, "sequence_ids": -1}
    joined = {
        name: np.concatenate([widened(part[name], fills.get(name, 0)) for part in parts])
        for name in parts[0]
    }
    order = np.argsort(joined["owners"], kind="stable")
    return {name: value[order] for name, value in joined.items()}
