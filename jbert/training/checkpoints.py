"""The checkpoints of one run: `checkpoints/`, with one directory a step, whole or not there.

A step is written into a hidden directory beside it and renamed when all of it is on disk. What is
on disk is the only memory: a failed save or a directory that somebody deleted needs no repair.
"""

import concurrent.futures.thread  # noqa: F401  (its callback at exit has to come before ours)
import json
import logging
import math
import os
import shutil
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jbert.atomic import check_room, flush, remove, sync
from jbert.checkpoint import begin_saving
from jbert.lock import Lock
from jbert.manifest import DamagedError
from jbert.processes import from_first, together
from jbert.training.step_files import STATE, Leaf, StepFiles, amend, describe, open_step
from jbert.trees import unflatten

logger = logging.getLogger("jbert")

LOCK = ".lock"
# What a killed process or a failed save may leave behind.
LITTER = (".writing.*", ".deleting.*", ".probe.*")
DAMAGED = ".damaged"
# A step needs room for its arrays, what Orbax adds to them, and its description.
ROOM = 1.1


class Checkpoints:
    """The one writer of a directory of checkpoints.

    Of several `jax.distributed` processes, on a file system that all of them see, each makes one
    and calls `save`, `wait`, `latest`, `restore` and `close` at the same points of the program; an
    error in one is raised in all.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int = 2,
        keep_best: bool = True,
        greater_is_better: bool = True,
    ):
        if keep < 1:
            raise ValueError(f"keep={keep}: expected at least one checkpoint to keep")
        self.directory = Path(directory).expanduser().resolve()
        self.keep, self.keep_best, self.greater_is_better = keep, keep_best, greater_is_better
        self._first = jax.process_index() == 0
        self._lock: Lock | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._good: StepFiles | None = None
        self._saves = 0
        self._open = True
        try:
            with together():
                if self._first:
                    _check_writable(self.directory)
                    self._lock = Lock(self.directory / LOCK)
                    self._clear_away()
            with together():
                self._check_shared()
        except BaseException:
            self._release()
            raise
        _OPEN.add(self)

    def _check_shared(self) -> None:
        if not (self.directory / LOCK).exists():
            raise OSError(
                f"{self.directory}: this process does not see what process 0 writes there; "
                "choose a directory on a file system that all processes share"
            )

    def _clear_away(self) -> None:
        for pattern in LITTER:
            for path in self.directory.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    # -- what there is ----------------------------------------------------------------------

    def steps(self) -> list[int]:
        """The committed steps, ascending, as they are on disk now."""
        entries = [path for path in self.directory.iterdir() if path.is_dir()]
        return sorted(int(path.name) for path in entries if _is_number(path.name))

    def best(self) -> int | None:
        """The step with the best metric; of equal ones the earliest. NaN is never the best."""
        found, best = None, math.nan
        for step in self.steps():
            try:
                metric = open_step(self.directory / str(step)).metric
            except (ValueError, OSError):
                continue  # `latest` deals with damage
            if metric is None or math.isnan(metric):
                continue
            better = metric > best if self.greater_is_better else metric < best
            if found is None or better:
                found, best = step, metric
        return found

    def info(self, step: int) -> dict[str, Any]:
        """What `save` was given as `info`."""
        return open_step(self.directory / str(step)).info

    def latest(self) -> StepFiles | None:
        """The newest step of which every file is as it was written; None where there is no step.

        Newer ones that are damaged are renamed, so that training can save these steps again. If
        there are steps and none is good that is an error, and all stay: never a silent fresh start.
        """
        found = None
        with together():
            self._finish()
            if self._first:
                found = self._newest_good()
        step = from_first(None if found is None else found.step)
        if step is None:
            return None
        with together():
            if found is None:
                found = open_step(self.directory / str(step))
                found.trust()
        self._good = found
        return found

    def _newest_good(self) -> StepFiles | None:
        damaged: dict[int, Exception] = {}
        for step in reversed(self.steps()):
            try:
                found = open_step(self.directory / str(step))
                if found.step != step:
                    raise DamagedError(f"{found.path} holds step {found.step}")
                found.verify()
            except (DamagedError, OSError) as error:
                damaged[step] = error
                continue
            for bad, error in damaged.items():
                self._quarantine(bad, error, step)
            return found
        before = [f"{path} was set aside" for path in self.directory.glob(f"*{DAMAGED}*")]
        if damaged or before:
            raise DamagedError(
                f"{self.directory}: none of its checkpoints is whole:\n"
                + "\n".join([*map(str, damaged.values()), *before])
                + "\nPut copies of these files in their places, or start over in a new directory"
            )
        return None

    def _quarantine(self, step: int, error: Exception, instead: int) -> None:
        aside, number = self.directory / f"{step}{DAMAGED}", 2
        while aside.exists():
            aside, number = self.directory / f"{step}{DAMAGED}.{number}", number + 1
        os.rename(self.directory / str(step), aside)
        warnings.warn(
            f"{error}\nIt is now called {aside.name}; step {instead} is used instead",
            stacklevel=4,
        )

    def restore(
        self, step: int, target: Mapping[str, jax.ShapeDtypeStruct], *, partial: bool = False
    ) -> dict[str, jax.Array]:
        """The arrays of a step, laid out as the shardings in `target` say; see StepFiles."""
        with together():
            # What `latest` verified is not read twice.
            known = self._good is not None and self._good.step == step
            files = self._good if known else open_step(self.directory / str(step))
        assert files is not None
        return files.restore(target, partial=partial)

    # -- saving -----------------------------------------------------------------------------

    def save(
        self,
        step: int,
        state: Mapping[str, jax.Array],
        info: Mapping[str, Any],
        metric: float | None = None,
    ) -> None:
        """Write a step in the background; returns when `state` may be donated or deleted.

        An error of the save before is raised here, instead of saving: the caller may go on, and
        save this step or a later one. `info` is anything that JSON knows.
        """
        staging = self.directory / f".writing.{step}.{self._saves}"
        self._saves += 1
        with together():
            self._finish()
            leaves = _leaves(state)
            info, metric = _as_read(info), _number(metric)
            if self._first:
                self._prepare(step, staging, leaves)
        try:
            finish = begin_saving(staging / STATE, unflatten(state))
        except BaseException as error:
            if self._first:
                shutil.rmtree(staging, ignore_errors=True)
            if isinstance(error, OSError):
                raise self._told(step, error) from error
            raise

        def complete() -> None:
            describe(staging, step, leaves, info, metric)
            flush(staging)
            os.rename(staging, self.directory / str(step))
            sync(self.directory)

        # Not a daemon: the process does not end before it.
        self._thread = threading.Thread(target=self._commit, args=(step, staging, finish, complete))
        self._thread.start()

    def amend(self, step: int, info: Mapping[str, Any], metric: float | None = None) -> None:
        """Replace `info` and `metric` of a committed step, as after an evaluation of it."""
        self._good = None
        with together():
            self._finish()
            if self._first:
                files = open_step(self.directory / str(step))
                amend(files, _as_read(info), _number(metric))
                self._forget_old()

    def _prepare(self, step: int, staging: Path, leaves: Mapping[str, Leaf]) -> None:
        if not self._open:
            raise ValueError(f"{self.directory}: these checkpoints are closed; open them again")
        newest = max(self.steps(), default=-1)
        if step <= newest:
            raise ValueError(
                f"{self.directory} holds step {newest}, and step {step} is to be saved; "
                "continue from there, or move the later steps away"
            )
        self._clear_away()  # threads of a failed save may have gone on writing
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
        check_room(staging, int(ROOM * size))
        staging.mkdir()

    def _commit(
        self, step: int, staging: Path, finish: Callable[[], None], complete: Callable[[], None]
    ) -> None:
        """In the background; no collective may be here. `finish` waits for all processes."""
        try:
            finish()
            if self._first:
                complete()
        except BaseException as error:
            self._failure = self._told(step, error) if isinstance(error, OSError) else error
            if self._first:
                shutil.rmtree(staging, ignore_errors=True)
            return
        try:
            if self._first:
                self._forget_old()
        except OSError as error:
            self._failure = error

    def _told(self, step: int, error: OSError) -> OSError:
        told = OSError(
            f"{self.directory}: step {step} could not be written ({error}); "
            "the steps before it are as they were"
        )
        told.errno, told.__cause__ = error.errno, error
        return told

    def _forget_old(self) -> None:
        steps = self.steps()
        kept = {*steps[-self.keep :], *([self.best()] if self.keep_best else [])}
        for step in steps:
            if step not in kept:
                remove(self.directory / str(step))

    def _finish(self) -> None:
        """Wait for the save in the background, and raise its error, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Return when the last save is committed, or raise its error."""
        with together():
            self._finish()

    def close(self) -> None:
        """Wait for the last save, and let other writers in."""
        try:
            self.wait()
        finally:
            self._release()

    def _release(self) -> None:
        self._open = False
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            return self.close()
        # The other processes need not have failed, so this one must not wait for them here.
        try:
            self._finish()
        except Exception as failure:
            if isinstance(error, SystemExit):
                raise  # whose code would say that all is saved
            error.add_note(str(failure))
        finally:
            self._release()


def _check_writable(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; expected a directory for checkpoints")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".probe."):
            pass
    except OSError as error:
        raise type(error)(
            error.errno,
            f"{error.strerror}: checkpoints cannot be written; choose another directory, or "
            "change its permissions",
            str(directory),
        ) from error


def _as_read(info: Mapping[str, Any]) -> dict[str, Any]:
    """A copy, because the caller may change his; JSON has no integer keys."""
    return json.loads(json.dumps(info))


def _number(metric: float | None) -> float | None:
    return None if metric is None else float(metric)


def _leaves(state: Mapping[str, jax.Array]) -> dict[str, Leaf]:
    for name, leaf in state.items():
        # Whatever else there is could change while it is being written.
        if not isinstance(leaf, jax.Array) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(
                f"{name}: expected an array of jax (of a key its jax.random.key_data), "
                f"found {leaf!r}"
            )
    return {name: Leaf(leaf.shape, leaf.dtype) for name, leaf in state.items()}


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and str(int(name)) == name


_OPEN: "weakref.WeakSet[Checkpoints]" = weakref.WeakSet()


def _finish_all() -> None:
    for checkpoints in list(_OPEN):
        try:
            checkpoints._finish()
        except BaseException as error:
            logger.error("%s", error)


# A process that ends without `close`, too, waits for the last save. concurrent.futures forbids new
# work at exit, which Orbax needs, before it waits for threads, and before atexit; it uses this
# registration itself, whose last entry is called first.
threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
