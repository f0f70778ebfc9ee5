"""Dynamic masking for masked language models: which tokens to predict, and what stands there.

How many tokens of a row are predicted follows BERT: `rate` times their number, rounded, at least
one. Independent draws, as in transformers' collator, would have the same mean, but rows with many
predictions would need twice the places in a step that gathers them into a fixed number. Unlike in
BERT's program only the tokens that may be masked are counted, so that `rate` is what it says.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from jbert.data import draws
from jbert.losses import IGNORE

STRATEGIES = ("token", "whole_word", "span")
# The low bits of a sort key hold a position, so that no two are equal.
POSITION = np.uint64(2**24 - 1)
LAST = np.uint64(2**64 - 1)


def mask_tokens(
    input_ids: np.ndarray,
    special: np.ndarray,
    row_keys: np.ndarray,
    *,
    mask_id: int,
    vocab_size: int,
    rate: float = 0.15,
    replace: tuple[float, float] = (0.8, 0.1),
    strategy: str = "token",
    word_starts: np.ndarray | None = None,
    special_ids: Collection[int] = (),
    max_predictions: int | None = None,
    max_span: int = 10,
    span_p: float = 0.2,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids with some of them masked, and the labels: the original id there, else -100.

    `special` is true where nothing may be masked: special tokens and padding. What happens to a row
    depends on its own tokens and its key alone, not on other rows nor on the padding at its end;
    `draws.row_keys` makes keys.

    strategy: single tokens; whole words, which `word_starts` tells apart; or spans of words as in
    SpanBERT, whose lengths follow a geometric distribution of parameter `span_p` cut at `max_span`
    (mean 3.8), inside one run of text. A word or span that is longer than what is still to be
    predicted is left out or shortened by whole words: a row of one long word has no prediction.
    replace: the shares that become `mask_id` and a random token; the rest stays as it is. Decided
    for each token, or for all of a span at once. Random tokens are never any of `special_ids`.
    max_predictions: the most that a row may have.
    """
    ids, special, keys = _arrays(input_ids, special, row_keys)
    check_options(rate, replace, strategy, max_predictions, max_span, span_p)
    _check_ids(mask_id, vocab_size, special_ids, replace[1] > 0)
    counts = _prediction_counts(special, rate, max_predictions)
    if strategy == "token":
        chosen = _choose_tokens(special, keys, counts)
        rows, positions = np.nonzero(chosen)
        deciders = positions
    else:
        words = _words(ids.shape, special, word_starts, strategy)
        longest = max_span if strategy == "span" else 1
        chosen, heads = _choose_words(words, keys, counts, longest, span_p)
        rows, positions = np.nonzero(chosen)
        deciders = heads[rows, positions] if strategy == "span" else positions
    labels = np.where(chosen, ids, np.int32(IGNORE))
    masked = ids.copy()
    share = draws.uniform(keys[rows], deciders, "replace")
    at = share < replace[0]
    masked[rows[at], positions[at]] = mask_id
    at = (share >= replace[0]) & (share < replace[0] + replace[1])
    masked[rows[at], positions[at]] = _random_tokens(
        keys[rows[at]], positions[at], vocab_size, special_ids
    )
    return masked, labels


def most_predictions(tokens: np.ndarray, rate: float) -> np.ndarray:
    """How many predictions rows have, at most, of which so many tokens may be masked."""
    tokens = np.asarray(tokens)
    # np.rint and Python's round, which BERT's program uses, both round halves to even.
    wanted = np.maximum(np.rint(tokens * rate).astype(np.int64), 1)
    return np.where((tokens > 0) & (rate > 0), wanted, 0)


def _prediction_counts(special, rate: float, most: int | None) -> np.ndarray:
    counts = most_predictions((~special).sum(1), rate)
    return counts if most is None else np.minimum(counts, most)


def _choose_tokens(special, keys, counts) -> np.ndarray:
    """The `counts` tokens of each row whose random numbers are the lowest."""
    length = special.shape[1]
    if not special.size:
        return np.zeros_like(special)
    positions = np.arange(length, dtype=np.uint64)
    order = draws.bits(keys[:, None], positions, "choose")
    order &= ~POSITION
    order |= positions
    order[special] = LAST
    ranked = np.sort(order, axis=1)
    last = np.take_along_axis(ranked, np.maximum(counts - 1, 0)[:, None], axis=1)
    return (order <= last) & (counts > 0)[:, None]


class _Words(NamedTuple):
    """The words of each row, as arrays [row, word], padded with words of no tokens."""

    tokens: tuple[np.ndarray, np.ndarray]  # row and position of each token of a word
    owner: tuple[np.ndarray, np.ndarray]  # row and word of each of these tokens
    begin: np.ndarray
    size: np.ndarray
    number: np.ndarray
    shape: tuple[int, int]


def _words(shape, special, word_starts, strategy: str) -> _Words:
    text = ~special
    starts = text
    if word_starts is not None:
        starts = np.asarray(word_starts)
        if starts.shape != shape or starts.dtype != np.bool_:
            raise ValueError(
                f"word_starts is {starts.dtype}{starts.shape}; expected bool{shape}, as input_ids"
            )
        # What follows a special token begins a word, whatever a cut left of it.
        after = np.ones(shape, np.bool_)
        after[:, 1:] = special[:, :-1]
        starts = text & (starts | after)
    elif strategy == "whole_word":
        raise ValueError(
            "strategy='whole_word' needs word_starts: true at the first token of each word"
        )
    number = starts.sum(1)
    owner = (np.cumsum(starts, axis=1) - 1)[text]
    token_rows, token_positions = np.nonzero(text)
    rows, positions = np.nonzero(starts)
    words = owner[starts[text]]
    begin = np.zeros((shape[0], int(number.max(initial=0))), np.int64)
    begin[rows, words] = positions
    size = np.bincount(token_rows * begin.shape[1] + owner, minlength=begin.size)
    return _Words(
        tokens=(token_rows, token_positions),
        owner=(token_rows, owner),
        begin=begin,
        size=size.reshape(begin.shape),
        number=number,
        shape=shape,
    )


