"""AdamW and LAMB over a flat dict of parameters, {"encoder/layer_0/ffn/in/kernel": array}.

The moments are optax's; what is done with them depends on the names of the parameters alone, and
those are the same in every architecture.
"""

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jbert.stack import SCANNED
from jbert.training.config import OptimizerConfig, RunError

Flat = dict[str, Any]
_SCANNED = re.compile(rf"(.*/)?{SCANNED}/")
_LAYER = re.compile(r"(?:.*/)?layer_(\d+)/")
# What is below the first layer: tables, and what projects them to the layers' width.
_BELOW = re.compile(r"(encoder/)?(embeddings|projection)/")
# Every parameter is of one of these kinds by its last name; a new name has to be put into one.
DECAYED = ("kernel", "embedding", "extra")
NOT_DECAYED = ("bias", "scale")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """`update` is pure, and all of its state is optax's count, mean and mean of squares."""

    config: OptimizerConfig
    total_steps: int
    num_layers: int

    def learning_rate(self, count: Any) -> jax.Array:
        """The learning rate of the update after `count` others."""
        peak, warmup = self.config.learning_rate, self.warmup_steps()
        rest = max(self.total_steps - warmup, 1)
        falling = {
            "linear": optax.linear_schedule(peak, 0.0, rest),
            "cosine": optax.cosine_decay_schedule(peak, rest),
            "constant": optax.constant_schedule(peak),
        }[self.config.schedule]
        if not warmup:
            return jnp.asarray(falling(count), jnp.float32)
        rising = optax.linear_schedule(0.0, peak, warmup)
        return jnp.asarray(optax.join_schedules([rising, falling], [warmup])(count), jnp.float32)

    def warmup_steps(self) -> int:
        steps = self.config.warmup_steps
        return round(steps * self.total_steps) if steps < 1 else round(steps)

    def init(self, params: Flat) -> Flat:
        """The state for those of the parameters that are trained."""
        state: Any = self._moments().init(self.trainable(params))
        return state._asdict()

    def update(
        self,
        grads: Flat,
        state: Flat,
        params: Flat,
        scaled: Callable[[str, int], Any] | None = None,
        finite: Any = True,
    ) -> tuple[Flat, Flat]:
        """New values of the trained parameters, and the new state.

        scaled: what else multiplies the learning rate of a parameter, by its name and dimensions.
        finite: whether there is anything new; if not all stays as it is.
        """
        rate = self.learning_rate(state["count"])
        before: Any = optax.ScaleByAdamState(**state)
        moments: Any = self._moments().update(self.clipped(grads), before)[1]
        # Chosen before anything is made of them: chosen afterwards, old and new ones would both be
        # needed until the end, and XLA would copy the old ones.
        moments = only_if(finite, moments, before)
        new = {}
        for path in grads:
            value, direction = params[path], self._direction(moments, path)
            if self.config.weight_decay and is_decayed(path):
                direction = direction + self.config.weight_decay * value
            if self.config.name == "lamb":
                direction = direction * _trust_ratio(path, value, direction)
            scale = self.layer_scale(path, value.ndim)
            if scaled is not None:
                scale = scale * scaled(path, value.ndim)
            new[path] = (value - rate * scale * direction).astype(value.dtype)
        return only_if(finite, new, {path: params[path] for path in new}), moments._asdict()

    def _direction(self, moments: Any, path: str) -> jax.Array:
        """Adam's mean over the root of its mean of squares, both freed of having begun at zero."""
        config = self.config
        mean = moments.mu[path] / (1 - config.beta1**moments.count)
        square = moments.nu[path] / (1 - config.beta2**moments.count)
        return mean / (jnp.sqrt(square) + config.epsilon)

    def clipped(self, grads: Flat) -> Flat:
        limit = self.config.max_grad_norm
        if not limit:
            return grads
        norm = global_norm(grads)
        factor = jnp.where(norm > limit, limit / norm, 1.0)
        return jax.tree.map(lambda g: g * factor, grads)

    def trainable(self, params: Mapping[str, Any]) -> Flat:
        """The parameters that no pattern freezes."""
        return {path: leaf for path, leaf in params.items() if not self.is_frozen(path)}

    def is_frozen(self, path: str) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.config.freeze)

    def check(self, paths: Iterable[str]) -> None:
        """Refuse what would only show in the result: patterns and names that match nothing."""
        paths = list(paths)
        for pattern in self.config.freeze:
            if any(fnmatch.fnmatchcase(path, pattern) for path in paths):
                continue
            if "layer_" in pattern and any(_SCANNED.match(path) for path in paths):
                raise RunError(
                    f"optimizer.freeze: {pattern!r} names single layers, which "
                    "execution.scan_layers keeps in one array; turn it off to freeze some of them"
                )
            some = ", ".join(sorted(paths)[:3])
            raise RunError(
                f"optimizer.freeze: {pattern!r} matches no parameter; their names are {some}, …"
            )
        if all(self.is_frozen(path) for path in paths):
            raise RunError(f"optimizer.freeze: {self.config.freeze} leaves nothing to train")
        for path in paths:
            is_decayed(path)

    def layer_scale(self, path: str, ndim: int) -> Any:
        """What multiplies the learning rate of a parameter: less, the further below the head."""
        decay = self.config.layer_decay
        if decay == 1.0:
            return 1.0
        if _SCANNED.match(path):
            depth = self.num_layers - jnp.arange(self.num_layers, dtype=jnp.float32)
            return (decay**depth).reshape(-1, *(1,) * (ndim - 1))
        if layer := _LAYER.match(path):
            return decay ** (self.num_layers - int(layer[1]))
        return decay ** (self.num_layers + 1) if _BELOW.match(path) else 1.0

    def _moments(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.config.beta1, self.config.beta2, self.config.epsilon)


def only_if(finite: Any, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def global_norm(grads: Flat) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in grads.values()))


def is_decayed(path: str) -> bool:
    """Whether weight decay applies: to matrices and tables, not to biases and norms."""
    name = path.rsplit("/", 1)[-1]
    if name not in DECAYED + NOT_DECAYED:
        raise RunError(f"{path}: no rule says whether weight decay applies to a {name!r}")
    return name in DECAYED


def _trust_ratio(path: str, value: jax.Array, direction: jax.Array) -> jax.Array:
    """LAMB's |parameter| / |direction|, for each layer alone also where layers are stacked."""
    axes = tuple(range(1, value.ndim)) if _SCANNED.match(path) else None

    def norm(x):
        return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=axes is not None))

    weight, step = norm(value), norm(direction)
    return jnp.where((weight > 0) & (step > 0), weight / jnp.where(step > 0, step, 1.0), 1.0)
