"""A stack of identical layers: unrolled or scanned, rematerialised or not."""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jbert.execution import REMAT_POLICIES, Execution
from jbert.layers import Context, LayerOutput

SCANNED = "layers"
_LAYER = re.compile(r"layer_(\d+)")


def run_layers(
    layer_class: Any,
    num_layers: int,
    config: Any,
    execution: Execution,
    hidden: jax.Array,
    context: Context,
    head_mask: jax.Array | None,
    cache: Any,
) -> tuple[jax.Array, LayerOutput]:
    """Run the stack inside the calling module; each field of the report is a tuple over layers.

    Must be called from a compact method: the layers become children of the caller, as
    `layer_0, layer_1, …`, or as one `layers` whose parameters have a leading axis when scanned.
    """
    # prevent_cse only matters outside a scan, whose loop boundary already keeps XLA from undoing
    # the rematerialisation.
    body = _layer_step
    if execution.remat != "none":
        policy = REMAT_POLICIES[execution.remat]
        body = nn.remat(body, policy=policy, prevent_cse=not execution.scan_layers)
    if execution.scan_layers:
        scan = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, 0, 0),  # pyright: ignore[reportArgumentType]
            length=num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        layer = layer_class(config, execution, name=SCANNED)
        hidden, stacked = scan(layer, hidden, context, head_mask, cache)
        per_layer = [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(num_layers)]
    else:
        per_layer = []
        for i in range(num_layers):
            layer = layer_class(config, execution, name=f"layer_{i}")
            mask_i, cache_i = jax.tree.map(lambda x, i=i: x[i], (head_mask, cache))
            hidden, report = body(layer, hidden, context, mask_i, cache_i)
            per_layer.append(report)
    return hidden, _transpose(per_layer)


def _layer_step(layer, hidden, context: Context, head_mask, cache):
    hidden, report = layer(hidden, context, head_mask, cache)
    return hidden, report.replace(hidden=hidden) if context.return_hidden else report


def _transpose(reports: list[LayerOutput]) -> LayerOutput:
    def column(field: str):
        values = tuple(getattr(report, field) for report in reports)
        return None if all(value is None for value in values) else values

    cache = column("cache")
    return LayerOutput(
        hidden=column("hidden"),
        attention=column("attention"),
        cross_attention=column("cross_attention"),
        # The cache goes back in the form it came in: stacked over layers.
        cache=None if cache is None else jax.tree.map(lambda *x: jnp.stack(x), *cache),
    )


def stack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """`layer_0, layer_1, …` as the one `layers` of a scanned model, at any depth; lossless."""
    indices = sorted(int(m[1]) for key in params if (m := _LAYER.fullmatch(key)))
    if not indices:
        return {k: stack_layers(v) if isinstance(v, Mapping) else v for k, v in params.items()}
    if indices != list(range(len(indices))):
        raise ValueError(f"layers {indices} are not a whole stack: expected 0..{len(indices) - 1}")
    layers = [params[f"layer_{i}"] for i in indices]
    rest = {k: v for k, v in params.items() if not _LAYER.fullmatch(k)}
    return {**rest, SCANNED: jax.tree.map(lambda *x: jnp.stack(x), *layers)}


def unstack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stack_layers`."""
    if SCANNED not in params:
        return {k: unstack_layers(v) if isinstance(v, Mapping) else v for k, v in params.items()}
    rest = {k: v for k, v in params.items() if k != SCANNED}
    length = jax.tree.leaves(params[SCANNED])[0].shape[0]
    split = lambda i: jax.tree.map(lambda x: x[i], params[SCANNED])  # noqa: E731
    return {**rest, **{f"layer_{i}": split(i) for i in range(length)}}
