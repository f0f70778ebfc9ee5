"""What a contender offers the worker that measures it."""

from typing import Any, Protocol

from benchmarks.workloads import Workload


class Unsupported(Exception):
    """This contender has no such model, or no such way to compute it."""


class Call(Protocol):
    """One workload, built and ready. `units` is how much work a call does: sequences, or where
    texts are ragged the tokens among them that are no padding."""

    units: float

    def start(self, number: int) -> Any:
        """Begins call `number`, whose inputs are other ones than its neighbours'."""
        ...

    def wait(self, started: Any) -> None:
        """Until all that was started up to here is done."""
        ...


class Side(Protocol):
    """One contender in its own environment."""

    def versions(self) -> dict[str, str]: ...

    def device(self) -> str:
        """Its kind and its name: "cpu: …", "gpu: …", "tpu: …"."""
        ...

    def build(self, work: Workload) -> Call: ...

    def peak_bytes(self) -> int | None:
        """The most that was ever held on the accelerator; None on a CPU."""
        ...
