"""What a run is told about its steps: sums over a window of them, rates, and the chip's share."""

import math
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jbert.config import ModelConfig

# Dense bfloat16 operations a second of one JAX device, from the makers' data sheets.
PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "Tesla V100": 125e12,
    "Tesla T4": 65e12,
}


class Sums:
    """Figures of several steps added up, as Python numbers; the loss is one quotient of sums."""

    def __init__(self, stored: Mapping[str, Any] | None = None):
        stored = stored or {}
        self.terms: list[list[float]] = [list(term) for term in stored.get("terms", [])]
        self.steps: int = stored.get("steps", 0)
        self.examples: float = stored.get("examples", 0.0)
        self.tokens: float = stored.get("tokens", 0.0)

    def add(self, figures: Mapping[str, Any]) -> None:
        terms = [[float(t.total), float(t.count), float(t.scale)] for t in figures["terms"]]
        if not self.terms:
            self.terms = [[0.0, 0.0, scale] for *_, scale in terms]
        for mine, (total, count, _) in zip(self.terms, terms, strict=True):
            mine[0] += total
            mine[1] += count
        self.steps += 1
        self.examples += float(figures["examples"])
        self.tokens += float(figures["tokens"])

    def loss(self) -> float:
        return sum(self.parts())

    def parts(self) -> list[float]:
        """The addends of the loss, in the order of the objective's names."""
        return [scale * total / count if count else 0.0 for total, count, scale in self.terms]

    def to_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("steps", "examples", "tokens")}
        return {"terms": [list(term) for term in self.terms], **plain}


class Clock:
    """Seconds that were spent on steps: evaluations and checkpoints stop it."""

    def __init__(self) -> None:
        self._spent, self._since = 0.0, time.perf_counter()

    def lap(self) -> float:
        """The seconds since the last lap."""
        now = time.perf_counter()
        spent, self._spent, self._since = self._spent + now - self._since, 0.0, now
        return spent

    def pause(self) -> None:
        self._spent += time.perf_counter() - self._since

    def go_on(self) -> None:
        self._since = time.perf_counter()


def flops_per_token(
    params: Mapping[str, Any], config: ModelConfig, length: int, projected: float = 1.0
) -> float:
    """Operations of a forward and a backward pass for one token: 6 for each weight of a matrix
    product, and attention's own two products. Work that is done again, dropout and padding are no
    part of it.

    projected: the share of positions for which a masked language model's head works.
    """
    heads = sum(leaf.size for path, leaf in params.items() if _is_kernel(path, of_head=True))
    others = sum(leaf.size for path, leaf in params.items() if _is_kernel(path, of_head=False))
    if heads:
        heads += params["encoder/embeddings/word/embedding"].size
    width, layers = getattr(config, "hidden_size", 0), getattr(config, "num_hidden_layers", 0)
    return 6.0 * (others + projected * heads) + 12.0 * layers * width * length


def _is_kernel(path: str, of_head: bool) -> bool:
    return path.endswith("kernel") and ("mlm" in path.split("/")) == of_head


def peak_flops() -> float | None:
    """Of all devices together; None where the kind of device is not known."""
    kind = jax.devices()[0].device_kind
    # "NVIDIA A100-SXM4-40GB" is an A100; an "NVIDIA L40S" is no L4.
    fitting = [name for name in PEAKS if re.match(rf"{name}\b", kind)]
    return PEAKS[max(fitting, key=len)] * jax.device_count() if fitting else None


def is_finite(figures: Mapping[str, Any]) -> bool:
    return bool(np.asarray(figures["finite"])) and math.isfinite(float(figures["grad_norm"]))
