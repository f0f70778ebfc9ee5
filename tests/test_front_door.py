"""What a newcomer meets first: wrong versions, missing devices, completion, and the time that
`import jbert` takes."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import pytest

import jbert
from jbert import backend, guides, required
from jbert.cli import TRAINING, Command, main
from jbert.manifest import DamagedError
from jbert.training.watch import curves

ROOT = Path(jbert.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def python(*words: object, path: str = "", **environ: str) -> subprocess.CompletedProcess:
    """A process with jbert on its path, after `path`."""
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, str(ROOT)]))}
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=120,
        env=given | environ,
    )  # fmt: skip


# -- versions -------------------------------------------------------------------------------------


def test_what_is_asked_for_is_what_pyproject_says():
    assert sorted(required.PACKAGES) == sorted(PROJECT["dependencies"])
    assert PROJECT["requires-python"] == f">={required.PYTHON[0]}.{required.PYTHON[1]}"


def test_what_comes_before_the_check_can_be_read_by_an_older_python():
    for name in ("__init__.py", "required.py"):
        text = (ROOT / "jbert" / name).read_text("utf-8")
        ast.parse(text, feature_version=(3, 8))
    imports = [node for node in ast.parse((ROOT / "jbert" / "__init__.py").read_text()).body
               if isinstance(node, ast.Import | ast.ImportFrom)]  # fmt: skip
    assert imports[0].module == "jbert.required"


def test_an_older_python_is_named_with_the_command_for_a_newer_one(monkeypatch):
    assert required.wrong_python() is None
    monkeypatch.setattr(sys, "version_info", (3, 10, 13, "final", 0))
    monkeypatch.setattr(sys, "version", "3.10.13 (main)")
    monkeypatch.setattr(shutil, "which", lambda name: name == "python3.11")
    with pytest.raises(ImportError) as raised:
        required.require()
    assert str(raised.value) == (
        "jbert needs Python 3.11 or newer, and this is Python 3.10.13; make an environment with "
        f"one: python3.11 -m venv .venv && .venv/bin/pip install {ROOT}"
    )
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "python3.12 -m venv" in str(required.wrong_python())


def test_an_older_python_itself():
    old = shutil.which("python3.10")
    done = subprocess.run([str(old), "--version"], capture_output=True) if old else None
    if done is None or done.returncode:
        pytest.skip("needs a python3.10")
    done = subprocess.run(
        [str(old), "-c", "import jbert"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1
    assert "ImportError: jbert needs Python 3.11 or newer" in done.stderr.splitlines()[-1]
    assert "site-packages" not in done.stderr


def fake(place: Path, name: str, version: str) -> str:
    """A directory in which a package seems to be installed in another version."""
    info = place / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return str(place)


def test_a_jax_that_is_too_old(tmp_path):
    path = fake(tmp_path, "jax", "0.4.30")
    sentence = "jbert needs jax>=0.7.2 (found 0.4.30); run: pip install --upgrade 'jax>=0.7.2'"
    done = python("-c", "import jbert.losses", path=path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ImportError: {sentence}"
    assert "site-packages" not in done.stderr
    done = python("-m", "jbert", "doctor", path=path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"jbert: {sentence}\n")
    path = fake(tmp_path, "huggingface_hub", "3.0.1")
    done = python("-m", "jbert", "doctor", path=path)
    assert "huggingface_hub>=1.0,<3 (found 3.0.1)" in done.stderr
    assert done.stderr.endswith("'jax>=0.7.2' 'huggingface_hub>=1.0,<3'\n")


def test_a_checkout_whose_dependencies_were_not_installed():
    done = python("-S", "-m", "jbert")
    assert done.returncode == 1 and "jax>=0.7.2 (found none), flax" in done.stderr
    assert done.stderr.endswith(f"; run: pip install {ROOT}\n")


@pytest.mark.parametrize(
    ("found", "requirement", "right"),
    [
        ("0.7.2", "jax>=0.7.2", True), ("0.7.1", "jax>=0.7.2", False),
        ("0.10.0", "jax>=0.7.2", True), ("0.7.2.dev20250901", "jax>=0.7.2", True),
        ("1", "x>=1.0,<3", True), ("3.0", "x>=1.0,<3", False), ("2.9.9", "x>=1.0,<3", True),
        (None, "x", False), ("unknown", "x>=1", True),
    ],
)  # fmt: skip
def test_versions_are_compared_by_their_numbers(found, requirement, right):
    assert required.fits(found, requirement) is right


def test_a_package_without_metadata_is_taken_as_it_is():
    assert required.installed("json>=1") == "unknown"
    assert required.installed("no-such-package>=1") is None


@pytest.mark.parametrize(
    ("program", "is_one"),
    [("/bin/jbert", True), ("jbert.exe", True), ("train/jbert.py", False), ("", False)],
)
def test_only_the_command_itself_ends_without_an_exception(program, is_one):
    assert required.as_command(program) is is_one


def test_a_python_that_does_not_keep_its_arguments_is_told_all_the_same(monkeypatch):
    monkeypatch.delattr(sys, "orig_argv")  # there since 3.10
    assert required.as_command("-m") is False


# -- devices --------------------------------------------------------------------------------------


def test_a_gpu_that_is_asked_for_and_not_there():
    done = python("-m", "jbert", "tour", JAX_PLATFORMS="cuda")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("jbert: ")]
    assert line.startswith("jbert: JAX cannot start with JAX_PLATFORMS=cuda: ")
    assert "run: export JAX_PLATFORMS=cpu" in line
    assert line.endswith("run: pip install 'jbert[gpu]'") and "Traceback" not in done.stderr


def test_devices_that_fail_without_being_asked_for(monkeypatch):
    def fail():
        raise RuntimeError("the TPU is used\nby another process.")

    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(backend.jax, "default_backend", fail)
    expected = r"cannot start: the TPU is used by another process; .* JAX_PLATFORMS=cpu$"
    for call in (
        lambda: jbert.from_config(jbert.BertConfig()), lambda: jbert.load("x"), jbert.make_mesh
    ):  # fmt: skip
        with pytest.raises(OSError, match=expected) as raised:
            call()
        assert raised.value.__suppress_context__


# -- extras ---------------------------------------------------------------------------------------


def test_a_data_set_without_the_extra_that_reads_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    place = tmp_path / "run"
    words = ["bert_glue", "--data.dataset", "glue/mrpc", "--output_dir", str(place)]
    assert main(["finetune", *words]) == 1
    line, guide = capsys.readouterr().err.splitlines()
    assert guide == "guide: docs/finetune.md"
    assert line.endswith("tensorflow_datasets is not installed. Run: pip install 'jbert[data]'")
    assert [path.name for path in place.iterdir()] == [".lock"]


def test_curves_without_the_extra_that_draws_them(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"need matplotlib: pip install 'jbert\[colab\]'$"):
        curves(tmp_path)


# -- guides ---------------------------------------------------------------------------------------


def test_every_command_and_some_errors_have_a_page():
    commands = {kind.__name__.lower() for kind in cli_commands()} | set(TRAINING)
    assert set(guides._OF_COMMANDS) == commands
    for page in (*guides._OF_COMMANDS.values(), *guides._OF_ERRORS.values()):
        assert (ROOT / "docs" / f"{page}.md").is_file()
    assert guides.guide_of("plan", ValueError()) == "docs/plan.md"
    assert guides.guide_of("plan", DamagedError()) == "docs/checkpoints.md"
    assert guides.guide_of("of a test", ValueError()) == "docs/start.md"


def cli_commands() -> list[type]:
    return [typing.get_args(command)[0] for command in typing.get_args(Command)]


def test_an_error_is_followed_by_its_guide(capsys, tmp_path):
    assert main(["info", str(tmp_path / "none")]) == 1
    error, guide = capsys.readouterr().err.splitlines()
    assert error.startswith("jbert: ") and guide == "guide: docs/convert.md"


# -- the command ----------------------------------------------------------------------------------


def completion(capsys, shell: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["--tyro-print-completion", shell])
    assert not stopped.value.code
    return capsys.readouterr().out


def test_shells_complete_the_training_commands_too(capsys, tmp_path):
    assert "optimizer.learning_rate" in completion(capsys, "zsh")
    script = completion(capsys, "bash")
    assert "\ncomplete -o default -F _tyro_jbert jbert" in script
    if shutil.which("bash") is None:
        return
    (tmp_path / "script").write_text(script)

    def offered(*words: str) -> set[str]:
        given = " ".join(f"'{word}'" for word in ("jbert", *words))
        done = subprocess.run(
            ["bash", "-c", f"source {tmp_path / 'script'}; COMP_WORDS=({given}); "
             f"COMP_CWORD={len(words)}; _tyro_jbert; echo ${{COMPREPLY[@]}}"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return set(done.stdout.split())

    assert {"convert", "doctor", "finetune", "info", "predict"} <= offered("")
    assert offered("finetune", "my_run.py", "--optimizer.lea") == {"--optimizer.learning_rate"}
    assert offered("convert", "a", "b", "--to", "") == {"orbax", "safetensors", "stablehlo"}


# -- the time of an import ------------------------------------------------------------------------

# What takes as long as jax to be imported, or has no business in a process that only loads a model.
HEAVY = (
    "orbax", "optax", "tensorstore", "huggingface_hub", "safetensors", "tyro", "pyarrow", "grain",
    "array_record", "tensorflow", "tensorflow_datasets", "tensorboardX", "torch", "transformers",
    "matplotlib", "pandas", "scipy", "sklearn", "jbert.training.loop", "jbert.plan",
)  # fmt: skip
NEW = """
import sys, jax, flax
before = set(sys.modules)
import jbert
print(*sorted(set(sys.modules) - before))
"""


def test_importing_jbert_imports_little_besides_jax_and_flax():
    done = python("-c", NEW)
    assert done.returncode == 0, done.stderr
    new = set(done.stdout.split())
    assert not new.intersection(HEAVY)
    # 130 of some 900 that jax and flax are, when this was written.
    assert len(new) < 200
