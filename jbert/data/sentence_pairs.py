"""Pairs of texts for next-sentence prediction, drawn as `create_pretraining_data` of BERT does.

The cuts of a document, and which pairs have a random second text, are functions of the seed, so
that the number of pairs is fixed; the random texts, and what is cut off, are new in every epoch.
"""

import dataclasses
import warnings

import numpy as np

from jbert import windows
from jbert.data import draws
from jbert.data.corpus import Corpus
from jbert.data.table import DataError, DataWarning


@dataclasses.dataclass(frozen=True, eq=False)
class PairPlan:
    """The pairs of a corpus; tokens by their place in it."""

    document: np.ndarray  # its number among those that count
    first: np.ndarray  # where the first text begins
    middle: np.ndarray  # where it ends, and its own next text begins
    end: np.ndarray
    random: np.ndarray  # whether another document's text comes second instead
    target: np.ndarray  # how many tokens the pair is to have

    def __len__(self) -> int:
        return len(self.document)


def plan_pairs(
    corpus: Corpus, room: int, *, seed: int, duplicates: int = 1, short_share: float = 0.1
) -> PairPlan:
    """Goes through every document `duplicates` times, each with other cuts.

    room: the most tokens of a pair. short_share: of the passes through a document, how many aim at
    a random shorter length. The next text of a pair with a random second text is not lost: the next
    pair begins there. A text of one sentence has no next; its second text is always random.
    """
    _check(corpus, room, duplicates, short_share)
    passes = [_one_pass(corpus, room, short_share, seed, number) for number in range(duplicates)]
    plan = PairPlan(*map(np.concatenate, zip(*passes, strict=True)))
    if plan.random.mean() > 0.75:
        warnings.warn(
            f"{plan.random.mean():.0%} of the sentence pairs are random ones; half is what "
            "next-sentence prediction is meant for. A sentence (a line) that is a document of its "
            "own, or as long as a row, has no next one to be paired with",
            DataWarning,
            stacklevel=4,
        )
    return plan


def _one_pass(corpus: Corpus, room: int, short_share: float, seed: int, number: int) -> tuple:
    bounds = np.asarray(corpus.sentences)
    begin, last = np.asarray(corpus.begins), np.asarray(corpus.ends)
    document = np.arange(len(begin))
    keys = draws.row_keys(document, seed, number)
    none = np.zeros(1, np.int64)
    short = draws.uniform(keys, none, "short") < short_share
    target = np.where(short, 2 + draws.below(np.full(1, room - 1), keys, none, "target"), room)
    steps, step = [], 0
    while len(begin):
        at = np.full(1, step)
        end = np.minimum(np.searchsorted(bounds, bounds[begin] + target), last)
        several = end - begin > 1
        cut = draws.below(np.maximum(end - begin - 1, 1), keys, at, "cut")
        middle = begin + 1 + np.where(several, cut, 0)
        random = ~several | (draws.uniform(keys, at, "next") < 0.5)
        steps.append((document, bounds[begin], bounds[middle], bounds[end], random, target))
        begin = np.where(random, middle, end)
        going = begin < last
        document, begin, last = document[going], begin[going], last[going]
        keys, target = keys[going], target[going]
        step += 1
    columns = [np.concatenate(column) for column in zip(*steps, strict=True)]
    order = np.argsort(columns[1])
    return tuple(column[order] for column in columns)


def draw_pairs(
    corpus: Corpus, plan: PairPlan, rows: np.ndarray, room: int, seed: int, epoch: int
) -> tuple[windows.Segments, windows.Segments, np.ndarray]:
    """First texts, second texts, and 1 where the second is a random one, else 0."""
    keys = draws.row_keys(rows, seed, epoch)
    first, middle = plan.first[rows], plan.middle[rows]
    random = plan.random[rows]
    other, other_end = _random_texts(
        corpus, plan.document[rows], plan.target[rows] - (middle - first), keys
    )
    second = np.where(random, other, middle)
    second_length = np.where(random, other_end, plan.end[rows]) - second
    lengths = middle - first, second_length
    kept = windows.kept_lengths(*lengths, room, "longest_first", pair=True)
    texts = []
    for name, start, length, keep in zip(
        ("first", "second"), (first, second), lengths, kept, strict=True
    ):
        # Each token beyond the room goes from the front or the back, by the toss of a coin.
        front = draws.heads(length - keep, keys, name)
        texts.append(windows.Segments(start + front, keep, corpus.tokens, None, None))
    return texts[0], texts[1], random.astype(np.int32)


def _random_texts(corpus: Corpus, document, wanted, keys) -> tuple[np.ndarray, np.ndarray]:
    """Sentences of another document, from a random one on, until there are `wanted` tokens."""
    bounds, begins, ends, none = corpus.sentences, corpus.begins, corpus.ends, np.zeros(1, np.int64)
    other = draws.below(np.full(1, len(begins) - 1), keys, none, "document")
    other += other >= document
    begin = begins[other] + draws.below(ends[other] - begins[other], keys, none, "sentence")
    end = np.searchsorted(bounds, bounds[begin] + np.maximum(wanted, 1))
    return bounds[begin], bounds[np.minimum(end, ends[other])]


def _check(corpus: Corpus, room: int, duplicates: int, short_share: float) -> None:
    if room < 2:
        raise ValueError(f"a pair has room for {room} tokens; expected at least 2")
    if duplicates < 1:
        raise ValueError(f"duplicates is {duplicates}; expected at least 1")
    if not 0 <= short_share <= 1:
        raise ValueError(f"short_share is {short_share}; expected a share, from 0 to 1")
    documents, sentences = len(corpus.begins), int((corpus.ends - corpus.begins).sum())
    advice = "Next-sentence prediction needs text with a sentence a line and blank lines between"
    if documents < 2:
        raise DataError(
            f"the corpus is one document of {sentences} sentences; expected at least two, to draw "
            f"random next sentences from. {advice} documents"
        )
    if sentences == documents:
        raise DataError(
            f"each of the {documents} documents has a single sentence; expected documents of two "
            f"or more. {advice} documents"
        )
