"""A part of a corpus for validation: whole documents, spread over all of it."""

import dataclasses

import numpy as np

from jbert.data import draws
from jbert.data.cache import digest
from jbert.data.corpus import Corpus
from jbert.data.table import DataError


def hold_out(corpus: Corpus, share: float, least: int = 1) -> tuple[Corpus, Corpus]:
    """Training and validation documents; which ones they are depends on their number alone.

    Both read the same tokens: nothing is copied. least: how many documents each has at least.
    """
    if not 0 < share < 1:
        raise DataError(f"the share to hold out is {share}; expected more than 0 and less than 1")
    count = len(corpus.begins)
    if count < 2 * least:
        raise DataError(
            f"the corpus has {count} document(s), too few to hold {least} of them out for "
            "validation; give data.validation_files, or put blank lines between documents"
        )
    wanted = min(max(round(share * count), least), count - least)
    random = draws.bits(draws.row_keys(np.arange(count)), np.zeros(1, np.int64), "held out")
    held_out = np.sort(np.argsort(random.ravel(), kind="stable")[:wanted])
    rest = np.setdiff1d(np.arange(count), held_out)
    return _part(corpus, rest, "training"), _part(corpus, held_out, "validation")


def _part(corpus: Corpus, documents: np.ndarray, name: str) -> Corpus:
    fingerprint = digest(corpus.fingerprint, name, len(documents))
    return dataclasses.replace(corpus, chosen=documents, fingerprint=fingerprint)
