"""Pearson and Spearman correlation."""

from typing import Any

import numpy as np

from jbert.metrics.checks import real_numbers


def pearson(predictions: Any, labels: Any) -> float:
    """Pearson's r; 0.0 where either side is constant.

    scipy answers NaN there, which no comparison of checkpoints survives: a model that says the same
    of every example has learnt nothing, and is to lose against any that has.
    """
    return _pearson(*real_numbers(predictions, labels))


def spearman(predictions: Any, labels: Any) -> float:
    """Pearson's r of the ranks, where ties share the mean of their ranks."""
    found, expected = real_numbers(predictions, labels)
    return _pearson(_ranks(found), _ranks(expected))


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    # Constants are looked for among the values: their mean may be rounded, and leave a difference.
    if (first == first[0]).all() or (second == second[0]).all():
        return 0.0
    r = float(np.dot(_direction(first), _direction(second)))
    return min(1.0, max(-1.0, r))


def _direction(values: np.ndarray) -> np.ndarray:
    """The centred values, scaled to length one."""
    values = _in_range(values)
    values = _in_range(values - values.mean())
    length = np.linalg.norm(values)
    return values / length if length else values


def _in_range(values: np.ndarray) -> np.ndarray:
    """Scaled by a power of two, which loses nothing, so that no square over- or underflows."""
    exponent = np.frexp(np.abs(values).max())[1]
    return np.ldexp(values, -exponent)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
