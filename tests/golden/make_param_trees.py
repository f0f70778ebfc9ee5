"""Writes <architecture>_params.json: each parameter's path, shape and place on a 2x2x2 mesh.

    python tests/golden/make_param_trees.py

For every task of every architecture, in its published size with one layer (two when scanned). A
change in these files is a change of every saved checkpoint, or of where its parts lie.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jbert.execution import Execution
from jbert.models import REGISTRY, model_class
from jbert.sharding import EVERYTHING, make_mesh, param_shardings

HERE = Path(__file__).parent
BASE = {
    "bert": "bert-base-uncased",
    "distilbert": "distilbert-base-uncased",
    "mobilebert": "mobilebert-uncased",
    "convbert": "conv-bert-medium-small",  # the one with grouped layers and a projection
}
SCANNED = "None, scanned"
# Of the bare encoder, also where each preset alone puts it.
PRESETS = ("data", "fsdp", "tensor")


def abstract(arch: str, task: str | None, scan: bool = False) -> Any:
    config = REGISTRY[arch].presets[BASE[arch]].config
    layers = "n_layers" if arch == "distilbert" else "num_hidden_layers"
    config = config.replace(**{layers: 2 if scan else 1})
    if task == "causal_lm":
        config = config.replace(is_decoder=True, add_cross_attention=True)
    module = model_class(config, task)(config, Execution(scan_layers=scan))
    ids = jax.ShapeDtypeStruct((1, 2, 8) if task == "multiple_choice" else (1, 8), jnp.int32)
    return jax.eval_shape(module.init, jax.random.key(0), ids)["params"]


def describe(params: Any, mesh: Mesh, preset: str = EVERYTHING) -> dict[str, str]:
    """path -> "shape spec", for instance "(768, 12, 64) ('fsdp', 'tensor')"."""
    placed = jax.tree.leaves(param_shardings(params, mesh, preset))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    lines = {}
    for (path, leaf), sharding in zip(leaves, placed, strict=True):
        names = [part.key for part in path if hasattr(part, "key")]
        lines["/".join(names)] = f"{leaf.shape} {tuple(sharding.spec)}"
    return dict(sorted(lines.items()))


def tree(arch: str, mesh: Mesh) -> dict[str, dict[str, str]]:
    """Each task's parameters; of a task's encoder only what the bare encoder has not."""
    encoder = describe(abstract(arch, None), mesh)
    trees = {"None": encoder, SCANNED: describe(abstract(arch, None, scan=True), mesh)}
    for preset in PRESETS:
        trees[f"None, {preset}"] = describe(abstract(arch, None), mesh, preset)
    for task in REGISTRY[arch].tasks:
        if task is not None:
            lines = describe(abstract(arch, task), mesh)
            shared = {f"encoder/{path}": line for path, line in encoder.items()}
            trees[task] = {
                **{path: line for path, line in lines.items() if shared.get(path) != line},
                **{path: "(absent)" for path in shared if path not in lines},
            }
    return trees


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    for arch in BASE:
        text = json.dumps(tree(arch, make_mesh(2, 2, 2)), indent=1) + "\n"
        (HERE / f"{arch}_params.json").write_text(text)
