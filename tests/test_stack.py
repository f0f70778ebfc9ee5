"""Scanned and rematerialised layers compute what unrolled and stored ones do."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jbert import backend
from jbert.execution import REMAT_POLICIES, Execution
from jbert.models import model_class
from jbert.stack import stack_layers, unstack_layers

each_architecture = pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
POLICIES = tuple(REMAT_POLICIES)


def gradients(arch, execution, dropout=False, **changes):
    """(params) -> gradients, output, of a sum over an encoder's output that weighs each number."""
    cfg = tiny.config(arch, **changes)
    module = model_class(cfg, None)(cfg, execution)
    weight = np.random.default_rng(3).standard_normal((3, tiny.LENGTH, 32)).astype(np.float32)
    options = {
        "deterministic": not dropout, "output_hidden_states": True, "output_attentions": True
    }  # fmt: skip
    rngs = {"dropout": jax.random.key(7)} if dropout else None

    def of(params, inputs):
        def scalar(params):
            out = module.apply({"params": params}, rngs=rngs, **inputs, **options)
            return jnp.sum(out.last_hidden_state * weight), out

        return jax.grad(scalar, has_aux=True)(params)

    return of


def assert_close(found, expected, tolerance=1e-5):
    """Within a tolerance relative to each array's largest number."""

    def close(path, a, b):
        atol = tolerance * max(1.0, np.abs(b).max())
        if jax.tree_util.keystr(path).endswith("['key']['bias']"):
            # It moves all scores of a query alike, which softmax takes back: a gradient of zero, of
            # which only rounding is there, and on every CPU another one.
            np.testing.assert_allclose(b, 0, atol=1e-5)
            atol = 1e-5
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)

    jax.tree_util.tree_map_with_path(close, found, expected)


@each_architecture
def test_scanned_equals_unrolled(arch):
    _, params = tiny.model(arch)
    inputs = tiny.batch(arch)
    heads = 2 if arch == "convbert" else 4
    head_mask = np.random.default_rng(0).random((2, heads)).astype(np.float32)
    inputs = {**inputs, "head_mask": head_mask}
    unrolled = gradients(arch, Execution())
    scanned = gradients(arch, Execution(scan_layers=True, remat="dots"))
    grads, out = jax.jit(unrolled)(params, inputs)
    found_grads, found = jax.jit(scanned)(stack_layers(params), inputs)
    assert len(found.hidden_states) == len(out.hidden_states) == 3
    assert len(found.attentions) == len(out.attentions) == 2
    assert_close(found, out)
    assert_close(unstack_layers(found_grads), grads)


@each_architecture
def test_stacking_is_lossless_and_gives_the_parameters_of_a_scanned_model(arch):
    task = "masked_lm"
    _, params = tiny.model(arch, task)
    _, scanned = tiny.model(arch, task, Execution(scan_layers=True))
    stacked = stack_layers(params)
    shapes = functools.partial(jax.tree.map, jnp.shape)
    assert shapes(stacked) == shapes(scanned)
    again = unstack_layers(stacked)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_layers_with_a_gap_are_not_stacked():
    layers = {f"layer_{i}": {"kernel": np.ones(2)} for i in (0, 2)}
    with pytest.raises(ValueError, match=r"\[0, 2\] are not a whole stack"):
        stack_layers(layers)


def test_ten_layers_are_stacked_in_the_order_of_their_numbers():
    layers = {f"layer_{i}": {"kernel": np.full(1, i)} for i in range(11)}
    np.testing.assert_array_equal(stack_layers(layers)["layers"]["kernel"][:, 0], np.arange(11))


@each_architecture
def test_rematerialised_equals_stored_with_dropout_on(arch):
    one_layer = {"n_layers" if arch == "distilbert" else "num_hidden_layers": 1}
    _, params = tiny.model(arch, **one_layer)
    inputs = tiny.batch(arch)

    def run(policy):
        of = gradients(arch, Execution(remat=policy), dropout=True, **one_layer)
        return jax.jit(of)(params, inputs)

    expected = run("none")
    # What a policy saves does not depend on the architecture: one is tried with all of them.
    for policy in POLICIES[1:] if arch == "bert" else ["full"]:
        assert_close(run(policy), expected, 1e-6)


def saved(arch, execution, length=tiny.LENGTH, **options):
    """What the forward pass leaves behind for the backward pass; nothing is computed."""
    cfg = tiny.config(arch, max_position_embeddings=length)
    module = model_class(cfg, None)(cfg, execution)
    inputs = tiny.batch(arch, length=length)
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), **inputs))["params"]

    def backward(params):
        def run(params):
            return module.apply({"params": params}, **inputs, **options).last_hidden_state

        return jax.tree.leaves(jax.vjp(run, params)[1])

    return jax.eval_shape(backward, shapes)


def saved_bytes(arch, execution):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in saved(arch, execution))


@each_architecture
@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_each_policy_saves_what_it_says(arch, scan):
    saved = {p: saved_bytes(arch, Execution(remat=p, scan_layers=scan)) for p in POLICIES}
    assert saved["full"] < saved["dots_no_batch"] <= saved["dots"] < saved["none"]
    assert saved["full"] < 0.6 * saved["none"]


@each_architecture
def test_a_scan_keeps_no_masks_and_nothing_wider_than_it_computes(arch):
    """Norms would leave arrays of float32, dropout and relu masks."""
    length, narrowest = 128, 16
    with backend.lowering_for("tpu"):  # where a kernel keeps attention's maps to itself
        leaves = saved(arch, Execution("bfloat16", scan_layers=True), length,
                       deterministic=False, rngs={"dropout": jax.random.key(0)})  # fmt: skip
    layers = [leaf for leaf in leaves if leaf.shape[:3] == (2, tiny.BATCH, length)]
    kept = [leaf for leaf in layers if leaf.size >= 2 * tiny.BATCH * length * narrowest]
    assert len(kept) >= 10 and {leaf.dtype.name for leaf in kept} == {"bfloat16"}


@each_architecture
def test_full_rematerialisation_computes_each_layer_again(arch):
    def products(policy):
        inputs = tiny.batch(arch)
        _, params = tiny.model(arch)
        of = gradients(arch, Execution(remat=policy))
        return str(jax.make_jaxpr(of)(params, inputs)).count("dot_general[")

    assert products("full") > products("dots") >= products("none")
