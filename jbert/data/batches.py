"""Which rows make up which batch: a pure function of the seed and the batch's number.

Nothing here is drawn from a stream, so that any batch can be made again, by any process, after any
interruption: the position in the data is one number.
"""

import dataclasses
import functools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jbert.data.features import Source
from jbert.data.table import DataError

# Batches within which rows are sorted by length: enough for rows of one length to meet, few enough
# for the order of examples to stay random.
WINDOW = 50
WEIGHTS = "weights"


@dataclasses.dataclass(frozen=True)
class Batch:
    """The rows of a batch; those from `count` on only fill its shape, and weigh nothing."""

    rows: np.ndarray
    count: int
    length: int
    epoch: int

    @property
    def size(self) -> int:
        return len(self.rows)

    def examples(self) -> np.ndarray:
        return self.rows[: self.count]

    def read(self, source: Source, places: np.ndarray) -> Mapping[str, np.ndarray]:
        """The rows in some places of the batch, as the arrays of a step."""
        arrays = dict(source.batch(self.rows[places], self.length, self.epoch))
        arrays[WEIGHTS] = (places < self.count).astype(np.float32)
        return arrays


@dataclasses.dataclass(frozen=True)
class TrainingOrder:
    """The batches of a training run, numbered from 0 through all its epochs.

    Every epoch shows every row once; its last batch is filled up where the rows do not divide.
    """

    source: Source
    batch_size: int
    seed: int
    group_by_length: bool = True

    def __post_init__(self):
        if len(self.source) == 0:
            raise DataError("there is no example to train on; expected at least one")

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """All that there are."""
        return (self.batch_size,)

    def batches_per_epoch(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def total(self, epochs: float) -> int:
        """How many batches a run of so many epochs has."""
        return max(1, round(epochs * self.batches_per_epoch()))

    def batch(self, number: int) -> Batch:
        epoch, place = divmod(number, self.batches_per_epoch())
        rows = self._epoch(epoch)[place]
        return _filled(self.source, rows, self.batch_size, epoch)

    def source_at(self, number: int) -> Source:
        """Where the rows of a batch come from."""
        return self.source

    def length_at(self, number: int) -> int:
        """How long a batch there is; where lengths differ from one to the next, a middling one."""
        return self._length

    @functools.cached_property
    def _length(self) -> int:
        middle = len(self.source) // 2
        return self.source.length(np.argpartition(self.source.lengths, middle)[middle : middle + 1])

    def epochs(self, count: int) -> float:
        """How many times the first `count` batches go through the data."""
        return count / self.batches_per_epoch()

    def work(self, count: int) -> int:
        """What the first `count` batches cost, in batches of the first one's size."""
        return count

    def describe(self) -> str:
        return f"{self.batches_per_epoch()} an epoch, {len(self.source)} examples"

    def position(self, number: int) -> dict[str, Any]:
        """What a checkpoint says about the data, for `check_position`."""
        return {
            "batch": number,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "group_by_length": self.group_by_length,
            "rows": len(self.source),
            "fingerprint": self.source.fingerprint,
        }

    def check_position(self, stored: Mapping[str, Any]) -> None:
        """Refuse to go on with other data, or another order of it, than before."""
        refuse_other(self.position(stored["batch"]), stored)

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        # The batches of one epoch are asked for one after the other.
        cached = self.__dict__.get("_made")
        if cached is None or cached[0] != epoch:
            cached = (epoch, self._make_epoch(epoch))
            object.__setattr__(self, "_made", cached)
        return cached[1]

    def _make_epoch(self, epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng((self.seed, epoch))
        order = random.permutation(len(self.source))
        if not self.group_by_length:
            return _cut(order, self.batch_size)
        lengths, window = self.source.lengths, WINDOW * self.batch_size
        batches: list[np.ndarray] = []
        for part in _cut(order, window):
            batches += _cut(part[np.argsort(lengths[part], kind="stable")], self.batch_size)
        return [batches[i] for i in random.permutation(len(batches))]


def refuse_other(now: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raise an error that names what of a position in the data has changed."""
    changed = [
        f"{name} is {now.get(name)!r}, was {stored.get(name)!r}"
        for name in dict.fromkeys([*now, *stored])
        if now.get(name) != stored.get(name)
    ]
    if changed:
        raise DataError(
            "the training data, or the order of its examples, is not what the checkpoint was "
            "made with: " + "; ".join(changed) + ". Go on with the former, or start anew "
            "elsewhere"
        )


@dataclasses.dataclass(frozen=True)
class EvaluationOrder:
    """Every row once, the longest first, so that the first batch is the one that needs most."""

    source: Source
    batch_size: int

    def __iter__(self) -> Iterator[Batch]:
        order = np.argsort(-self.source.lengths.astype(np.int64), kind="stable")
        for rows in _cut(order, self.batch_size):
            yield _filled(self.source, rows, self.batch_size, 0)

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _filled(source: Source, rows: np.ndarray, size: int, epoch: int) -> Batch:
    filler = np.full(size - len(rows), rows[0], rows.dtype)
    whole = np.concatenate([rows, filler])
    return Batch(whole, len(rows), source.length(rows), epoch)


def prefetch(
    items: Iterable[Any], make: Callable[[Any], Any], depth: int = 2
) -> Generator[Any, None, None]:
    """`make` of each item, a few ahead, in a thread of its own; an error is raised in its turn."""
    done: Any = object()
    made: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(value: tuple[Any, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                return made.put(value, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                put((make(item), None))
            put((done, None))
        except BaseException as error:
            put((done, error))

    thread = threading.Thread(target=work, name="jbert-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            value, error = made.get()
            if error is not None:
                raise error
            if value is done:
                return
            yield value
    finally:
        stopped.set()
        thread.join()
