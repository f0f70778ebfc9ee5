"""The one place that knows Orbax: parameters to a directory and back, onto any devices."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax


def save_params(path: Path, params: Any) -> None:
    """Write a tree of arrays; returns when all of it is on disk."""
    import orbax.checkpoint as ocp

    try:
        with _quiet(), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path.absolute(), params)
            # Saving goes on in the background, and is lost without a word if nobody waits.
            checkpointer.wait_until_finished()
    except ValueError as error:  # so TensorStore reports a full disk, and all that a system refuses
        reason = str(error).rsplit(": ", 1)[-1]
        raise OSError(f"{path}: the parameters could not be written: {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs an error's traceback from each of its threads, and then raises it all the same."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def restore_params(path: Path, target: Any) -> Any:
    """Read a tree of arrays as `target`, ShapeDtypeStructs with shardings, describes it.

    The target is not optional: Orbax would otherwise insist on the devices that wrote the files.
    """
    import orbax.checkpoint as ocp

    for leaf in jax.tree.leaves(target):
        if leaf.sharding is None:
            raise TypeError("restore_params needs a sharding in every leaf of its target")
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.absolute(), target)
