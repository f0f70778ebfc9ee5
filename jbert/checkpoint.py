"""The one place that knows Orbax: parameters to a directory and back, onto any devices."""

from pathlib import Path
from typing import Any

import jax


def save_params(path: Path, params: Any) -> None:
    """Write a tree of arrays; returns when all of it is on disk."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), params)
        # Saving goes on in the background, and is lost without a word if nobody waits.
        checkpointer.wait_until_finished()


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
