"""A small student with and without its teacher, on three books: what distillation is worth.

    python benchmarks/distill_small.py TEXT --out /tmp/distill           # all; go on after a stop
    python benchmarks/distill_small.py TEXT --out /tmp/distill --smoke   # the same in three steps
    python benchmarks/distill_small.py --memory                          # what a teacher takes

TEXT is a directory of text files: here pg1342-pride-and-prejudice.txt, pg1661-sherlock-holmes.txt
and tinyshakespeare.txt. A BERT of four layers is pretrained on them with a vocabulary of its own;
then DistilBERTs of two layers learn for the same number of steps from the text alone or beside it,
from random weights or from two of its layers, three seeds each. Printed are the lines of the table
in docs/distillation.md: perplexity on held-out text, mean ± standard deviation.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jbert.data.batches import WEIGHTS
from jbert.data.splits import VALIDATION
from jbert.execution import Execution
from jbert.loaded import abstract_params, build_module
from jbert.models import presets
from jbert.pipelines.compile_cache import enable_compile_cache
from jbert.training.config import CheckpointConfig, LoggingConfig, OptimizerConfig
from jbert.training.directory import FIGURES
from jbert.training.distill import CorpusDistillConfig, distill
from jbert.training.distill.config import InitialConfig, TeacherConfig, TransferConfig
from jbert.training.distill.layers import pair_layers
from jbert.training.distill.objective import TEACHER, DistillObjective
from jbert.training.optimizer import Optimizer
from jbert.training.pretrain import pretrain
from jbert.training.pretrain.config import CorpusConfig, PretrainConfig
from jbert.training.start import StartConfig
from jbert.training.step import State, TaskObjective, TrainStep
from jbert.trees import flatten

SEEDS = (0, 1, 2)
TEACHER_STEPS, STEPS = 2000, 400
# Paragraphs that go together as one document.
DOCUMENT = 16
SIZES = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512}
STUDENT = {"n_layers": 2, "dim": 128, "n_heads": 2, "hidden_dim": 512,
           "dropout": 0.0, "attention_dropout": 0.0}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
VOCABULARY = 2000
# Soft targets, labels and hidden states as DistilBERT's authors weighed them.
PUBLISHED = TransferConfig(soft=5.0, task=2.0, cosine=1.0)
ALONE = "text alone"
ARMS = {ALONE: TransferConfig(task=1.0, soft=0.0), "DistilBERT's three losses": PUBLISHED}
STARTS: dict[str, Any] = {"random weights": "nothing", "two of its teacher's layers": "layers"}


def write_corpus(text: Path, out: Path) -> str:
    """A paragraph a line, and a blank line after every few of them."""
    path = out / "corpus.txt"
    if not path.exists():
        lines = []
        for file in sorted(text.glob("*.txt")):
            paragraphs = file.read_text("utf-8").split("\n\n")
            kept = [" ".join(paragraph.split()) for paragraph in paragraphs]
            kept = [paragraph for paragraph in kept if paragraph]
            for first in range(0, len(kept), DOCUMENT):
                lines += [*kept[first : first + DOCUMENT], ""]
        out.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines), "utf-8")
    return str(path)


def common(corpus: str, steps: int) -> dict:
    return {
        "data": CorpusConfig(train_files=(corpus,), validation_share=0.05),
        "max_length": 64,
        "batch_size": 32,
        "steps": steps,
        "optimizer": OptimizerConfig(learning_rate=2e-3, warmup_steps=0.1, beta2=0.98),
        "checkpoints": CheckpointConfig(steps=500, keep=1, best=False),
        "logging": LoggingConfig(steps=100, progress=False),
        "resume": True,
    }


def teacher(corpus: str, out: Path, steps: int) -> PretrainConfig:
    overrides = {"num_hidden_layers": 4, "max_position_embeddings": 64, **SIZES, **NO_DROPOUT}
    return PretrainConfig(
        **common(corpus, steps), model="bert-tiny", output_dir=str(out / "teacher"),
        start=StartConfig(scratch=True, vocab_size=VOCABULARY, overrides=overrides),
    )  # fmt: skip


def student(
    corpus: str, out: Path, arm: str, start: str, seed: int, steps: int
) -> CorpusDistillConfig:
    """Who learns from the text alone has a teacher that nobody asks: the batches are the same."""
    name = f"{list(ARMS).index(arm)}-{STARTS[start]}-{seed}"
    return CorpusDistillConfig(
        **common(corpus, steps), model="distilbert-base-uncased", seed=seed,
        output_dir=str(out / name),
        start=StartConfig(scratch=True, overrides={**STUDENT, "max_position_embeddings": 64}),
        teacher=TeacherConfig(model=str(out / "teacher")),
        initial=InitialConfig(take=STARTS[start]),
        transfer=ARMS[arm],
    )  # fmt: skip


def perplexity(run: Callable[[Any], Any], config: PretrainConfig) -> float:
    """Of a run that is over, or from its end."""
    path = Path(config.output_dir) / FIGURES
    if not path.exists():
        run(config)
    return json.loads(path.read_text())[VALIDATION]["perplexity"]


# -- what a teacher takes ---------------------------------------------------------------------

ROWS, LENGTH, MASKED = 32, 128, 20
MEMORY = {
    "no teacher": None,
    "soft targets at the masked tokens": TransferConfig(),
    "DistilBERT's three losses": PUBLISHED,
    "the same at all positions, in chunks": dataclasses.replace(PUBLISHED, positions="all"),
    "hidden states and attention of every layer": TransferConfig(soft=0, hidden=1, attention=1),
}


def memory(transfer: TransferConfig | None) -> tuple[int, int]:
    """Bytes of a compiled step of DistilBERT base beside BERT base: temporary, and of arguments."""
    student, teacher = (
        build_module(presets()[name].config, "masked_lm", Execution(scan_layers=True))
        for name in ("distilbert-base-uncased", "bert-base-uncased")
    )
    params: dict[str, Any] = flatten(abstract_params(student))
    optimizer = Optimizer(OptimizerConfig(), 100, 6)
    task, fixed = TaskObjective(student, "masked_lm"), None
    objective: Any = task
    if transfer is not None:
        objective = DistillObjective(task, teacher, transfer, pair_layers("uniform", 6, 12))
        fixed = {TEACHER + path: x for path, x in flatten(abstract_params(teacher)).items()}
    step = jax.ShapeDtypeStruct((), jnp.int32)
    state = State(step, params, jax.eval_shape(optimizer.init, params), None, fixed)
    shapes = {"input_ids": LENGTH, "attention_mask": LENGTH, "labels": MASKED, "logits_at": MASKED}
    batch = {
        name: jax.ShapeDtypeStruct((ROWS, width), jnp.int32) for name, width in shapes.items()
    } | {WEIGHTS: jax.ShapeDtypeStruct((ROWS,), jnp.float32)}
    program = jax.jit(TrainStep(objective, optimizer), donate_argnums=0).lower(state, batch)
    found: Any = program.compile().memory_analysis()
    return found.temp_size_in_bytes, found.argument_size_in_bytes


def print_memory() -> None:
    print("| loss | temporary | parameters, moments and batch |\n|---|---|---|", flush=True)
    for name, transfer in MEMORY.items():
        temporary, arguments = (size / 2**20 for size in memory(transfer))
        print(f"| {name} | {temporary:.0f} MB | {arguments:.0f} MB |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--smoke", action="store_true", help="three steps of everything")
    parser.add_argument("--memory", action="store_true", help="what a teacher takes; no TEXT")
    args = parser.parse_args()
    if args.memory:
        return print_memory()
    if args.text is None or args.out is None:
        parser.error("expected TEXT and --out DIR, or --memory")
    enable_compile_cache()
    corpus = write_corpus(args.text, args.out)
    steps = (3, 3) if args.smoke else (TEACHER_STEPS, STEPS)
    found = perplexity(pretrain, teacher(corpus, args.out, steps[0]))
    print(f"teacher: perplexity {found:.1f}", flush=True)
    print(
        "| learns from | starts from | perplexity | seed by seed |\n|---|---|---|---|", flush=True
    )
    for start in STARTS:
        for arm in ARMS:
            each = [
                perplexity(distill, student(corpus, args.out, arm, start, seed, steps[1]))
                for seed in SEEDS
            ]
            mean, spread = statistics.fmean(each), statistics.stdev(each)
            seeds = ", ".join(f"{one:.1f}" for one in each)
            print(f"| {arm} | {start} | {mean:.1f} ± {spread:.1f} | {seeds} |", flush=True)


if __name__ == "__main__":
    main()
