"""Accuracy, F1 and Matthews correlation of class numbers, as scikit-learn computes them."""

import math
from typing import Any, Literal, NamedTuple

import numpy as np

from jbert.metrics.checks import MetricError, class_numbers, divide

AVERAGES = ("binary", "macro", "micro", "weighted")


class Counts(NamedTuple):
    """How often each class was right, predicted and the label."""

    right: np.ndarray
    predicted: np.ndarray
    labelled: np.ndarray


def count(predictions: np.ndarray, labels: np.ndarray, classes: int) -> Counts:
    right = labels[predictions == labels]
    return Counts(*(np.bincount(x, minlength=classes) for x in (right, predictions, labels)))


def accuracy(predictions: Any, labels: Any, num_labels: int | None = None) -> float:
    found, expected = class_numbers(predictions, labels, num_labels)
    return float((found == expected).mean())


def f1(
    predictions: Any,
    labels: Any,
    average: Literal["binary", "macro", "micro", "weighted"] = "binary",
    num_labels: int | None = None,
) -> float:
    """F1 of class 1 (`binary`), over all decisions (`micro`), or the mean of the classes' F1.

    `macro` and `weighted` average over the classes that occur among the predictions or labels: one
    that is never predicted counts as 0, one that is in neither does not count.
    """
    if average not in AVERAGES:
        raise MetricError(f"average is {average!r}; expected one of {AVERAGES}")
    limit = 2 if average == "binary" else num_labels
    found, expected = class_numbers(predictions, labels, limit)
    if average == "micro":
        return float((found == expected).mean())
    if average == "binary":
        counts = count(found, expected, 2)
        return float(f1_of_classes(counts)[1])
    names, numbered = np.unique(np.concatenate([found, expected]), return_inverse=True)
    counts = count(numbered[: len(found)], numbered[len(found) :], len(names))
    weights = counts.labelled if average == "weighted" else None
    return float(np.average(f1_of_classes(counts), weights=weights))


def f1_of_classes(counts: Counts) -> np.ndarray:
    total = counts.predicted + counts.labelled
    return np.where(total > 0, 2 * counts.right / np.maximum(total, 1), 0.0)


def matthews(predictions: Any, labels: Any, num_labels: int | None = None) -> float:
    """Matthews correlation, for any number of classes; 0 where either side is one class only."""
    found, expected = class_numbers(predictions, labels, num_labels)
    names, numbered = np.unique(np.concatenate([found, expected]), return_inverse=True)
    counts = count(numbered[: len(found)], numbered[len(found) :], len(names))
    # Products of counts outgrow 64 bits on large sets; python's integers do not.
    right = sum(counts.right.tolist())
    predicted, labelled = counts.predicted.tolist(), counts.labelled.tolist()
    total = len(found)

    def covariance(first: list[int], second: list[int], agreed: int) -> int:
        return agreed * total - sum(a * b for a, b in zip(first, second, strict=True))

    both = covariance(predicted, labelled, right)
    spread = covariance(predicted, predicted, total) * covariance(labelled, labelled, total)
    return divide(both, math.sqrt(spread))
