"""The `jbert` command."""

import dataclasses
import importlib
import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jbert.version import __version__

# Hugging Face's and jbert's own errors are all of these kinds, and written to be read.
_EXPECTED = (ValueError, OSError, ImportError)


@dataclasses.dataclass
class Convert:
    """Convert a model that jbert.load reads to Orbax, Hugging Face safetensors or StableHLO."""

    source: Annotated[str, tyro.conf.Positional]
    """A directory, a weight file, a short name or a hub id."""
    destination: Annotated[Path, tyro.conf.Positional]
    """The directory to write; it appears whole or not at all."""
    to: Literal["orbax", "safetensors", "stablehlo"] = "orbax"
    """orbax is what jbert.load reads fastest, safetensors what transformers reads."""
    task: str | None = None
    """The head to convert, such as masked_lm; by default that of the checkpoint."""
    dtype: str = "float32"
    """The dtype of the written parameters: float32, bfloat16 or float16."""
    revision: str | None = None
    """A branch, tag or commit of a model on the hub."""
    force: bool = False
    """Replace what the destination holds now."""

    def run(self) -> int:
        from jbert.convert.command import convert

        convert(
            self.source, self.destination, self.to, self.task, self.dtype, self.revision, self.force
        )
        return 0


@dataclasses.dataclass
class Info:
    """Say what a model is: architecture, task, parameters, memory, and a tree of its weights."""

    source: Annotated[str, tyro.conf.Positional]
    """A directory, a weight file, a short name or a hub id."""
    task: str | None = None
    """Also say what a model with this task would lack."""
    devices: tuple[int, ...] = (1, 8)
    """Numbers of devices to state the memory for, parameters sharded over them all (fsdp)."""
    depth: int = 2
    """How many levels of the tree of parameters to print."""
    revision: str | None = None
    """A branch, tag or commit of a model on the hub."""

    def run(self) -> int:
        from jbert.info import describe

        print(describe(self.source, self.task, self.devices, self.depth, self.revision))
        return 0


@dataclasses.dataclass
class Tour:
    """Build a small model of each architecture, run each once, and say what it did."""

    def run(self) -> int:
        from jbert.tour import tour

        tour()
        return 0


@dataclasses.dataclass
class Doctor:
    """Check versions, devices, caches and optional parts, a line for each, with the command that
    mends what is wrong. The exit status is 1 if anything is."""

    network: bool = False
    """Also ask the Hugging Face hub whether it answers."""

    def run(self) -> int:
        from jbert.doctor import doctor

        return doctor(self.network)


