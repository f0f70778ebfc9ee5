"""Curves, and what may be asserted of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Curve:
    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Check:
    """`found` beside a bound. One that was timed means nothing on a busy machine."""

    name: str
    found: float
    most: float | None = None
    least: float | None = None
    timed: bool = False

    def holds(self) -> bool:
        # NaN is neither.
        above = self.least is None or self.found >= self.least
        return above and (self.most is None or self.found <= self.most)

    def __str__(self) -> str:
        least = "" if self.least is None else f"{self.least:.4g} ≤ "
        most = "" if self.most is None else f" ≤ {self.most:.4g}"
        return f"{self.name}: {least}{self.found:.4g}{most}"


@dataclasses.dataclass(frozen=True)
class Scale:
    """One scale test: its axes, curves and checks."""

    title: str
    x: str
    y: str
    curves: list[Curve]
    checks: list[Check]
    logarithmic: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    slope: float
    intercept: float
    r2: float


def line(x: Sequence[float], y: Sequence[float]) -> Line:
    """The straight line through some points, and the share of their variance that it explains."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    slope, intercept = np.polyfit(xs, ys, 1)
    left = float(np.square(ys - slope * xs - intercept).sum())
    whole = float(np.square(ys - ys.mean()).sum())
    return Line(float(slope), float(intercept), 1.0 - left / whole if whole else 1.0)


def growth(y: Sequence[float]) -> float:
    """The last over the first."""
    return float(y[-1]) / float(y[0])


def band(y: Sequence[float]) -> float:
    """How far the values lie apart, as a share of their mean."""
    return (max(y) - min(y)) / (sum(y) / len(y))
