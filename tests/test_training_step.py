"""The step as a pure function on one device: accumulation, fillers, keys, precision, memory."""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from training_runs import (
    OPTIMIZER,
    Setup,
    assert_same,
    batches,
    follow,
    loss_of,
    make_rows,
)

from jbert.execution import Execution
from jbert.losses import Term
from jbert.training.config import OptimizerConfig
from jbert.training.parallel import PmapParallel
from jbert.training.step import State, TrainStep, blank_fillers, micro_batches, seen

SMALL = Setup("distilbert", config=(("n_layers", 1),))


@functools.cache
def pure(setup):
    """The compiled step, which may be called again with the same state, and its first state."""
    return jax.jit(setup.step()), setup.first_state()


def one_batch(setup, rows=16, **labels):
    return batches(make_rows(setup.arch, setup.task, rows, **labels), 1, rows)[0]


def assert_equal(found, expected, tolerance=0.0):
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=0, atol=tolerance, err_msg=path)


# -- accumulation -----------------------------------------------------------------------------


def uneven(setup):
    """Labels in all of some micro-batches, none in others, and three rows that only fill."""
    batch = one_batch(setup)
    batch["weights"][-3:] = 0
    if "labels" in batch:
        batch["labels"][0::4] = np.abs(batch["labels"][0::4]) % tiny.VOCAB
        batch["labels"][1::4] = -100
    else:
        outside = batch["input_ids"].shape[1]
        batch["start_positions"][1::4] = outside
        batch["end_positions"][[0, 1, 2, 5, 6, 9, 10]] = outside
    return batch


@pytest.mark.parametrize("task", ["masked_lm", "question_answering"])
def test_micro_batches_of_unlike_counts_make_the_step_of_the_whole_batch(task):
    setup = dataclasses.replace(SMALL, task=task)
    batch = uneven(setup)
    expected = follow(setup.run(), [batch] * 3)
    runs = [dataclasses.replace(setup, accumulate=4)]
    if task == "masked_lm":
        runs.append(dataclasses.replace(runs[0], mesh=(2, 2, 2)))
        runs.append(dataclasses.replace(setup, accumulate=2, wrapper="pmap", mesh=(8, 1, 1)))
    for other in runs:
        assert_same(follow(other.run(), [batch] * 3), expected, 1e-6)


def test_micro_batches_take_every_so_many_th_row():
    found = micro_batches({"x": jnp.arange(12).reshape(6, 2)}, 3)["x"]
    np.testing.assert_array_equal(found[:, :, 0], [[0, 6], [2, 8], [4, 10]])


@pytest.fixture
def thorough_compiles():
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def test_memory_is_flat_in_the_number_of_micro_batches(thorough_compiles):
    needed, flops = {}, {}
    for n in (2, 16):
        setup = dataclasses.replace(
            SMALL, accumulate=n, execution=Execution(scan_layers=True, remat="full")
        )
        batch = {name: jax.ShapeDtypeStruct((4 * n, *x.shape[1:]), x.dtype)
                 for name, x in one_batch(setup, 4).items()}  # fmt: skip
        lowered = jax.jit(setup.step()).lower(setup.first_state(), batch)
        compiled = lowered.compile({"xla_cpu_use_fusion_emitters": True})
        needed[n] = compiled.memory_analysis().temp_size_in_bytes
        flops[n] = compiled.cost_analysis()["flops"]
    assert needed[16] < 1.03 * needed[2], needed
    # A loop's operations are counted once: these would be of the whole batch outside of it.
    assert flops[16] < 1.03 * flops[2], flops


# -- rows that only fill ----------------------------------------------------------------------


