"""Labels of the masked positions alone, so that a step projects only those to the vocabulary."""

from typing import Any

import numpy as np

from jbert.data.features import Source
from jbert.losses import IGNORE


class Gathered:
    """Rows of a source, with `labels` (rows, k) of the positions that `logits_at` (rows, k) names.

    k is the most predictions that a row has. Where a row has fewer, the first position stands with
    a label to ignore.
    """

    def __init__(self, source: Any) -> None:
        self.source, self.fingerprint = source, source.fingerprint
        self.width = max(source.max_predictions, 1)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def lengths(self) -> np.ndarray:
        return self.source.lengths

    def length(self, rows: np.ndarray) -> int:
        return self.source.length(rows)

    def batch(self, rows: np.ndarray, length: int, epoch: int) -> dict[str, np.ndarray]:
        batch = self.source.batch(rows, length, epoch)
        labels = batch["labels"]
        row, position = np.nonzero(labels != IGNORE)
        place = np.arange(len(row)) - np.searchsorted(row, row)
        shape = len(labels), self.width
        batch["logits_at"] = np.zeros(shape, np.int32)
        batch["logits_at"][row, place] = position
        batch["labels"] = np.full(shape, IGNORE, np.int32)
        batch["labels"][row, place] = labels[row, position]
        return batch


def projected_share(source: Source) -> float:
    """How many of a row's positions are projected to the vocabulary."""
    if not isinstance(source, Gathered):
        return 1.0
    return source.width / source.length(np.arange(1))
