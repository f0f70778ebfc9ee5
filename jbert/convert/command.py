"""What `jbert convert` does."""

import logging
from pathlib import Path

from jbert.card import Training
from jbert.export import export, fresh_directory
from jbert.load import default_task, load
from jbert.save import save

logger = logging.getLogger("jbert")


def convert(
    source: str,
    destination: Path,
    to: str = "orbax",
    task: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    force: bool = False,
) -> None:
    """Read a model and write it in one format; what is at `destination` stays until then."""
    # Before minutes of reading, not after them.
    destination = fresh_directory(destination, force)
    stored = default_task(source, revision)
    task = stored if task is None else task
    logger.info("reading %s as %s", source, task or "the bare encoder")
    bert = load(source, task=task or "encoder", param_dtype=dtype, revision=revision)
    logger.info("writing %s parameters to %s", f"{bert.num_params():,}", destination)
    if to == "orbax":
        save(bert, destination, force=force)
    else:
        # Of another head a run's figures say nothing.
        training = Training.read(Path(bert.source or "")) if bert.task == stored else None
        export(bert, destination, format=to, force=force, training=training)
    logger.info("done: %s", _next_step(to, destination))


def _next_step(to: str, destination: Path) -> str:
    return {
        "orbax": f"jbert.load({str(destination)!r})",
        "safetensors": f"transformers.AutoModel.from_pretrained({str(destination)!r})",
        "stablehlo": f"jbert.load_stablehlo({str(destination)!r})",
    }[to]
