"""The one place that knows Orbax: parameters to a directory and back, onto any devices."""

import contextlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jbert.barrier import Barrier
from jbert.trees import flatten, unflatten

# Bytes that are read at once, and the number of portions from which on it may be more.
PORTION, MOST_PORTIONS = 1 << 22, 64
# Seconds in which nothing was written, after which a failed save counts as over; and the longest
# wait for them.
QUIET, PATIENCE = 0.3, 30.0


# Two saves at once in one process get into each other's way in Orbax.
_ALONE = threading.Lock()


def save_params(path: Path, params: Any) -> None:
    """Write a tree of arrays; returns when all of it is on disk."""
    begin_saving(path, params)()


def begin_saving(path: Path, params: Any) -> Callable[[], None]:
    """Write a tree of arrays in the background; returns when they may be donated or deleted.

    The function returned waits until all of it is on disk, and raises what went wrong. It has to be
    called, from any thread: otherwise errors are lost, and other saves wait for ever.
    Of several jax.distributed processes each calls both, and writes the shards that it holds. Of
    arrays that each has for itself, the first one writes its own.
    """
    import orbax.checkpoint as ocp

    alone = _processes(jax.tree.leaves(params))
    options: dict[str, Any] = dict(alone)
    barrier = None
    if alone:
        if jax.process_index() != 0:
            return lambda: None
        # Orbax refuses such arrays of jax for fear of a mistake.
        params = jax.tree.map(np.asarray, params)
    elif jax.process_count() > 1:
        barrier = Barrier(ocp.multihost.get_jax_distributed_client())
        options["async_options"] = ocp.options.AsyncOptions(barrier_sync_fn=barrier)
    else:
        params = _one_replica(params)
    # Weights are noise to a compressor: it takes most of the time to save a tenth of the room.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, **alone)
    held = contextlib.ExitStack()
    held.enter_context(_ALONE)
    try:
        held.enter_context(_quiet())
        checkpointer = held.enter_context(ocp.AsyncCheckpointer(handler, **options))
        with _failures(path, barrier):
            checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(params))
    except BaseException:
        held.close()
        raise

    def finish() -> None:
        with held, _failures(path, barrier):
            checkpointer.wait_until_finished()

    return finish


def _one_replica(params: Any) -> Any:
    """Replicated arrays from one of their devices each, in turns.

    Orbax would cut each into a piece for every device, one after the other, which takes longer than
    to copy them. Several processes still do it, since each then writes only its own pieces.
    """
    turn = itertools.count()

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or not leaf.is_fully_replicated:
            return leaf
        shards = leaf.addressable_shards
        return shards[next(turn) % len(shards)].data

    return jax.tree.map(whole, params)


@contextlib.contextmanager
def _failures(path: Path, barrier: Barrier | None) -> Iterator[None]:
    """An error here becomes one of the system, and known to the processes that wait for this."""
    try:
        yield
    except Exception as error:
        # So TensorStore reports a full disk, and all else that a system refuses.
        if isinstance(error, ValueError):
            reason = str(error).rsplit(": ", 1)[-1]
            cause, error = error, OSError(f"{path}: the parameters could not be written: {reason}")
            error.__cause__ = cause
        elif isinstance(error, OSError) and error.errno is not None:
            reason = f"the parameters could not be written: {error.strerror}"
            cause, error = error, type(error)(error.errno, reason, str(path))
            error.__cause__ = cause
        if barrier is not None:
            barrier.fail(error)
        _settle(path.parent)
        raise error


def _settle(directory: Path) -> None:
    """Return when nothing writes into a directory any more, so that it can be deleted.

    The first error ends a save; its other threads go on for a moment, and nothing tells when they
    have ended. A directory that is deleted before that, TensorStore makes anew.
    """
    end = time.monotonic() + PATIENCE
    seen, since = _listing(directory), time.monotonic()
    while time.monotonic() < min(since + QUIET, end):
        time.sleep(QUIET / 10)
        if (now := _listing(directory)) != seen:
            seen, since = now, time.monotonic()


def _listing(directory: Path) -> set[tuple[str, int, int]]:
    found = set()
    for place, _, names in os.walk(directory):
        for path in (place, *(os.path.join(place, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                about = os.stat(path)
                found.add((path, about.st_size, about.st_mtime_ns))
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs an error's traceback from each of its threads, and then raises it all the same."""

    def not_orbax(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    log = logging.getLogger("absl")
    log.addFilter(not_orbax)
    try:
        yield
    finally:
        log.removeFilter(not_orbax)


def restore_params(path: Path, target: Any) -> Any:
    """Read a tree of arrays as `target`, ShapeDtypeStructs with shardings, describes it.

    The target is not optional: Orbax would otherwise insist on the devices that wrote the files.
    """
    import orbax.checkpoint as ocp

    flat = flatten(target)
    for leaf in flat.values():
        if leaf.sharding is None:
            raise TypeError("restore_params needs a sharding in every leaf of its target")
    restored: dict[str, Any] = {}
    options = _processes(flat.values())
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options), **options) as checkpointer:
        for paths in _portions(
            {name: leaf.size * leaf.dtype.itemsize for name, leaf in flat.items()}
        ):
            portion = unflatten({name: flat[name] for name in paths})
            arguments = ocp.args.PyTreeRestore(
                portion,
                restore_args=ocp.checkpoint_utils.construct_restore_args(portion),
                partial_restore=True,
            )
            restored |= flatten(checkpointer.restore(path.absolute(), args=arguments))
    return unflatten(restored)


def _processes(leaves: Iterable[Any]) -> dict[str, Any]:
    """Orbax' options for this process alone, if it has the whole of each array.

    It would otherwise wait for the others, even where each reads a model for itself.
    """
    import orbax.checkpoint as ocp

    shardings = [leaf.sharding for leaf in leaves if not isinstance(leaf, np.ndarray)]
    if jax.process_count() == 1 or not all(s.is_fully_addressable for s in shardings):
        return {}
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    return {"multiprocessing_options": alone}


def _portions(sizes: Mapping[str, int]) -> list[list[str]]:
    """The names in portions of some megabytes, the largest first.

    Orbax reads all that it is asked for at once, with buffers as large as the arrays themselves;
    portion by portion loading takes as long and not twice the memory.
    """
    portions: list[list[str]] = []
    room = 0
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if sizes[name] > room or not portions:
            portions.append([])
            room = max(PORTION, sum(sizes.values()) // MOST_PORTIONS)
        portions[-1].append(name)
        room -= sizes[name]
    return portions
