"""`jbert plan`: what is planned, from a recipe or a model, and the step that it stands for."""

import dataclasses
import json

import jax
import pytest
import tiny
from plan_works import BASE, FACTS, small

from benchmarks.plan import SLICES, TEACHERS
from jbert.execution import Execution
from jbert.plan.arithmetic import count
from jbert.plan.beside import Generating, Taught
from jbert.plan.chips import PlanError, slice_of
from jbert.plan.program import counted, traced, useful_flops
from jbert.plan.report import report
from jbert.plan.roofline import estimate, predict
from jbert.plan.wish import Wish, work_of
from jbert.plan.work import PREDICTING
from jbert.training.command import known_configs
from jbert.training.config import RunError
from jbert.training.distill.config import ProgressConfig, TransferConfig
from jbert.training.distill.progress import Turns
from jbert.training.pretrain.config import GeneratorConfig


@pytest.mark.parametrize("name", known_configs())
def test_every_recipe_is_a_work(name):
    work = work_of(name, 8, Wish(teacher=TEACHERS.get(name)))
    assert work.execution.scan_layers and work.train and work.batch_size >= 1
    taught = "distill" in name or name in TEACHERS
    beside = Taught if taught else Generating if name == "convbert_pretrain" else type(None)
    assert isinstance(work.beside, beside)
    assert work_of(name, 8, Wish(inference=True, teacher=TEACHERS.get(name))).beside is None


def test_every_recipe_is_in_the_table():
    assert set(SLICES) == set(known_configs())
    assert all(slice_of(topology) for slices in SLICES.values() for topology in slices)


def test_a_recipe_names_its_teacher_or_what_another_recipe_leaves(tmp_path):
    work = work_of("distilbert_squad1_distill", 1)
    assert isinstance(work.beside, Taught) and work.beside.config == BASE
    with pytest.raises(PlanError, match="'runs/ib_bert', is not there.*--teacher"):
        work_of("mobilebert_distill", 1)
    run = tmp_path / "runs" / "teacher" / "model"
    run.mkdir(parents=True)
    config = tiny.config("bert", vocab_size=BASE.vocab_size, max_position_embeddings=512)
    (run / "config.json").write_text(json.dumps(config.to_dict()))
    wish = Wish(teacher=str(run.parent))
    assert work_of("mobilebert_distill", 1, wish).beside.config.hidden_size == config.hidden_size
    for name in ("bert_glue", "bert-tiny"):
        with pytest.raises(PlanError, match="--teacher is for recipes"):
            work_of(name, 1, Wish(teacher="bert-tiny"))


def test_a_hub_id_is_its_short_name_and_a_path_is_no_recipe():
    assert work_of("google-bert/bert-base-uncased", 1).config == BASE
    with pytest.raises(PlanError, match="expected a recipe"):
        work_of("nobody/bert_glue", 1)


def test_a_recipe_says_what_its_run_would_do_and_options_change_it():
    work = work_of("bert_squad2", 8)
    assert (work.batch_size, work.length, work.task) == (48, 384, "question_answering")
    assert work.execution.dtype == "float32" and work.config.hidden_size == 1024
    wish = Wish(batch_size=16, dtype="bfloat16", remat="full", fsdp=4, unrolled=True)
    other = work_of("bert_squad2", 8, wish)
    assert other.batch_size == 16 and other.mesh.fsdp == 4
    assert other.execution == Execution("bfloat16", remat="full", scan_layers=False)


def test_a_model_pretrains_unless_told_otherwise(tmp_path):
    work = work_of("bert-base-uncased", 4)
    assert (work.task, work.batch_size, work.length) == ("masked_lm", 128, 512)
    assert work.predictions == round(0.15 * 510) and work.execution.dtype == "bfloat16"
    forward = work_of("bert-base-uncased", 4, Wish(inference=True))
    assert forward.task is None and forward.execution.param_dtype == "bfloat16"
    (tmp_path / "config.json").write_text(json.dumps(tiny.config("convbert").to_dict()))
    for path in (tmp_path, tmp_path / "config.json"):
        assert work_of(str(path), 1).config.model_type == "convbert"


