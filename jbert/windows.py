"""From two lists of encoded segments to the rows of one batch: truncation, strides and padding."""

from collections.abc import Collection, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import tokenizers


class Segments(NamedTuple):
    """Many token sequences end to end; row i is `lengths[i]` tokens from `starts[i]` on."""

    starts: np.ndarray
    lengths: np.ndarray
    ids: np.ndarray
    offsets: np.ndarray | None
    word_ids: np.ndarray | None


def flatten(encodings: Sequence[tokenizers.Encoding], offsets: bool, word_ids: bool) -> Segments:
    ids = [encoding.ids for encoding in encodings]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    total = int(lengths.sum())
    spans = chain.from_iterable(chain.from_iterable(e.offsets for e in encodings))
    words = (-1 if word is None else word for e in encodings for word in e.word_ids)
    return Segments(
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        ids=np.fromiter(chain.from_iterable(ids), np.int32, total),
        offsets=np.fromiter(spans, np.int32, 2 * total).reshape(-1, 2) if offsets else None,
        word_ids=np.fromiter(words, np.int32, total) if word_ids else None,
    )


class Windows(NamedTuple):
    """The rows of a batch: which text each is cut from and what of its segments it holds."""

    sample: np.ndarray
    first_start: np.ndarray
    first_length: np.ndarray
    second_start: np.ndarray
    second_length: np.ndarray


def whole(first: np.ndarray, second: np.ndarray) -> Windows:
    """One window a text, over segments of these lengths."""
    zeros = np.zeros_like(first)
    return Windows(np.arange(len(first)), zeros, first, zeros, second)