@dataclasses.dataclass
class Predict:
    """Answer texts with a model: one JSON line for each, {"line", "result"} or {"line", "error"}.

    The exit status is 3 if some rows had no answer; the others are answered all the same."""

    task: Annotated[str, tyro.conf.Positional]
    """fill-mask, text-classification, token-classification, question-answering, …"""
    model: str
    """A directory, a short name or a hub id."""
    texts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """What to answer, unless there is a file."""
    file: Path | None = None
    """Rows to answer: JSON lines, CSV with a header, or a text a line."""
    format: Literal["jsonl", "csv", "txt"] | None = None
    """Of the file; by default what its name ends in."""
    out: Path | None = None
    """Where to write, instead of the standard output."""
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Of the pipeline or of jbert.load, as name=value, such as top_k=3; once for each option."""
    force: bool = False
    """Replace the file to write if there is one."""

    def run(self) -> int:
        from jbert.predict import parse_options, predict

        return predict(
            self.task, self.model, self.texts, self.file, self.format, self.out,
            parse_options(self.option), self.force,
        )  # fmt: skip


@dataclasses.dataclass
class Plan:
    """Say what a training step or a forward pass takes on a TPU, without one.

    The TPU's own compiler compiles it, which takes minutes; what it said is kept. Needs the extra
    tpu-plan."""

    what: Annotated[str, tyro.conf.Positional]
    """A recipe (bert_squad2, or a file), a model's short name, or a config.json."""
    topology: str = "v5e:2x4"
    """The slice of a TPU: v5e:1x1, v5p:2x2x1, v6e:4x4, …; another name lists them all."""
    task: str | None = None
    """Of a model: masked_lm by default, and encoder for inference."""
    teacher: str | None = None
    """Of a recipe whose teacher is not there yet: a model of its size."""
    batch_size: int | None = None
    """Rows in a step, over all devices; a recipe's own, or 32 a device."""
    length: int | None = None
    """Tokens in a row; a recipe's own, or 512."""
    predictions: int | None = None
    """Positions a row that a masked language model predicts; 0 is all. A model's are 15 %."""
    accumulate: int | None = None
    """Micro-batches in a step."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of activations and products; a recipe's own, or bfloat16."""
    remat: Literal["none", "full", "dots", "dots_no_batch"] | None = None
    """What the backward pass computes again."""
    attention: Literal["auto", "xla", "splash", "fused"] | None = None
    """Which implementation."""
    data: int | None = None
    """Devices over which rows are split; by default all that the others leave."""
    fsdp: int | None = None
    """Devices over which rows, parameters and optimizer state are split."""
    tensor: int | None = None
    """Devices over which heads and hidden layers are split."""
    zero: bool | None = None
    """Also split the optimizer state over `data`."""
    inference: bool = False
    """A forward pass instead of a training step."""
    unrolled: bool = False
    """Compile every layer by itself: it takes many times as long, and says more."""
    steps: int = 1000
    """Steps to state time and chip-hours for."""
    search: bool = False
    """Look for the mesh and the rematerialisation that fit and are fastest."""
    compiles: int = 4
    """How many of them a search compiles, the most promising first."""
    cache: bool = True
    """Keep what the compiler said, and ask it nothing twice."""

    def run(self) -> int:
        from jbert.plan.command import Request, plan
        from jbert.plan.wish import Wish

        names = {field.name for field in dataclasses.fields(Wish)}
        wish = Wish(**{name: getattr(self, name) for name in names})
        print(plan(Request(
            self.what, self.topology, wish, self.steps, self.search, self.compiles, self.cache
        )))  # fmt: skip
        return 0


Command = (
    Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Tour, tyro.conf.subcommand("tour")]
)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--version"]:
        print(f"jbert {__version__}")
        return 0
    if argv[:1] and argv[0] in TRAINING:
        return _train(argv[0], argv[1:])
    if argv[:1] and argv[0].startswith("--tyro-"):
        from jbert.completion import complete

        return complete(argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    command = tyro.cli(Command, prog="jbert", args=argv, description=_DESCRIPTION)  # pyright: ignore
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Orbax reports every file it touches, and JAX every kind of device that is not there.
    for talker in ("absl", "jax"):
        logging.getLogger(talker).setLevel(logging.WARNING)
    try:
        return command.run()
    except _EXPECTED as error:
        if debug:
            raise
        from jbert.guides import guide_of

        guide = guide_of(type(command).__name__.lower(), error)
        print(f"jbert: {error}\nguide: {guide}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jbert: interrupted", file=sys.stderr)
        return 130


# The commands of train/, for those who have no checkout. They read a configuration file first, and
# then its fields, so they parse their arguments themselves. Each is the name of a function in a
# module of that name, with a configuration and perhaps something to explain beside it.
TRAINING = {
    "finetune": "FinetuneConfig", "pretrain": "PretrainConfig", "distill": "DistillConfig",
}  # fmt: skip


def _train(name: str, argv: list[str]) -> int:
    from jbert.training.command import main as train

    module = importlib.import_module(f"jbert.training.{name}")
    kind, run = getattr(module, TRAINING[name]), getattr(module, name)
    explain = getattr(module, "explain_settings", lambda config: "")
    return train(kind, run, f"jbert {name}", argv, explain)


_DESCRIPTION = """The BERT family in JAX and Flax.

`jbert finetune CONFIG`, `jbert pretrain CONFIG` and `jbert distill CONFIG` train; see
`jbert finetune --help`.
`jbert --version` prints the version; `--debug` shows the traceback of an error;
`jbert --tyro-print-completion bash` (or zsh, tcsh) prints a completion script for the shell."""

if __name__ == "__main__":
    sys.exit(main())
