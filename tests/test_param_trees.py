"""Parameter trees: the recorded paths, shapes and places, and rules that mean something."""

import json
import re
import sys
from pathlib import Path

import flax.linen as nn
import jax
import pytest
import tiny

import jbert
from jbert.layers import KERNEL_AXES
from jbert.sharding import LOGICAL_AXES, MESH_AXES, RULES, make_mesh

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
import make_param_trees  # noqa: E402


def leaves(arch, task=None, scan=False):
    return jax.tree.leaves(
        make_param_trees.abstract(arch, task, scan),
        is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned),
    )


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_tree_is_the_recorded_one(arch):
    recorded = json.loads((GOLDEN / f"{arch}_params.json").read_text())
    found = make_param_trees.tree(arch, make_mesh(2, 2, 2))
    assert set(found) == set(recorded)
    for task, lines in recorded.items():
        # On a difference: is it meant? Then python tests/golden/make_param_trees.py
        assert found[task] == lines, task


@pytest.mark.parametrize(("arch", "task"), tiny.PAIRS)
def test_every_parameter_names_its_axes(arch, task):
    for leaf in leaves(arch, task):
        assert isinstance(leaf, nn.LogicallyPartitioned)
        assert len(leaf.names) == leaf.value.ndim
        assert set(leaf.names) <= {None, *LOGICAL_AXES}


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_every_weight_inside_a_layer_is_sharded_by_the_full_preset(arch):
    trees = json.loads((GOLDEN / f"{arch}_params.json").read_text())
    for path, line in trees["None"].items():
        if re.search(r"layer_0/.*kernel$", path):
            assert "fsdp" in line or "tensor" in line, path


@pytest.mark.parametrize("preset", RULES)
def test_every_rule_matches_something(preset):
    used = {"batch"}  # of activations
    for arch in tiny.ARCHITECTURES:
        used |= {name for leaf in leaves(arch, "masked_lm") for name in leaf.names}
    assert set(RULES[preset]) <= used
    assert set(RULES[preset].values()) <= set(MESH_AXES)


def test_every_axis_and_every_role_is_in_use():
    used = set()
    for arch in tiny.ARCHITECTURES:
        used |= {leaf.names for leaf in leaves(arch, "masked_lm")}
    scanned = {name for leaf in leaves("bert", scan=True) for name in leaf.names}
    assert {name for names in used for name in names} | scanned | {"batch"} >= set(LOGICAL_AXES)
    assert {axes for axes in KERNEL_AXES.values()} <= used


def test_axes_are_named_in_layers_and_placed_in_sharding_only():
    package = Path(jbert.__file__).parent
    quoted = re.compile("|".join(f'"{axis}"' for axis in ("embed", "mlp", "head_dim", "conv")))
    naming = {p.relative_to(package).as_posix() for p in package.rglob("*.py")
              if quoted.search(p.read_text(encoding="utf-8"))}  # fmt: skip
    assert naming == {"layers.py", "sharding.py"}
