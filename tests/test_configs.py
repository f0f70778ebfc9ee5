"""The configurations that jbert comes with: each loads, says what it needs, and names itself."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jbert
from jbert.data.glue import GLUE
from jbert.data.processors import PROCESSORS
from jbert.models import model_class, presets
from jbert.training.command import known_configs, load_config, parse
from jbert.training.config import RunConfig
from jbert.training.directory import MODEL
from jbert.training.finetune import FinetuneConfig
from jbert.training.pretrain import PretrainConfig
from jbert.training.pretrain.generator import generator_config

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py"))
PARTS = ("Command", "Data", "Hardware", "Settings", "Published", "Measured here")
# What each script reads.
KINDS = {"train/finetune.py": FinetuneConfig, "train/pretrain.py": PretrainConfig}


def script_of(name):
    """The script of a configuration's command."""
    return re.search(r"^  python (\S+) ", (CONFIGS / f"{name}.py").read_text(), re.MULTILINE)[1]


FINETUNING = [name for name in NAMES if script_of(name) == "train/finetune.py"]
KNOWN = [name for name in NAMES if script_of(name) in KINDS]


@pytest.fixture(params=FINETUNING)
def named(request):
    return loaded(request.param)


@pytest.fixture(params=KNOWN)
def known(request):
    return loaded(request.param)


def loaded(name):
    return name, *load_config(str(CONFIGS / f"{name}.py"), KINDS[script_of(name)])


def part(text, name):
    """What stands under a heading of the docstring."""
    return re.search(rf"^{name}:\n((?:  .*\n?)+)", text, re.MULTILINE)[1]


def arguments(text):
    """The command in the docstring, as the words that the script gets."""
    command = part(text, "Command").replace("\\\n", " ").splitlines()[0]
    return command.split()[2:]


def test_there_are_configurations_and_the_command_line_lists_them():
    assert {"quickstart", "bert_glue", "bert_squad1", "convbert_glue"} <= set(NAMES)
    assert known_configs() == NAMES


def test_the_docstring_says_all_that_a_reader_needs(known):
    name, _, text = known
    assert re.findall(r"^([A-Z][a-z ]+):$", text, re.MULTILINE) == list(PARTS)
    assert all(part(text, heading).strip() for heading in PARTS)
    assert max(map(len, text.splitlines())) <= 100
    assert not text.startswith("\n") and text.split("\n")[0].endswith(".")


def test_the_command_is_the_configuration_itself(known):
    name, config, text = known
    file, *rest = arguments(text)
    assert file == f"configs/{name}.py"
    assert parse(type(config), "jbert", [str(ROOT / file), *rest]) == config


def test_the_run_is_called_what_the_file_is(known):
    name, config, _ = known
    assert config.output_dir == f"runs/{name}"
    assert config.model in presets()


def test_the_settings_are_those_of_the_task(named):
    _, config, _ = named
    PROCESSORS[config.task](**config.processing)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_pretrain")])
def test_pretraining_fits_its_model_and_names_its_text(name):
    _, config, text = loaded(name)
    model = presets()[config.model].config
    assert max(config.lengths()) <= model.max_position_embeddings
    model_class(model, config.task)
    assert set(config.data.train_files) == {"corpus"} and "corpus/" in part(text, "Data")
    assert config.start.scratch
    if config.task == "replaced_token_detection":
        assert generator_config(model, config.generator).hidden_size == 256


def test_the_data_command_prepares_the_data_set(named):
    _, config, text = named
    found = re.findall(r"tfds\.builder\('([^']+)', file_format='array_record'\)", text)
    assert found == ([config.data.dataset] if "/" in config.data.dataset else [])
    if not config.data.dataset:
        assert config.data.train_file in text


def test_the_data_command_is_one_that_a_shell_and_python_read(named):
    _, config, text = named
    if "/" not in config.data.dataset:
        return
    quoted = re.search(r'python -c "([^"]+)"', part(text, "Data"))
    ast.parse(quoted[1].replace("\\\n", ""))


def test_glue_configurations_name_every_task(named):
    name, _, text = named
    if name.endswith("_glue"):
        assert all(re.search(rf"\b{task}\b", part(text, "Data")) for task in GLUE)


def test_an_override_counts_and_an_unknown_one_is_refused(known, capsys):
    name, config, text = known
    file, kind = str(CONFIGS / f"{name}.py"), type(config)
    changed = parse(kind, "jbert", [file, "--optimizer.learning_rate", "0.5"])
    optimizer = dataclasses.replace(config.optimizer, learning_rate=0.5)
    assert changed == dataclasses.replace(config, optimizer=optimizer)
    with pytest.raises(SystemExit) as stopped:
        parse(kind, "jbert", [file, "--optimizer.learning_rat", "0.5"])
    assert stopped.value.code == 2
    assert "--optimizer.learning_rate" in capsys.readouterr().err


def test_help_lists_every_field(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(FinetuneConfig, "finetune", [str(CONFIGS / "quickstart.py"), "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(RunConfig):
        inner = field.default if dataclasses.is_dataclass(field.default) else None
        names = [f".{one.name}" for one in dataclasses.fields(inner)] if inner else [""]
        missing = [name for name in names if f"--{field.name}{name}" not in shown]
        assert not missing, (field.name, missing)


def test_quickstart_runs_from_the_command_line(tmp_path):
    """A few steps of it, offline, and the model that it leaves answers."""
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "train/finetune.py", "configs/quickstart.py", "--steps", "3",
         "--data.rows", "64", "--output_dir", str(run)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    lines = (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 64
    answer = jbert.pipeline("text-classification", model=run / MODEL)(
        "The battery died after two days."
    )
    assert answer[0]["label"] in ("negative", "neutral", "positive")
