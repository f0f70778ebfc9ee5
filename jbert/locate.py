"""From the name of a model to its files on this machine."""

import os
from pathlib import Path

from jbert import hub
from jbert.atomic import recover
from jbert.formats import table_of
from jbert.models import presets
from jbert.runs import model_of_run


def locate(
    name: str | Path,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    want: hub.Want = "model",
) -> tuple[Path, str]:
    """Where a model's files are, fetched from the hub if need be, and where they come from.

    `name` is a directory, a weight file or a TensorFlow checkpoint's prefix on this machine, or
    else a short name or a hub id. Of a training run's directory it is the model to use.
    """
    path = table_of(Path(os.path.expanduser(name)))
    recover(path.resolve())
    if path.exists():
        path = model_of_run(path.absolute()) if want == "model" else path.absolute()
        return path, str(path)
    if isinstance(name, Path) or str(name).startswith((".", "/", "~")):
        raise FileNotFoundError(f"{path.absolute()}: expected a model's directory, found nothing")
    known = {name: (one.hub_id, one.revision) for name, one in presets().items() if one.hub_id}
    if str(name) in presets().keys() - known.keys():
        raise FileNotFoundError(
            f"the weights of {name} were never published, only how large it is; train it: "
            f"jbert.from_config(jbert.presets()[{str(name)!r}].config), or --start.scratch"
        )
    repo, pinned = hub.resolve(str(name), known)
    found = hub.fetch(
        repo,
        revision=revision or pinned,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        want=want,
    )
    return found, f"{repo}@{found.name}"
