"""What the scale tests compile, count and time: small models, real layers."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jbert
from jbert.data.batches import WEIGHTS
from jbert.training.config import OptimizerConfig
from jbert.training.optimizer import Optimizer
from jbert.training.step import State, TaskObjective, TrainStep
from jbert.trees import flatten


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the models: BERT-base's width on an accelerator, half of it on a CPU."""

    width: int
    heads: int
    layers: int
    tokens: int  # in a batch

    def bert(self, task: str | None = None, **options: Any) -> jbert.Bert:
        layers = options.pop("num_hidden_layers", self.layers)
        config = jbert.BertConfig(
            hidden_size=self.width, num_attention_heads=self.heads, num_hidden_layers=layers,
            intermediate_size=4 * self.width, vocab_size=options.pop("vocab_size", 1000),
            max_position_embeddings=4096, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return jbert.from_config(config, task, **options)


def sizes(tiny: bool) -> Sizes:
    if tiny:
        return Sizes(32, 2, 2, 512)
    return Sizes(384, 6, 4, 4096) if jax.default_backend() == "cpu" else Sizes(768, 12, 12, 65536)


def ids(batch: int, length: int, vocab_size: int = 1000) -> np.ndarray:
    return np.random.default_rng(0).integers(5, vocab_size, (batch, length)).astype(np.int32)


def forward(bert: jbert.Bert) -> Callable[..., Any]:
    return jax.jit(lambda params, inputs: bert.module.apply({"params": params}, **inputs))


def seconds(run: Callable[[], Any], rounds: int = 5) -> float:
    """The least of some calls, after one that is not counted: what disturbs only adds."""
    jax.block_until_ready(run())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return min(times)


def temporary_bytes(function: Any, *arguments: Any) -> int:
    """What the compiled program needs beside its arguments and results."""
    return function.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def training(bert: jbert.Bert, accumulate: int = 1) -> tuple[TrainStep, State]:
    optimizer = Optimizer(OptimizerConfig(warmup_steps=0), 1000, 1)
    params = flatten(bert.params)
    step = TrainStep(TaskObjective(bert.module, bert.task), optimizer, accumulate)
    return step, State(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def classified(batch: int, length: int) -> dict[str, np.ndarray]:
    labels = np.arange(batch, dtype=np.int32) % 2
    return {"input_ids": ids(batch, length), "labels": labels,
            WEIGHTS: np.ones(batch, np.float32)}  # fmt: skip


def gathered(batch: int, length: int, places: int, vocab_size: int) -> dict[str, np.ndarray]:
    """Masked language modelling at `places` positions of each row."""
    tokens = ids(batch, length, vocab_size)
    at = np.tile(np.arange(places, dtype=np.int32), (batch, 1))
    targets = tokens[:, :places]
    return {"input_ids": tokens, "logits_at": at, "targets": targets, "labels": targets,
            WEIGHTS: np.ones(batch, np.float32)}  # fmt: skip
