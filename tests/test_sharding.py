"""Meshes, rules and placements; and that eight devices compute what one does."""

import functools
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from jbert import sharding
from jbert.execution import Execution
from jbert.models import model_class

each_architecture = pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
# Every preset and product on eight devices: data, fsdp, tensor.
MESHES = {
    "data": (8, 1, 1),
    "fsdp": (1, 8, 1),
    "tensor": (1, 1, 8),
    "data+fsdp": (2, 4, 1),
    "data+tensor": (2, 1, 4),
    "fsdp+tensor": (1, 4, 2),
    "data+fsdp+tensor": (2, 2, 2),
}
# Sizes that eight devices divide; half of ConvBERT's heads are convolutions.
WIDE = {
    arch: {**fields, "hidden_dim" if arch == "distilbert" else "intermediate_size": 64,
           "n_heads" if arch == "distilbert" else "num_attention_heads":
           16 if arch == "convbert" else 8}
    for arch, fields in tiny.FIELDS.items()
}  # fmt: skip


@pytest.fixture(autouse=True)
def forget_what_was_told(monkeypatch):
    monkeypatch.setattr(sharding, "_told", set())


@functools.cache
def setup(arch, scan=True):
    cfg = tiny.config(arch, **WIDE[arch])
    module = model_class(cfg, "masked_lm")(cfg, Execution(scan_layers=scan))
    inputs = tiny.batch(arch)
    inputs = {name: np.concatenate([x, x[::-1], x[:2]]) for name, x in inputs.items()}  # 8 rows
    abstract = jax.eval_shape(module.init, jax.random.key(0), **inputs)["params"]
    return module, abstract, tiny.random_params(nn.unbox(abstract)), inputs


def program(module):
    def of(params, inputs):
        def scalar(params):
            logits = module.apply({"params": params}, **inputs).logits
            return jnp.mean(jnp.square(logits)), logits

        return jax.grad(scalar, has_aux=True)(params)

    return jax.jit(of)


@functools.cache
def on_one_device(arch):
    module, _, params, inputs = setup(arch)
    return jax.tree.map(np.asarray, program(module)(params, inputs))


@pytest.mark.parametrize(
    ("arch", "preset"), [(arch, preset) for arch in tiny.ARCHITECTURES for preset in MESHES]
)
def test_eight_devices_compute_what_one_does(arch, preset):
    module, abstract, params, inputs = setup(arch)
    mesh = sharding.make_mesh(*MESHES[preset])
    placement = sharding.param_shardings(abstract, mesh, preset)
    params = jax.device_put(params, placement)
    inputs = jax.device_put(inputs, sharding.batch_sharding(mesh, preset))
    check_really_sharded(params, inputs, preset, mesh)
    with sharding.activations_on(mesh, preset):
        found = program(module)(params, inputs)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(1e-2, np.abs(b).max()))

    jax.tree.map(close, found, on_one_device(arch))


