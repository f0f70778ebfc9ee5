"""Random parameters: those that flax would draw, on any devices, in either layout."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import jbert
from jbert.execution import Execution
from jbert.initial import _generator, init_params
from jbert.loaded import build_module
from jbert.trees import flatten

ODD = {
    "bert": {"position_embedding_type": "relative_key_query"},
    "distilbert": {"sinusoidal_pos_embds": True},
}


def flax_draws(module, seed, without=None):
    """By `module.init`; without the parameters whose paths begin so."""
    ids = jnp.ones((1, 1, 2) if module.has_choices else (1, 2), jnp.int32)

    @jax.jit
    def drawn(key):
        flat = flatten(nn.meta.unbox(module.init(key, ids))["params"])
        return {path: x for path, x in flat.items() if not without or not path.startswith(without)}

    return drawn(jax.random.key(seed))


def module_of(arch, task, scan=False, **changes):
    return build_module(tiny.config(arch, task, **changes), task, Execution(scan_layers=scan))


def assert_same(found, expected):
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert found[path].dtype == leaf.dtype
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


@pytest.mark.parametrize(("arch", "task"), tiny.PAIRS, ids=lambda x: x or "model")
def test_every_parameter_is_what_flax_draws_from_the_seed(arch, task):
    module = module_of(arch, task)
    drawn = init_params(module, 3)
    if task in (None, "masked_lm"):
        assert_same(drawn, flax_draws(module, 3))
        return
    # Compiling the encoder's takes a second each time, and under another head it is the same.
    head = {path: leaf for path, leaf in flatten(drawn).items() if not path.startswith("encoder/")}
    assert_same(head, flax_draws(module, 3, without="encoder/"))


@pytest.mark.parametrize("arch", ODD)
def test_tables_of_other_kinds_too(arch):
    module = module_of(arch, None, **ODD[arch])
    assert_same(init_params(module, 1), flax_draws(module, 1))


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_a_seed_means_one_model_scanned_and_on_any_devices(arch):
    expected = init_params(module_of(arch, "masked_lm"), 5)
    scanned = module_of(arch, "masked_lm", scan=True)
    assert_same(init_params(scanned, 5), jbert.stack_layers(expected))
    mesh = jbert.make_mesh(fsdp=2, tensor=2, data=2)
    spread = init_params(scanned, 5, mesh)
    assert_same(spread, jbert.stack_layers(expected))
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(spread))
    assert not np.array_equal(
        *(
            flatten(init_params(scanned, seed))["encoder/embeddings/word/embedding"]
            for seed in (5, 6)
        )
    )


def test_a_seed_means_one_model_with_another_generator_too():
    with jax.default_prng_impl("rbg"):
        expected = init_params(module_of("bert", None), 5)
        assert_same(
            init_params(module_of("bert", None, scan=True), 5), jbert.stack_layers(expected)
        )


def test_some_of_them_are_the_same_as_among_all():
    module = module_of("bert", "masked_lm")
    every = flatten(init_params(module, 2))
    some = tuple(path for path in every if not path.startswith("encoder/"))
    assert some
    assert_same(init_params(module, 2, only=some), {path: every[path] for path in some})


def test_a_shape_is_compiled_once_for_all_models_that_have_it():
    init_params(module_of("bert", None), 0)
    before = _generator.cache_info()
    init_params(module_of("bert", "masked_lm", num_hidden_layers=4), 1)
    after = _generator.cache_info()
    assert after.misses - before.misses <= 2  # the head's, of the vocabulary's size
    assert after.hits > before.hits
