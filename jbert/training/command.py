"""The command line of a training script: a configuration file, and fields to override."""

import difflib
import logging
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jbert.pipelines.compile_cache import enable_compile_cache
from jbert.training.config import RunConfig, RunError

logger = logging.getLogger("jbert")

NAME = "config"
CONFIGS = Path(__file__).parents[1] / "configs"


def main(
    kind: type[RunConfig], run: Callable[[Any], Any], prog: str, argv: list[str] | None = None
) -> int:
    """Parse, run, and say clearly what went wrong. `argv` is [CONFIG, --field value, …]."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    _talk()
    enable_compile_cache()
    try:
        config = parse(kind, prog, argv)
        print_figures(run(config))
        return 0
    except (ValueError, OSError, ImportError) as error:
        if debug:
            raise
        print(f"{prog}: {error}", file=sys.stderr)
        return 1


def parse(kind: type[RunConfig], prog: str, argv: list[str]) -> Any:
    """The configuration that a file and the overrides after it say."""
    import tyro

    default, text = kind(), kind.__doc__ or ""
    if argv and not argv[0].startswith("-"):
        default, text = load_config(argv.pop(0), kind)
    elif not {"-h", "--help"} & set(argv):
        raise RunError(
            f"expected a configuration file first: {prog} CONFIG [--field value …]; "
            f"those that come with jbert are {', '.join(known_configs())}"
        )
    return tyro.cli(
        type(default), default=default, args=argv, prog=f"{prog} CONFIG", description=text,
        use_underscores=True,
    )  # fmt: skip


def load_config(name: str, kind: type[RunConfig]) -> tuple[Any, str]:
    """The `config` that a Python file defines, and the file's docstring.

    name: a path, or the name of one of jbert's own.
    """
    path = Path(name).expanduser()
    if not path.is_file() and path.parent == Path():
        path = CONFIGS / f"{path.stem}.py"
    if not path.is_file():
        near = difflib.get_close_matches(Path(name).stem, known_configs(), n=1)
        hint = f"; nearest is {near[0]}" if near else ""
        raise RunError(
            f"{name}: no such file, and none of jbert's configurations "
            f"({', '.join(known_configs())}){hint}"
        )
    found = runpy.run_path(str(path))
    config = found.get(NAME)
    if not isinstance(config, kind):
        raise RunError(
            f"{path}: expected it to define {NAME} = {kind.__name__}(…), found "
            f"{type(config).__name__ if NAME in found else 'no such name'}"
        )
    return config, found.get("__doc__") or ""


def known_configs() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "__init__")


def print_figures(figures: Any) -> None:
    for split, values in (figures or {}).items():
        words = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"{split}: {words}")


def _talk() -> None:
    """jbert's messages on the standard error, and of the libraries below only warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("jbert").setLevel(logging.INFO)
