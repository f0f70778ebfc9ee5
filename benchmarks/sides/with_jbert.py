"""jbert as its users call it: `bert(**inputs)`, the pipelines' runner, and the training step."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jbert
from benchmarks import workloads
from benchmarks.workloads import Workload
from jbert.data.batches import WEIGHTS
from jbert.data.packing import build_rows, pack
from jbert.losses import IGNORE, Term
from jbert.models import config_from_dict
from jbert.pipelines.buckets import make_buckets
from jbert.pipelines.runner import Runner
from jbert.training.config import OptimizerConfig
from jbert.training.freed_memory import keep_freed_memory
from jbert.training.optimizer import Optimizer
from jbert.training.step import State, TaskObjective, TrainStep
from jbert.trees import flatten, unflatten

TEMPERATURE = 2.0
TEACHER = "teacher/"


class JbertSide:
    def versions(self) -> dict[str, str]:
        return {"jbert": jbert.__version__, "jax": jax.__version__}

    def device(self) -> str:
        return f"{jax.default_backend()}: {jax.devices()[0].device_kind}"

    def peak_bytes(self) -> int | None:
        stats = jax.devices()[0].memory_stats()
        return None if stats is None else stats.get("peak_bytes_in_use")

    def build(self, work: Workload) -> Any:
        kinds = {"encode": Encode, "ragged": Ragged, "distill": Distill}
        if work.kind not in ("encode", "ragged"):
            keep_freed_memory()  # as the commands that train do
        return kinds.get(work.kind, Train)(work)


def model(work: Workload, task: str | None, name: str | None = None) -> jbert.Bert:
    kind = workloads.MODELS[name or work.model][0]
    config = config_from_dict({"model_type": kind, **work.config(name)})
    return jbert.from_config(config, task, dtype=work.dtype, **work.options)


def forward_flops(bert: jbert.Bert, work: Workload) -> float:
    """Of a batch: two for each weight of a matrix product and each token, and attention's own two
    products. What a masked-LM head does is left out."""
    config = bert.config
    weights = sum(x.size for path, x in flatten(bert.params).items() if path.endswith("kernel"))
    inside = config.num_hidden_layers * config.attention_heads * config.head_dim
    return work.batch * work.length * (2.0 * weights + 4.0 * inside * work.length)


class Encode:
    def __init__(self, work: Workload):
        bert = model(work, None)
        self.flops = forward_flops(bert, work)
        # Peers are built without their poolers.
        self.bert = jbert.Bert(bert.config, bert.module.clone(pooler=False), bert.params)
        self.ring = [
            {name: batch[name] for name in ("input_ids", "attention_mask")}
            for batch in workloads.ring(work)
        ]
        self.units = float(work.batch)

    def start(self, number: int) -> Any:
        return self.bert(**self.ring[number % len(self.ring)]).last_hidden_state

    def wait(self, started: Any) -> None:
        jax.block_until_ready(started)


class Ragged:
    """The pipelines' own way from the tokens of many texts to a row of logits for each."""

    def __init__(self, work: Workload):
        bert = model(work, "sequence_classification")

        def program(module, params, inputs, extra):
            return {"logits": module.apply({"params": params}, **inputs).logits}

        self.runner = Runner(bert, program, make_buckets(work.length), "benchmark")
        self.tokens = workloads.padded(workloads.texts(work), work.length)
        self.units = float(work.batch)

    def start(self, number: int) -> Any:
        return self.runner.run({k: np.roll(v, number, axis=0) for k, v in self.tokens.items()})

    def wait(self, started: Any) -> None:
        pass  # the runner's results are on the host


class Train:
    """The step of `jbert.training`, its state donated, dropout on."""

    def __init__(self, work: Workload):
        task = "sequence_classification" if work.kind == "classify" else "masked_lm"
        bert = model(work, task)
        self.batches, self.units = _batches(work)
        # A backward pass is twice a forward pass.
        self.flops = 3 * forward_flops(bert, work) if work.kind == "classify" else None
        self.setup(flatten(bert.params), TaskObjective(bert.module, bert.task))

    def setup(self, params: dict[str, Any], objective: Any) -> None:
        config = OptimizerConfig(warmup_steps=0, freeze=(TEACHER + "*",))
        optimizer = Optimizer(config, total_steps=100_000, num_layers=1)
        self.state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params))
        step = TrainStep(objective, optimizer)
        self.step = jax.jit(step, donate_argnums=0)

    def start(self, number: int) -> Any:
        self.state, figures = self.step(self.state, self.batches[number % len(self.batches)])
        return figures

    def wait(self, started: Any) -> None:
        jax.block_until_ready((started, self.state))


def _batches(work: Workload) -> tuple[list[dict[str, np.ndarray]], float]:
    """Batches for a step, and how much work each is: of ragged documents, the tokens."""
    if work.lengths is None:
        batches, units = workloads.ring(work), float(work.batch)
    else:
        batches = [_packed(work, number) for number in range(workloads.RING)]
        units = float(np.mean([np.count_nonzero(b["segment_ids"]) for b in batches]))
    weights = {WEIGHTS: np.ones(work.batch, np.float32)}
    if work.kind == "mlm":
        most = round(workloads.MASKED * work.length)
        batches = [_gathered(batch, most) for batch in batches]
    return [batch | weights for batch in batches], units


def _packed(work: Workload, number: int) -> dict[str, np.ndarray]:
    """As many rows as a peer has, full of documents instead of padding."""
    many = itertools.islice(workloads.documents(work), 8 * number, 8 * number + 8)
    rows = [row for batch in many for row in batch]
    lengths = np.array([len(row) for row in rows])
    packing = pack(lengths, work.length, seed=number)
    chosen, place = packing.select(np.arange(work.batch))
    ids = {"input_ids": workloads.padded(rows, work.length)["input_ids"][chosen]}
    batch = build_rows(ids, lengths[chosen], place, (work.batch, work.length))
    return workloads.with_labels(batch, number)


def _gathered(batch: dict[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """With the positions to predict instead of labels everywhere: at most so many a row."""
    labels = batch["labels"]
    at = (labels == IGNORE).argsort(axis=1, kind="stable")[:, :most].astype(np.int32)
    targets = np.take_along_axis(labels, at, axis=1)
    return {**batch, "logits_at": at, "targets": targets, "labels": targets}


class Distill(Train):
    """The student learns its teacher's distribution over the vocabulary, at every position."""

    def __init__(self, work: Workload):
        student, teacher = model(work, "masked_lm"), model(work, "masked_lm", work.teacher)
        self.batches, self.units = _batches(work)
        frozen = {TEACHER + path: leaf for path, leaf in flatten(teacher.params).items()}
        self.setup(
            flatten(student.params) | frozen,
            functools.partial(_distilled, student.module, teacher.module),
        )


def _distilled(student, teacher, params, batch, key) -> list[Term]:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    of_teacher = {p.removeprefix(TEACHER): x for p, x in params.items() if p.startswith(TEACHER)}
    of_student = {path: x for path, x in params.items() if not path.startswith(TEACHER)}
    variables = {"params": unflatten(of_student)}
    own = student.apply(variables, **inputs, deterministic=False, rngs={"dropout": key}).logits
    other = teacher.apply({"params": unflatten(of_teacher)}, **inputs).logits
    own, other = (jax.nn.log_softmax(x.astype(jnp.float32) / TEMPERATURE) for x in (own, other))
    losses = jnp.sum(jnp.exp(other) * (other - own), axis=-1)
    return [Term(jnp.sum(losses), jnp.asarray(losses.size, jnp.float32))]