def kept_lengths(
    first: np.ndarray, second: np.ndarray, room: int, strategy: str, pair: bool
) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of each segment stay when a row has room for `room`.

    Mirrors `truncate_encodings` of the tokenizers library, except that it never drops a whole
    segment of a pair.
    """
    excess = np.maximum(first + second - room, 0)
    if not pair:
        return first - excess, second
    if strategy != "longest_first":
        target = first if strategy == "only_first" else second
        short = (excess > 0) & (target <= excess)
        if short.any():
            row = int(short.argmax())
            raise ValueError(
                f"texts[{row}]: truncation={strategy!r} cannot make the pair fit: its segments "
                f"are {first[row]} and {second[row]} tokens for {room} places"
            )
        return (first - excess, second) if strategy == "only_first" else (first, second - excess)
    shorter, longer = np.minimum(first, second), np.maximum(first, second)
    longer = np.where(shorter > room, shorter, np.maximum(shorter, room - shorter))
    halve = shorter + longer > room
    shorter = np.where(halve, room // 2, shorter)
    longer = np.where(halve, room // 2 + room % 2, longer)
    new_first = np.where(excess == 0, first, np.where(first > second, longer, shorter))
    new_second = np.where(excess == 0, second, np.where(first > second, shorter, longer))
    lost = ((new_first == 0) & (first > 0)) | ((new_second == 0) & (second > 0))
    if lost.any():
        raise ValueError(
            f"texts[{int(lost.argmax())}]: with room for {room} tokens beside the special ones, "
            "truncation would delete a whole segment of the pair; raise max_length"
        )
    return new_first, new_second


def sliding(
    first: np.ndarray, second: np.ndarray, kept: tuple[np.ndarray, np.ndarray], stride: int
) -> Windows:
    """Windows that cover every token; neighbours share `stride` tokens of what they slide over.

    Their order is that of the tokenizers library: where both segments slide, every later window of
    the first goes with every window of the second, then the first one's first with the rest.
    """
    columns: list[list[int]] = [[], [], [], [], []]
    for row, lengths in enumerate(zip(first, second, *kept, strict=True)):
        len_a, len_b, keep_a, keep_b = map(int, lengths)
        spans_a = _spans(len_a, keep_a, stride, row)
        spans_b = _spans(len_b, keep_b, stride, row)
        later = [(a, b) for a in spans_a[1:] for b in spans_b]
        for a, b in [(spans_a[0], spans_b[0]), *later, *((spans_a[0], b) for b in spans_b[1:])]:
            for column, value in zip(columns, (row, *a, *b), strict=True):
                column.append(value)
    return Windows(*(np.asarray(column, np.int64) for column in columns))


def _spans(length: int, size: int, stride: int, row: int) -> list[tuple[int, int]]:
    if size >= length:
        return [(0, length)]
    if stride >= size:
        raise ValueError(
            f"texts[{row}]: stride is {stride}, but the window is {size} tokens; "
            "it must be longer than the stride to move on"
        )
    starts = range(0, length - stride, size - stride)
    return [(start, min(size, length - start)) for start in starts]


class Layout(NamedTuple):
    """What stands around the segments of a row."""

    cls: int
    sep: int
    pad: int
    pair: bool
    special: bool

    @property
    def added(self) -> int:
        return (2 + self.pair) * self.special


# What a place holds that no token fills.
EMPTY = {
    "token_type_ids": 0,
    "special_tokens_mask": 1,
    "offset_mapping": 0,
    "word_ids": -1,
    "sequence_ids": -1,
}


def assemble(
    first: Segments,
    second: Segments | None,
    windows: Windows,
    layout: Layout,
    width: int,
    extra: Collection[str],
) -> dict[str, np.ndarray]:
    """input_ids, attention_mask and the `extra` arrays (of `EMPTY`), padded on the right."""
    size, lead = len(windows.sample), int(layout.special)
    second_column = windows.first_length + 2 * lead
    total = windows.first_length + windows.second_length + layout.added
    attended = np.arange(width) < total[:, None]
    arrays: dict[str, np.ndarray] = {"input_ids": np.full((size, width), layout.pad, np.int32)}
    for name in extra:
        shape = (size, width, 2) if name == "offset_mapping" else (size, width)
        arrays[name] = np.full(shape, EMPTY[name], np.int32)
    arrays["attention_mask"] = attended.astype(np.int32)
    if layout.special:
        every = np.arange(size)
        arrays["input_ids"][:, 0] = layout.cls
        arrays["input_ids"][every, windows.first_length + 1] = layout.sep
        arrays["input_ids"][every, total - 1] = layout.sep
    if second is not None and "token_type_ids" in arrays:
        in_second = np.arange(width) >= second_column[:, None]
        arrays["token_type_ids"][attended & in_second] = 1
    spans = [(first, windows.first_start, windows.first_length, np.full(size, lead))]
    if second is not None:
        spans.append((second, windows.second_start, windows.second_length, second_column))
    for sequence, (segments, start, length, column) in enumerate(spans):
        rows = np.repeat(np.arange(size), length)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(length) - length, length)
        source = np.repeat(segments.starts[windows.sample] + start, length) + within
        target = rows, within + column[rows]
        arrays["input_ids"][target] = segments.ids[source]
        for name, value in (("special_tokens_mask", 0), ("sequence_ids", sequence)):
            if name in arrays:
                arrays[name][target] = value
        if segments.offsets is not None:
            arrays["offset_mapping"][target] = segments.offsets[source]
        if segments.word_ids is not None:
            arrays["word_ids"][target] = segments.word_ids[source]
    return arrays


def batch_width(
    totals: np.ndarray,
    padding: bool | str,
    max_length: int,
    multiple: int | None,
    buckets: Sequence[int] | None,
) -> int:
    """How wide a batch with rows of `totals` tokens is."""
    longest = int(totals.max())
    if padding in (False, "do_not_pad"):
        if (totals != longest).any():
            odd = int((totals != longest).argmax())
            raise ValueError(
                f"padding=False, but rows {int(totals.argmax())} and {odd} have {longest} and "
                f"{totals[odd]} tokens, which make no array; pass padding=True"
            )
        return longest
    width = longest
    if padding == "max_length":
        if longest > max_length:
            raise ValueError(
                f"row {int(totals.argmax())} has {longest} tokens, which padding='max_length' "
                f"cannot make {max_length}; pass truncation=True"
            )
        width = max_length
    if multiple is not None:
        width = -(-width // multiple) * multiple
    if buckets is not None:
        fitting = [bucket for bucket in buckets if bucket >= width]
        if not fitting:
            raise ValueError(
                f"row {int(totals.argmax())} has {longest} tokens and the widest bucket of pad_to "
                f"is {max(buckets)}; pass truncation=True, max_length={max(buckets)}"
            )
        width = min(fitting)
    return width
