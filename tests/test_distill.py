"""Distillation as a whole: what a student starts from, how runs end, and what is refused."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import finetune_runs as runs
import jax
import numpy as np
import pytest
import tiny
from finetune_runs import one_device  # noqa: F401

import jbert
from jbert.sharding import make_mesh
from jbert.stack import unstack_layers
from jbert.tokenizer import Tokenizer
from jbert.training.config import CheckpointConfig, LoggingConfig, OptimizerConfig, RunError
from jbert.training.distill import (
    CorpusConfig,
    CorpusDistillConfig,
    DistillConfig,
    InitialConfig,
    ProgressConfig,
    StartConfig,
    TaskDistillConfig,
    TeacherConfig,
    TransferConfig,
    distill,
)
from jbert.training.distill.student import student_of
from jbert.training.pretrain import run as pretrain
from jbert.trees import flatten

QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ALL = TransferConfig(cosine=1.0, hidden=1.0, attention=1.0, embeddings=1.0)


@pytest.fixture(autouse=True)
def pretraining_on_one_device(monkeypatch):
    first = make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(pretrain, "mesh_of", lambda run: (first, run.mesh.rules))


def large(bert):
    """The same model with parameters that all matter."""
    random = tiny.random_params(bert.params, seed=5)
    return dataclasses.replace(bert, params=random)


def write_teacher(place: Path, task: str, arch: str = "bert", words=runs.VOCABULARY, **fields):
    """A model of four layers, as if it had learned the task."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    options = {"token_type_ids": arch != "distilbert"}
    tokenizer = Tokenizer.from_vocab(place / "vocab.txt", **options)
    sizes = {"num_hidden_layers": 4, "vocab_size": len(words), **QUIET, **fields}
    config = tiny.config(arch, task, **sizes)
    jbert.save(large(jbert.from_config(config, task, tokenizer=tokenizer)), place / "model")
    return str(place / "model")


def student(place: Path, arch: str = "distilbert", **fields) -> str:
    place.mkdir(parents=True, exist_ok=True)
    quiet = QUIET if arch != "distilbert" else {"dropout": 0.0, "attention_dropout": 0.0}
    tiny.config(arch, **{**quiet, **fields}).to_json(place / "config.json")
    return str(place / "config.json")


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A teacher of reviews, and the rows of its task."""
    place = tmp_path_factory.mktemp("classes")
    names = {"id2label": {0: "good", 1: "bad"}}
    teacher = write_teacher(place, "sequence_classification", **names)
    return teacher, runs.write_splits(place, "sequence_classification")


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A teacher of the reviews' language, and a corpus of them."""
    place = tmp_path_factory.mktemp("language")
    random = np.random.default_rng(0)
    texts = ["\n".join(runs.review(random)[0] for _ in range(6)) for _ in range(30)]
    (place / "text.txt").write_text("\n\n".join(texts), "utf-8")
    return write_teacher(place, "masked_lm"), str(place / "text.txt")


OPTIONS = {
    "steps": 4, "batch_size": 8, "checkpoints": CheckpointConfig(steps=2),
    "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
    "logging": LoggingConfig(steps=1, progress=False),
}  # fmt: skip


def on_task(classes, place, **changes) -> TaskDistillConfig:
    teacher, data = classes
    arch = changes.pop("arch", "distilbert")
    model = student(place / "student", arch, **changes.pop("fields", {}))
    settings = {"max_length": runs.LENGTH, "buckets": (runs.LENGTH,)}
    usual = {
        "task": "sequence_classification", "data": data, "processing": settings, "model": model,
        "output_dir": str(place / "run"), "start": StartConfig(scratch=True),
        "teacher": TeacherConfig(model=teacher),
    }  # fmt: skip
    return TaskDistillConfig(**{**OPTIONS, **usual, **changes})


def on_corpus(language, place, **changes) -> CorpusDistillConfig:
    teacher, text = language
    arch = changes.pop("arch", "bert")
    model = student(place / "student", arch, **changes.pop("fields", {}))
    usual = {
        "data": CorpusConfig(train_files=(text,), validation_share=0.1), "model": model,
        "max_length": 24, "output_dir": str(place / "run"), "start": StartConfig(scratch=True),
        "teacher": TeacherConfig(model=teacher),
    }  # fmt: skip
    return CorpusDistillConfig(**{**OPTIONS, **usual, **changes})


def parameters(run) -> dict[str, np.ndarray]:
    bert = jbert.load(f"{run.output_dir}/model")
    return {path: np.asarray(leaf) for path, leaf in flatten(bert.params).items()}


