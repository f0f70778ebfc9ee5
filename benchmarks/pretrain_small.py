"""Small models pretrained from nothing on a few books: what docs/pretraining.md measures.

    python benchmarks/pretrain_small.py TEXTS --out /tmp/small                  # everything; hours
    python benchmarks/pretrain_small.py TEXTS --out /tmp/small --only learn     # every objective
    python benchmarks/pretrain_small.py TEXTS --out /tmp/small --only packing   # seconds to a loss
    python benchmarks/pretrain_small.py TEXTS --out /tmp/small --only memory vocabulary

TEXTS is a directory of plain text files, whose paragraphs are separated by blank lines. What was
interrupted goes on when it is asked for again, and what has ended is only printed.

learn:    each architecture on each objective that it has, evaluated ten times.
packing:  paragraphs as documents, so that about half of unpacked rows is padding. An update has as
          many sequences either way. Seconds are updates until a loss is reached, times the
          seconds of an update, which are measured in turns.
memory:   the temporary memory of a compiled training step, and its time, in turns again.
vocabulary: what a larger vocabulary adds to the memory.
"""

import argparse
import dataclasses
import itertools
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jbert.execution import Execution
from jbert.loaded import abstract_params, build_module
from jbert.models.bert import BertConfig
from jbert.training.config import CheckpointConfig, EvaluationConfig, LoggingConfig, OptimizerConfig
from jbert.training.optimizer import Optimizer
from jbert.training.pretrain import (
    CorpusConfig,
    GeneratorConfig,
    PackingConfig,
    PretrainConfig,
    Pretraining,
    pretrain,
)
from jbert.training.pretrain.objective import MaskedTokens
from jbert.training.start import StartConfig
from jbert.training.state import new_state
from jbert.training.step import EvalStep, State, TrainStep
from jbert.trees import flatten

WIDTH, VOCABULARY, BERTS, ROUNDS = 128, 4000, 30_522, 5
# Without dropout: so little training does not fit so much text too well.
PLAIN = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 4 * WIDTH, "max_position_embeddings": 128,
         "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "bert": PLAIN,
    "distilbert": {"dim": WIDTH, "n_layers": 2, "n_heads": 2, "hidden_dim": 4 * WIDTH,
                   "max_position_embeddings": 128, "dropout": 0.0, "attention_dropout": 0.0},
    "mobilebert": PLAIN | {"num_hidden_layers": 4, "num_attention_heads": 4, "embedding_size": 64,
                           "intra_bottleneck_size": 64, "intermediate_size": 256},
    "convbert": PLAIN | {"num_attention_heads": 4, "embedding_size": WIDTH},
}  # fmt: skip
TASKS = {
    "masked_lm": tuple(MODELS),
    "pretraining": ("bert", "mobilebert"),
    "replaced_token_detection": tuple(MODELS),
}


# -- the text ------------------------------------------------------------------------------------


def write_corpus(texts: Path, target: Path, paragraphs: int) -> str:
    """A sentence a line, and a document of so many paragraphs."""
    if not target.exists():
        documents = []
        for path in sorted(texts.glob("*.txt")):
            parts = [" ".join(part.split()) for part in path.read_text("utf-8").split("\n\n")]
            parts = [re.sub(r"(?<=[.!?]) ", "\n", part) for part in parts if part]
            documents += ["\n".join(parts[i : i + paragraphs])
                          for i in range(0, len(parts), paragraphs)]  # fmt: skip
        target.write_text("\n\n".join(documents) + "\n", "utf-8")
    return str(target)


