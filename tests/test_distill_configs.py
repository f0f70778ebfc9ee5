"""The configurations of published distillations, and the command that runs them."""

import dataclasses
import re
from pathlib import Path

import pytest

from jbert import cli
from jbert.models import presets
from jbert.training.command import load_config, parse
from jbert.training.distill import (
    CorpusDistillConfig,
    DistillConfig,
    TaskDistillConfig,
    explain_settings,
)
from jbert.training.distill.layers import pair_layers, spread_layers
from jbert.training.distill.progress import Turns
from jbert.training.finetune import FinetuneConfig
from jbert.training.pretrain import PretrainConfig

ROOT = Path(__file__).parents[1]
NAMES = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if "python train/distill.py" in path.read_text("utf-8")
)
PARTS = ["Command", "Data", "Hardware", "Settings", "Published", "Measured here"]


@pytest.fixture(params=NAMES)
def named(request):
    return request.param, *load_config(request.param, DistillConfig)


@pytest.mark.parametrize(
    ("kind", "usual"), [(CorpusDistillConfig, PretrainConfig), (TaskDistillConfig, FinetuneConfig)]
)
def test_what_is_not_about_the_teacher_is_as_without_one(kind, usual):
    for field in dataclasses.fields(usual):
        assert getattr(kind(), field.name) == getattr(usual(), field.name), field.name


def test_there_is_one_for_each_kind():
    assert {
        "distilbert_distill", "mobilebert_transfer", "mobilebert_distill", "tinybert_distill",
        "distilbert_squad1_distill",
    } == set(NAMES)  # fmt: skip


def test_the_docstring_says_all_and_the_command_is_the_configuration(named, capsys):
    name, config, text = named
    assert re.findall(r"^([A-Z][a-z ]+):$", text, re.MULTILINE) == PARTS
    assert text.split("\n")[0].endswith(".")
    assert f"python train/distill.py configs/{name}.py\n" in text
    assert config.output_dir == f"runs/{name}"
    file = str(ROOT / "configs" / f"{name}.py")
    assert parse(DistillConfig, "distill", [file]) == config
    longer = parse(DistillConfig, "distill", [file, "--transfer.temperature", "3"])
    assert longer.transfer.temperature == 3
    mapped = parse(DistillConfig, "distill", [file, "--transfer.layers", "1", "-1", "3"])
    assert mapped.transfer.layers == (1, -1, 3)
    with pytest.raises(SystemExit):
        parse(DistillConfig, "distill", [file, "--transfer.temperature", "0"])
    assert "temperature is 0.0" in capsys.readouterr().err


def test_help_explains_what_is_transferred(named, capsys):
    name, *_ = named
    with pytest.raises(SystemExit) as stopped:
        cli.main(["distill", name, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--teacher.model", "--initial.take", "--transfer.soft", "--progress.below"):
        assert option in shown


def test_layers_can_be_mapped(named):
    _, config, _ = named
    known = {"runs/ib_bert": "ib-bert-large-uncased", "runs/bert_squad1": "bert-base-uncased",
             "runs/mobilebert_transfer/model": "mobilebert-uncased"}  # fmt: skip
    teacher, student = (
        presets()[known.get(name, name)].config for name in (config.teacher.model, config.model)
    )
    student = student.replace(**config.start.overrides)
    depths = student.num_hidden_layers, teacher.num_hidden_layers
    if config.transfer.of_pairs:
        assert len(pair_layers(config.transfer.layers, *depths)) == depths[0]
    if config.initial.layers:
        assert config.initial.layers == spread_layers(*depths)
    if config.progress.layer_by_layer:
        assert Turns(config.progress, config.steps, depths[0]).length == 10_000
    assert student.vocab_size == teacher.vocab_size


def test_only_a_task_has_a_processor_to_explain(named):
    _, config, _ = named
    kinds = {True: TaskDistillConfig, False: CorpusDistillConfig}
    assert isinstance(config, kinds["Settings of" in explain_settings(config)])
