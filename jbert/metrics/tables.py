"""Confusion matrices and per-label tables, in the shapes that the run's report shows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jbert.metrics.checks import MetricError, class_numbers, divide
from jbert.metrics.classification import count, f1_of_classes


def confusion_matrix(predictions: Any, labels: Any, num_labels: int) -> list[list[int]]:
    """Row i, column j: how many examples of class i were taken for class j."""
    found, expected = class_numbers(predictions, labels, num_labels)
    cells = np.bincount(expected * num_labels + found, minlength=num_labels**2)
    return cells.reshape(num_labels, num_labels).tolist()


def confusion_table(predictions: Any, labels: Any, names: Sequence[str]) -> dict[str, Any]:
    _check_names(names)
    matrix = confusion_matrix(predictions, labels, len(names))
    return {"labels": list(names), "matrix": matrix}


def per_label_table(predictions: Any, labels: Any, names: Sequence[str]) -> dict[str, Any]:
    """Precision, recall, F1 and support of every label, in the order of `names`."""
    _check_names(names)
    counts = count(*class_numbers(predictions, labels, len(names)), len(names))
    scores = f1_of_classes(counts).tolist()
    rows = [
        [name, divide(right, predicted), divide(right, labelled), score, labelled]
        for name, right, predicted, labelled, score in zip(
            names, *(x.tolist() for x in counts), scores, strict=True
        )
    ]
    return {"header": ["label", "precision", "recall", "f1", "support"], "rows": rows}


def _check_names(names: Sequence[str]) -> None:
    if not len(names):
        raise MetricError("names is empty; expected the name of each class")
