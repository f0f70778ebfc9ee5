"""What a metric is given, checked before anything is counted."""

from typing import Any

import numpy as np


class MetricError(ValueError):
    """Predictions or labels that cannot be scored."""


def class_numbers(
    predictions: Any, labels: Any, num_labels: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Both as int64 vectors of one length, each 0 <= number < `num_labels`."""
    pair = (
        _integers(predictions, "predictions", num_labels),
        _integers(labels, "labels", num_labels),
    )
    _same_length(*pair)
    return pair


def real_numbers(predictions: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 vectors of one length, all finite."""
    pair = _vector(predictions, "predictions"), _vector(labels, "labels")
    _same_length(*pair)
    return pair


def divide(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _integers(values: Any, name: str, num_labels: int | None) -> np.ndarray:
    array = _array(values, name)
    if array.ndim != 1:
        raise MetricError(
            f"{name} has shape {array.shape}; expected one class number an example. "
            "Take the argmax of logits first"
        )
    if array.dtype.kind not in "iub":
        array = _vector(array, name)
    limit = 2**31 if num_labels is None else num_labels
    for bad, expected in (
        (array != np.floor(array), "class numbers. Take the argmax of logits first"),
        (array < 0, "class numbers from 0 on. Leave out positions to ignore and unlabelled splits"),
        (array >= limit, f"class numbers below {limit}"),
    ):
        if bad.any():
            at = int(bad.argmax())
            raise MetricError(f"{name}[{at}] is {array[at]}; expected {expected}")
    return array.astype(np.int64)


def _vector(values: Any, name: str) -> np.ndarray:
    array = _array(values, name)
    try:
        array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise MetricError(f"{name} holds what is no number ({error}); expected numbers") from error
    # A regression head answers (examples, 1).
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise MetricError(f"{name} has shape {array.shape}; expected one number an example")
    bad = ~np.isfinite(array)
    if bad.any():
        at = int(bad.argmax())
        raise MetricError(f"{name}[{at}] is {array[at]}; expected finite numbers")
    return array


def _array(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise MetricError(f"{name} is no array ({error}); expected one value an example") from error


def _same_length(predictions: np.ndarray, labels: np.ndarray) -> None:
    if len(predictions) != len(labels):
        raise MetricError(
            f"there are {len(predictions)} predictions and {len(labels)} labels; expected as many"
        )
    if not len(labels):
        raise MetricError("there are no examples to score; expected at least one")
