"""The quickstart's data set: short reviews, written by a grammar, each negative, neutral or positive.

Whoever adds up the words of these sentences goes wrong: "the soup was far from cold", "although the
room was clean, the staff was rude", "I was sure the film would be dull, and I was wrong". The label
is the writer's own verdict by the end of the sentence:

- a negated word counts as its opposite;
- the main clause decides, not the one after "although" or "despite", and after "but" the last one;
- what others say, or the writer expected, counts as far as the writer agrees or it came true;
- facts, questions, and verdicts that the writer does not share or know are neutral.

A statement such as "the soup – cold" belongs to one split. So the sentences of `validation` and
`test` share no statement with those of `train`, only words and ways to put them together.
"""

import dataclasses
import random
import zlib
from collections.abc import Sequence

from jbert.data.table import Table

QUICKSTART = "quickstart"
SIZES = {"train": 6000, "validation": 600, "test": 600}
NEGATIVE, NEUTRAL, POSITIVE = LABELS = ("negative", "neutral", "positive")


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


@dataclasses.dataclass(frozen=True)
class Kind:
    """Things of one kind, and what can be said of them.

    good, bad:     adjectives.
    does, does_not: predicates of which the former are good and the latter bad, each as
                   "in the past/negated", or without a negation.
    """

    things: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]
    does: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
