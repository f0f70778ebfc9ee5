"""The metric of language models."""

import math

from jbert.metrics.checks import MetricError


def perplexity(mean_loss: float) -> float:
    """e to the mean loss of a token, in nats; infinite where that is beyond a float."""
    loss = float(mean_loss)
    if math.isnan(loss) or loss < 0:
        raise MetricError(f"the mean loss is {loss}; expected a number of at least 0")
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
