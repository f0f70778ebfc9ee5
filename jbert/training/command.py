"""The command line of a training script: a configuration file, and fields to override."""

import dataclasses
import difflib
import logging
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jbert.pipelines.compile_cache import enable_compile_cache
from jbert.training.config import RunConfig, RunError
from jbert.training.freed_memory import keep_freed_memory

logger = logging.getLogger("jbert")

NAME = "config"
CONFIGS = Path(__file__).parents[1] / "configs"


def main(
    kind: type[RunConfig],
    run: Callable[[Any], Any],
    prog: str,
    argv: list[str] | None = None,
    explain: Callable[[Any], str] = lambda config: "",
) -> int:
    """Parse, run, and say clearly what went wrong. `argv` is [CONFIG, --field value, …].

    explain: what --help says of a configuration besides its fields.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    _talk()
    enable_compile_cache()
    keep_freed_memory()
    try:
        config = parse(kind, prog, argv, explain)
        print_figures(run(config))
        return 0
    except (ValueError, OSError, ImportError) as error:
        if debug:
            raise
        from jbert.guides import guide_of

        guide = guide_of(kind.__name__.removesuffix("Config").lower(), error)
        print(f"{prog}: {error}\nguide: {guide}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; --resume goes on from the last checkpoint", file=sys.stderr)
        return 130


def parse(
    kind: type[RunConfig],
    prog: str,
    argv: list[str],
    explain: Callable[[Any], str] = lambda config: "",
) -> Any:
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
    default, argv = _take_entries(default, argv)
    return tyro.cli(
        type(default), default=default, args=argv, prog=f"{prog} CONFIG",
        description=f"{text.strip()}\n\n{explain(default)}".strip(), use_underscores=True,
    )  # fmt: skip


# -- entries of dicts ---------------------------------------------------------------------------
# tyro takes "--processing.max_length 64" only where the dict has a max_length already.


def _take_entries(config: Any, argv: list[str], prefix: str = "") -> tuple[Any, list[str]]:
    """The configuration with new entries of its dicts, and the words that are left."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            new, argv = _take_entries(value, argv, f"{name}.")
        elif isinstance(value, Mapping):
            new, argv = _take_new(value, argv, f"--{name}.")
        else:
            continue
        if new != value:
            config = dataclasses.replace(config, **{field.name: new})
    return config, argv


def _take_new(
    mapping: Mapping[str, Any], argv: list[str], flag: str
) -> tuple[dict[str, Any], list[str]]:
    found, left = dict(mapping), []
    words = iter(range(len(argv)))
    for place in words:
        option, equals, attached = argv[place].partition("=")
        key = option.removeprefix(flag).replace("-", "_")
        if not option.startswith(flag) or key in mapping:
            left.append(argv[place])
            continue
        values = [attached] if equals else _values(argv[place + 1 :])
        if not values:
            raise RunError(f"{option}: expected a value after it")
        for _ in range(0 if equals else len(values)):
            next(words)
        read = [_scalar(word) for word in values]
        found[key] = read[0] if len(read) == 1 else tuple(read)
    return found, left


def _values(words: list[str]) -> list[str]:
    """The words up to the next option."""
    stop = (i for i, word in enumerate(words) if word.startswith("--"))
    return words[: next(stop, len(words))]


def _scalar(word: str) -> Any:
    plain = {"true": True, "false": False}.get(word.lower())
    if plain is not None:
        return plain
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


# -- configuration files ------------------------------------------------------------------------


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
    found = _run_file(path)
    config = found.get(NAME)
    if not isinstance(config, kind):
        raise RunError(
            f"{path}: expected it to define {NAME} = {kind.__name__}(…), found "
            f"{type(config).__name__ if NAME in found else 'no such name'}"
        )
    return config, found.get("__doc__") or ""


def _run_file(path: Path) -> dict[str, Any]:
    """What a configuration file defines; an error in it names its line."""
    try:
        return runpy.run_path(str(path))
    except SyntaxError as error:
        raise RunError(f"{path}:{error.lineno}: expected Python, found {error.msg}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        what = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        raise RunError(f"{where}: {what}") from error


def known_configs() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "__init__")


# -- what is said -------------------------------------------------------------------------------


def print_figures(figures: Any) -> None:
    for split, values in (figures or {}).items():
        words = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"{split}: {words}")


def _talk() -> None:
    """jbert's messages on the standard error, and of the libraries below only warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("jbert").setLevel(logging.INFO)
    warnings.showwarning = lambda message, *_: logger.warning("%s", message)
