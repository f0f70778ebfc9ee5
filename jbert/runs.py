"""What of a training run's directory to load: the finished model, or else a checkpoint."""

import logging
from pathlib import Path

from jbert.atomic import recover
from jbert.formats import FormatError, WeightsNotFoundError
from jbert.formats.sniff import find_weights
from jbert.manifest import DamagedError
from jbert.save import INFO
from jbert.stored import is_step
from jbert.training.step_files import StepFiles, open_step

logger = logging.getLogger("jbert")

MODEL, CHECKPOINTS = "model", "checkpoints"


def model_of_run(path: Path) -> Path:
    """The model in the directory of a run, or in its `checkpoints/`; of any other path itself."""
    if not path.is_dir() or is_step(path) or (path / INFO).is_file() or _has_weights(path):
        return path
    model, checkpoints = path / MODEL, path / CHECKPOINTS
    recover(model)
    if (model / INFO).is_file():
        return model
    if checkpoints.is_dir():
        return _best_whole(checkpoints)
    return _best_whole(path) if _steps(path) else path


def _has_weights(path: Path) -> bool:
    try:
        find_weights(path)
    except FormatError as error:
        return not isinstance(error, WeightsNotFoundError)
    return True


def _steps(checkpoints: Path) -> list[Path]:
    """The newest first."""
    steps = [path for path in checkpoints.iterdir() if path.name.isdecimal() and is_step(path)]
    return sorted(steps, key=lambda path: -int(path.name))


def _best_whole(checkpoints: Path) -> Path:
    """The best step, or else the newest, but never a damaged one; nothing is renamed here."""
    damaged: list[str] = []
    described: list[StepFiles] = []
    for path in _steps(checkpoints):
        try:
            described.append(open_step(path))
        except (DamagedError, FileNotFoundError) as error:
            damaged.append(str(error))
    for files in sorted(described, key=lambda files: files is not _best(described)):
        try:
            files.verify()
        except (DamagedError, FileNotFoundError) as error:
            damaged.append(str(error))
            continue
        for problem in damaged:
            logger.warning("%s\n%s is used instead", problem, files.path)
        return files.path
    if damaged:
        raise DamagedError(
            f"{checkpoints}: none of its checkpoints is whole:\n" + "\n".join(damaged)
        )
    raise FileNotFoundError(
        f"{checkpoints}: expected a checkpoint of a run, found none; wait until it has saved one"
    )


def _best(steps: list[StepFiles]) -> StepFiles | None:
    """The earliest step that reached what the newest one says was best until then."""
    best = steps[0].info.get("progress", {}).get("best") if steps else None
    # NaN is equal to nothing.
    reached = [files for files in steps if best is not None and files.metric == best]
    return reached[-1] if reached else None
