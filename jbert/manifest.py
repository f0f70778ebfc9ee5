"""A checksum for every file of a directory. Orbax keeps none over array bytes: a flipped bit there
would load as a wrong weight."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class DamagedError(ValueError):
    """A directory whose files are not those that were written."""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(directory: Path) -> dict[str, str]:
    """The sha256 of every file below a directory, by relative path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): sha256(path) for path in files}


def verify(directory: Path, expected: Mapping[str, str]) -> None:
    """Raise DamagedError, naming every file that is missing or changed."""
    problems = []
    for name, digest in expected.items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif sha256(path) != digest:
            problems.append(f"{name}: its contents have changed")
    if problems:
        raise DamagedError(
            f"{directory} is damaged; expected the files that were saved, found\n  "
            + "\n  ".join(problems)
            + "\nUse another copy of this directory"
        )


def seal(description: Mapping[str, Any]) -> str:
    """The checksum that a description keeps over all else that it says, under "checksum"."""
    rest = {key: value for key, value in description.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