def _choose_words(words: _Words, keys, counts, longest: int, span_p: float):
    """Chosen tokens, and for each the position where its span begins.

    As BERT and SpanBERT do one row at a time: words are tried in a random order, and taken, with
    those that follow in the span, while they fit into what is still to be predicted. All rows take
    the step of their n-th word at once.
    """
    count, width = words.begin.shape
    ranked = _word_order(words, keys)
    lengths = _span_lengths(words, keys, longest, span_p)
    pad = ((0, 0), (0, longest))
    size = np.pad(words.size, pad)
    joined = np.zeros(size.shape, np.bool_)
    joined[:, 1:width] = words.begin[:, 1:] == (words.begin + words.size)[:, :-1]
    heads = np.full(size.shape, -1, np.int64)
    left = counts.copy()
    ahead = np.arange(longest)
    for step in range(width):
        rows = np.flatnonzero((left > 0) & (step < words.number))
        if not len(rows):
            break
        first = ranked[rows, step]
        span = first[:, None] + ahead
        at = (rows[:, None], span)
        taken = (ahead < lengths[rows, first][:, None]) & (heads[at] < 0)
        taken &= joined[at] | (ahead == 0)
        taken = np.logical_and.accumulate(taken, axis=1)
        taken &= np.cumsum(size[at], axis=1) <= left[rows][:, None]
        heads[at] = np.where(taken, words.begin[rows, first][:, None], heads[at])
        left[rows] -= (size[at] * taken).sum(1)
    token_heads = np.full(words.shape, -1, np.int64)
    token_heads[words.tokens] = heads[words.owner]
    return token_heads >= 0, token_heads


def _word_order(words: _Words, keys) -> np.ndarray:
    """[row, n]: the word that a row tries n-th."""
    width = words.begin.shape[1]
    numbers = np.arange(width, dtype=np.uint64)
    order = draws.bits(keys[:, None], words.begin, "choose")
    order &= ~POSITION
    order |= numbers
    order[words.size == 0] = LAST
    return (np.sort(order, axis=1) & POSITION).astype(np.int64)


def _span_lengths(words: _Words, keys, longest: int, span_p: float) -> np.ndarray:
    if longest == 1:
        return np.ones_like(words.size)
    shares = span_p * (1 - span_p) ** np.arange(longest)
    below = np.cumsum(shares / shares.sum())[:-1]
    number = draws.uniform(keys[:, None], words.begin, "span")
    return 1 + np.searchsorted(below, number, side="right")


def _random_tokens(keys, positions, vocab_size: int, special_ids) -> np.ndarray:
    banned = np.unique(np.fromiter(special_ids, np.int64))
    numbers = draws.below(np.full(1, vocab_size - len(banned)), keys, positions, "random token")
    # The n-th id that is not banned: n, and one more for each banned id up to it.
    return numbers + np.searchsorted(banned - np.arange(len(banned)), numbers, side="right")


def _arrays(input_ids, special, row_keys) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids, special, keys = np.asarray(input_ids), np.asarray(special), np.asarray(row_keys)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"input_ids is {ids.dtype}{ids.shape}; expected integers (rows, length)")
    if special.shape != ids.shape or special.dtype != np.bool_:
        raise ValueError(
            f"special is {special.dtype}{special.shape}; expected bool{ids.shape}, as input_ids"
        )
    if keys.shape != ids.shape[:1] or keys.dtype != np.uint64:
        raise ValueError(
            f"row_keys is {keys.dtype}{keys.shape}; expected uint64({ids.shape[0]},): one a row, "
            "such as jbert.data.draws.row_keys makes"
        )
    if ids.shape[1] > POSITION:
        raise ValueError(f"rows of {ids.shape[1]} tokens; at most {POSITION} are supported")
    return ids.astype(np.int32, copy=False), special, keys


def check_options(
    rate: float,
    replace: tuple[float, float],
    strategy: str,
    max_predictions: int | None,
    max_span: int,
    span_p: float,
) -> None:
    """Refuse options of `mask_tokens`, before there is anything to mask."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}; expected a share of the tokens, from 0 to 1")
    if len(replace) != 2 or not min(replace) >= 0 or not sum(replace) <= 1 + 1e-9:
        raise ValueError(
            f"replace is {replace}; expected two shares, of [MASK] and of random tokens, whose sum "
            "is at most 1"
        )
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}; expected one of {', '.join(STRATEGIES)}")
    if max_predictions is not None and max_predictions < 1:
        raise ValueError(f"max_predictions is {max_predictions}; expected at least 1, or None")
    if max_span < 1:
        raise ValueError(f"max_span is {max_span}; expected at least 1 word")
    if not 0 < span_p <= 1:
        raise ValueError(f"span_p is {span_p}; expected above 0 and at most 1")


def _check_ids(mask_id: int, vocab_size: int, special_ids: Collection[int], random: bool) -> None:
    outside = [index for index in (mask_id, *special_ids) if not 0 <= index < vocab_size]
    if outside:
        raise ValueError(
            f"ids {outside} of mask_id and special_ids are outside the vocabulary of {vocab_size}"
        )
    if random and len(set(special_ids)) == vocab_size:
        raise ValueError("every id of the vocabulary is special: there is no random token to draw")
