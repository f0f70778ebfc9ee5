"""The completion scripts of `jbert` for shells, as tyro writes them."""

import contextlib
import importlib
import io
from typing import Annotated, Any, Union

import tyro

from jbert.cli import TRAINING, Command


def complete(argv: list[str]) -> int:
    """Does what tyro's own options say: --tyro-print-completion SHELL, or to write it to a file."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            # The training commands spell their options with underscores, and jbert takes both.
            tyro.cli(everything(), prog="jbert", args=argv, use_underscores=True)
    finally:
        # Where bash is offered nothing, for words without an option, it offers files.
        print(said.getvalue().replace("\ncomplete -F ", "\ncomplete -o default -F "), end="")
    return 0


def everything() -> Any:
    """All commands. Those that train read their words without the parser of `jbert`, as they read a
    configuration file first, so that it does not know their options otherwise."""
    training = (_command(name, kind) for name, kind in TRAINING.items())
    return Union[Command, *training]  # noqa: UP007


def _command(name: str, kind: str) -> Any:
    settings = getattr(importlib.import_module(f"jbert.training.{name}"), kind)
    return Annotated[settings, tyro.conf.subcommand(name, default=settings())]
