"""Notebooks as they are kept: no outputs, stable cells, and this repository's address.

    python colab/tidy.py            # after working on them
    python colab/tidy.py --check    # says which need it, and changes nothing

The address of a fork or a new home goes into pyproject.toml, and from there into the badges, the
links and the first cell of each notebook.
"""

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COLAB = "colab.research.google.com/github"
# What is kept of the metadata: which kernel and which kind of machine to offer.
METADATA = ("accelerator", "colab", "kernelspec", "language_info")


def main(argv: list[str]) -> int:
    repository = read_repository()
    untidy = []
    for path in sorted(HERE.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        tidied = tidy(text, repository)
        if tidied != text:
            untidy.append(path.name)
            if "--check" not in argv:
                path.write_text(tidied, encoding="utf-8")
    if untidy:
        print(("to be tidied: " if "--check" in argv else "tidied: ") + ", ".join(untidy))
    return int(bool(untidy) and "--check" in argv)


def read_repository() -> str:
    """OWNER/NAME, as pyproject.toml has it."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix("https://github.com/")


def tidy(text: str, repository: str) -> str:
    notebook = json.loads(text)
    metadata = notebook["metadata"]
    metadata = {name: metadata[name] for name in METADATA if name in metadata}
    metadata["kernelspec"] = {"display_name": "Python 3", "name": "python3"}
    metadata["language_info"] = {"name": "python"}
    cells = [_cell(place, cell) for place, cell in enumerate(notebook["cells"])]
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    tidied = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    tidied = re.sub(rf"{COLAB}/[\w.-]+/[\w.-]+/", f"{COLAB}/{repository}/", tidied)
    return re.sub(r"(git\+https://github\.com)/[\w.-]+/[\w-]+", rf"\1/{repository}", tidied)


def _cell(place: int, cell: dict[str, Any]) -> dict[str, Any]:
    source = cell["source"]
    source = "".join(source) if isinstance(source, list) else source
    kept = {
        "cell_type": cell["cell_type"],
        "id": cell.get("id", f"cell-{place}"),
        "metadata": {},
        "source": source.strip("\n").splitlines(keepends=True),
    }
    if cell["cell_type"] == "code":
        kept |= {"execution_count": None, "outputs": []}
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
