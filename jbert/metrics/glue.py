"""The metrics that GLUE publishes for each of its tasks."""

import difflib
from collections.abc import Callable
from typing import Any

from jbert.metrics.checks import MetricError
from jbert.metrics.classification import accuracy, f1, matthews
from jbert.metrics.correlation import pearson, spearman


def _matthews(predictions: Any, labels: Any) -> dict[str, float]:
    return {"matthews_correlation": matthews(predictions, labels, 2)}


def _accuracy(predictions: Any, labels: Any) -> dict[str, float]:
    return {"accuracy": accuracy(predictions, labels, 2)}


def _accuracy_of_three(predictions: Any, labels: Any) -> dict[str, float]:
    return {"accuracy": accuracy(predictions, labels, 3)}


def _accuracy_and_f1(predictions: Any, labels: Any) -> dict[str, float]:
    right, score = accuracy(predictions, labels, 2), f1(predictions, labels)
    return {"accuracy": right, "f1": score, "average": (right + score) / 2}


def _correlations(predictions: Any, labels: Any) -> dict[str, float]:
    r, rho = pearson(predictions, labels), spearman(predictions, labels)
    return {"pearson": r, "spearmanr": rho, "average": (r + rho) / 2}


GLUE_TASKS: dict[str, Callable[[Any, Any], dict[str, float]]] = {
    "cola": _matthews,
    "sst2": _accuracy,
    "mrpc": _accuracy_and_f1,
    "qqp": _accuracy_and_f1,
    "stsb": _correlations,
    "mnli": _accuracy_of_three,
    "mnli_matched": _accuracy_of_three,
    "mnli_mismatched": _accuracy_of_three,
    "qnli": _accuracy,
    "rte": _accuracy,
    "wnli": _accuracy,
}
# As the papers write them.
_OTHER_NAMES = {"sst-2": "sst2", "sts-b": "stsb", "mnli-m": "mnli", "mnli-mm": "mnli_mismatched"}


def glue_metrics(task: str, predictions: Any, labels: Any) -> dict[str, float]:
    """The task's published metrics by their published names.

    `average` is the mean of a task's two metrics, which is what enters GLUE's overall score.
    Predictions are class numbers, and for `stsb` scores.
    """
    name = _OTHER_NAMES.get(task.lower(), task.lower())
    if name not in GLUE_TASKS:
        near = difflib.get_close_matches(name, GLUE_TASKS, 1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise MetricError(f"no GLUE task {task!r}{hint or ';'} expected one of {list(GLUE_TASKS)}")
    return GLUE_TASKS[name](predictions, labels)