def check_really_sharded(params, inputs, preset, mesh):
    """What a device holds is its share, of the rows and of a layer's widest weight."""
    names = preset.split("+")
    ways = {axis: mesh.shape[axis] if axis in names else 1 for axis in mesh.axis_names}
    rows = inputs["input_ids"].addressable_shards[0].data.shape[0]
    assert rows == 8 // (ways["data"] * ways["fsdp"])
    kernel = params["encoder"]["layers"]["attention"]["query"]["kernel"]
    layers, d, heads, e = kernel.shape
    held = kernel.addressable_shards[0].data.shape
    assert held == (layers, d // ways["fsdp"], heads // ways["tensor"], e)


@each_architecture
def test_unrolled_layers_are_placed_as_scanned_ones(arch):
    _, abstract, _, _ = setup(arch, scan=False)
    _, scanned, _, _ = setup(arch)
    mesh = sharding.make_mesh(2, 2, 2)
    specs = lambda tree: jax.tree.map(lambda s: s.spec, sharding.param_shardings(tree, mesh))  # noqa: E731
    one, stacked = specs(abstract)["encoder"]["layer_1"], specs(scanned)["encoder"]["layers"]

    def same(a, b):
        assert tuple(b) == ((None, *a) if a else ())

    jax.tree.map(same, one, stacked, is_leaf=lambda x: isinstance(x, PartitionSpec))


@each_architecture
def test_activations_are_pinned_inside_the_context_only(arch):
    module, _, params, inputs = setup(arch)
    mesh = sharding.make_mesh(2, 2, 2)

    def constraints():
        run = lambda p, x: module.apply({"params": p}, **x).logits  # noqa: E731
        return str(jax.make_jaxpr(run)(params, inputs)).count("sharding_constraint")

    assert constraints() == 0
    with sharding.activations_on(mesh):
        assert constraints() > 5
    assert constraints() == 0


# -- rules ------------------------------------------------------------------------------------


def test_presets_and_their_products():
    assert sharding.rules("data") == {"batch": ("data",)}
    assert sharding.rules("data+fsdp") == {"batch": ("data", "fsdp"), "embed": ("fsdp",)}
    assert sharding.rules()["batch"] == ("data", "fsdp")
    assert sharding.rules()["mlp"] == ("tensor",)


@pytest.mark.parametrize(
    ("preset", "told"),
    [
        ("model", "'model'.*expected .*'fsdp'"),
        ("data+", "expected"),
        ("", "expected"),
        ("data,fsdp", "joined by"),
        ("data+data", "'data' is there twice"),
        ({"width": "fsdp"}, "'width' -> 'fsdp'.*'embed'"),
        ({"embed": "model"}, "'embed' -> 'model'.*'tensor'"),
        ({"batch": ("data", "rows")}, "'rows'"),
    ],
)
def test_rules_that_do_not_exist_are_refused(preset, told):
    with pytest.raises(ValueError, match=told):
        sharding.rules(preset)


def test_own_rules_are_taken_as_they_are():
    mesh = sharding.make_mesh(1, 2, 4)
    own = {"vocab": "fsdp", "embed": None, "mlp": ("fsdp", "tensor")}
    leaf = lambda *axes: nn.LogicallyPartitioned(  # noqa: E731
        jax.ShapeDtypeStruct((16,) * len(axes), jnp.float32), names=axes
    )
    tree = {"a": leaf("vocab", "embed"), "b": leaf("embed", "mlp"), "c": leaf(None)}
    found = jax.tree.map(lambda s: s.spec, sharding.param_shardings(tree, mesh, own))
    assert found["a"] == PartitionSpec("fsdp")
    assert found["b"] == PartitionSpec(None, ("fsdp", "tensor"))
    assert found["c"] == PartitionSpec()


def test_axis_that_does_not_divide_is_replicated_and_named_once(caplog):
    mesh = sharding.make_mesh(1, 1, 8)
    _, abstract, *_ = setup("bert")
    leaf = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((32, 4, 8), jnp.float32),
                                   names=("embed", "heads", "head_dim"))  # fmt: skip
    with caplog.at_level(logging.WARNING, "jbert"):
        for _ in range(3):
            placed = sharding.param_shardings({"kernel": leaf}, mesh, "tensor")
    assert placed["kernel"].spec == PartitionSpec()
    (message,) = caplog.messages
    for part in ("'kernel'", "'heads'", "size 4", "8 devices", "replicated"):
        assert part in message


# -- meshes -----------------------------------------------------------------------------------


def test_mesh_has_three_auto_axes_and_fills_in_what_is_left():
    mesh = sharding.make_mesh(-1, 2, 2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)
    assert dict(sharding.make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    two = sharding.make_mesh(1, -1, devices=jax.devices()[:2])
    assert two.shape["fsdp"] == 2


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ((3, 1, 1), "takes 3 devices, but there are 8"),
        ((-1, 3, 1), "a multiple of 3 devices, but there are 8"),
        ((-1, -1, 1), "at most one -1"),
        ((0, 1, 8), "at least 1"),
        ((-2, 1, 1), "at least 1"),
        ((4, 4, 1), "takes 16 devices, but there are 8"),
    ],
)
def test_mesh_that_does_not_fit_the_devices_is_refused(sizes, told):
    with pytest.raises(ValueError, match=told):
        sharding.make_mesh(*sizes)


def test_batch_lies_over_the_axes_that_carry_examples():
    mesh = sharding.make_mesh(2, 2, 2)
    expected = {"data": "data", "fsdp": "fsdp", "tensor": None, "data+fsdp": ("data", "fsdp")}
    for preset, axes in expected.items():
        found = sharding.batch_sharding(mesh, preset)
        assert found == NamedSharding(mesh, PartitionSpec(axes))