def stop_after_two(run, place):
    """A copy of a finished run, as it was after two of its steps."""
    copy = dataclasses.replace(run, output_dir=str(place / "copy"), resume=True)
    shutil.copytree(run.output_dir, copy.output_dir)
    there = Path(copy.output_dir)
    for path in [*there.glob("checkpoints/*4"), there / "model"]:
        shutil.rmtree(path)
    (there / "figures.json").unlink()
    return copy


# -- runs -----------------------------------------------------------------------------------------


def test_a_student_learns_from_its_teacher_whose_classes_are_in_another_order(classes, tmp_path):
    run = on_task(classes, tmp_path, transfer=ALL, initial=InitialConfig(take="layers"))
    figures = distill(run)
    assert {"loss", "accuracy"} <= set(figures["validation"])
    lines = runs.lines(tmp_path / "run" / "metrics.jsonl")
    first, *_, last = [line for line in lines if line["split"] == "train"]
    names = ("task", "soft", "cosine", "hidden", "embeddings", "attention")
    assert {f"{name}_loss" for name in names} <= set(first)
    assert last["loss"] < first["loss"]
    bert = jbert.load(tmp_path / "run" / "model")
    assert bert.config.id2label == {0: "good", 1: "bad"}  # the teacher's order
    assert not bert.tokenizer.options.token_type_ids
    copy = stop_after_two(run, tmp_path)
    distill(copy)
    for path, value in parameters(run).items():
        np.testing.assert_array_equal(parameters(copy)[path], value, err_msg=path)


def test_layer_by_layer_goes_on_bit_for_bit(language, tmp_path):
    run = on_corpus(
        language, tmp_path, fields={"hidden_size": 16}, initial=InitialConfig(take="nothing"),
        transfer=TransferConfig(task=0.0, soft=0.0, hidden=1.0, attention=1.0, normalise=True),
        progress=ProgressConfig(layer_by_layer=True),
    )  # fmt: skip
    figures = distill(run)
    assert set(figures["validation"]) == {"loss", "perplexity"}
    copy = stop_after_two(run, tmp_path)
    distill(copy)
    for path, value in parameters(run).items():
        np.testing.assert_array_equal(parameters(copy)[path], value, err_msg=path)
    assert not any("mapping" in path or "teacher" in path for path in parameters(run))


def test_a_classifier_of_its_own_order_keeps_it(classes, tmp_path):
    names = {"id2label": {0: "bad", 1: "good"}}
    model = write_teacher(tmp_path, "sequence_classification", num_hidden_layers=1, **names)
    run = on_task(classes, tmp_path, model=model, start=StartConfig(), steps=1)
    distill(run)
    assert jbert.load(tmp_path / "run" / "model").config.id2label == names["id2label"]


def test_several_seeds_of_a_task_are_students_of_one_teacher(classes, tmp_path):
    run = on_task(classes, tmp_path, seeds=(1, 2), steps=1)
    figures = distill(run)["validation"]
    found = json.loads((tmp_path / "run" / "seeds.json").read_text())
    each = [splits["validation"]["loss"] for splits in found["seeds"].values()]
    assert each[0] != each[1] and figures["loss"] == sum(each) / 2
    assert jbert.load(tmp_path / "run" / "model").config.model_type == "distilbert"


# -- what a student starts from -------------------------------------------------------------------


@functools.cache
def deep():
    return large(jbert.from_config(tiny.config("bert", num_hidden_layers=4), "masked_lm"))


def pair(student_arch="distilbert", scan=False, **fields):
    config = tiny.config(student_arch, **fields)
    return jbert.from_config(config, "masked_lm", seed=1, scan_layers=scan), deep()


@pytest.mark.parametrize("scan", [False, True])
def test_a_student_starts_from_layers_of_its_teacher(scan):
    mine, teacher = pair(scan=scan)
    new = student_of(mine, teacher)
    theirs = flatten(teacher.params)
    flat = flatten(unstack_layers(new.params))
    for path, value in flat.items():
        source = path.replace("layer_1/", "layer_3/")
        np.testing.assert_array_equal(value, theirs[source], err_msg=path)
    # Copies: a training uses up what it is given.
    for leaf in jax.tree.leaves(new.params):
        leaf.delete()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(teacher.params))


def test_embeddings_and_heads_alone_or_named_layers():
    mine, teacher = pair("bert")
    outside = flatten(student_of(mine, teacher, ()).params)
    own, theirs = flatten(mine.params), flatten(teacher.params)
    for path, value in outside.items():
        np.testing.assert_array_equal(value, (own if "layer_" in path else theirs)[path])
    named = flatten(student_of(mine, teacher, (2, 0)).params)
    path = "encoder/layer_{}/ffn/in/kernel"
    np.testing.assert_array_equal(named[path.format(0)], theirs[path.format(2)])
    np.testing.assert_array_equal(named[path.format(1)], theirs[path.format(0)])


