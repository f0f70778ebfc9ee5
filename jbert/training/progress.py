"""What a run knows besides its state, and saves with it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jbert.training.meter import Sums


@dataclasses.dataclass
class Progress:
    """step:      updates so far.
    window:    sums since the last line of metrics.
    seen:      sums since the start.
    evaluated: the last step that was evaluated, and `metric` what came out.
    best:      the best metric so far, and `without_better` the evaluations since.
    """

    step: int = 0
    window: Sums = dataclasses.field(default_factory=Sums)
    seen: Sums = dataclasses.field(default_factory=Sums)
    evaluated: int = 0
    metric: float | None = None
    best: float | None = None
    without_better: int = 0

    def judge(self, metric: float, greater_is_better: bool) -> bool:
        """Take note of an evaluation of this step; whether it is the best one. NaN never is."""
        self.evaluated, self.metric = self.step, metric
        sign = 1 if greater_is_better else -1
        better = sign * metric > (-math.inf if self.best is None else sign * self.best)
        self.best = metric if better else self.best
        self.without_better = 0 if better else self.without_better + 1
        return better

    def metric_now(self) -> float | None:
        """The metric of this very step, if it was evaluated."""
        return self.metric if self.evaluated == self.step else None

    def to_dict(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {"window": self.window.to_dict(), "seen": self.seen.to_dict()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Progress":
        sums = {name: Sums(stored[name]) for name in ("window", "seen")}
        return cls(**{**stored, **sums})