@pytest.mark.parametrize(
    ("name", "wish", "message"),
    [
        ("bert-bsae", Wish(), "expected a recipe .*bert-base-uncased"),
        ("bert-base-uncased", Wish(length=513), "length is 513; .* has 512 positions"),
        ("bert-base-uncased", Wish(batch_size=0), "batch_size is 0"),
        ("bert-base-uncased", Wish(batch_size=10, accumulate=4), "does not divide into 4"),
        ("bert-base-uncased", Wish(task="encoder"), "nothing to train on"),
        ("bert-base-uncased", Wish(predictions=600), "predictions is 600; expected 0 to 512"),
        ("bert-base-uncased", Wish(task="question_answering", predictions=3), "of a masked"),
        ("distilbert-base-uncased", Wish(task="next_sentence"), "has no task 'next_sentence'"),
        ("bert_glue", Wish(task="masked_lm"), "is a recipe of sequence_classification"),
    ],
)
def test_what_cannot_be_planned(name, wish, message):
    with pytest.raises(ValueError, match=message):
        work_of(name, 1, wish)


STEPS = [(arch, task) for arch, task in tiny.PAIRS
         if task and (arch == "bert" or task == "masked_lm")]  # fmt: skip


@pytest.mark.parametrize(("arch", "task"), STEPS)
def test_the_step_is_the_librarys_own_and_takes_the_shapes(arch, task):
    work = small(task, arch, config=tiny.config(arch, task), length=8)
    if task in PREDICTING:
        work = dataclasses.replace(work, predictions=2)
    flops = count(traced(work, jax.devices("cpu")[:2]).jaxpr).flops
    # A gradient is wanted of everything but the embeddings' own inputs.
    assert 2.5 < flops / useful_flops(work) * 3 <= 3.01


def test_a_generator_or_a_teacher_is_in_the_step():
    size = GeneratorConfig(width=0.5)
    alone = small("replaced_token_detection", predictions=0)
    two = dataclasses.replace(alone, beside=Generating(size), predictions=2)
    student = tiny.config("distilbert", attention_dropout=0.0)
    lesson = TransferConfig(soft=1.0, hidden=1.0, attention=1.0, positions="all")
    teacher = tiny.config("bert", hidden_size=2 * student.hidden_size)
    taught = small("masked_lm", config=student, beside=Taught(teacher, lesson, ((0, 1),)))
    for work, role in ((two, "generator"), (taught, "teacher")):
        wanted = slice_of("v5e:1x1")
        text = report(work, wanted, FACTS, predict(work, wanted, FACTS), 1)
        assert f"beside its {role}" in text
        alike = dataclasses.replace(work, beside=None, predictions=0)
        assert counted(work).flops > counted(alike).flops
        # Projections to a teacher's width are counted, and are nothing that a model asks for.
        assert 0.8 < counted(work).flops / useful_flops(work) <= 1.1
        assert (
            estimate(work, slice_of("v5e:1x1")).memory > estimate(alike, slice_of("v5e:1x1")).memory
        )
    state = traced(taught, jax.devices("cpu")[:2]).in_avals
    assert any(leaf.shape == (student.hidden_size, teacher.hidden_size)
               for leaf in jax.tree.leaves(state))  # fmt: skip
    turns = Turns(ProgressConfig(layer_by_layer=True), 100, 2)
    slow = dataclasses.replace(taught, beside=dataclasses.replace(taught.beside, turns=turns))
    assert counted(slow).flops >= counted(taught).flops


def test_what_micro_batches_trace_and_nobody_uses_is_not_counted():
    work = small(batch_size=16)
    assert counted(dataclasses.replace(work, accumulate=4)).flops == counted(work).flops


def test_what_depends_on_the_device_is_chosen_for_the_slice_and_not_for_this_machine():
    quiet = tiny.config("bert", attention_probs_dropout_prob=0.0, max_position_embeddings=512)
    work = small(config=quiet, length=512, execution=Execution("bfloat16", scan_layers=True))
    assert "pallas_call" in str(traced(work, jax.devices("cpu")[:1]).jaxpr)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(RunError, match="batch_size / accumulate is 6"):
        traced(small(batch_size=6), jax.devices("cpu")[:4])
