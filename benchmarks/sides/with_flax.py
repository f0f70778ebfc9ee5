"""transformers 4's Flax classes, the last that there were; the class names end in 4.57.6."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import transformers

from benchmarks import workloads
from benchmarks.sides.side import Unsupported
from benchmarks.workloads import Workload

CLASSES = {"encode": "FlaxAutoModel", "ragged": "FlaxAutoModelForSequenceClassification",
           "classify": "FlaxAutoModelForSequenceClassification",
           "mlm": "FlaxAutoModelForMaskedLM"}  # fmt: skip
BATCH = 32  # of ragged texts: a compiled shape is fixed


class FlaxSide:
    def __init__(self) -> None:
        transformers.logging.set_verbosity_error()

    def versions(self) -> dict[str, str]:
        return {"transformers": transformers.__version__, "jax": jax.__version__}

    def device(self) -> str:
        return f"{jax.default_backend()}: {jax.devices()[0].device_kind}"

    def peak_bytes(self) -> int | None:
        stats = jax.devices()[0].memory_stats()
        return None if stats is None else stats.get("peak_bytes_in_use")

    def build(self, work: Workload) -> Any:
        if work.model_type() not in ("bert", "distilbert"):
            raise Unsupported(f"transformers never had a Flax {work.model_type()}")
        if work.kind not in CLASSES:
            raise Unsupported(f"no Flax {work.kind} here")
        if work.kind == "ragged" and work.padding == "longest":
            raise Unsupported("under jit every length would be compiled anew")
        if work.kind == "encode":
            return Encode(work)
        return Ragged(work) if work.kind == "ragged" else Train(work)


def model(work: Workload) -> Any:
    config = transformers.AutoConfig.for_model(work.model_type(), **work.config())
    cls = getattr(transformers, CLASSES[work.kind])
    return cls.from_config(config, seed=0, dtype=jnp.dtype(work.dtype))


class Encode:
    def __init__(self, work: Workload):
        made = model(work)
        run = made.module

        def forward(params, input_ids, attention_mask):
            variables, zeros = {"params": params}, jnp.zeros_like(input_ids)
            if work.model_type() == "distilbert":
                return run.apply(variables, input_ids, attention_mask).last_hidden_state
            positions = jnp.broadcast_to(jnp.arange(input_ids.shape[-1]), input_ids.shape)
            out = run.apply(variables, input_ids, attention_mask, zeros, positions, None)
            return out.last_hidden_state

        self.forward, self.params = jax.jit(forward), made.params
        self.ring, self.units = workloads.ring(work), float(work.batch)

    def start(self, number: int) -> Any:
        batch = self.ring[number % len(self.ring)]
        return self.forward(self.params, batch["input_ids"], batch["attention_mask"])

    def wait(self, started: Any) -> None:
        jax.block_until_ready(started)


class Ragged:
    """Everything padded to the longest of all, at one compiled batch size."""

    def __init__(self, work: Workload):
        made = model(work)
        self.params, self.units, self.count = made.params, float(work.batch), work.batch
        self.forward = jax.jit(lambda params, tokens: made(**tokens, params=params).logits)
        rows = workloads.padded(workloads.texts(work), work.length)
        fill = -work.batch % BATCH
        self.tokens = {name: np.pad(x, ((0, fill), (0, 0))) for name, x in rows.items()}

    def start(self, number: int) -> Any:
        tokens = {name: np.roll(x, number, axis=0) for name, x in self.tokens.items()}
        found = [
            self.forward(self.params, {name: x[at : at + BATCH] for name, x in tokens.items()})
            for at in range(0, self.count, BATCH)
        ]
        return np.concatenate([np.asarray(x) for x in found])[: self.count]

    def wait(self, started: Any) -> None:
        pass


class Train:
    """A step as transformers' Flax examples take it, in one jit, with clipping."""

    def __init__(self, work: Workload):
        made = model(work)
        update = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(5e-5, weight_decay=0.01))

        def loss_of(params, batch, key):
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            logits = made(**inputs, params=params, dropout_rng=key, train=True).logits
            labels = batch["labels"]
            kept = labels >= 0
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits.astype(jnp.float32), jnp.where(kept, labels, 0)
            )
            return jnp.sum(jnp.where(kept, losses, 0)) / jnp.sum(kept)

        def step(params, state, key, batch):
            key, own = jax.random.split(key)
            loss, gradients = jax.value_and_grad(loss_of)(params, batch, own)
            changes, state = update.update(gradients, state, params)
            return optax.apply_updates(params, changes), state, key, loss

        self.step = jax.jit(step, donate_argnums=(0, 1))
        self.state = (made.params, update.init(made.params), jax.random.key(0))
        self.batches, self.units = self._batches(work)

    @staticmethod
    def _batches(work: Workload) -> tuple[list, float]:
        if work.lengths is None:
            return workloads.ring(work), float(work.batch)
        rows = workloads.documents(work)
        batches = [workloads.padded(next(rows), work.length) for _ in range(workloads.RING)]
        units = float(np.mean([batch["attention_mask"].sum() for batch in batches]))
        return [workloads.with_labels(b, n) for n, b in enumerate(batches)], units

    def start(self, number: int) -> Any:
        *state, loss = self.step(*self.state, self.batches[number % len(self.batches)])
        self.state = tuple(state)
        return loss

    def wait(self, started: Any) -> None:
        jax.block_until_ready((started, self.state))
