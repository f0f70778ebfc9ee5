"""What several `jax.distributed` processes have to know of each other: failures, and one's choice.

Everything here is a collective: all processes call it at the same point, in their main threads.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jbert.lock import LockedError
from jbert.manifest import DamagedError

# Every process sends as many bytes: more than a message needs, and few enough for any network.
MESSAGE = 4096
# As what an error arrives in the processes that did not have it; the first that fits.
KINDS = (LockedError, DamagedError, OSError, ValueError, TypeError, RuntimeError)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """An exception that leaves this block in any process is raised in all of them.

    Otherwise those that have none would wait for ever in the next collective.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    if jax.process_count() > 1:
        messages = _exchange("" if error is None else f"{_kind(error)} {error}")
        for process, message in enumerate(messages):
            if message and error is None:
                kind, _, text = message.partition(" ")
                error = KINDS[int(kind)](f"process {process}: {text}")
    if error is not None:
        raise error


def from_first(value: Any) -> Any:
    """What process 0 passes, anything short that JSON knows, in every process."""
    if jax.process_count() == 1:
        return value
    return json.loads(_exchange(json.dumps(value))[0])


def together_on(mesh: Mesh | None) -> contextlib.AbstractContextManager[None]:
    """`together` where a mesh has devices of several processes; else each is on its own."""
    return together() if _spans(mesh) else contextlib.nullcontext()


def from_first_on(mesh: Mesh | None, value: Any) -> Any:
    return from_first(value) if _spans(mesh) else value


def _spans(mesh: Mesh | None) -> bool:
    return mesh is not None and mesh.is_multi_process


def gathered(leaf: Any) -> Any:
    """An array of which every process holds a part, whole in each; any other as it is."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(leaf, tiled=True)


def _kind(error: Exception) -> int:
    fitting = [number for number, kind in enumerate(KINDS) if isinstance(error, kind)]
    return fitting[0] if fitting else len(KINDS) - 1


def _exchange(message: str) -> list[str]:
    from jax.experimental import multihost_utils

    sent = message.encode()[:MESSAGE].ljust(MESSAGE, b"\0")
    received = multihost_utils.process_allgather(np.frombuffer(sent, np.uint8))
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in np.asarray(received)]
