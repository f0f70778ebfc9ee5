"""Parameters beside the model's own: some are trained along with it, some are only looked at."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec
from training_runs import make_rows  # noqa: F401

import jbert
from jbert.losses import Term
from jbert.training.config import (
    CheckpointConfig,
    LoggingConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    RunError,
)
from jbert.training.loop import Trainer
from jbert.training.parallel import mesh_of
from jbert.training.preemption import Preempted
from jbert.training.step import TaskObjective
from jbert.training.step_files import open_step
from jbert.trees import flatten

TASK = "sequence_classification"
# Without dropout, whose draws differ between meshes.
CONFIG = tiny.config(
    "distilbert", TASK, n_layers=1, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0
)
KERNEL, TARGET = "projection/kernel", "teacher/kernel"
SEEN = jax.random.normal(jax.random.key(1), (8, 4))


@dataclasses.dataclass(frozen=True)
class WithTeacher(TaskObjective):
    """The task's loss, and how far a matrix that is learned is from one that is given."""

    names = ("task", "teacher")

    def __call__(self, params, batch, key=None):
        [task] = super().__call__(params, batch, key)
        far = jnp.sum((params[KERNEL] - params[TARGET]) ** 2)
        examples = jnp.sum(batch["weights"])
        return [task, Term(far * examples, examples, 0.5)]


class Stopping:
    """A source that stops the run while it reads its third batch."""

    def __init__(self, source):
        self.source, self.batches = source, 0
        self.lengths, self.fingerprint, self.length = source.lengths, "rows", source.length

    def __len__(self):
        return len(self.source)

    def batch(self, *arguments):
        self.batches += 1
        if self.batches == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.source.batch(*arguments)


def trainer(run, source=None, **options):
    mesh, rules = mesh_of(run)
    bert = jbert.from_config(CONFIG, TASK, mesh=mesh, rules=rules)
    split = NamedSharding(mesh, PartitionSpec("fsdp"))

    # Copies: what a trainer is given is used up.
    def place(value):
        return jax.device_put(jnp.copy(value), split)

    options = {
        "objective": WithTeacher(bert.module, TASK),
        "companions": {KERNEL: place(jnp.zeros((8, 4)))},
        "fixed": {TARGET: place(SEEN)},
    } | options
    return Trainer(run, bert, source or make_rows("distilbert", TASK, 40), **options)


def configuration(place, **changes):
    optimizer = OptimizerConfig(learning_rate=0.05, warmup_steps=0, max_grad_norm=0.0)
    return RunConfig(
        **{"output_dir": str(place), "batch_size": 8, "steps": 8, "optimizer": optimizer,
           "checkpoints": CheckpointConfig(steps=100), "logging": LoggingConfig(steps=4),
           "mesh": MeshConfig(data=4, fsdp=2)} | changes
    )  # fmt: skip


def assert_equal(found, expected):
    found, expected = flatten(found.params), flatten(expected.params)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    made = trainer(configuration(place))
    return made, made.fit(), place


def test_companions_are_trained_and_come_back_beside_the_model(finished):
    made, bert, _ = finished
    assert set(made.companions) == {KERNEL}
    assert KERNEL not in flatten(bert.params)
    # Adam walks at most the learning rate in a step, and here all in one direction.
    walked = np.asarray(made.companions[KERNEL])
    assert (np.sign(walked) == np.sign(SEEN)).all()
    assert (abs(walked) > 0.05).all()


def test_what_is_fixed_is_in_no_checkpoint_and_does_not_change(finished, tmp_path, monkeypatch):
    _, _, place = finished
    leaves = open_step(place / "checkpoints" / "8").leaves
    assert f"params/{KERNEL}" in leaves and f"opt_state/mu/{KERNEL}" in leaves
    assert not [name for name in leaves if TARGET in name]
    # At the end of the run, whose steps each handed it on to the next.
    monkeypatch.setattr(Trainer, "_end", lambda self, state: state)
    state = trainer(configuration(tmp_path, steps=2)).fit()
    np.testing.assert_array_equal(state.fixed[TARGET], SEEN)
    assert state.fixed[TARGET].sharding.spec == PartitionSpec("fsdp")


def test_the_terms_are_told_by_name(finished):
    _, _, place = finished
    figures = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    for line in figures:
        assert line["loss"] == pytest.approx(line["task_loss"] + line["teacher_loss"], rel=1e-6)
    at_first = 0.5 * float(jnp.sum(SEEN**2))
    first, last = (line["teacher_loss"] for line in (figures[0], figures[-1]))
    assert at_first / 2 < last < first < at_first


def test_a_checkpoint_with_companions_loads_as_the_model_alone(finished):
    _, bert, place = finished
    loaded = jbert.load(place / "checkpoints" / "8")
    assert_equal(loaded, bert)


def test_a_run_that_was_stopped_goes_on_with_companions_and_what_is_fixed(finished, tmp_path):
    made, expected, _ = finished
    run = configuration(tmp_path)
    source = Stopping(make_rows("distilbert", TASK, 40))
    with pytest.raises(Preempted):
        trainer(run, source).fit()
    again = trainer(dataclasses.replace(run, resume=True))
    found = again.fit()
    np.testing.assert_array_equal(again.companions[KERNEL], made.companions[KERNEL])
    assert_equal(found, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel": "pmap", "mesh": MeshConfig()},
        {"accumulate": 2, "mesh": MeshConfig(data=2, fsdp=2, tensor=2)},
    ],
)
def test_they_are_the_same_under_pmap_and_in_micro_batches(finished, tmp_path, changes):
    made, *_ = finished
    other = trainer(configuration(tmp_path, **changes))
    other.fit()
    np.testing.assert_allclose(other.companions[KERNEL], made.companions[KERNEL], atol=1e-6)


@pytest.mark.parametrize("kind", ["companions", "fixed"])
def test_names_that_the_model_has_are_refused(tmp_path, kind):
    name = "encoder/embeddings/word/embedding"
    with pytest.raises(RunError, match=name):
        trainer(configuration(tmp_path), **{kind: {name: SEEN}})
