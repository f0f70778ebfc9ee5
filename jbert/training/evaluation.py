"""A model on a whole split: sums of the loss, and what is kept of each row's outputs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jbert.data.batches import Batch, EvaluationOrder, prefetch
from jbert.data.features import Source
from jbert.training.meter import Sums
from jbert.training.parallel import Parallel
from jbert.training.step import EvalStep

Predictions = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A split to evaluate on, and what its figures are.

    score: takes what was kept of the outputs, arrays (rows, …) in the source's order, and the
           split's loss; gives figures by name.
    """

    source: Source
    score: Callable[[Predictions, float], Mapping[str, float]] = lambda predictions, loss: {}


class Evaluator:
    """Runs one step over splits, each example counted once on any number of devices.

    between: called between two batches; it may raise to stop.
    """

    def __init__(self, parallel: Parallel, step: EvalStep, batch_size: int):
        ways = parallel.ways()
        self.batch_size = -(-batch_size // ways) * ways
        self._parallel, self._run = parallel, parallel.evaluate(step)

    def figures(
        self, params: Any, evaluation: Evaluation, between: Callable[[], None]
    ) -> dict[str, float]:
        sums, predictions = self.predict(params, evaluation.source, between)
        loss = {"loss": sums.loss()} if sums.terms else {}
        return loss | dict(evaluation.score(predictions, sums.loss()))

    def predict(
        self, params: Any, source: Source, between: Callable[[], None] = lambda: None
    ) -> tuple[Sums, Predictions]:
        sums, kept = Sums(), {}
        order = EvaluationOrder(source, self.batch_size)
        batches = prefetch(order, lambda batch: (batch, self._put(batch, source)))
        try:
            for batch, arrays in batches:
                one, found = self._run(params, arrays)
                sums.add(one)
                for name, values in found.items():
                    _collect(kept, name, np.asarray(values), batch, len(source))
                between()
        finally:
            batches.close()
        return sums, kept

    def _put(self, batch: Batch, source: Source) -> Any:
        return self._parallel.put(batch.size, lambda places: batch.read(source, places))


def _collect(kept: Predictions, name: str, values: np.ndarray, batch: Batch, total: int) -> None:
    """Put a batch's rows into their places. The first batch is the longest: all others fit."""
    if name not in kept:
        kept[name] = np.zeros((total, *values.shape[1:]), values.dtype)
    rows = batch.examples()
    inner = tuple(slice(0, size) for size in values.shape[1:])
    kept[name][(rows, *inner)] = values[: len(rows)]
