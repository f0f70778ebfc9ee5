"""What every pipeline does: check, encode, run in buckets, answer in order."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from jbert.load import ENCODER, load
from jbert.loaded import Bert
from jbert.pipelines.buckets import Batch, make_buckets
from jbert.pipelines.runner import Program, Runner, batch_ways, look_ahead
from jbert.tokenizer import Tokenizer

LOOK_AHEAD = 1024


class PipelineError(ValueError):
    """An input that a pipeline has no answer for; the message names it."""


@dataclasses.dataclass(frozen=True)
class Options:
    """A pipeline's options; each can be set when it is made and changed in any call."""


@dataclasses.dataclass
class Encoded:
    """The rows of some inputs: one each, or several where an input is cut into windows.

    tokens:   arrays (rows, width) for the model.
    owners:   which of the inputs each row belongs to, in order.
    extra:    arrays with a row each, for the program.
    settings: what the program is compiled for.
    notes:    what the answers need to know, one for each row.
    """

    tokens: dict[str, np.ndarray]
    owners: np.ndarray
    extra: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: Sequence[Any] = ()

    @property
    def lengths(self) -> np.ndarray:
        return self.tokens["attention_mask"].sum(axis=1)


class Pipeline:
    """Text in, answers out. Call it with one input, many, or any iterable.

    One input gives its answer; a list or tuple gives a list of answers, an empty one an empty list;
    any other iterable, such as a generator, gives an iterator that answers in order and reads at
    most `look_ahead` inputs ahead. Within such a stretch inputs are sorted by length and batched
    into buckets, each compiled once. With on_error="return" an input without an answer gets a
    PipelineError in its place instead of raising it.

    Answers do not depend on what else is in the batch. MobileBERT and ConvBERT as published read
    padding as if it were text; here they are told where the text ends, so that a text always gets
    the answer it gets alone.
    """

    name: ClassVar[str]
    task: ClassVar[str | None]
    options_class: ClassVar[type[Options]] = Options
    # Tasks whose models also have what this pipeline needs.
    also: ClassVar[tuple[str, ...]] = ()
    left: bool = False
    look_ahead: int = LOOK_AHEAD
    example: ClassVar[Any] = "a"

    def __init__(
        self,
        bert: Bert,
        tokenizer: Tokenizer | None = None,
        *,
        batch_size: int | None = None,
        buckets: Sequence[int] | None = None,
        look_ahead: int | None = None,
        **options: Any,
    ):
        tokenizer = bert.tokenizer if tokenizer is None else tokenizer
        if tokenizer is None:
            raise PipelineError(
                f"{self.name} needs a tokenizer and the model came without one; pass tokenizer="
            )
        tokenizer.check_model(bert.config.vocab_size)
        if look_ahead is not None:
            if isinstance(look_ahead, bool) or not isinstance(look_ahead, int) or look_ahead < 1:
                raise ValueError(f"look_ahead is {look_ahead!r}; expected at least 1")
            self.look_ahead = look_ahead
        self.bert, self.tokenizer = self.fit(bert), tokenizer
        self.limit = min(bert.config.max_position_embeddings, tokenizer.model_max_length)
        self.options = self._options(self.options_class(), options)
        shapes = make_buckets(self.max_tokens(), batch_ways(bert), batch_size, buckets)
        self.runner = Runner(
            self.bert, self.program, shapes, self.name, tokenizer.pad_token_id, self.left
        )

    # -- what each pipeline says for itself ------------------------------------------------

    program: Program

    @classmethod
    def open(cls, model: Any, loading: Mapping[str, Any]) -> tuple[Bert, dict[str, Any]]:
        """A model by name, and options of the pipeline that its files settle."""
        return load(model, cls.task or ENCODER, **loading), {}

    def fit(self, bert: Bert) -> Bert:
        """The model as this pipeline uses it, or an error."""
        if bert.task != self.task and bert.task not in self.also:
            raise PipelineError(
                f"{self.name} needs a model with task={self.task!r}, and this one has "
                f"{bert.task!r}; load it with jbert.load(…, task={self.task!r})"
            )
        return bert

    def max_tokens(self) -> int:
        """The longest row there can be."""
        return self.limit

    def is_single(self, inputs: Any) -> bool:
        return isinstance(inputs, str | bytes | Mapping) or inputs is None

    def check(self, item: Any) -> Any:
        """The input in the form `encode` takes; TypeError or ValueError if it is not one."""
        raise NotImplementedError

    def encode(self, items: list[Any], options: Any, numbers: list[int]) -> Encoded:
        """The rows of some inputs; `numbers` are their places in the call."""
        raise NotImplementedError

    def answer(self, item: Any, rows: list[dict], notes: Sequence[Any], options: Any) -> Any:
        raise NotImplementedError

    # -- what they share -------------------------------------------------------------------

    def __call__(self, inputs: Any, *, on_error: str = "raise", **options: Any) -> Any:
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error is {on_error!r}; expected 'raise' or 'return'")
        chosen = self._options(self.options, options)
        if self.is_single(inputs):
            return next(self._stream([inputs], chosen, on_error, single=True))
        if isinstance(inputs, list | tuple | np.ndarray):
            if isinstance(inputs, np.ndarray):
                inputs = inputs.tolist()
            return list(self._stream(inputs, chosen, on_error))
        if isinstance(inputs, Iterable):
            return self._stream(inputs, chosen, on_error)
        raise TypeError(f"expected text, a list or an iterator, found {type(inputs).__name__}")

    def warmup(self, max_length: int | None = None, **options: Any) -> int:
        """Compiles every bucket up to the one that holds `max_length` tokens; says how many."""
        chosen = self._options(self.options, options)
        encoded = self.encode([self.check(self.example)], chosen, [0])
        least = int(encoded.lengths[0])
        lengths = self.runner.buckets.lengths
        fitting = [length for length in lengths if length >= (max_length or lengths[-1])]
        most = min(fitting, default=lengths[-1])
        done = 0
        for height, length in self.runner.buckets.shapes():
            if least <= length <= most:
                batch = Batch(np.zeros(1, int), height, length)
                output = self.runner.call(batch, encoded.tokens, encoded.extra, encoded.settings)
                for value in output.values():
                    value.block_until_ready()
                done += 1
        return done

    def _options(self, base: Any, changes: Mapping[str, Any]) -> Any:
        known = {field.name for field in dataclasses.fields(base)}
        if unknown := sorted(set(changes) - known):
            raise TypeError(f"{self.name} has no option {unknown[0]!r}; it has {sorted(known)}")
        return dataclasses.replace(base, **changes) if changes else base

    def _stream(
        self, items: Iterable[Any], options: Any, on_error: str, single: bool = False
    ) -> Iterator[Any]:
        first = 0
        for window in look_ahead(items, self.look_ahead):
            for index, answer in enumerate(self._answers(window, options, first)):
                if isinstance(answer, Exception):
                    where = "" if single else f"inputs[{first + index}]: "
                    error = PipelineError(f"{where}{answer}")
                    if on_error == "raise":
                        raise error from answer
                    answer = error
                yield answer
            first += len(window)

    def _answers(self, window: list[Any], options: Any, first: int) -> list[Any]:
        """An answer, or the error that stands for it, for each input of a window."""
        answers: list[Any] = [None] * len(window)
        good: list[tuple[int, Any]] = []
        for index, item in enumerate(window):
            try:
                # A reader puts the error in the place of a row that it could not read.
                if isinstance(item, Exception):
                    raise PipelineError(str(item))
                good.append((index, self.check(item)))
            except (TypeError, ValueError) as error:
                answers[index] = error
        try:
            encoded = self._encode(good, options, first)
        except (TypeError, ValueError):
            # Some input is at fault: find which, so that the others are still answered.
            fine = []
            for index, item in good:
                try:
                    self._encode([(index, item)], options, first)
                    fine.append((index, item))
                except (TypeError, ValueError) as error:
                    answers[index] = error
            good = fine
            encoded = self._encode(good, options, first)
        if encoded is None:
            return answers
        results = self.runner.run(encoded.tokens, encoded.extra, encoded.settings)
        lengths = encoded.lengths
        results = [{**row, "length": n} for row, n in zip(results, lengths, strict=True)]
        borders = np.searchsorted(encoded.owners, np.arange(len(good) + 1))
        for place, (index, item) in enumerate(good):
            own = slice(borders[place], borders[place + 1])
            answers[index] = self.answer(item, results[own], encoded.notes[own], options)
        return answers

    def _encode(self, good: list[tuple[int, Any]], options: Any, first: int) -> Encoded | None:
        if not good:
            return None
        encoded = self.encode(
            [item for _, item in good], options, [first + index for index, _ in good]
        )
        longest = int(encoded.lengths.max())
        if longest > self.max_tokens():
            raise PipelineError(
                f"the text has {longest} tokens and there is room for {self.max_tokens()}; "
                "shorten it, or pass truncation=True if the pipeline has that option"
            )
        return encoded


def check_text(value: Any, name: str = "the input") -> str:
    if isinstance(value, str):
        return value
    kind = "None" if value is None else type(value).__name__
    hint = ": decode it to str first" if isinstance(value, bytes) else ""
    raise TypeError(f"{name} is {kind}, expected str{hint}")


def check_keys(item: Any, needed: Sequence[str]) -> None:
    """Refuses what is no dict with these keys."""
    if not isinstance(item, Mapping):
        raise TypeError(f"expected a dict with {list(needed)}, found {type(item).__name__}")
    if missing := [key for key in needed if item.get(key) is None]:
        raise ValueError(f"{missing[0]!r} is missing; found the keys {sorted(map(str, item))}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {tuple(choices)}")


def text_of(item: Any) -> str:
    """The text of an input that is one, or a dict with one."""
    if isinstance(item, Mapping):
        check_keys(item, ["text"])
        return check_text(item["text"], "'text'")
    return check_text(item)


def whole(tokens: dict[str, np.ndarray], **more: Any) -> Encoded:
    """Rows of inputs that have one each."""
    return Encoded(tokens, np.arange(len(tokens["input_ids"])), **more)


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
