"""Layer by layer: whose turn it is, and how fast each parameter learns meanwhile.

Both are functions of the step's number alone, so that a run that was resumed does what it would
have done.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from jbert.stack import SCANNED
from jbert.training.config import RunError
from jbert.training.distill.config import ProgressConfig
from jbert.training.distill.objective import MAPPING, DistillObjective
from jbert.training.optimizer import Flat
from jbert.training.step import Batch

_LAYER = re.compile(r"(?:.*/)?layer_(\d+)/")


@dataclasses.dataclass(frozen=True)
class Turns:
    """Every layer has its turn, the lowest first, each for as many steps; the last one also has
    those that do not divide."""

    config: ProgressConfig
    steps: int
    layers: int

    def __post_init__(self):
        if self.steps < self.layers:
            raise RunError(
                f"steps are {self.steps}, but {self.layers} layers are to be learned one after the "
                "other; expected at least a step for each"
            )

    @property
    def length(self) -> int:
        return self.steps // self.layers

    def turn(self, step: Any) -> jax.Array:
        """The layer that learns."""
        return jnp.minimum(step // self.length, self.layers - 1)

    def gate(self, step: Any) -> jax.Array:
        """1 for the layer in turn, 0 for the others."""
        return (jnp.arange(self.layers) == self.turn(step)).astype(jnp.float32)

    def wave(self, step: Any) -> jax.Array:
        """How the learning rate rises in a turn, and falls by a tenth until the next, as
        `get_background_lr` of google-research/mobilebert."""
        done = step - self.turn(step) * self.length
        rise = (done + 1) / (self.config.warmup * self.length) if self.config.warmup else 1.0
        share = jnp.clip(done / self.length, 0.0, 1.0)
        return jnp.minimum(rise, 0.9 + 0.1 * jnp.sqrt(1.0 - share))

    def rate(self, step: Any, path: str, ndim: int) -> jax.Array:
        """What multiplies the learning rate of a parameter."""
        wave = self.wave(step)
        if path.startswith(MAPPING):
            return wave
        if f"/{SCANNED}/" in path:
            return (wave * self._of(step, jnp.arange(self.layers))).reshape(-1, *(1,) * (ndim - 1))
        layer = _LAYER.match(path)
        return wave * self._of(step, int(layer[1])) if layer else jnp.zeros(())

    def _of(self, step: Any, layer: Any) -> jax.Array:
        turn = self.turn(step)
        return jnp.where(layer == turn, 1.0, jnp.where(layer < turn, self.config.below, 0.0))


@dataclasses.dataclass(frozen=True)
class LayerByLayer:
    """An objective of which each step sees the layer in turn."""

    whole: DistillObjective
    turns: Turns

    @property
    def names(self) -> tuple[str, ...]:
        return self.whole.names

    def at(self, step: Any) -> DistillObjective:
        return dataclasses.replace(self.whole, gate=self.turns.gate(step))

    def rate(self, step: Any, path: str, ndim: int) -> jax.Array:
        return self.turns.rate(step, path, ndim)

    def __call__(self, params: Flat, batch: Batch, key: jax.Array) -> Any:
        return self.whole(params, batch, key)

    def output(self, params: Flat, batch: Batch) -> Any:
        return self.whole.output(params, batch)

    def terms(self, output: Any, batch: Batch) -> Any:
        return self.whole.terms(output, batch)