def spoiled(batch, rows):
    """The same batch, with the worst that there can be in the rows that weigh nothing."""
    batch = {name: values.copy() for name, values in batch.items()}
    worst = {"input_ids": 10**6, "attention_mask": 0, "labels": 10**6}
    for name, values in batch.items():
        if np.issubdtype(values.dtype, np.floating) and name != "weights":
            values[rows] = np.nan
        elif name in worst:
            values[rows] = worst[name]
    return batch


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["regression", "masked_lm"])
def test_fillers_leave_no_trace_whatever_they_hold(kind, accumulate):
    setup, labels = SMALL, {}
    if kind == "regression":
        fields = (*SMALL.config, ("num_labels", 1))
        setup = dataclasses.replace(SMALL, task="sequence_classification", config=fields)
        labels = {"labels": np.linspace(-1, 1, 8, dtype=np.float32)}
    setup = dataclasses.replace(setup, accumulate=accumulate)
    step, state = pure(setup)
    batch = one_batch(setup, 8, **labels)
    batch["weights"][5:] = 0
    expected, figures = step(state, batch)
    found, others = step(state, spoiled(batch, slice(5, None)))
    assert bool(others["finite"])
    assert loss_of(others) == loss_of(figures)
    assert others["examples"] == 5
    assert others["tokens"] == batch["attention_mask"][:5].sum()
    assert_equal(found.params, expected.params)


def test_fillers_count_as_much_as_their_absence():
    step, state = pure(SMALL)
    batch = one_batch(SMALL, 8)
    batch["weights"][5:] = 0
    expected, figures = step(state, {name: values[:5] for name, values in batch.items()})
    found, others = step(state, batch)
    np.testing.assert_allclose(loss_of(others), loss_of(figures), rtol=1e-6)
    assert_equal(found.params, expected.params, 1e-6)


def test_blank_fillers_keeps_types():
    batch = {"input_ids": jnp.ones((2, 3), jnp.int32), "labels": jnp.full(2, jnp.nan),
             "weights": jnp.array([1.0, 0.0])}  # fmt: skip
    found = blank_fillers(batch)
    assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in batch.items()}
    np.testing.assert_array_equal(found["input_ids"], [[1, 1, 1], [0, 0, 0]])
    assert np.isnan(found["labels"][0]) and found["labels"][1] == 0


def test_tokens_are_counted_by_the_mask_the_segments_or_all():
    ids, weights = jnp.ones((3, 4), jnp.int32), jnp.array([1.0, 1.0, 0.0])
    mask = jnp.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    for extra, tokens in (({"attention_mask": mask}, 5), ({"segment_ids": 2 * mask}, 5), ({}, 8),
                          ({"attention_mask": jnp.stack([mask, mask], axis=1)}, 10)):  # fmt: skip
        found = seen({"input_ids": ids, "weights": weights, **extra})
        assert (found["examples"], found["tokens"]) == (2, tokens)


# -- how it is computed -----------------------------------------------------------------------


@functools.cache
def three_steps(execution):
    setup = Setup("distilbert", execution=execution)
    return follow(setup.run(), batches(make_rows("distilbert", "masked_lm"), 3))


def unstacked(params):
    flat = {path: value for path, value in params.items() if "/layers/" not in path}
    for path in params.keys() - flat.keys():
        layers = enumerate(params[path])
        flat |= {path.replace("/layers/", f"/layer_{i}/"): layer for i, layer in layers}
    return flat


@pytest.mark.parametrize(
    ("remat", "scan"), [("none", True), ("full", False), ("dots", True), ("dots_no_batch", False)]
)
def test_rematerialised_and_scanned_layers_make_the_same_step(remat, scan):
    found = three_steps(Execution(remat=remat, scan_layers=scan))
    assert any("/layers/" in path for path in found.params) == scan
    found = found._replace(params=unstacked(found.params))
    assert_same(found, three_steps(Execution()), 2e-6)