def test_norms_that_do_not_normalise_start_anew():
    teacher = jbert.from_config(
        tiny.config("mobilebert", normalization_type="layer_norm"), "masked_lm"
    )
    mine = jbert.from_config(tiny.config("mobilebert"), "masked_lm", seed=1)
    new = flatten(student_of(mine, large(teacher), ()).params)
    assert (np.asarray(new["encoder/embeddings/norm/scale"]) == 1).all()
    assert not (np.asarray(new["mlm/transform/norm/scale"]) == 1).all()


@pytest.mark.parametrize(
    ("fields", "layers", "message"),
    [
        ({"dim": 16}, None, r"encoder/layer_0/.*expected \(16, 4, 4\), the teacher's .* \(32"),
        ({"max_position_embeddings": 16}, (), "encoder/embeddings/position"),
        ({"n_layers": 5}, None, "5 layers, more than the 4 of its teacher"),
        ({}, (0,), "names 1 layers of the teacher; expected 2"),
        ({}, (0, 4), "layer 4 of a teacher with 4 layers; expected 0 to 3"),
    ],
)
def test_a_student_that_cannot_start_so_is_refused(fields, layers, message):
    with pytest.raises(RunError, match=message):
        student_of(*pair(**fields), layers)


# -- what is refused before anything is compiled --------------------------------------------------

HIDDEN = TransferConfig(hidden=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": TeacherConfig()}, "teacher.model is empty"),
        ({"transfer": HIDDEN, "fields": {"dim": 64}}, "is 32 wide, the student 64"),
        ({"transfer": HIDDEN, "fields": {"n_layers": 5}}, "5 layers and its teacher only 4"),
        ({"transfer": TransferConfig(hidden=1.0, layers=(0, 4))}, "layer 4 of a teacher with 4"),
        ({"transfer": TransferConfig(attention=1.0), "fields": {"n_heads": 2}},
         "2 attention heads, teacher.model .* 4; .*transfer.heads='mean'"),
        ({"transfer": TransferConfig(attention=1.0), "fields": {"attention_dropout": 0.1}},
         "--start.overrides.attention_dropout 0.0"),
        ({"processing": {"max_length": 33}, "fields": {"max_position_embeddings": 64}},
         "has 32 positions, but rows have up to 33 tokens"),
        ({"start": StartConfig(scratch=True, overrides={"vocab_size": 99})},
         "vocabulary of 32, the student one of 99"),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_refused(classes, tmp_path, changes, message):
    run = on_task(classes, tmp_path, **changes)
    with pytest.raises(RunError, match=message):
        distill(run)
    assert not (tmp_path / "run" / "config.json").exists()


def test_other_tokens_under_the_same_numbers_are_refused(classes, tmp_path):
    words = [*runs.VOCABULARY[:-2], *runs.VOCABULARY[:-3:-1]]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    start = StartConfig(scratch=True, tokenizer=str(tmp_path / "vocab.txt"))
    with pytest.raises(RunError, match="2 tokens such as 'harbour' have other numbers"):
        distill(on_task(classes, tmp_path, start=start))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"id2label": {0: "good", 1: "poor"}},
            "labels good, poor, the data have bad, good",
        ),
        ({"num_labels": 3}, "has the labels 3 without names"),
        ({"problem_type": "regression", "num_labels": 1}, "has learned regression"),
    ],
)
def test_a_teacher_of_other_labels_is_refused(classes, tmp_path, fields, message):
    teacher = write_teacher(tmp_path / "t", "sequence_classification", **fields)
    with pytest.raises(RunError, match=message):
        distill(on_task((teacher, classes[1]), tmp_path))


def test_a_teacher_of_another_task_or_of_nothing_is_refused(classes, language, tmp_path):
    with pytest.raises(RunError, match="no predictions of sequence_cl.*trained for masked_lm"):
        distill(on_task((language[0], classes[1]), tmp_path))
    bare = write_teacher(tmp_path / "bare", None)
    with pytest.raises(RunError, match="has no predictions of masked_lm"):
        distill(on_corpus((bare, language[1]), tmp_path))
    with pytest.raises(RunError, match="expected a TaskDistillConfig or a CorpusDistillConfig"):
        distill(DistillConfig(output_dir=str(tmp_path / "none")))
    with pytest.raises(RunError, match="another generator's tokens"):
        on_corpus(language, tmp_path, task="replaced_token_detection")
    progress = ProgressConfig(layer_by_layer=True)
    with pytest.raises(RunError, match="expected one of them to weigh something"):
        on_corpus(language, tmp_path, progress=progress)
    with pytest.raises(RunError, match="expected --steps"):
        on_corpus(language, tmp_path, progress=progress, transfer=HIDDEN, steps=None)
