"""`save`: a model as a directory that `jbert.load` reads back with no other argument."""

import contextlib
import json
from pathlib import Path
from typing import Any

import jax

from jbert.atomic import replacing
from jbert.card import keep_readme
from jbert.checkpoint import save_params
from jbert.loaded import Bert, architecture_name
from jbert.manifest import DamagedError, checksums, seal
from jbert.processes import from_first, together
from jbert.stack import unstack_layers
from jbert.version import __version__

INFO = "jbert.json"
PARAMS = "params"
FORMAT = 1


def save(bert: Bert, directory: str | Path, *, force: bool = False) -> None:
    """Write parameters (Orbax), configuration and tokenizer into `directory`.

    A model saved there before is replaced, but for a README.md that is not jbert's, and stays whole
    until the new one is; a directory that holds anything else is refused unless `force` says to
    replace it. Of several jax.distributed
    processes all call this, with a directory that all of them see: each writes its own shards.
    """
    first = jax.process_index() == 0
    with contextlib.ExitStack() as held:
        place = None
        with together():
            if first:
                target = output_directory(directory, force)
                place = str(held.enter_context(replacing(target, bert.num_bytes())))
        staging = Path(from_first(place))
        with together():
            if not staging.is_dir():
                raise OSError(
                    f"{staging.parent}: this process does not see what process 0 writes there; "
                    "choose a directory on a file system that all processes share"
                )
        params = unstack_layers(bert.params)
        with together():
            save_params(staging / PARAMS, params)
        with together():
            if first:
                _describe(bert, staging)
                # After the checksums: whoever edits it does not damage the model.
                keep_readme(target, staging)
                held.close()


def _describe(bert: Bert, directory: Path) -> None:
    """All but the parameters, and the checksums of everything."""
    write_config(bert, directory)
    if bert.tokenizer is not None:
        bert.tokenizer.save(directory)
    info = {
        "format": FORMAT,
        "jbert_version": __version__,
        "task": bert.task,
        "source": bert.source,
        "files": checksums(directory),
    }
    info["checksum"] = seal(info)
    (directory / INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


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
        if not newer and info["checksum"] != seal(info):
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
