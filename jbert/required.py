"""The versions that jbert runs with, looked at before anything else is imported: an older Python or
jax would fail later, somewhere deep inside. Older Pythons must be able to read this file."""

from __future__ import annotations

import os
import re
import shutil
import sys

PYTHON = (3, 11)
# Word for word what pyproject.toml asks for.
PACKAGES = (
    "jax>=0.7.2",
    "flax>=0.11.2",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.11.25",
    "numpy>=2.0",
    "tokenizers>=0.21",
    "huggingface_hub>=1.0,<3",
    "safetensors>=0.5",
    "flatbuffers>=24.3",
    "jaxtyping>=0.2.36",
    "ml_dtypes>=0.5",
    "tyro>=0.9",
    "tqdm>=4.66",
)


def require() -> None:
    """Raises an ImportError that says what is wrong, and the command that mends it. The command
    `jbert` prints that and no more."""
    wrong = wrong_python() or wrong_packages()
    if wrong is None:
        return
    if as_command((sys.argv or [""])[0]):
        print(f"jbert: {wrong}", file=sys.stderr)
        sys.exit(1)
    raise ImportError(wrong)


def as_command(program: str) -> bool:
    """Whether this process is `jbert` or `python -m jbert`, not a program that imports jbert."""
    if program == "-m":  # until Python has found the module
        return "jbert" in getattr(sys, "orig_argv", ())[1:]
    name, ending = os.path.splitext(os.path.basename(program))
    return name == "jbert" and ending in ("", ".exe")


def wrong_python() -> str | None:
    if sys.version_info[:2] >= PYTHON:
        return None
    # The newest that is here, else one that jax still makes releases for.
    newer = (f"python3.{minor}" for minor in range(14, PYTHON[1] - 1, -1))
    python = next(filter(shutil.which, newer), "python3.12")
    return (
        f"jbert needs Python {PYTHON[0]}.{PYTHON[1]} or newer, and this is Python "
        f"{sys.version.split()[0]}; make an environment with one: "
        f"{python} -m venv .venv && .venv/bin/pip install {source()}"
    )


def source() -> str:
    """What to give to pip for jbert: the checkout that this is, or its name."""
    checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return checkout if os.path.isfile(os.path.join(checkout, "pyproject.toml")) else "jbert"


def wrong_packages() -> str | None:
    found = {requirement: installed(requirement) for requirement in PACKAGES}
    wrong = [requirement for requirement in PACKAGES if not fits(found[requirement], requirement)]
    if not wrong:
        return None
    needed = ", ".join(f"{one} (found {found[one] or 'none'})" for one in wrong)
    # Many are missing where jbert was not installed at all.
    command = f"pip install {source()}" if len(wrong) > 3 else install(*wrong)
    return f"jbert needs {needed}; run: {command}"


def install(*requirements: str) -> str:
    return f"pip install --upgrade {' '.join(repr(one) for one in requirements)}"


def name_of(requirement: str) -> str:
    return re.split("[<>=]", requirement)[0]


def installed(requirement: str) -> str | None:
    """The installed version, "unknown" of a package that does not tell, or None without one."""
    from importlib import metadata, util

    name = name_of(requirement)
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        there = util.find_spec(name.split("-")[0]) is not None
        return "unknown" if there else None


def fits(found: str | None, requirement: str) -> bool:
    if found in (None, "unknown"):
        return found is not None
    bounds = re.findall(r"(>=|<)([\d.]+)", requirement)
    return all((numbers(found) >= numbers(bound)) == (sign == ">=") for sign, bound in bounds)


def numbers(version: str) -> list[int]:
    """Of a preview those of its release, which it resembles more than the one before."""
    found = [int(number) for number in re.findall(r"\d+", version)[:3]]
    return found + [0] * (3 - len(found))
