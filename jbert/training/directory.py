"""The directory of a run: whose it is, and the lines of its metrics.jsonl."""

import dataclasses
import json
import logging
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jbert.lock import Lock
from jbert.processes import together
from jbert.training import replaced
from jbert.training.config import RunConfig, RunError

logger = logging.getLogger("jbert")

CONFIG, METRICS = "config.json", "metrics.jsonl"
CHECKPOINTS, MODEL, REPORT, PREDICTIONS, FAILED, BOARD = (
    "checkpoints", "model", "report.html", "predictions.jsonl", "failed_batch.json", "tensorboard",
)  # fmt: skip
TOKENIZER, FIGURES, GENERATOR = "tokenizer", "figures.json", "generator"
LOCK = ".lock"
# What --overwrite deletes; whatever else somebody has put there stays.
OWN = (CONFIG, METRICS, CHECKPOINTS, MODEL, REPORT, PREDICTIONS, FAILED, BOARD, FIGURES,
       "seeds.json", TOKENIZER, GENERATOR)  # fmt: skip
# What may differ between a run and its continuation: where and how it runs, not what it computes.
FREE = ("output_dir", "resume", "overwrite", "parallel", "mesh", "execution", "logging", "cluster",
        "checkpoints", "accumulate")  # fmt: skip


class RunDirectory:
    """`output_dir`, for one run at a time: `with RunDirectory(run).prepare(run): …`."""

    def __init__(self, run: RunConfig):
        self.path = Path(run.output_dir).expanduser().resolve()
        self.config = {"kind": type(run).__name__, **_plain(dataclasses.asdict(run))}
        self._unlock: Any = None

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def prepare(self, run: RunConfig) -> "RunDirectory":
        """Make the directory ready for this run, or refuse to touch what it holds.

        No other run may have it until `close`. Of several processes the first one does this, and
        the others wait for it.
        """
        with together():
            if jax.process_index() == 0:
                self._prepare(run)
        return self

    def close(self) -> None:
        if self._unlock is not None:
            self._unlock()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _prepare(self, run: RunConfig) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"output_dir {self.path} is a file; expected a directory")
        if (self.path / replaced.ASIDE).is_dir() or replaced.is_kept(self.path):
            self._put_back()
        stored = self._stored(run)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._unlock = weakref.finalize(self, Lock(self.path / LOCK).release)
            if stored is not None and run.overwrite:
                logger.warning("the run in %s is deleted as soon as this one begins", self.path)
                replaced.set_aside(self.path, (*OWN, *self._runs_of_seeds()))
            write_whole(self.path / CONFIG, json.dumps(self.config, indent=2) + "\n")
        except OSError as error:
            self.close()
            if error.errno is None:
                raise
            raise type(error)(
                error.errno,
                f"{error.strerror}: nothing can be written there; choose another --output_dir",
                str(self.path),
            ) from error

    def _stored(self, run: RunConfig) -> dict[str, Any] | None:
        """The configuration of the run that is there already, if this one may have its place."""
        hidden = lambda path: path.name.startswith(".")  # noqa: E731
        if not self.path.is_dir() or all(map(hidden, self.path.iterdir())):
            return None
        stored = self.stored_config()
        if stored is None:
            raise RunError(
                f"output_dir {self.path} holds files that are no run of jbert; "
                "choose another --output_dir"
            )
        changed = differences(stored, self.config)
        if not run.resume and not run.overwrite:
            other = "another" if changed else "this"
            raise RunError(
                f"output_dir {self.path} holds {other} run already; --resume goes on with it, "
                "--overwrite deletes it, or choose another --output_dir" + _listed(changed)
            )
        if run.resume and changed:
            raise RunError(
                f"output_dir {self.path} holds a run with another configuration, which cannot be "
                "resumed with this one; choose another --output_dir, or take its configuration"
                + _listed(changed)
            )
        return stored

    def _put_back(self) -> None:
        """What a process that was killed before it began had set aside."""
        lock = Lock(self.path / LOCK)
        try:
            replaced.put_back(self.path)
        finally:
            lock.release()

    def _runs_of_seeds(self) -> list[str]:
        """Those below this one, of any seeds: they are a part of it."""
        found = self.path.glob(replaced.OF_SEEDS)
        return sorted(path.name for path in found if _stored_config(path) is not None)

    def stored_config(self) -> dict[str, Any] | None:
        """The configuration that was written here, by a run and not by somebody else."""
        return _stored_config(self.path)


def _stored_config(directory: Path) -> dict[str, Any] | None:
    try:
        stored = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise RunError(
            f"{directory / CONFIG}: expected the configuration of a run, found {error}; "
            "choose another --output_dir, or delete this one"
        ) from error
    # Models have a config.json as well.
    ours = isinstance(stored, dict) and {"kind", "output_dir"} <= stored.keys()
    return stored if ours else None


def differences(stored: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """The fields in which two runs differ, but for those that a continuation may change."""
    old, new = _flat(stored), _flat(mine)
    return [
        f"{name}: {old.get(name)!r} there, {new.get(name)!r} here"
        for name in sorted(old | new)
        if name.split(".")[0] not in FREE and old.get(name) != new.get(name)
    ]


def _listed(lines: list[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _plain(value: Any) -> Any:
    """As JSON will give it back."""
    return json.loads(json.dumps(value, default=str))


def write_whole(path: Path, text: str) -> None:
    """A file that is there whole or as it was."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


class MetricsLog:
    """metrics.jsonl: one object a line, each with the operating system before the next step.

    Where the disk is full, lines wait until it is not: a run does not end for want of a log.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: Any = None
        self._waiting = b""

    def cut(self, step: int, without: str | None = None) -> None:
        """Forget what lines say about steps after this one, which will be made again; and of this
        step itself the lines of evaluations that will be, too."""
        self.close()
        kept = [
            line for entry, line in self._read()
            if entry["step"] < step
            or (entry["step"] == step and (without is None or entry["split"] == without))
        ]  # fmt: skip
        write_whole(self.path, "".join(kept))

    def _read(self) -> Iterator[tuple[dict[str, Any], str]]:
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield json.loads(line), line + "\n"
            except ValueError:
                return  # the line that was being written when the process was killed

    def write(self, step: int, split: str, figures: Mapping[str, Any]) -> None:
        line = json.dumps({"step": step, "split": split, **figures}) + "\n"
        self._waiting += line.encode()
        self._flush()

    def _flush(self) -> None:
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            lines = self._waiting.count(b"\n")
            logger.warning("%s: %d lines could not be written yet (%s)", self.path, lines, error)

    def close(self) -> None:
        if self._waiting:
            self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None