def test_bfloat16_computes_on_float32_weights_and_moments():
    wide, narrow = SMALL, dataclasses.replace(SMALL, execution=Execution(dtype="bfloat16"))
    batch = one_batch(SMALL, 8)
    step, state = pure(narrow)
    new, figures = step(state, batch)
    leaves = jax.tree.leaves((new.params, new.opt_state["mu"], new.opt_state["nu"]))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert figures["grad_norm"].dtype == figures["terms"][0].total.dtype == jnp.float32
    step, state = pure(wide)
    expected = loss_of(step(state, batch)[1])
    assert 0 < abs(loss_of(figures) / expected - 1) < 0.02


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was():
    setup = dataclasses.replace(SMALL, optimizer=dataclasses.replace(OPTIMIZER, ema=0.5))
    step, state = pure(setup)
    batch = one_batch(setup, 8)
    batch["labels"][0, 1] = 10**6
    new, figures = step(state, batch)
    assert not bool(figures["finite"])
    assert new.step == state.step + 1
    assert new.opt_state["count"] == 0
    for old, kept in zip(state[1:], new[1:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, old, kept)


def test_the_average_of_parameters_follows_its_formula():
    setup = dataclasses.replace(SMALL, optimizer=dataclasses.replace(OPTIMIZER, ema=0.5))
    step, state = pure(setup)
    expected = dict(state.params)
    for count in range(3):
        state, figures = step(state, one_batch(setup, 8))
        assert figures["learning_rate"] == setup.step().optimizer.learning_rate(count)
        expected = {k: 0.5 * v + 0.5 * state.params[k] for k, v in expected.items()}
    assert_equal(state.average, expected, 1e-7)
    assert_equal(state.evaluated(), state.average)


def test_frozen_parameters_stay_as_they_are_and_cost_no_gradient():
    freeze = ("encoder/embeddings/*", "encoder/layer_*")
    optimizer = dataclasses.replace(OPTIMIZER, freeze=freeze, ema=0.5)
    batch, flops = one_batch(SMALL, 8), {}
    for setup in (SMALL, dataclasses.replace(SMALL, optimizer=optimizer)):
        step, state = pure(setup)
        flops[setup] = step.lower(state, batch).compile().cost_analysis()["flops"]
    new, _ = step(state, batch)
    for path, value in state.params.items():
        moved = not np.array_equal(new.params[path], value)
        assert moved == path.startswith("mlm/"), path
    assert all(path.startswith("mlm/") for path in (*new.opt_state["mu"], *new.average))
    assert set(new.evaluated()) == set(new.params)
    assert flops[setup] < 0.6 * flops[SMALL], flops


# -- dropout's keys ---------------------------------------------------------------------------


class Draws:
    """An optimizer whose new parameters are the gradients."""

    config = OptimizerConfig()

    def trainable(self, params):
        return params

    def update(self, grads, state, params, scaled, finite):
        return grads, state

    def learning_rate(self, count):
        return jnp.zeros(())


def draw(params, batch, key):
    """The gradient of each row's parameter is one number, drawn for all rows of the call."""
    total = jnp.sum(params["rows"][batch["input_ids"][:, 0]]) * jax.random.uniform(key)
    return [Term(total, jnp.float32(1 / 16))]


def drawn(step=0, seed=0, accumulate=1, wrapper="jit"):
    """What each of 16 rows drew."""
    state = State(jnp.int32(step), {"rows": jnp.zeros(16)}, {"count": jnp.int32(0)})
    batch = {"input_ids": np.arange(16)[:, None], "weights": np.ones(16, np.float32)}
    if wrapper == "pmap":
        batch = {name: x.reshape(8, 2, *x.shape[1:]) for name, x in batch.items()}
    new, _ = drawing(seed, accumulate, wrapper)(state, batch)
    return np.asarray(new.params["rows"]).reshape(-1, 16)[0]


@functools.cache
def drawing(seed, accumulate, wrapper):
    axis = PmapParallel.axis if wrapper == "pmap" else None
    step: Any = TrainStep(draw, cast(Any, Draws()), accumulate, seed, axis=axis)
    return jax.pmap(step, axis, in_axes=(None, 0)) if axis else jax.jit(step)


def test_what_is_drawn_follows_from_the_seed_and_the_step():
    np.testing.assert_array_equal(drawn(step=3), drawn(step=3))
    assert len({drawn(step=i, seed=j)[0] for i in range(3) for j in range(3)}) == 9


@pytest.mark.parametrize(
    ("accumulate", "wrapper", "calls"),
    [(1, "jit", 1), (4, "jit", 4), (1, "pmap", 8), (2, "pmap", 16)],
)
def test_every_micro_batch_and_device_draws_for_itself(accumulate, wrapper, calls):
    assert len(set(drawn(accumulate=accumulate, wrapper=wrapper))) == calls


def test_dropout_does_not_depend_on_the_number_of_devices():
    setup = dataclasses.replace(SMALL, dropout=0.3)
    rows = batches(make_rows("distilbert", "masked_lm"), 2)
    one = follow(setup.run(), rows)
    assert_same(follow(dataclasses.replace(setup, mesh=(2, 2, 2)).run(), rows), one, 1e-6)
    step, state = pure(SMALL)
    dry = loss_of(step(state, rows[0])[1])
    assert abs(one.losses[0] / dry - 1) > 1e-3
