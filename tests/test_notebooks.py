"""The notebooks in colab/: as they are kept, and every cell of them executed.

    pip install -e '.[notebooks,data]' && python -m pytest -m notebooks

executes them in the small setting, which needs no network. With the interpreter of an environment
that has no jbert yet, their first cells install it.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

COLAB = Path(__file__).parents[1] / "colab"
NAMES = ("quickstart", "finetune_tpu", "convert_weights", "pretrain_and_distill")
# What each says when all went well, and how many pictures it shows.
SAID = {
    "quickstart": ("bit for bit the same: True", 5),
    "finetune_tpu": (r"stopped and saved at step (2[5-9]|[3-9])\d+.*going on from step", 3),
    "convert_weights": ("bit for bit the same: True", 1),
    "pretrain_and_distill": ("teacher: .*layers compared", 5),
}


def read(name: str) -> dict[str, Any]:
    return json.loads((COLAB / f"{name}.ipynb").read_text("utf-8"))


def code(name: str) -> list[str]:
    return ["".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == "code"]


def tidy(*arguments: str, place: Path = COLAB) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(place / "tidy.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


# -- as they are kept -------------------------------------------------------------------------


def test_there_are_no_others():
    assert sorted(NAMES) == sorted(path.stem for path in COLAB.glob("*.ipynb"))


def test_they_are_tidy():
    checked = tidy("--check")
    assert (checked.returncode, checked.stdout) == (0, ""), checked


def test_tidying_takes_outputs_away_and_moves_to_another_address(tmp_path):
    name, copy = NAMES[0], tmp_path / "colab"
    copy.mkdir()
    for file in ("tidy.py", f"{name}.ipynb"):
        (copy / file).write_bytes((COLAB / file).read_bytes())
    address = "https://github.com/some-body/jbert-fork"
    (tmp_path / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{address}"\n')
    notebook = read(name)
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    cell |= {"outputs": [{"output_type": "stream", "text": "a"}], "execution_count": 3}
    cell["metadata"] = {"executionInfo": {"user": "somebody"}}
    del cell["id"]
    notebook["metadata"]["widgets"] = {}
    written = copy / f"{name}.ipynb"
    written.write_text(json.dumps(notebook))
    before = written.read_text()
    assert tidy("--check", place=copy).returncode == 1 and written.read_text() == before
    assert tidy(place=copy).returncode == 0 and tidy("--check", place=copy).returncode == 0
    tidied = written.read_text()
    assert "somebody" not in tidied and "widgets" not in tidied and '"text": "a"' not in tidied
    assert "github/some-body/jbert-fork/blob/main/colab/quickstart.ipynb" in tidied
    assert "git+https://github.com/some-body/jbert-fork\\" in tidied
    for line in (COLAB / f"{name}.ipynb").read_text("utf-8").splitlines():
        if "github" not in line and '"id"' not in line:
            assert line in tidied


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_in_colab_and_keeps_the_runtimes_jax(name):
    title, install = read(name)["cells"][:2]
    assert f"/blob/main/colab/{name}.ipynb)" in "".join(title["source"])
    assert install == read(NAMES[0])["cells"][1]
    assert 'KEPT = f"jax=={jax.__version__} numpy=={np.__version__}"' in code(name)[0]
    (line,) = re.findall("%pip .*", code(name)[0])
    assert " {KEPT} " in line
    assert not re.search(r"-U\b|--upgrade", line)
    assert not any("pip install" in re.sub(r'"[^"]*"', "", text) for text in code(name)[1:])


@pytest.mark.parametrize("name", NAMES)
def test_it_defines_nothing(name):
    """Notebooks call the library; what is worth a definition belongs there."""
    for text in code(name):
        for node in ast.walk(ast.parse(re.sub("%pip .*", "pass", text))):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef), text


@pytest.mark.parametrize("name", NAMES)
def test_its_extras_exist(name):
    project = tomllib.loads((COLAB.parent / "pyproject.toml").read_text("utf-8"))["project"]
    (extras,) = re.findall(r'"jbert\[([\w,]+)\] @', code(name)[0])
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


# -- executed ---------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    for name, value in {
        "JBERT_SMALL": "1", "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    # They train for long enough that what is compiled should be fast, as it is for users.
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    return tmp_path


@pytest.mark.notebooks
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs(name, small):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(COLAB / f"{name}.ipynb", 4)
    nbformat.validate(notebook)
    where = {"metadata": {"path": str(small)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    outputs = [output for cell in cells[1:] for output in cell.outputs]
    complaints = [out.text for out in outputs if out.get("name") == "stderr"]
    assert not [text for text in complaints if "saving, then stopping" not in text], complaints
    text = "".join(out.get("text", "") for out in outputs)
    said, pictures = SAID[name]
    assert re.search(said, text, re.DOTALL), text
    assert sum("image/png" in out.get("data", {}) for out in outputs) >= pictures


@pytest.mark.notebooks
def test_curves_are_refused_outside_of_a_notebook():
    from jbert.training.config import RunError
    from jbert.training.watch import watch

    with pytest.raises(RunError, match="below the cell of a notebook"), watch("runs/none"):
        pass
