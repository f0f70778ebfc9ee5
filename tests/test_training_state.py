"""A new state, and the flat form in which checkpoints hold one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from training_runs import (
    OPTIMIZER,
    Setup,
)

from jbert.execution import Execution
from jbert.training.state import abstract_state, flat_target, from_flat, state_bytes, to_flat

AVERAGED = dataclasses.replace(OPTIMIZER, ema=0.9, freeze=("encoder/embeddings/*",))
UNROLLED = Setup("distilbert", optimizer=AVERAGED)
SCANNED = dataclasses.replace(
    UNROLLED, mesh=(2, 2, 2), zero=True, execution=Execution(scan_layers=True)
)
PMAP = dataclasses.replace(UNROLLED, wrapper="pmap", mesh=(8, 1, 1))
PLAIN = dataclasses.replace(UNROLLED, optimizer=OPTIMIZER)
WORD = "encoder/embeddings/word/embedding"


def begun(setup):
    """A run, its first state filled with random numbers and as global arrays, and its shape."""
    run = setup.run()
    abstract = abstract_state(setup.params(), run.step.optimizer, run.parallel)
    rng = np.random.default_rng(0)
    flat = {
        name: jax.device_put(rng.standard_normal(leaf.shape).astype(leaf.dtype), leaf.sharding)
        for name, leaf in flat_target(abstract).items()
    }
    return run, run.parallel.give(run.state), abstract, flat


@pytest.fixture(scope="module", params=[UNROLLED, SCANNED, PMAP, PLAIN])
def case(request):
    return request.param, *begun(request.param)


def test_shapes_and_places_of_a_state_are_known_without_one(case):
    _, _, state, abstract, _ = case
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
        assert (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype)
        assert leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim)


def test_a_state_comes_back_from_its_flat_form_bit_by_bit(case):
    setup, run, _, abstract, flat = case
    state = from_flat(flat, abstract)
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim)
    # Through the form that steps work on, as a run that goes on does.
    again = to_flat(run.parallel.give(run.parallel.take(state)))
    assert again.keys() == flat.keys()
    for name, value in flat.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    assert (state.average is not None) == bool(setup.optimizer.ema)


def test_names_and_shapes_do_not_depend_on_how_a_run_is_executed(case):
    setup, *_, flat = case
    if setup.optimizer is AVERAGED:
        expected = {n: (x.shape, x.dtype) for n, x in begun(UNROLLED)[-1].items()}
        assert {name: (x.shape, x.dtype) for name, x in flat.items()} == expected
        assert f"opt_state/mu/{WORD}" not in flat and f"average/{WORD}" not in flat
    else:
        assert f"opt_state/nu/{WORD}" in flat and not any(n.startswith("average") for n in flat)
    assert {"step", "opt_state/count", f"params/{WORD}"} <= flat.keys()
    assert "params/encoder/layer_1/attention/query/kernel" in flat
    assert not any("/layers/" in name for name in flat)


def test_a_new_state_holds_the_parameters_and_zeros(case):
    setup, _, state, _, _ = case
    for path, value in setup.params().items():
        np.testing.assert_array_equal(state.params[path], value)
        if state.average is not None and path in state.average:
            np.testing.assert_array_equal(state.average[path], value)
    assert (state.step, state.opt_state["count"]) == (0, 0)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(state.opt_state))


def test_a_state_of_one_mesh_is_read_on_another_with_scan_or_without():
    *_, flat = begun(UNROLLED)
    _, _, abstract, _ = begun(SCANNED)
    assert flat_target(abstract).keys() == flat.keys()
    name = "encoder/layers/attention/query/kernel"
    assert abstract.params[name].sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    # A device reads no more of a layer than it keeps.
    one = flat_target(abstract)[f"params/{name}".replace("layers", "layer_0")]
    assert (one.shape, one.sharding.spec) == ((32, 4, 8), PartitionSpec("fsdp", "tensor"))
    moved = {name: jax.device_put(np.asarray(flat[name]), leaf.sharding)
             for name, leaf in flat_target(abstract).items()}  # fmt: skip
    state = from_flat(moved, abstract)
    for i, layer in enumerate(state.params[name]):
        one = f"params/encoder/layer_{i}/attention/query/kernel"
        np.testing.assert_array_equal(layer, flat[one])


def test_bytes_are_those_of_one_device(case):
    _, _, state, abstract, _ = case
    held = sum(leaf.addressable_data(0).nbytes for leaf in jax.tree.leaves(state))
    assert state_bytes(abstract) == state_bytes(state) == held


def test_the_averaged_parameters_are_those_that_count():
    setup = dataclasses.replace(UNROLLED, config=(("n_layers", 1),))
    state = setup.first_state()
    average = {path: jnp.zeros_like(value) for path, value in state.average.items()}
    found = state._replace(average=average).evaluated()
    assert found.keys() == state.params.keys()
    for path, value in found.items():
        np.testing.assert_array_equal(value, average.get(path, state.params[path]))
    assert state._replace(average=None).evaluated() == state.params
