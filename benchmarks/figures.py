"""The arithmetic of a comparison: what a round is worth, and when no ratio may be quoted.

A contender's value in a round is the median over its calls, in seconds for one unit of work (a
sequence, a real token). A ratio is the peer's value over jbert's in the same round, so that what
the machine did to one round it did to both sides of the quotient.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

ROUNDS = 5  # fewer have no lower quartile worth the name
# Below this, rounds agree whatever their calls say; above that, they are too noisy to be used.
AGREEMENT, NOISE = 0.05, 0.25


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times faster: per round, and what of it may be quoted. `why` says why nothing."""

    rounds: tuple[float, ...]
    median: float
    lower: float
    why: str = ""


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(values, (25, 75))
    return float(low), float(high)


def spread(values: Sequence[float]) -> float:
    """The distance between the quartiles as a share of the median."""
    low, high = quartiles(values)
    return (high - low) / median(values)


def ratio(own: Sequence[Sequence[float]], peer: Sequence[Sequence[float]]) -> Ratio:
    """Of the calls of each round, jbert's and the peer's. Both have the same rounds."""
    if len(own) != len(peer) or not own:
        raise ValueError(f"{len(own)} rounds beside {len(peer)}; a ratio needs the same, and some")
    rounds = tuple(median(b) / median(a) for a, b in zip(own, peer, strict=True))
    found = Ratio(rounds, median(rounds), quartiles(rounds)[0])
    return dataclasses.replace(found, why=objection(rounds, own, peer))


def objection(
    rounds: Sequence[float], own: Sequence[Sequence[float]], peer: Sequence[Sequence[float]]
) -> str:
    """Why these ratios are not to be quoted, or nothing.

    Calls within a round differ by chance alone. Rounds may differ by as much as those calls do,
    and no more: then something changed between them, and a median would hide it.
    """
    if len(rounds) < ROUNDS:
        return f"{len(rounds)} rounds of {ROUNDS}"
    calls = sum(median([spread(one) for one in side]) for side in (own, peer))
    allowed = min(max(calls, AGREEMENT), NOISE)
    found = spread(rounds)
    if found <= allowed:
        return ""
    return (f"rounds disagree: ratios from {min(rounds):.2f} to {max(rounds):.2f} spread by "
            f"{found:.0%}, calls within a round allow {allowed:.0%}")  # fmt: skip
