"""What a tokenizer's call takes: texts and settings, checked before anything is encoded."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from jbert.vocabulary import replace_surrogates

logger = logging.getLogger(__name__)

PADDING = (True, False, "longest", "max_length", "do_not_pad")
TRUNCATION = (
    *(None, True, False, "do_not_truncate"),
    *("longest_first", "only_first", "only_second"),
)


def segment_rows(texts: Any, pairs: Any, split: bool) -> tuple[list[Any], list[Any] | None]:
    """The rows of both segments; a list of (text, pair) couples is taken apart."""
    if pairs is None and not split and isinstance(texts, list | tuple) and texts:
        if all(isinstance(row, list | tuple) and len(row) == 2 for row in texts):
            texts, pairs = (list(column) for column in zip(*texts, strict=True))
    texts = _checked(texts, "texts", split)
    if pairs is not None:
        pairs = _checked(pairs, "pairs", split)
        if len(pairs) != len(texts):
            raise ValueError(f"there are {len(texts)} texts but {len(pairs)} pairs")
        pairs = _without_surrogates(pairs, "pairs")
    return _without_surrogates(texts, "texts"), pairs


def _without_surrogates(rows: list[Any], name: str) -> list[Any]:
    total, where, clean = 0, 0, []
    for index, row in enumerate(rows):
        if isinstance(row, str):
            row, count = replace_surrogates(row)
        else:
            cleaned = [replace_surrogates(word) for word in row]
            row, count = [word for word, _ in cleaned], sum(found for _, found in cleaned)
        where = index if count and not total else where
        total += count
        clean.append(row)
    if total:
        logger.warning("%d lone surrogates became U+FFFD, first in %s[%d]", total, name, where)
    return clean


def _checked(texts: Any, name: str, split: bool) -> list[Any]:
    """The texts (or, when `split`, the lists of words) of one argument, every entry checked."""
    if isinstance(texts, np.ndarray):
        texts = texts.tolist()
    single = isinstance(texts, str) and not split
    if split and isinstance(texts, list | tuple) and texts and isinstance(texts[0], str):
        single = True
    rows = [texts] if single else texts
    if not isinstance(rows, list | tuple):
        expected = "a list of words or of such lists" if split else "str or a list of str"
        raise TypeError(f"{name} is {_described(texts)}, expected {expected}")
    if not rows:
        raise ValueError(f"{name} is empty; there is nothing to encode")
    for index, row in enumerate(rows):
        if not split:
            if not isinstance(row, str):
                raise TypeError(f"{name}[{index}] is {_described(row)}, expected str")
            continue
        if not isinstance(row, list | tuple):
            raise TypeError(f"{name}[{index}] is {_described(row)}, expected a list of words")
        for place, word in enumerate(row):
            if not isinstance(word, str):
                where = f"{name}[{place}]" if single else f"{name}[{index}][{place}]"
                raise TypeError(f"{where} is {_described(word)}, expected str")
    return list(rows)


def _described(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"{kind} (decode it to str first)" if isinstance(value, bytes) else kind


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    # By identity or as str, because 1 == True.
    if not any(
        value is choice or (isinstance(value, str) and value == choice) for choice in choices
    ):
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected a positive whole number")


def check_widths(padding: Any, buckets: Any, multiple: Any, truncated: int | None) -> None:
    """Checks what chooses a batch's width; `truncated` is the length that rows are cut to."""
    check_choice("padding", padding, PADDING)
    if buckets is not None:
        if isinstance(buckets, str) or not isinstance(buckets, Sequence) or not buckets:
            raise ValueError(
                f"pad_to is {buckets!r}, expected the widths allowed, such as (64, 128)"
            )
        for index, bucket in enumerate(buckets):
            check_positive(f"pad_to[{index}]", bucket)
        if multiple is not None or padding not in (True, "longest"):
            raise ValueError("pad_to replaces padding and pad_to_multiple_of: give one of them")
    if multiple is not None:
        check_positive("pad_to_multiple_of", multiple)
        if padding in (False, "do_not_pad"):
            raise ValueError("pad_to_multiple_of has no effect with padding=False")
        if truncated is not None and truncated % multiple:
            raise ValueError(
                f"rows are cut to {truncated} tokens, which is not a multiple of "
                f"pad_to_multiple_of={multiple}"
            )
