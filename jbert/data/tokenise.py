"""From texts to token sequences: encoded many at once, cut into windows, laid end to end."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from jbert import windows
from jbert.tokenizer import Tokenizer
from jbert.windows import Layout, Segments, Windows

# Texts a call: enough to keep every core busy, few enough for the progress to move.
CHUNK = 1000


def fingerprint(tokenizer: Tokenizer) -> str:
    """Of everything that decides which ids a text gets."""
    backend = json.dumps(json.loads(tokenizer.backend.to_str()), sort_keys=True)
    special = tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.options.token_type_ids
    described = f"{backend}\n{special}"
    return hashlib.sha256(described.encode()).hexdigest()


class Texts(NamedTuple):
    """Tokens of many texts: those of text i are `lengths[i]` places from `starts[i]` on, which
    equal texts share.

    offsets, words: where in the text a token is, and which of its words, where that was asked for.
    """

    starts: np.ndarray
    lengths: np.ndarray
    ids: np.ndarray
    offsets: np.ndarray = np.empty((0, 2), np.int32)
    words: np.ndarray = np.empty(0, np.int32)


def encode(
    tokenizer: Tokenizer,
    texts: Sequence[Any],
    *,
    split: bool = False,
    offsets: bool = False,
    unit: str = " texts",
) -> Texts:
    """All tokens of every text, without special ones, on all cores; equal texts are encoded once.

    split: each text is a list of words, which are to be told apart.
    """
    keys = [tuple(text) for text in texts] if split else texts
    numbers: dict[Any, int] = {}
    same = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64)
    parts = list(_encoded(tokenizer, list(numbers), split, offsets, unit))
    lengths = np.concatenate([part.lengths for part in parts])
    found = Texts(
        starts=(np.cumsum(lengths) - lengths)[same],
        lengths=lengths[same],
        ids=np.concatenate([part.ids for part in parts]),
    )
    spans = [part.offsets for part in parts if part.offsets is not None]
    words = [part.word_ids for part in parts if part.word_ids is not None]
    if spans:
        found = found._replace(offsets=np.concatenate(spans))
    return found._replace(words=np.concatenate(words)) if words else found


def _encoded(
    tokenizer: Tokenizer, texts: list, split: bool, offsets: bool, unit: str
) -> Iterator[Segments]:
    # The fast variant gives the same ids, but tracks neither offsets nor words.
    backend = tokenizer.backend
    call = backend.encode_batch if offsets or split else backend.encode_batch_fast
    with tqdm(total=len(texts), desc="tokenising", unit=unit, delay=1.0, disable=None) as progress:
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            encodings = call(chunk, is_pretokenized=split, add_special_tokens=False)
            yield windows.flatten(encodings, offsets, word_ids=split)
            progress.update(len(chunk))


def cut(first: Texts, second: Texts | None, max_length: int, stride: int | None = None) -> Windows:
    """Where rows of at most `max_length` tokens are cut out of texts, of pairs first the longer.

    stride: make as many rows as cover a text, neighbours sharing so many tokens; without it what
        does not fit in one row is left out.
    """
    lengths = first.lengths, np.zeros_like(first.lengths) if second is None else second.lengths
    room = max_length - added(second is not None)
    kept = windows.kept_lengths(*lengths, room, "longest_first", second is not None)
    return windows.whole(*kept) if stride is None else windows.sliding(*lengths, kept, stride)


def added(pair: bool) -> int:
    """The special tokens of a row."""
    return Layout(0, 0, 0, pair, True).added


class Rows(NamedTuple):
    """Rows end to end: row i is places offsets[i] to offsets[i + 1].

    first, second: where in those texts' flat arrays each token comes from; -1 for others.
    """

    offsets: np.ndarray
    ids: np.ndarray
    first: np.ndarray
    second: np.ndarray
    pair: bool

    def token_types(self) -> np.ndarray:
        types = (self.second >= 0).astype(np.uint8)
        if self.pair:
            types[self.offsets[1:] - 1] = 1
        return types

    def columns(self, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
        """The inputs that the tokenizer's model takes."""
        if not tokenizer.options.token_type_ids:
            return {"input_ids": self.ids}
        return {"input_ids": self.ids, "token_type_ids": self.token_types()}


def lay_out(tokenizer: Tokenizer, first: Texts, second: Texts | None, where: Windows) -> Rows:
    """[CLS] first [SEP], or [CLS] first [SEP] second [SEP], for each window."""
    pair = second is not None
    sizes = where.first_length + where.second_length + added(pair)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    ids = np.full(offsets[-1], tokenizer.sep_token_id, np.int32)
    ids[offsets[:-1]] = tokenizer.cls_token_id
    origins = []
    for texts, start, length, lead in (
        (first, where.first_start, where.first_length, np.ones_like(sizes)),
        (second, where.second_start, where.second_length, where.first_length + 2),
    ):
        origin = np.full(offsets[-1], -1, np.int64)
        if texts is not None:
            source = ragged(texts.starts[where.sample] + start, length)
            target = ragged(offsets[:-1] + lead, length)
            origin[target], ids[target] = source, texts.ids[source]
        origins.append(origin)
    return Rows(offsets, ids, origins[0], origins[1], pair)


def ragged(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, … for lengths[0] places, then the same for the next."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
