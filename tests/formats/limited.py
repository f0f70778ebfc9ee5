"""Runs `read_limited.py` over files that a test provides."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jbert

MEGABYTES = 512


def read_limited(directory: Path, files: Mapping[str, bytes]) -> dict[str, list]:
    """{file: [class of the error or "read", message, seconds]}, read in a limited process."""
    for name, data in files.items():
        (directory / name).write_bytes(data)
    before = set(files)
    script = Path(__file__).with_name("read_limited.py")
    root = str(Path(jbert.__file__).parents[1])
    finished = subprocess.run(
        [sys.executable, str(script), str(directory), str(MEGABYTES)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert finished.returncode == 0, finished.stderr
    appeared = {path.name for path in directory.iterdir()} - before
    assert not appeared, f"reading created {appeared}"
    return json.loads(finished.stdout)


def refusals(outcomes: Mapping[str, list], words: Mapping[str, str]) -> list[str]:
    """What is wrong with the outcomes of files that must all be refused with their word."""
    problems = []
    for name, word in words.items():
        kind, message, seconds = outcomes[name]
        if kind not in ("FormatError", "WeightsNotFoundError"):
            problems.append(f"{name}: {kind}: {message}")
        elif word not in message or name not in message:
            problems.append(f"{name}: {word!r} is not in {message!r}")
        elif seconds > 5:
            problems.append(f"{name}: took {seconds} s")
    return problems
