"""The loss of a student beside its teacher: its terms, what they depend on, and on any devices."""

import dataclasses

import distill_pairs as pairs
import jax
import numpy as np
import pytest
from distill_pairs import Pair

from jbert.execution import Execution
from jbert.training.config import OptimizerConfig
from jbert.training.distill.config import ProgressConfig, TransferConfig
from jbert.training.distill.objective import TEACHER
from jbert.training.distill.progress import LayerByLayer, Turns
from jbert.training.optimizer import Optimizer
from jbert.training.step import Scheduled, State, TrainStep
from jbert.trees import unflatten

SOFT = TransferConfig(task=0.0)


def terms(pair, batch, **changes):
    """Means of the terms by name, without dropout."""
    objective = dataclasses.replace(pair.objective(), **changes)
    parts = jax.jit(lambda p, b: objective(p, b, None))(pair.trained() | pair.fixed(), batch)
    return {n: float(p.mean()) for n, p in zip(objective.names, parts, strict=True)}


# -- terms ----------------------------------------------------------------------------------------

TASKS = [
    ("bert", "pretraining"), ("distilbert", "masked_lm"), ("convbert", "sequence_classification"),
    ("distilbert", "multiple_choice"), ("mobilebert", "token_classification"),
    ("distilbert", "question_answering"),
]  # fmt: skip


@pytest.mark.parametrize(("student", "task"), TASKS)
def test_every_task_has_a_term_for_each_name_and_counts_the_batch_alone(student, task):
    heads = "mean" if student == "convbert" else "each"
    pair = Pair(student, task=task, transfer=dataclasses.replace(pairs.EVERYTHING, heads=heads))
    objective, batch = pair.objective(), pairs.batch(task)
    given = pair.trained() | pair.fixed()
    shapes = jax.eval_shape(lambda p, b: objective(p, b, None), given, batch)
    assert len(shapes) == len(objective.names)
    own = {"pretraining": ("mlm", "nsp"), "masked_lm": ("mlm",),
           "question_answering": ("start", "end")}.get(task, ("task",))  # fmt: skip
    assert objective.names == own + (
        "soft", "cosine", "hidden", "means", "variances", "embeddings", "attention"
    )  # fmt: skip


def test_a_student_that_is_its_teacher_differs_in_nothing():
    pair = Pair("bert", transfer=dataclasses.replace(pairs.EVERYTHING, task=0.0, layers=(1, 3)))
    student, teacher = pair.modules()
    objective = dataclasses.replace(pair.objective(), teacher=student, pairs=((0, 0), (1, 1)))
    own = pairs.params(student, 0)
    found = objective(
        own | {TEACHER + k: x for k, x in own.items()}, pairs.batch("masked_lm"), None
    )
    for name, term in zip(objective.names, found, strict=True):
        assert abs(float(term.mean())) < 1e-5, name
    assert any(abs(x) > 1e-2 for x in terms(pair, pairs.batch("masked_lm")).values())


def test_padding_and_rows_that_fill_the_shape_count_nowhere():
    pair, batch = Pair(), pairs.batch("masked_lm")
    plain = terms(pair, batch)
    noisy = {name: value.copy() for name, value in batch.items()}
    noisy["input_ids"][-1], noisy["labels"][-1] = 7, 3
    padding = batch["attention_mask"] == 0
    noisy["input_ids"][padding] = 11
    for name, value in terms(pair, noisy).items():
        assert value == pytest.approx(plain[name], rel=1e-5), name


def test_the_masked_positions_alone_give_the_terms_of_all_logits():
    pair, batch = Pair(), pairs.batch("masked_lm")
    expected, found = terms(pair, batch), terms(pair, pairs.gathered(batch))
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_all_positions_in_chunks_are_all_positions():
    pair = Pair(transfer=TransferConfig(task=1.0, positions="all"))
    batch = pairs.batch("masked_lm")
    expected, found = terms(pair, batch), terms(pair, pairs.gathered(batch))
    assert found == pytest.approx(expected, rel=1e-5)
    at_masked = terms(Pair(transfer=TransferConfig(task=1.0)), batch)
    assert abs(at_masked["soft"] - found["soft"]) > 1e-4


def test_classes_are_compared_by_their_names():
    pair = Pair("bert", task="token_classification", transfer=SOFT)
    student, teacher = pair.modules()
    own, theirs = pair.trained(), pair.fixed()
    batch = pairs.batch("token_classification")
    plain = terms(pair, batch)["soft"]
    turned = dict(theirs)
    for name in ("kernel", "bias"):
        path = f"{TEACHER}classifier/{name}"
        turned[path] = theirs[path][..., ::-1]
    objective = dataclasses.replace(pair.objective(), classes=(1, 0))
    (found,) = objective(own | turned, batch, None)
    assert float(found.mean()) == pytest.approx(plain, rel=1e-5)


def test_an_answer_is_never_in_the_padding():
    pair = Pair(task="question_answering", transfer=SOFT)
    batch = pairs.batch("question_answering")
    wide = {name: np.pad(x, ((0, 0), (0, 5))) if x.ndim == 2 else x for name, x in batch.items()}
    assert terms(pair, wide)["soft"] == pytest.approx(terms(pair, batch)["soft"], rel=1e-5)


def test_a_student_without_token_types_does_not_read_its_teacher_s():
    pair, batch = Pair(transfer=SOFT), pairs.batch("masked_lm")
    plain = terms(pair, batch)["soft"]
    other = {**batch, "token_type_ids": 1 - batch["token_type_ids"]}
    assert abs(terms(pair, other)["soft"] - plain) > 1e-4  # the teacher does


