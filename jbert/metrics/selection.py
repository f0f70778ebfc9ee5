"""Which way a metric improves."""

import re

from jbert.metrics.checks import MetricError

_BETTER_HIGH = {
    "accuracy", "f1", "precision", "recall", "matthews", "pearson", "spearman", "spearmanr",
    "exact", "average",
}  # fmt: skip
_BETTER_LOW = {"loss", "perplexity", "error", "mse", "rmse", "mae"}
# best_exact_thresh is where a metric was best, not a metric.
_NO_METRIC = {"thresh", "threshold", "total", "support"}


def greater_is_better(name: str) -> bool:
    """Whether a rise of this metric is an improvement; of `validation/macro_f1` as of `f1`."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if not words & _NO_METRIC:
        if words & _BETTER_LOW:
            return False
        if words & _BETTER_HIGH:
            return True
    raise MetricError(
        f"{name!r} is no metric that a checkpoint can be chosen by; expected a name with one of "
        f"{sorted(_BETTER_HIGH)} (greater is better) or {sorted(_BETTER_LOW)} (less is better)"
    )
