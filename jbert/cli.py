"""The `jbert` command."""

import dataclasses
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


Command = (
    Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Info, tyro.conf.subcommand("info")]
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
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    command = tyro.cli(Command, prog="jbert", args=argv, description=_DESCRIPTION)  # pyright: ignore
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Orbax reports every file it touches.
    logging.getLogger("absl").setLevel(logging.WARNING)
    try:
        return command.run()
    except _EXPECTED as error:
        if debug:
            raise
        print(f"jbert: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jbert: interrupted", file=sys.stderr)
        return 130


# The commands of train/, for those who have no checkout. They read a configuration file first, and
# then its fields, so they parse their arguments themselves.
TRAINING = ("finetune",)


def _train(name: str, argv: list[str]) -> int:
    from jbert.training.command import main as train
    from jbert.training.finetune import FinetuneConfig, explain_settings, finetune

    kinds = {"finetune": (FinetuneConfig, finetune, explain_settings)}
    kind, run, explain = kinds[name]
    return train(kind, run, f"jbert {name}", argv, explain)


_DESCRIPTION = """The BERT family in JAX and Flax.

`jbert finetune CONFIG` trains; see `jbert finetune --help`.
`jbert --version` prints the version; `--debug` shows the traceback of an error."""

if __name__ == "__main__":
    sys.exit(main())
