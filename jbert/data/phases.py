"""Several phases of one run, each with rows of its own length: the batches of one after the other.

Which batch belongs to which phase follows from its number alone, as everything about a batch does.
"""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from jbert.data.batches import Batch, TrainingOrder, refuse_other
from jbert.data.features import Source


class PhasedOrder:
    """What `TrainingOrder` is, for phases of so many `steps`, each of the batches of an order.

    The epochs of a phase are numbered on from those of the phases before it: rows that are drawn
    anew in every epoch are never drawn twice in the same way.
    """

    def __init__(self, orders: Sequence[TrainingOrder], steps: Sequence[int]):
        self.orders, self.steps = tuple(orders), tuple(steps)
        self._ends = list(itertools.accumulate(steps))
        self._first_epochs = [0]
        for order, count in zip(orders, steps, strict=True):
            begun = -(-count // order.batches_per_epoch())
            self._first_epochs.append(self._first_epochs[-1] + begun)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return tuple(order.batch_size for order in self.orders)

    def total(self, epochs: float) -> int:
        return self._ends[-1]

    def batch(self, number: int) -> Batch:
        phase, inside = self._place(number)
        order = self.orders[phase]
        return order.batch(self._first_epochs[phase] * order.batches_per_epoch() + inside)

    def source_at(self, number: int) -> Source:
        return self.orders[self._place(number)[0]].source

    def length_at(self, number: int) -> int:
        return self.orders[self._place(number)[0]].length_at(0)

    def epochs(self, count: int) -> float:
        return sum(order.epochs(done) for order, done in self._done(count))

    def work(self, count: int) -> int:
        costs = [order.batch_size * order.length_at(0) for order in self.orders]
        return round(sum(c * done for c, (_, done) in zip(costs, self._done(count), strict=True))
                     / costs[0])  # fmt: skip

    def describe(self) -> str:
        return ", then ".join(
            f"{steps} of {order.batch_size} × {order.length_at(0)} tokens"
            for order, steps in zip(self.orders, self.steps, strict=True)
        )

    def position(self, number: int) -> dict[str, Any]:
        # The number within each phase follows from the whole one.
        phases = [order.position(0) | {"batch": steps}
                  for order, steps in zip(self.orders, self.steps, strict=True)]  # fmt: skip
        return {"batch": number, "phases": phases}

    def check_position(self, stored: Mapping[str, Any]) -> None:
        refuse_other(self.position(stored["batch"]), stored)

    def _place(self, number: int) -> tuple[int, int]:
        """The phase of a batch, and its number in it."""
        phase = bisect.bisect_right(self._ends, number)
        if not 0 <= number < self._ends[-1]:
            raise IndexError(f"batch {number} of {self._ends[-1]}")
        return phase, number - (self._ends[phase] - self.steps[phase])

    def _done(self, count: int) -> list[tuple[TrainingOrder, int]]:
        """How many of the first `count` batches are of each phase."""
        starts = [end - steps for end, steps in zip(self._ends, self.steps, strict=True)]
        return [(order, min(max(count - start, 0), steps))
                for order, start, steps in zip(self.orders, starts, self.steps, strict=True)
        ]  # fmt: skip