def configuration(arguments: Any, name: str, arch: str, **changes: Any) -> PretrainConfig:
    out = arguments.out
    model = out / f"{arch}.json"
    fields = {"model_type": arch, "pad_token_id": 0} | MODELS[arch]
    model.write_text(json.dumps(fields), "utf-8")
    options: dict[str, Any] = {
        "output_dir": str(out / name), "model": str(model), "max_length": 64, "batch_size": 32,
        "data": CorpusConfig(
            train_files=(write_corpus(arguments.texts, out / "corpus.txt", 8),),
            validation_share=0.05, cache_dir=str(out / "tokens"),
        ),
        "start": StartConfig(scratch=True, vocab_size=VOCABULARY),
        "steps": arguments.steps, "optimizer": OptimizerConfig(learning_rate=1e-3),
        "evaluation": EvaluationConfig(steps=max(arguments.steps // 10, 1)),
        "checkpoints": CheckpointConfig(steps=100, keep=1, best=False),
        "logging": LoggingConfig(steps=20),
    }  # fmt: skip
    return PretrainConfig(**options | changes)


def evaluations(config: PretrainConfig) -> list[dict[str, Any]]:
    """What the run's evaluations found; the run is done first, or gone on with, if it has to be."""
    directory = Path(config.output_dir)
    if not (directory / "figures.json").exists():
        pretrain(dataclasses.replace(config, resume=directory.exists()))
    lines = map(json.loads, (directory / "metrics.jsonl").read_text("utf-8").splitlines())
    return [line for line in lines if line["split"] == "validation"]


# -- learning ------------------------------------------------------------------------------------


def learn(arguments: Any) -> None:
    print("\n| objective | model | perplexity in the course of the run | other figures |")
    print("|---|---|---|---|")
    for task, models in TASKS.items():
        for arch in models:
            found = evaluations(configuration(
                arguments, f"{task}-{arch}", arch, task=task, **generator_of(task)
            ))  # fmt: skip
            curve = ", ".join(f"{line['perplexity']:.0f}" for line in found)
            names = ("nsp_accuracy", "accuracy", "precision", "recall", "replaced")
            first, last = found[0], found[-1]
            rest = ", ".join(f"{name.replace('_', ' ')} {first[name]:.3f} → {last[name]:.3f}"
                             for name in names if name in last)  # fmt: skip
            print(f"| {task} | {arch} | {curve} | {rest} |", flush=True)


def generator_of(task: str) -> dict[str, Any]:
    """Half as wide as these small models: MobileBERT's is no narrower than its embeddings."""
    return {"generator": GeneratorConfig(width=0.5)} if task == "replaced_token_detection" else {}


# -- packing -------------------------------------------------------------------------------------


def packing(arguments: Any) -> None:
    """Half as many rows of twice as much text."""
    corpus = CorpusConfig(
        train_files=(write_corpus(arguments.texts, arguments.out / "paragraphs.txt", 1),),
        validation_share=0.05, cache_dir=str(arguments.out / "tokens"),
    )  # fmt: skip
    often = EvaluationConfig(steps=max(arguments.steps // 40, 1))
    common = {"data": corpus, "max_length": arguments.length, "evaluation": often}
    packed = configuration(arguments, "packed", "bert", batch_size=32, **common)
    rows = Pretraining(dataclasses.replace(packed, output_dir=str(arguments.out / "measured")))
    source = rows.trainer.order.source_at(0).source  # pyright: ignore
    filled = float((source.sizes + 2).mean()) / arguments.length
    each = len(source.sizes) / len(source)
    alone = configuration(
        arguments, "unpacked", "bert", batch_size=round(32 * each),
        packing=PackingConfig(enabled=False), **common,
    )  # fmt: skip
    curves = {name: evaluations(config) for name, config in (("packed", packed), ("alone", alone))}
    slower = max(curves.values(), key=lambda curve: curve[-1]["loss"])
    targets = [line["loss"] for line in slower[len(slower) // 2 :]]
    seconds = in_turns({"packed": Stepper(packed, arguments), "alone": Stepper(alone, arguments)})
    print(f"\n{filled:.0%} of an unpacked row is text; {each:.2f} sequences in a packed one")
    print("\n| rows | rows in an update | s an update | updates to a loss of "
          f"{targets[-1]:.3f} | s in all |\n|---|---|---|---|---|")  # fmt: skip
    for name, config in (("packed", packed), ("alone", alone)):
        steps = updates_to(targets[-1], curves[name])
        print(f"| {name} | {config.batch_size} | {seconds[name]:.3f} | {steps:.0f} | "
              f"{steps * seconds[name]:.0f} |")  # fmt: skip
    ratios = sorted(
        updates_to(loss, curves["alone"]) * seconds["alone"]
        / (updates_to(loss, curves["packed"]) * seconds["packed"]) for loss in targets
    )  # fmt: skip
    print(f"\n{statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
          f"to each of the {len(ratios)} losses of the second half")  # fmt: skip


def updates_to(loss: float, curve: list[dict[str, Any]]) -> float:
    """When a run first had no larger a loss, on the line between two evaluations."""
    for before, after in itertools.pairwise(curve):
        if after["loss"] <= loss:
            share = (before["loss"] - loss) / max(before["loss"] - after["loss"], 1e-9)
            return before["step"] + max(share, 0.0) * (after["step"] - before["step"])
    raise ValueError(f"no evaluation has a loss of {loss}")


# -- the price of a step ---------------------------------------------------------------------------


class Stepper:
    """A run's training step, again and again on its first batch."""

    def __init__(self, config: PretrainConfig, arguments: Any):
        place = str(arguments.out / "measured")
        trainer = Pretraining(dataclasses.replace(config, output_dir=place)).trainer
        step = TrainStep(trainer.objective, trainer.optimizer)
        self.program = trainer.parallel.train(step)
        params = flatten(trainer.bert.params)
        self.state = new_state(params, trainer.optimizer, trainer.parallel)
        self.batch = trainer._batch(0)
        self()

    def __call__(self) -> None:
        self.state, figures = self.program(self.state, self.batch)
        jax.block_until_ready(figures)


def in_turns(runs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """The median seconds of each, one after the other in every round."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in found.items()}


def memory(arguments: Any) -> None:
    paragraphs = CorpusConfig(
        train_files=(write_corpus(arguments.texts, arguments.out / "paragraphs.txt", 1),),
        validation_share=0.05, cache_dir=str(arguments.out / "tokens"),
    )  # fmt: skip
    # As many embeddings as BERT has, so that its head has the share of the work that it has there.
    start = StartConfig(scratch=True, vocab_size=VOCABULARY, overrides={"vocab_size": BERTS})
    whole = configuration(
        arguments, "price", "bert", data=paragraphs, max_length=arguments.length, batch_size=16,
        start=start,
    )  # fmt: skip
    off = PackingConfig(enabled=False)
    ways = {
        "all of them": whole,
        "without packing": dataclasses.replace(whole, packing=off, batch_size=32),
        "without gathering": dataclasses.replace(whole, gather=False),
        "without the chunked loss": dataclasses.replace(whole, chunked_loss=False),
        "without both": dataclasses.replace(whole, gather=False, chunked_loss=False),
        "with remat full": dataclasses.replace(whole, execution=Execution(remat="full")),
    }
    steppers = {name: Stepper(config, arguments) for name, config in ways.items()}
    seconds = in_turns(dict(steppers))
    print("\n| step | seconds | temporary memory, MB |\n|---|---|---|")
    for name, stepper in steppers.items():
        size = stepper.program.temporary_bytes() / 1e6
        print(f"| {name} | {seconds[name]:.3f} | {size:.0f} |")


def vocabulary(arguments: Any) -> None:
    """Of steps that are compiled and never run: 32 rows of 128 tokens, 20 of them to predict."""
    print("\n| vocabulary | loss | its table, MB | training step, MB | evaluation, MB |")
    print("|---|---|---|---|---|")
    rows, length, predictions = 32, 128, 20
    shapes = dict.fromkeys(("input_ids", "segment_ids"), (rows, length))
    shapes |= dict.fromkeys(("logits_at", "labels"), (rows, predictions))
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
    batch["weights"] = jax.ShapeDtypeStruct((rows,), jnp.float32)
    optimizer = Optimizer(OptimizerConfig(), 100, PLAIN["num_hidden_layers"])
    for size in (BERTS, 250_002):
        config = BertConfig(vocab_size=size, **PLAIN)
        module = build_module(config, "masked_lm", Execution())
        params = flatten(abstract_params(module))
        moments = jax.eval_shape(optimizer.init, params)
        state = State(jax.ShapeDtypeStruct((), jnp.int32), params, moments)
        for chunked in (True, False):
            objective = MaskedTokens(module, "masked_lm", chunked)
            train = jax.jit(TrainStep(objective, optimizer), donate_argnums=0).lower(state, batch)
            evaluation = jax.jit(EvalStep(objective, lambda *_: {})).lower(params, batch)
            found = [temporary(program) for program in (train, evaluation)]
            kind, table = "chunked" if chunked else "of all logits", size * WIDTH * 4 / 1e6
            print(f"| {size} | {kind} | {table:.0f} | {found[0]:.0f} | {found[1]:.0f} |")


def temporary(lowered: Any) -> float:
    """Megabytes that a program needs besides its arguments."""
    return lowered.compile().memory_analysis().temp_size_in_bytes / 1e6


PARTS = {"learn": learn, "packing": packing, "memory": memory, "vocabulary": vocabulary}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("texts", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--length", type=int, default=64, help="of rows of paragraphs")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        PARTS[name](arguments)


if __name__ == "__main__":
    main()
