"""Which shapes are compiled, and how ragged rows are shared out over them."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

# Every token of padding costs a CPU time, and a program more takes it a second to compile.
# Elsewhere programs take longer to compile, and matrix units have tiles that are filled up anyway.
LENGTHS = {"cpu": (16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512)}
LENGTHS_ELSEWHERE = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# Tokens in a full batch. On a CPU as few as keep matrix products busy: rows of one batch are padded
# to the longest, and with more of them to a longer one. On accelerators it is memory that ends it.
TOKENS = {"cpu": 512}
TOKENS_ELSEWHERE = 32768
MOST_ROWS = 256
# A few leftover rows run in one of these heights rather than in a full batch of padding.
SMALL = (1, 8, 64)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows that run together, padded to `height` rows of `length` tokens."""

    rows: np.ndarray
    height: int
    length: int


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The shapes (height, length) a pipeline may compile: `heights[i]` are those of `lengths[i]`,
    from small to full."""

    lengths: tuple[int, ...]
    heights: tuple[tuple[int, ...], ...]

    def shapes(self) -> list[tuple[int, int]]:
        return [
            (height, length)
            for length, heights in zip(self.lengths, self.heights, strict=True)
            for height in heights
        ]

    def plan(self, lengths: np.ndarray) -> list[Batch]:
        """Batches for rows of these lengths, the longest first.

        A batch takes the bucket of its longest row and is filled up with the next shorter ones,
        which cost nothing there; so only the last one can be short of rows.
        """
        order = np.argsort(-lengths, kind="stable")
        batches, at = [], 0
        while at < len(order):
            index = self._bucket(int(lengths[order[at]]))
            left = len(order) - at
            # Half empty costs less than running the same rows in several smaller batches.
            height = max(h for h in self.heights[index] if 2 * left > h or h == self.smallest)
            batches.append(Batch(order[at : at + height], height, self.lengths[index]))
            at += height
        return batches

    @property
    def smallest(self) -> int:
        return self.heights[0][0]

    def _bucket(self, length: int) -> int:
        for index, limit in enumerate(self.lengths):
            if length <= limit:
                return index
        raise ValueError(f"{length} tokens are more than the longest bucket, {self.lengths[-1]}")


def make_buckets(
    limit: int,
    ways: int = 1,
    batch_size: int | None = None,
    lengths: Sequence[int] | None = None,
    platform: str | None = None,
) -> Buckets:
    """The buckets for rows of at most `limit` tokens, in batches that split over `ways` devices.

    batch_size: rows in a full batch; by default more the shorter they are.
    lengths:    the lengths to pad to, by default the platform's; the limit is always one of them.
    """
    for name, values in (("batch_size", [batch_size]), ("buckets", lengths or [])):
        for value in values:
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and (not whole or value < 1):
                raise ValueError(f"{name} has {value!r}; expected whole numbers of at least 1")
    platform = platform or jax.default_backend()
    lengths = lengths or LENGTHS.get(platform, LENGTHS_ELSEWHERE)
    chosen = sorted({min(length, limit) for length in lengths} | {limit})
    tokens = TOKENS.get(platform, TOKENS_ELSEWHERE)
    heights = []
    for length in chosen:
        full = batch_size or max(1, min(MOST_ROWS, tokens // length))
        sizes = {min(size, full) for size in (*SMALL, full)}
        heights.append(tuple(sorted({math.ceil(size / ways) * ways for size in sizes})))
    return Buckets(tuple(chosen), tuple(heights))
