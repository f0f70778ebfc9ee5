"""Who takes part, and which Python runs them: peers need versions that do not go together."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# Contender: the environment it runs in, and what that needs, to be said where it is missing.
CONTENDERS = {
    "jbert": "jbert",
    "torch-eager": "torch",
    "torch-sdpa": "torch",
    "torch-compile": "torch",
    "flax": "flax",
    "keras": "keras",
}
NEEDS = {
    "jbert": ("jax", "jbert's dependencies"),
    "torch": ("transformers", "pip install torch 'transformers>=5'"),
    "flax": ("transformers", "pip install 'transformers==4.57.6' flax optax torch"),
    "keras": ("keras_hub", "pip install keras-hub jax"),
}
# jbert from another checkout, for a change measured against what was before it.
BEFORE = "jbert-before"
ROOT = Path(__file__).parents[1]


class EnvironmentsError(ValueError):
    """An environment that was asked for does not exist, or lacks what it is for."""


def environments(given: Mapping[str, str], file: Path | None) -> dict[str, str]:
    """Name to interpreter: those of the file, then those given; jbert's is this one by default."""
    found = {"jbert": sys.executable}
    if file is not None:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(stored, dict) or not all(isinstance(x, str) for x in stored.values()):
            raise EnvironmentsError(f"{file}: expected an object of names and interpreters")
        found |= stored
    found |= given
    unknown = sorted(set(found) - set(NEEDS))
    if unknown:
        raise EnvironmentsError(f"environments {unknown}; expected some of {sorted(NEEDS)}")
    for name, python in found.items():
        module, how = NEEDS[name]
        check = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
        try:
            lacking = subprocess.run([python, "-c", check], capture_output=True).returncode
        except OSError as error:
            raise EnvironmentsError(f"environment {name!r}: {python}: {error.strerror}") from error
        if lacking:
            raise EnvironmentsError(f"environment {name!r}: {python} has no {module}; {how}")
    return found


def taking_part(
    asked: list[str], found: Mapping[str, str], before: Path | None
) -> tuple[list[str], list[str]]:
    """Contenders that can run, and for each that cannot the reason."""
    present, missing = [], []
    for name in asked:
        environment = CONTENDERS[name]
        if environment in found:
            present.append(name)
        else:
            missing.append(f"{name}: no environment {environment!r} was given "
                           f"(--env {environment}=PYTHON; {NEEDS[environment][1]})")  # fmt: skip
    return present + ([BEFORE] if before else []), missing


def command(contender: str, found: Mapping[str, str], before: Path | None) -> list[str]:
    """What starts a contender's worker, from any directory."""
    name, library = contender, ""
    if contender == BEFORE:
        # The library of the other checkout, the harness of this one.
        name = "jbert"
        library = f"sys.path.insert(0, {str(before)!r}); import jbert; sys.path.pop(0); "
    harness = f"sys.path.insert(0, {str(ROOT)!r}); from benchmarks.worker import main; main()"
    return [found[CONTENDERS[name]], "-c", f"import sys; {library}{harness}", name]
