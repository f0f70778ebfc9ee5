"""One training checkpoint on disk: `state/`, which Orbax writes, and `step.json`, which says what
is in it and seals every file. Reading needs no lock and writes nothing."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jbert.atomic import sync
from jbert.checkpoint import restore_params
from jbert.manifest import DamagedError, checksums, seal, verify
from jbert.trees import flatten, unflatten
from jbert.version import __version__

DESCRIPTION = "step.json"
STATE = "state"
FORMAT = 1
# What names of a state's arrays begin with.
PARAMS, AVERAGE = "params", "average"

# What is known of an array without reading it.
Leaf = jax.ShapeDtypeStruct


class StepFiles:
    """A committed step: what it holds, whether it is whole, and its arrays on any devices."""

    def __init__(self, path: Path, description: Mapping[str, Any]):
        self.path = path
        self.step: int = description["step"]
        self.metric: float | None = description["metric"]
        self.info: dict[str, Any] = description["info"]
        self.leaves = {
            name: Leaf(tuple(shape), jnp.dtype(dtype))
            for name, (dtype, shape) in description["leaves"].items()
        }
        self.files: dict[str, str] = description["files"]
        self._verified = False

    def verify(self) -> None:
        """Raise DamagedError, naming every file that is not as it was written."""
        verify(self.path, self.files)
        self._verified = True

    def trust(self) -> None:
        """Another process has verified the same files."""
        self._verified = True

    def restore(
        self, target: Mapping[str, jax.ShapeDtypeStruct], *, partial: bool = False
    ) -> dict[str, jax.Array]:
        """The arrays as `target`, whose leaves carry shardings, describes them.

        Names, shapes and dtypes must be those that were saved; with `partial` the target may leave
        some out, such as everything but the parameters.
        """
        self._compare(target, partial)
        if not self._verified:
            self.verify()
        return flatten(restore_params(self.path / STATE, unflatten(target)))

    def _compare(self, target: Mapping[str, jax.ShapeDtypeStruct], partial: bool) -> None:
        """Orbax casts to another dtype in silence, and stops at the first of other problems."""
        problems = []
        for name in sorted(self.leaves.keys() | target.keys()):
            if name not in target and partial:
                continue
            expected, found = _words(target.get(name)), _words(self.leaves.get(name))
            if expected != found:
                problems.append(f"{name}: expected {expected}, found {found}")
        if problems:
            raise ValueError(
                f"{self.path} does not hold what is to be restored from it:\n  "
                + "\n  ".join(problems)
                + "\nUse the configuration that it was saved with, or start a new run"
            )


def _words(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{leaf.dtype} {tuple(leaf.shape)}"


def open_step(path: str | Path) -> StepFiles:
    """The step in a directory such as `run/checkpoints/1000`. Only its description is read yet."""
    path = Path(path).expanduser().resolve()
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: expected the directory of a checkpoint, found none")
    try:
        description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
        if description["checksum"] != seal(description):
            raise ValueError("contents that have changed")
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = "nothing" if isinstance(error, FileNotFoundError) else repr(error)
        raise DamagedError(
            f"{path} is damaged; expected {DESCRIPTION}, the description of a checkpoint, "
            f"found {reason}"
        ) from error
    # Every format keeps `format` and `checksum` as they are, so that this is not taken for damage.
    if description["format"] > FORMAT:
        raise ValueError(
            f"{path}: format {description['format']} is newer than this jbert ({__version__}) "
            "reads; upgrade with: pip install --upgrade jbert"
        )
    return StepFiles(path, description)


def describe(
    directory: Path,
    step: int,
    state: Mapping[str, Leaf],
    info: Mapping[str, Any],
    metric: float | None,
) -> None:
    """Write step.json for the files that are in `directory`."""
    files = checksums(directory)
    _write(directory / DESCRIPTION, step, state, info, metric, files)


def amend(files: StepFiles, info: Mapping[str, Any], metric: float | None) -> None:
    """Replace what step.json says of a committed step, at once; the arrays stay as they are."""
    new = files.path / f".{DESCRIPTION}.new"
    _write(new, files.step, files.leaves, info, metric, files.files)
    sync(new)
    os.replace(new, files.path / DESCRIPTION)
    sync(files.path)


def _write(
    path: Path,
    step: int,
    state: Mapping[str, Leaf],
    info: Mapping[str, Any],
    metric: float | None,
    files: Mapping[str, str],
) -> None:
    description = {
        "format": FORMAT,
        "jbert_version": __version__,
        "step": step,
        "metric": metric,
        "info": info,
        "leaves": {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in state.items()},
        "files": files,
    }
    description["checksum"] = seal(description)
    path.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
