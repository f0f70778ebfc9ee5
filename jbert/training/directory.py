"""The directory of a run: whose it is, and the lines of its metrics.jsonl."""

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jbert.training.config import RunConfig, RunError

logger = logging.getLogger("jbert")

CONFIG, METRICS = "config.json", "metrics.jsonl"
CHECKPOINTS, MODEL, REPORT, PREDICTIONS = (
    "checkpoints", "model", "report.html", "predictions.jsonl",
)  # fmt: skip
# What may differ between a run and its continuation: where and how it runs, not what it computes.
FREE = ("output_dir", "resume", "overwrite", "parallel", "mesh", "execution", "logging", "cluster",
        "checkpoints", "accumulate")  # fmt: skip


class RunDirectory:
    """`output_dir`. Only one process may make one; `metrics` is open while it is in use."""

    def __init__(self, run: RunConfig):
        self.path = Path(run.output_dir).expanduser().resolve()
        self.config = {"kind": type(run).__name__, **_plain(dataclasses.asdict(run))}

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def prepare(self, run: RunConfig) -> None:
        """Make the directory ready for this run, or refuse to touch what it holds."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"output_dir {self.path} is a file; expected a directory")
        if self.path.is_dir() and any(self.path.iterdir()):
            self._claim(run)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_config()
        except OSError as error:
            raise type(error)(
                error.errno,
                f"{error.strerror}: nothing can be written there; choose another --output_dir",
                str(self.path),
            ) from error

    def _claim(self, run: RunConfig) -> None:
        stored = self.stored_config()
        if stored is None:
            raise RunError(
                f"output_dir {self.path} holds files that are no run of jbert; "
                "choose another --output_dir"
            )
        if run.overwrite:
            logger.warning("deleting the run in %s", self.path)
            shutil.rmtree(self.path)
            return
        changed = differences(stored, self.config)
        if not run.resume:
            other = "another" if changed else "this"
            raise RunError(
                f"output_dir {self.path} holds {other} run already; --resume goes on with it, "
                "--overwrite deletes it, or choose another --output_dir" + _listed(changed)
            )
        if changed:
            raise RunError(
                f"output_dir {self.path} holds a run with another configuration, which cannot be "
                "resumed with this one; choose another --output_dir, or take its configuration"
                + _listed(changed)
            )

    def stored_config(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(
                f"{self.path / CONFIG}: expected the configuration of a run, found {error}; "
                "choose another --output_dir, or delete this one"
            ) from error

    def _write_config(self) -> None:
        text = json.dumps(self.config, indent=2, ensure_ascii=False) + "\n"
        write_whole(self.path / CONFIG, text)


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
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


class MetricsLog:
    """metrics.jsonl: one object a line, each on disk before the next step."""

    def __init__(self, path: Path):
        self.path = path
        self._file: Any = None

    def cut(self, step: int, without: str | None = None) -> None:
        """Forget what lines say about steps after this one, which will be made again; and of this
        step itself the lines of evaluations that will be, too."""
        kept = [
            line for entry, line in self._read()
            if entry["step"] < step
            or (entry["step"] == step and (without is None or entry["split"] == without))
        ]  # fmt: skip
        write_whole(self.path, "".join(kept))

    def _read(self) -> list[tuple[dict[str, Any], str]]:
        if not self.path.exists():
            return []
        entries = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                entries.append((json.loads(line), line))
            except ValueError:
                break  # the line that was being written when the process was killed
        return entries

    def write(self, step: int, split: str, figures: Mapping[str, Any]) -> None:
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(json.dumps({"step": step, "split": split, **figures}) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
