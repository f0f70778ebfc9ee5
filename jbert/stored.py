"""Models whose parameters Orbax wrote: saved ones, and those in the checkpoints of a training."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from jbert.checkpoint import restore_params
from jbert.manifest import DamagedError, verify
from jbert.save import PARAMS, read_info
from jbert.training import step_files
from jbert.training.step_files import AVERAGE, STATE, StepFiles, open_step
from jbert.trees import flatten, unflatten

Flat = dict[str, Any]


class Stored(Protocol):
    """What `load` needs of either. `about` says who wrote it."""

    @property
    def task(self) -> str | None: ...

    @property
    def about(self) -> str: ...

    def verify(self) -> None:
        """Raise DamagedError unless every file is as it was written."""
        ...

    def restore(self, target: Flat) -> Flat:
        """The parameters by path, as `target`, ShapeDtypeStructs with shardings, describes them."""
        ...


def stored_in(path: Path) -> Stored | None:
    """The model in a directory; None if it holds none, or one that others wrote."""
    if not path.is_dir():
        return None
    if is_step(path):
        return TrainingStep(open_step(path))
    info = read_info(path)
    return None if info is None else SavedModel(path, info)


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """What `jbert.save` wrote."""

    directory: Path
    info: Mapping[str, Any]

    @property
    def task(self) -> str | None:
        return self.info["task"]

    @property
    def about(self) -> str:
        return f"written by jbert {self.info['jbert_version']}"

    def verify(self) -> None:
        verify(self.directory, self.info["files"])

    def restore(self, target: Flat) -> Flat:
        return flatten(restore_params(self.directory / PARAMS, unflatten(target)))


@dataclasses.dataclass(frozen=True)
class TrainingStep:
    """The parameters of one step, as an evaluation there would use them, and nothing else of it."""

    files: StepFiles

    @property
    def task(self) -> str | None:
        return _model_of(self.files)["task"]

    @property
    def about(self) -> str:
        return f"step {self.files.step} of a training"

    def verify(self) -> None:
        with self._still_there():
            self.files.verify()

    def restore(self, target: Flat) -> Flat:
        names = {path: self._name(path) for path in target}
        missing = [f"  {path}" for path, name in names.items() if name not in self.files.leaves]
        if missing:
            raise ValueError(
                f"{self.files.path}: expected every parameter of its model, found none of these:\n"
                + "\n".join(missing)
            )
        wanted = {names[path]: leaf for path, leaf in target.items()}
        with self._still_there():
            found = flatten(restore_params(self.files.path / STATE, unflatten(wanted)))
        return {path: found[name] for path, name in names.items()}

    def _name(self, path: str) -> str:
        """Averages are kept of what is trained, and of nothing else."""
        averaged = f"{AVERAGE}/{path}"
        return averaged if averaged in self.files.leaves else f"{step_files.PARAMS}/{path}"

    @contextlib.contextmanager
    def _still_there(self) -> Iterator[None]:
        try:
            yield
        except (DamagedError, OSError) as error:
            if self.files.path.exists():
                raise
            raise FileNotFoundError(
                f"{self.files.path} was deleted while it was read, as a run does with its older "
                "checkpoints; load again"
            ) from error


def is_step(path: Path) -> bool:
    """Whether a directory is, or was before it was damaged, one checkpoint of a training."""
    return (path / step_files.DESCRIPTION).is_file() or (
        path.name.isdecimal() and (path / STATE).is_dir()
    )


def step_config(path: Path) -> dict[str, Any]:
    """The configuration of the model that a training's checkpoint is of."""
    return _model_of(open_step(path))["config"]


def tokenizer_directory(path: Path) -> Path:
    """Where a run keeps the tokenizer of its checkpoint `path`; its finished model has it too."""
    run = path.parent.parent
    own = run / "tokenizer"
    return own if own.is_dir() else run / "model"


def _model_of(files: StepFiles) -> dict[str, Any]:
    model = files.info.get("model")
    if not isinstance(model, dict) or not {"config", "task"} <= model.keys():
        raise ValueError(
            f"{files.path}: expected the checkpoint of a model's training, found one that does not "
            "say which model it is of"
        )
    return model