@pytest.mark.parametrize(("kind", "labels"), [("regression", 1), ("multi_label_classification", 3)])
def test_other_problems_of_classification(kind, labels):
    fields = {"num_labels": labels, "problem_type": kind}
    task = "sequence_classification"
    student, teacher = (pairs.module("bert", task, **fields) for _ in range(2))
    objective = dataclasses.replace(
        Pair("bert", task=task, transfer=SOFT).objective(), teacher=teacher
    )
    objective = dataclasses.replace(
        objective, student=dataclasses.replace(objective.student, module=student)
    )
    own, theirs = pairs.params(student, 0), pairs.params(teacher, 1)
    batch = pairs.batch(task)
    batch["labels"] = np.zeros((8, labels), np.float32)
    (found,) = objective(own | {TEACHER + k: x for k, x in theirs.items()}, batch, None)
    logits = [
        np.asarray(m.apply({"params": unflatten(p)}, batch["input_ids"],
                           batch["attention_mask"], batch["token_type_ids"]).logits)[:-1]
        for m, p in ((student, own), (teacher, theirs))
    ]  # fmt: skip
    if kind == "regression":
        expected = np.square(logits[0] - logits[1]).mean()
    else:
        p, q = (1 / (1 + np.exp(-x / 2)) for x in (logits[1], logits[0]))
        both = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        expected = 4 * both.mean()
    assert float(found.mean()) == pytest.approx(expected, rel=1e-4)


# -- steps ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone():
    """Two steps on one device, of a narrower student."""
    batches = [pairs.gathered(pairs.batch("masked_lm")) for _ in range(2)]
    pair = Pair("bert", width=16, transfer=dataclasses.replace(pairs.EVERYTHING, positions="all"))
    return pair, batches, *pair.run(batches)


def test_a_step_trains_student_and_mapping_and_leaves_the_teacher_as_it_was(alone):
    pair, _, losses, state = alone
    assert all(after < before for before, after in zip(losses[0][:2], losses[1][:2], strict=True))
    for path, value in pair.fixed().items():
        np.testing.assert_array_equal(state.fixed[path], value, err_msg=path)
    assert not any(path.startswith(TEACHER) for path in state.opt_state["mu"])
    moved = {p for p, x in pair.trained().items() if not np.array_equal(state.params[p], x)}
    assert {"mapping/hidden/kernel", "mapping/cosine/kernel", "mapping/embeddings/bias"} <= moved
    still = pair.trained().keys() - moved
    assert not still, still


@pytest.mark.parametrize(
    "changes",
    [
        {"mesh": (2, 4, 1)}, {"wrapper": "pmap", "mesh": (8, 1, 1)},
        {"accumulate": 2, "execution": Execution(remat="full")},
    ],
    ids=["jit", "pmap", "accumulate and remat"],
)  # fmt: skip
def test_any_devices_and_any_way_of_computing_take_the_same_steps(alone, changes):
    pair, batches, losses, state = alone
    found, there = dataclasses.replace(pair, **changes).run(batches)
    np.testing.assert_allclose(found, losses, rtol=2e-4, atol=2e-6)
    for path, value in state.params.items():
        np.testing.assert_allclose(there.params[path], value, atol=2e-4, err_msg=path)


def test_a_teacher_in_bfloat16_says_nearly_the_same(alone):
    pair, batches, losses, _ = alone
    teachers = Execution(dtype="bfloat16", param_dtype="bfloat16")
    found, state = dataclasses.replace(pair, teachers=teachers).run(batches[:1])
    np.testing.assert_allclose(found[0], losses[0], rtol=0.1, atol=0.02)
    assert {x.dtype.name for x in state.fixed.values()} == {"bfloat16"}


def test_layer_by_layer_only_the_layer_in_turn_and_a_little_below_move():
    want = TransferConfig(task=0.0, soft=0.0, hidden=1.0, attention=1.0)
    pair = Pair("bert", transfer=want)
    turns = Turns(ProgressConfig(below=0.1, warmup=0.0), 4, 2)
    objective = LayerByLayer(pair.objective(), turns)
    assert isinstance(objective, Scheduled)
    optimizer = Optimizer(OptimizerConfig(learning_rate=1e-3, warmup_steps=0), 4, 2)
    step = TrainStep(objective, optimizer)
    params = pair.trained()
    make = jax.jit(lambda number: step(
        State(number, params, optimizer.init(params), None, pair.fixed()),
        pairs.batch("masked_lm"),
    )[0].params)  # fmt: skip

    def moved(number):
        new = make(np.int32(number))
        far = {p: float(np.abs(new[p] - x).max()) for p, x in params.items()}
        return {
            name: max(v for p, v in far.items() if name in p)
            for name in ("embeddings", "layer_0", "layer_1", "mlm")
        }

    first, second = moved(0), moved(2)
    assert first["layer_0"] > 1e-4 and first["layer_1"] == first["embeddings"] == first["mlm"] == 0
    assert second["layer_1"] > 1e-4 and second["embeddings"] == second["mlm"] == 0
    assert 0 < second["layer_0"] < 0.2 * second["layer_1"]


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("bert", "mobilebert"), ("distilbert", "convbert"), ("mobilebert", "bert"),
     ("convbert", "distilbert")],
)  # fmt: skip
def test_any_architecture_can_be_the_teacher_of_any_other(student, teacher):
    pair = Pair(student, teacher, transfer=dataclasses.replace(pairs.EVERYTHING, heads="mean"))
    objective, batch = pair.objective(), pairs.gathered(pairs.batch("masked_lm"))
    own, theirs = pairs.shapes(pair)
    found = jax.eval_shape(lambda p, b: objective(p, b, None), own | theirs, batch)
    assert [term.total.shape for term in found] == [()] * 8
