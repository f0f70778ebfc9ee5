"""Tokenised rows, end to end in flat arrays, from which padded batches are gathered."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jbert.losses import IGNORE

LENGTHS = (32, 64, 128, 256, 384, 512)


class Source(Protocol):
    """What training draws its batches from."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the rows, their processing or the vocabulary do."""
        ...

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each row, for batches of rows of like length."""
        ...

    def length(self, rows: np.ndarray) -> int:
        """The length to pad a batch of these rows to."""
        ...

    def batch(self, rows: np.ndarray, length: int, epoch: int) -> dict[str, np.ndarray]:
        """A model's inputs and labels under transformers' names, each row padded to `length`.

        epoch: for sources that draw what they show anew in every epoch.
        """
        ...


def make_buckets(max_length: int, lengths: Sequence[int] | None = None) -> tuple[int, ...]:
    """The lengths that batches are padded to; the longest is `max_length` always."""
    return tuple(sorted({min(length, max_length) for length in lengths or LENGTHS} | {max_length}))


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Rows of one sequence of tokens each, or of `choices` sequences that are told apart.

    Attributes:
        offsets: sequence i is places offsets[i] to offsets[i + 1] of each flat array.
        tokens: inputs and labels with a value for each token, flat.
        targets: labels with a value for each row.
        owners: the row of the table that each row was made of; long ones make several.
        notes: flat like `tokens`, but for reading predictions, not for the model.
        facts: what happened on the way, such as how many rows were cut off.
        buckets: the lengths that batches are padded to.
    """

    fingerprint: str
    offsets: np.ndarray
    tokens: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]
    owners: np.ndarray
    pad_id: int
    buckets: tuple[int, ...]
    notes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    choices: int | None = None

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def lengths(self) -> np.ndarray:
        return self._lengths

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        sizes = np.diff(self.offsets).astype(np.int32)
        return sizes.reshape(-1, self.choices).max(axis=1) if self.choices else sizes

    @property
    def labelled(self) -> bool:
        return bool(self.targets) or "labels" in self.tokens

    def length(self, rows: np.ndarray) -> int:
        longest = int(self.lengths[rows].max())
        return next(bucket for bucket in self.buckets if bucket >= longest)

    def batch(self, rows: np.ndarray, length: int, epoch: int) -> dict[str, np.ndarray]:
        rows = np.asarray(rows)
        longest = int(self.lengths[rows].max(initial=0))
        if longest > length:
            raise ValueError(
                f"row {int(rows[self.lengths[rows].argmax()])} has {longest} tokens, which do not "
                f"fit in a batch padded to {length}; use length(rows) or more"
            )
        sequences = rows
        if self.choices:
            sequences = (rows[:, None] * self.choices + np.arange(self.choices)).ravel()
        starts = self.offsets[sequences]
        real = np.arange(length) < (self.offsets[sequences + 1] - starts)[:, None]
        sources = (starts[:, None] + np.arange(length))[real]
        batch = {"attention_mask": real.astype(np.int32)}
        for name, values in self.tokens.items():
            filler = {"input_ids": self.pad_id, "labels": IGNORE}.get(name, 0)
            batch[name] = np.full(real.shape, filler, np.int32)
            batch[name][real] = values[sources]
        if self.choices:
            shape = len(rows), self.choices, length
            batch = {name: values.reshape(shape) for name, values in batch.items()}
        return batch | {name: values[rows] for name, values in self.targets.items()}

    def tokens_of(self, name: str, row: int) -> np.ndarray:
        """The values of one column of `tokens` or `notes` in one row of one sequence."""
        values = self.tokens[name] if name in self.tokens else self.notes[name]
        return values[self.offsets[row] : self.offsets[row + 1]]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], **fields: Any) -> "Features":
        """From arrays named "offsets", "owners", "tokens.…", "targets.…" and "notes.…"."""
        groups: dict[str, dict[str, np.ndarray]] = {"tokens": {}, "targets": {}, "notes": {}}
        for name, array in arrays.items():
            group, dot, column = name.partition(".")
            if dot:
                groups[group][column] = array
        return cls(offsets=arrays["offsets"], owners=arrays["owners"], **groups, **fields)
