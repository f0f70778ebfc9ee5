"""Short sequences side by side in rows of one length, so that little of a batch is padding.

`pack` is best fit, longest sequences first. It works on the counts of equal lengths rather than on
sequences, so that it takes about one step for each pair of a length and a room left over, however
many sequences there are.
"""

import bisect
import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from jbert.data import draws
from jbert.losses import IGNORE

# What stands where a row has no token, for arrays that are not 0 there.
PADDING = {"labels": IGNORE}


@dataclasses.dataclass(frozen=True, eq=False)
class Packing:
    """Which sequences stand in which row: row i has `sequences[starts[i] : starts[i + 1]]`."""

    sequences: np.ndarray
    starts: np.ndarray
    capacity: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def select(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sequences of some rows, in order, and for each the place of its row in `rows`."""
        rows = np.asarray(rows)
        counts = self.starts[rows + 1] - self.starts[rows]
        place = np.repeat(np.arange(len(rows)), counts)
        inside = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.sequences[self.starts[rows][place] + inside], place


def pack(
    lengths: np.ndarray,
    capacity: int,
    *,
    max_sequences: int | None = None,
    seed: int | None = None,
    epoch: int = 0,
) -> Packing:
    """Puts every sequence in one row; those of a row stand in the order of their numbers.

    max_sequences: the most that a row may hold.
    seed: with one, chance (a function of seed and epoch) decides which of the sequences of equal
        length go where, and the order of the rows. How many rows there are, and which lengths
        meet in a row, depends on the lengths alone. Without one, the rows come as they were begun,
        longest sequences first.
    """
    lengths = _checked(lengths, capacity, max_sequences)
    shuffle = None if seed is None else (seed, epoch)
    ranked = _order(capacity - lengths, capacity, shuffle)
    row, total = _best_fit(np.bincount(lengths, minlength=capacity + 1), capacity, max_sequences)
    if shuffle is not None:
        row = _order(np.zeros(total, np.int64), 0, (*shuffle, total))[row]
    placed = np.sort((row.astype(np.uint64) << np.uint64(32)) | ranked.astype(np.uint64))
    starts = np.zeros(total + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=total), out=starts[1:])
    return Packing((placed & np.uint64(2**32 - 1)).astype(np.int64), starts, capacity)


def pack_stream(
    lengths: Iterable[np.ndarray],
    capacity: int,
    *,
    window: int = 2**16,
    max_sequences: int | None = None,
    seed: int = 0,
) -> Iterator[Packing]:
    """Packs sequences as they come, from arrays of any sizes, `window` of them at a time.

    Sequences are numbered from the start of the stream. Those of a window meet in its rows, in
    random order, and those of different windows never do.
    """
    if window < 1:
        raise ValueError(f"window is {window}; expected at least 1 sequence")
    first, held = 0, np.zeros(0, np.int64)
    for part in lengths:
        held = np.concatenate([held, np.asarray(part)])
        whole = len(held) - len(held) % window
        for at in range(0, whole, window):
            window_lengths = held[at : at + window]
            yield _pack_window(window_lengths, capacity, max_sequences, seed, first + at)
        first, held = first + whole, held[whole:]
    if len(held):
        yield _pack_window(held, capacity, max_sequences, seed, first)


def _pack_window(lengths, capacity, max_sequences, seed: int, first: int) -> Packing:
    packing = pack(lengths, capacity, max_sequences=max_sequences, seed=seed, epoch=first)
    return dataclasses.replace(packing, sequences=packing.sequences + first)


def build_rows(
    arrays: Mapping[str, np.ndarray],
    lengths: np.ndarray,
    row: np.ndarray,
    shape: tuple[int, int],
    padding: Mapping[str, int] = PADDING,
) -> dict[str, np.ndarray]:
    """Rows of several sequences out of arrays (sequences, width) that hold one in each row.

    Sequence i, the first `lengths[i]` places, goes to row `row[i]` behind those before it, so that
    `row` must ascend. Beside the arrays the result has `segment_ids`, from 1 in each row and 0 on
    padding, and `position_ids`, from 0 in each sequence.
    """
    lengths, row = np.asarray(lengths), np.asarray(row)
    if (np.diff(row) < 0).any():
        raise ValueError("the rows that sequences go to must ascend: Packing.select gives them so")
    filled = np.bincount(row, lengths, minlength=shape[0])
    if len(filled) > shape[0] or filled.max(initial=0) > shape[1]:
        raise ValueError(
            f"the sequences fill {len(filled)} rows with up to {int(filled.max())} tokens, which "
            f"do not fit into {shape[0]} rows of {shape[1]}"
        )
    begin = np.cumsum(lengths) - lengths
    first = np.searchsorted(row, row)
    begin += row * shape[1] - begin[first]
    positions = np.arange(int(lengths.max(initial=0)))
    real = positions < lengths[:, None]
    target = (begin[:, None] + positions)[real]
    rows = {}
    for name, values in arrays.items():
        flat = np.full(shape, padding.get(name, 0), values.dtype)
        flat.reshape(-1)[target] = values[:, : len(positions)][real]
        rows[name] = flat
    for name, values in (
        ("segment_ids", np.repeat(np.arange(len(row)) - first + 1, lengths)),
        ("position_ids", np.broadcast_to(positions, real.shape)[real]),
    ):
        rows[name] = np.zeros(shape, np.int32)
        rows[name].reshape(-1)[target] = values
    return rows


def _checked(lengths, capacity: int, max_sequences: int | None) -> np.ndarray:
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        if lengths.size:
            raise ValueError(f"lengths is {lengths.dtype}{lengths.shape}; expected integers (n,)")
        lengths = np.zeros(0, np.int64)
    if not 1 <= capacity < 2**31:
        raise ValueError(f"capacity is {capacity}; expected 1 to 2**31 - 1 tokens a row")
    if max_sequences is not None and max_sequences < 1:
        raise ValueError(f"max_sequences is {max_sequences}; expected at least 1 a row, or None")
    if len(lengths) >= 2**32:
        raise ValueError(f"{len(lengths)} sequences; pack at most {2**32 - 1} at once")
    bad = (lengths < 1) | (lengths > capacity)
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(
            f"sequence {at} has {lengths[at]} tokens; expected 1 to {capacity}, the length of a "
            f"row ({int(bad.sum())} such sequences). Cut the sequences, or pack into longer rows"
        )
    return lengths.astype(np.int64, copy=False)


def _order(values: np.ndarray, largest: int, shuffle: tuple[int, ...] | None) -> np.ndarray:
    """The numbers of `values` by rising value; equal ones by number, or in an order of chance."""
    low = max(len(values) - 1, 1).bit_length()
    middle = 64 - low - largest.bit_length()
    numbers = np.arange(len(values), dtype=np.uint64)
    # One number to sort by is much faster than several, and has no ties.
    keys = values.astype(np.uint64) << np.uint64(64 - largest.bit_length()) if largest else 0
    if shuffle is not None:
        chance = draws.row_keys(numbers, *shuffle) >> np.uint64(64 - middle) << np.uint64(low)
        keys = keys | chance
    return (np.sort(keys | numbers) & np.uint64(2**low - 1)).astype(np.int64)


class _Room:
    """Rows that have room left, by how much: lists of (row numbers, sequences in each)."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.rows: dict[int, list[tuple[np.ndarray, int]]] = {}

    def add(self, room: int, rows: np.ndarray, used: int) -> None:
        if room not in self.rows:
            bisect.insort(self.sizes, room)
            self.rows[room] = []
        self.rows[room].append((rows, used))

    def take(self, length: int) -> tuple[int, np.ndarray, int] | None:
        """Rows with the least room that is enough for one sequence of this length."""
        place = bisect.bisect_left(self.sizes, length)
        if place == len(self.sizes):
            return None
        room = self.sizes[place]
        rows, used = self.rows[room].pop()
        if not self.rows[room]:
            del self.rows[room], self.sizes[place]
        return room, rows, used


def _best_fit(counts: np.ndarray, capacity: int, most: int | None) -> tuple[np.ndarray, int]:
    """The row of each sequence, in the order of falling lengths, and the number of rows.

    Best fit puts a sequence where the least room is left over. Of many of one length, the next then
    goes where the last one went, as long as it fits: rows are filled one after the other.
    """
    row = np.empty(int(counts.sum()), np.int64)
    room, total, done = _Room(), 0, 0
    most = capacity if most is None else most
    for length in range(capacity, 0, -1):
        left = int(counts[length])
        while left:
            found = room.take(length)
            if found is None:
                each = min(capacity // length, most)
                fresh = np.arange(total, total - (-left // each))
                total += len(fresh)
                found = capacity, fresh, 0
            size, rows, used = found
            each = min(size // length, most - used)
            placed = min(left, each * len(rows))
            row[done : done + placed] = np.repeat(rows, each)[:placed]
            full, rest = divmod(placed, each)
            parts = ((rows[:full], each), (rows[full : full + 1], rest), (rows[full + 1 :], 0))
            for part, added in parts:
                if len(part) and used + added < most:
                    room.add(size - added * length, part, used + added)
            done, left = done + placed, left - placed
    return row, total
