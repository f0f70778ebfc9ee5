"""`save`: a model as a directory that `jbert.load` reads back with no other argument."""

import hashlib
import json
from pathlib import Path
from typing import Any

from jbert.atomic import replacing
from jbert.checkpoint import save_params
from jbert.loaded import Bert, architecture_name
from jbert.manifest import DamagedError, checksums
from jbert.stack import unstack_layers
from jbert.version import __version__

INFO = "jbert.json"
PARAMS = "params"
FORMAT = 1


def save(bert: Bert, directory: str | Path, *, force: bool = False) -> None:
    """Write parameters (Orbax), configuration and tokenizer into `directory`.

    A model saved there before is replaced, and stays whole until the new one is; a directory that
    holds anything else is refused unless `force` says to replace it.
    """
    directory = output_directory(directory, force)
    with replacing(directory, bert.num_bytes()) as staging:
        save_params(staging / PARAMS, unstack_layers(bert.params))
        write_config(bert, staging)
        if bert.tokenizer is not None:
            bert.tokenizer.save(staging)
        info = {
            "format": FORMAT,
            "jbert_version": __version__,
            "task": bert.task,
            "source": bert.source,
            "files": checksums(staging),
        }
        info["checksum"] = _checksum(info)
        (staging / INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def _checksum(info: dict[str, Any]) -> str:
    """Of all that jbert.json says; the checksums of the other files are in it."""
    rest = {key: value for key, value in info.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_config(bert: Bert, directory: Path, **entries: Any) -> None:
    """config.json, with the class name under which transformers knows the model."""
    config = bert.config.to_dict() | entries
    if "dtype" in entries:
        # The older name of the same, from where the configuration was read.
        config.pop("torch_dtype", None)
    config["architectures"] = [architecture_name(bert.config, bert.task)]
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")


def output_directory(directory: str | Path, force: bool) -> Path:
    """The absolute path of a directory that may be written: new, empty, or a saved model."""
    directory = Path(directory).expanduser().resolve()
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; expected a directory to write a model to")
    foreign = directory.is_dir() and any(directory.iterdir()) and not (directory / INFO).is_file()
    if foreign and not force:
        raise FileExistsError(
            f"{directory} holds files that are no saved jbert model; "
            "choose another directory, or empty this one"
        )
    return directory


def read_info(directory: Path) -> dict[str, Any] | None:
    """The jbert.json of a saved model, or None where there is none."""
    path = directory / INFO
    if not path.is_file():
        return None
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        newer = info["format"] > FORMAT
        if not newer and info["checksum"] != _checksum(info):
            raise ValueError("contents that have changed")
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{path}: expected the description of a saved model, found {error!r}; "
            "the directory is damaged, use another copy"
        ) from error
    if newer:
        raise ValueError(
            f"{path}: format {info['format']} is newer than this jbert ({__version__}) reads; "
            "upgrade with: pip install --upgrade jbert"
        )
    return info
