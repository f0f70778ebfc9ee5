"""The same steps under jit on any mesh and under pmap; where states and batches lie."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec
from training_runs import (
    BATCH,
    STEPS,
    Followed,
    Setup,
    assert_same,
    batches,
    follow,
    loss_of,
    make_rows,
)

from jbert import sharding
from jbert.data.batches import TrainingOrder
from jbert.execution import Execution
from jbert.sharding import batch_sharding, make_mesh
from jbert.training import parallel
from jbert.training.config import MeshConfig, RunConfig, RunError
from jbert.training.parallel import (
    JitParallel,
    PmapParallel,
    Program,
    check_batch,
    mesh_of,
    parallel_of,
)
from jbert.training.state import state_bytes
from jbert.training.step import EvalStep

PMAP = {"wrapper": "pmap", "mesh": (8, 1, 1)}
SMALL = Setup("distilbert", config=(("n_layers", 1),))


def multi_label(count=21):
    return (np.random.default_rng(3).random((count, 2)) < 0.5).astype(np.float32)


# Two terms, one term with uneven counts, labels that are numbers.
SETUPS = {
    "bert": Setup("bert", "pretraining"),
    "distilbert": Setup("distilbert", "sequence_classification"),
    "mobilebert": Setup("mobilebert", "question_answering"),
    "convbert": Setup("convbert", "masked_lm"),
}
LABELS = {"distilbert": {"labels": multi_label()}}


def test_a_step_is_compiled_with_the_options_for_its_devices(monkeypatch):
    """The compiler refuses one that it does not know: so far it comes."""
    monkeypatch.setattr(parallel, "step_options", lambda: {"xla_no_such_option": "1"})
    run = SMALL.run()
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        run.take(batches(make_rows(SMALL.arch, SMALL.task), 1)[0])


@functools.cache
def twenty(arch):
    setup = SETUPS[arch]
    return batches(make_rows(arch, setup.task, **LABELS.get(arch, {})), STEPS)


@functools.cache
def on_one_device(arch) -> Followed:
    return follow(SETUPS[arch].run(), twenty(arch))


@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("bert", {"mesh": (8, 1, 1)}),
        ("bert", {"mesh": (2, 2, 2)}),
        ("bert", {"mesh": (2, 2, 2), "zero": True}),
        ("bert", PMAP),
        ("distilbert", {"mesh": (1, 4, 2)}),
        ("mobilebert", {"mesh": (4, 1, 2), "zero": True}),
        ("convbert", PMAP),
    ],
)
def test_eight_devices_learn_what_one_does(arch, changes):
    run = dataclasses.replace(SETUPS[arch], **changes).run()
    old = run.state
    first = follow(run, twenty(arch)[:1])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    compiling = run.program.compile_seconds
    rest = follow(run, twenty(arch)[1:])
    assert run.program.compile_seconds == compiling
    assert run.program.temporary_bytes() > 0
    losses, norms = (np.concatenate([a, b]) for a, b in zip(first[:2], rest[:2], strict=True))
    assert_same(Followed(losses, norms, rest.params), on_one_device(arch), 3e-6)
    state = run.parallel.give(run.state)
    for leaf, placed in zip(
        jax.tree.leaves(state), jax.tree.leaves(run.parallel.shardings(state)), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(placed, leaf.ndim)


def test_the_batches_of_these_runs_are_uneven_and_their_losses_fall():
    assert {float(batch["weights"].sum()) for batch in twenty("bert")} == {16, 5}
    for arch in SETUPS:
        losses = on_one_device(arch).losses
        assert 0 < losses[-2:].mean() < 0.9 * losses[:2].mean()


# -- where things lie -------------------------------------------------------------------------


def test_moments_lie_beside_their_parameters_and_zero_splits_them_over_data():
    def shards(zero, mesh):
        run = dataclasses.replace(SMALL, mesh=mesh, zero=zero).run()
        state = run.state
        for moment in ("mu", "nu"):
            assert state.opt_state[moment].keys() == state.params.keys()
        return state, {
            path: (state.params[path].addressable_data(0).shape, leaf.addressable_data(0).shape)
            for path, leaf in state.opt_state["mu"].items()
        }

    state, together = shards(False, (2, 2, 2))
    assert all(param == moment for param, moment in together.values())
    query = "encoder/layer_0/attention/query/kernel"
    assert state.params[query].sharding.spec == PartitionSpec("fsdp", "tensor")
    zero, split = shards(True, (8, 1, 1))
    for path, (param, moment) in split.items():
        shape = zero.params[path].shape
        assert param == shape
        divisible = any(size % 8 == 0 for size in shape)
        assert np.prod(moment) * (8 if divisible else 1) == np.prod(shape), path
    plain, _ = shards(False, (8, 1, 1))
    everything = sum(leaf.nbytes for leaf in jax.tree.leaves(plain.opt_state))
    assert state_bytes(plain.opt_state) == everything
    assert state_bytes(zero.opt_state) < 0.16 * everything
    assert state_bytes(zero.params) == state_bytes(plain.params)


def test_fsdp_that_divides_nothing_warns_once_and_keeps_copies(caplog, monkeypatch):
    monkeypatch.setattr(sharding, "_told", set())
    module = Setup("bert", config=(("hidden_size", 36),)).module()
    mesh = make_mesh(1, 8, 1)
    with caplog.at_level(logging.WARNING, "jbert"):
        placed = [JitParallel(module, mesh, "fsdp") for _ in range(2)]
    assert placed[0].ways() == 8
    told = [record.message for record in caplog.records]
    assert len(told) == len(set(told)) > 0
    assert all("of size 36 does not divide over 8 devices; replicated" in text for text in told)


@pytest.mark.parametrize(
    ("mesh", "rules", "ways"),
    [((8, 1, 1), "data+fsdp+tensor", 8), ((2, 2, 2), "data+fsdp+tensor", 4), ((2, 2, 2), "fsdp", 2),
     ((1, 1, 8), "data+fsdp+tensor", 1)],
)  # fmt: skip
def test_into_how_many_parts_a_batch_is_split(mesh, rules, ways):
    assert JitParallel(SMALL.module(), make_mesh(*mesh), rules).ways() == ways


class PartOf:
    """A sharding as one of several processes sees it."""

    def __init__(self, whole, devices):
        self.whole, self.devices = whole, devices

    def addressable_devices_indices_map(self, shape):
        found = self.whole.devices_indices_map(shape)
        return {device: found[device] for device in self.devices}


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2), (1, 1, 8), (2, 4, 1)])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_read_the_rows_of_their_devices_under_jit(mesh, processes, monkeypatch):
    whole = batch_sharding(make_mesh(*mesh), rows=BATCH)
    one = JitParallel(SMALL.module(), make_mesh(*mesh), sharding.EVERYTHING)
    read = []
    monkeypatch.setattr(jax, "make_array_from_process_local_data", lambda s, x, shape: x)
    for mine in np.split(np.asarray(jax.devices()), processes):
        part = PartOf(whole, list(mine))
        monkeypatch.setattr(parallel, "batch_sharding", lambda *_, part=part: part)
        rows = one.put(BATCH, lambda places: {"rows": places})["rows"]
        held = part.addressable_devices_indices_map((BATCH,)).values()
        assert set(rows) == {int(row) for index in held for row in np.arange(BATCH)[index]}
        read.append(rows)
    assert sorted(set(np.concatenate(read))) == list(range(BATCH))
    if mesh == (8, 1, 1):
        np.testing.assert_array_equal(np.concatenate(read), np.arange(BATCH))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_read_rows_of_their_own_under_pmap(processes, monkeypatch):
    rows = make_rows("bert", "masked_lm")
    batch = TrainingOrder(rows, BATCH, 0).batch(1)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(jax, "local_device_count", lambda: 8 // processes)
    made = []
    for process in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        one = PmapParallel(make_mesh())
        made.append(one.put(BATCH, lambda places: batch.read(rows, places)))
    whole = batch.read(rows, np.arange(BATCH))
    for name, values in whole.items():
        found = np.concatenate([part[name] for part in made])
        assert found.shape == (8, 2, *values.shape[1:])
        np.testing.assert_array_equal(found.reshape(values.shape), values)


# -- evaluation -------------------------------------------------------------------------------


def predict(output, batch):
    return {"logits": output.logits, "first": batch["input_ids"][:, 0]}


@pytest.mark.parametrize("labelled", [True, False])
def test_evaluation_sums_and_predictions_are_the_same_everywhere(labelled):
    setup = dataclasses.replace(SMALL, task="sequence_classification")
    batch = min(batches(make_rows(setup.arch, setup.task), 2), key=lambda x: x["weights"].sum())
    if not labelled:
        del batch["labels"]
    found = []
    for changes in ({}, {"mesh": (2, 2, 2)}, PMAP):
        run = dataclasses.replace(setup, **changes).run()
        step = EvalStep(run.step.objective, predict, run.parallel.axis)
        program = run.parallel.evaluate(step)
        sums, predictions = program(run.state.evaluated(), run.put(batch))
        assert [len(sums["terms"]), float(sums["examples"])] == [int(labelled), 5]
        np.testing.assert_array_equal(predictions["first"], batch["input_ids"][:, 0])
        found.append((loss_of(sums), np.asarray(predictions["logits"])))
    for loss, logits in found[1:]:
        np.testing.assert_allclose(loss, found[0][0], rtol=1e-6)
        np.testing.assert_allclose(logits, found[0][1], atol=1e-6)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_program_is_compiled_once_for_each_shape_and_type(ahead, caplog):
    function = jax.jit(lambda scale, batch: scale * batch["input_ids"].sum())
    program = Program("test step", function, ahead=ahead)
    with caplog.at_level(logging.INFO, "jbert"):
        for shape, dtype in (((2, 3), jnp.int32), ((2, 3), jnp.int32), ((2, 4), jnp.int32),
                             ((2, 3), jnp.float32), ((2, 4), jnp.int32)):  # fmt: skip
            assert program(2, {"input_ids": jnp.ones(shape, dtype)}) == 2 * np.prod(shape)
    assert (program.temporary_bytes() > 0) <= ahead
    assert [r.message.split(" in ")[0] for r in caplog.records if r.name == "jbert"] == [
        f"compiled the test step for inputs of {shape}" for shape in ((2, 3), (2, 4), (2, 3))
    ]


# -- what cannot be done ----------------------------------------------------------------------


@pytest.mark.parametrize(("size", "ways", "near"), [(30, 8, 32), (3, 8, 8), (13, 4, 12)])
def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(size, ways, near):
    with pytest.raises(RunError, match=rf"batch_size is {size}.*over {ways} devices.*as {near}$"):
        check_batch("batch_size", size, ways)
    check_batch("batch_size", near, ways)


def test_a_mesh_larger_than_the_devices_is_refused():
    with pytest.raises(ValueError, match="takes 16 devices, but there are 8"):
        mesh_of(RunConfig(mesh=MeshConfig(4, 2, 2)))
    with pytest.raises(ValueError, match="takes a multiple of 16 devices, but there are 8"):
        mesh_of(RunConfig(mesh=MeshConfig(fsdp=16)))


@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=8), MeshConfig(zero=True), MeshConfig(data=8)])
def test_pmap_knows_no_mesh(mesh):
    with pytest.raises(RunError, match="parallel is 'pmap'.*leave the mesh as it is"):
        mesh_of(RunConfig(parallel="pmap", mesh=mesh))


def test_the_wrapper_is_the_configured_one():
    for run, kind, zero in (
        (RunConfig(parallel="pmap"), PmapParallel, None),
        (RunConfig(mesh=MeshConfig(fsdp=4)), JitParallel, False),
        (RunConfig(mesh=MeshConfig(zero=True)), JitParallel, True),
    ):
        mesh, rules = mesh_of(run)
        made = parallel_of(run, SMALL.module(), mesh, rules)
        assert type(made) is kind
        assert getattr(made, "zero", None) == zero
        assert made.ways() == 8
    assert tiny.ARCHITECTURES == tuple(SETUPS)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"steps": 0, "epochs": 0.0, "batch_size": 0, "accumulate": 0, "seed": -1},
         ["steps is 0", "epochs is 0.0", "batch_size is 0", "accumulate is 0", "seed is -1"]),
        ({"batch_size": 32, "accumulate": 5}, ["batch_size 32 does not divide into 5"]),
        ({"resume": True, "overwrite": True}, ["--resume or --overwrite, not both"]),
        ({"execution": Execution(dtype="float16")}, ["dtype is float16", "bfloat16"]),
        ({"execution": Execution(param_dtype="bfloat16")}, ["param_dtype bfloat16", "float32"]),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_is_refused_with_every_reason(fields, told):
    with pytest.raises(RunError) as caught:
        RunConfig(**fields)
    for part in told:
        assert part in str(caught.value)
