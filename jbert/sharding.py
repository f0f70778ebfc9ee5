"""Meshes, and the rules that place logical axes on them.

layers.py names the axes of every parameter; this file alone knows mesh axes.
"""

import contextlib
import contextvars
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jbert.backend import check_devices

logger = logging.getLogger("jbert")

MESH_AXES = ("data", "fsdp", "tensor")
Rules = Mapping[str, str | tuple[str, ...] | None]

# The vocabulary is nowhere sharded: 30522 = 2·3·5087 divides almost nothing, and the token lookup
# of a sharded table costs an all-gather. Join names with "+" for a product: "data+fsdp".
RULES: dict[str, Rules] = {
    "data": {"batch": "data"},
    "fsdp": {"batch": "fsdp", "embed": "fsdp"},
    "tensor": {"heads": "tensor", "mlp": "tensor"},
}
LOGICAL_AXES = ("batch", "length", "embed", "heads", "head_dim", "mlp", "vocab", "conv", "layers")
EVERYTHING = "data+fsdp+tensor"


def rules(preset: str | Rules = EVERYTHING) -> Rules:
    """The rules of a preset such as "fsdp" or "data+tensor"; a mapping is checked and returned."""
    if not isinstance(preset, str):
        for logical, mesh_axes in preset.items():
            known = set(_as_tuple(mesh_axes)) <= set(MESH_AXES)
            if logical not in LOGICAL_AXES or not known:
                raise ValueError(
                    f"sharding rule {logical!r} -> {mesh_axes!r}: expected one of {LOGICAL_AXES} "
                    f"on axes of {MESH_AXES}"
                )
        return dict(preset)
    merged: dict[str, tuple[str, ...]] = {}
    for name in preset.split("+"):
        if name not in RULES:
            raise ValueError(
                f"sharding preset {preset!r}: expected {sorted(RULES)}, or several joined by '+'"
            )
        if preset.split("+").count(name) > 1:
            raise ValueError(f"sharding preset {preset!r}: {name!r} is there twice; name it once")
        for logical, mesh_axes in RULES[name].items():
            merged[logical] = merged.get(logical, ()) + _as_tuple(mesh_axes)
    return merged


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh ("data", "fsdp", "tensor") over all devices; one size may be -1, "what is left"."""
    check_devices()
    devices = list(jax.devices() if devices is None else devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 for size in sizes.values() if size != -1):
        raise ValueError(f"mesh {sizes}: expected sizes of at least 1, and at most one -1")
    rest = math.prod(size for size in sizes.values() if size != -1)
    if (len(devices) % rest) if free else (rest != len(devices)):
        raise ValueError(
            f"mesh {sizes} takes {'a multiple of ' if free else ''}{rest} devices, but there are "
            f"{len(devices)}; change the sizes, or pass devices="
        )
    if free:
        sizes[free[0]] = len(devices) // rest
    # Auto axes: under the newer default (Explicit) a lookup with sharded ids is a type error.
    return jax.make_mesh(
        tuple(sizes.values()), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
    )


def param_shardings(abstract: Any, mesh: Mesh, preset: str | Rules = EVERYTHING) -> Any:
    """A NamedSharding for each parameter of `jax.eval_shape(module.init, ...)["params"]`.

    A dimension that its mesh axes do not divide is replicated instead, and named once in the log.
    """
    table = rules(preset)

    def place(path, leaf):
        axes = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else (None,) * leaf.ndim
        shape = nn.meta.unbox(leaf).shape
        spec = _divisible(axes, shape, table, mesh, jax.tree_util.keystr(path))
        return NamedSharding(mesh, spec)

    boxed = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    return jax.tree_util.tree_map_with_path(place, abstract, is_leaf=boxed)


def batch_sharding(
    mesh: Mesh, preset: str | Rules = EVERYTHING, rows: int | None = None
) -> NamedSharding:
    """Where a batch lies: its first dimension over the axes that carry examples.

    A batch of so many `rows` that they do not divide is replicated.
    """
    axes = _present(rules(preset).get("batch"), mesh)
    ways = math.prod(mesh.shape[name] for name in _as_tuple(axes))
    return NamedSharding(mesh, PartitionSpec(axes if rows is None or rows % ways == 0 else None))


# -- activations ----------------------------------------------------------------------------

_activations: contextvars.ContextVar[tuple[Mesh, Rules] | None] = contextvars.ContextVar(
    "jbert_activation_sharding", default=None
)


@contextlib.contextmanager
def activations_on(mesh: Mesh | None, preset: str | Rules = EVERYTHING) -> Iterator[None]:
    """While tracing inside, `constrain` pins activations to the mesh; outside it does nothing."""
    token = _activations.set(None if mesh is None else (mesh, rules(preset)))
    try:
        yield
    finally:
        _activations.reset(token)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Place an activation by its logical axes. Without it the compiler may prefer to follow an
    fsdp-sharded weight and shard the hidden dimension of every activation instead of the batch."""
    active = _activations.get()
    if active is None:
        return x
    mesh, table = active
    spec = _divisible(axes, x.shape, table, mesh, "activation")
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def on_own_shares(function: Any, arrays: Sequence[jax.Array], axes: Sequence[tuple]) -> Any:
    """function(*arrays), on each device of its own share: of kernels, which the partitioner cannot
    split. `axes` are the leading logical axes of each array; the result has those of the first."""
    active = _activations.get()
    if active is None or active[0].size == 1:
        return function(*arrays)
    mesh, table = active
    specs = []
    for array, names in zip(arrays, axes, strict=True):
        rest = (None,) * (array.ndim - len(names))
        specs.append(_divisible((*names, *rest), array.shape, table, mesh, "activation"))
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=tuple(specs), out_specs=specs[0], check_vma=False
    )
    return mapped(*arrays)


def on_own_rows(function: Any, x: jax.Array, *weights: jax.Array) -> Any:
    """function(x, *weights), on each device of its own rows."""
    return on_own_shares(function, (x, *weights), (("batch",), *((),) * len(weights)))


def own_tokens(x: jax.Array, hidden: int) -> int:
    """How many tokens of x [b, l, d] a device has for itself; none if layers as wide as `hidden`
    are split over devices."""
    rows, length, _ = x.shape
    return 0 if _ways("mlp", hidden) > 1 else own_rows(rows) * length


def own_rows(rows: int) -> int:
    """How many of a batch's rows a device has for itself."""
    return rows // _ways("batch", rows)


def _ways(axis: str, size: int) -> int:
    """Over how many devices an activation's axis is split."""
    active = _activations.get()
    if active is None:
        return 1
    mesh, table = active
    spec = _divisible((axis,), (size,), table, mesh, "activation")
    return math.prod(mesh.shape[name] for names in spec for name in _as_tuple(names))


_told: set[tuple[str, str, int, int]] = set()


def _divisible(axes, shape, table: Rules, mesh: Mesh, where: str) -> PartitionSpec:
    placed: list[Any] = []
    for axis, size in zip(axes, shape, strict=True):
        mesh_axes = _present(table.get(axis) if axis else None, mesh)
        ways = math.prod(mesh.shape[name] for name in _as_tuple(mesh_axes))
        if size % ways:
            key = (where, str(axis), size, ways)
            if key not in _told:
                _told.add(key)
                logger.log(
                    logging.INFO if where == "activation" else logging.WARNING,
                    "sharding: %s: axis %r of size %d does not divide over %d devices; replicated",
                    where, axis, size, ways,
                )  # fmt: skip
            mesh_axes = None
        placed.append(mesh_axes)
    while placed and placed[-1] is None:
        placed.pop()
    return PartitionSpec(*placed)


def _present(mesh_axes: str | tuple[str, ...] | None, mesh: Mesh):
    """Mesh axes in PartitionSpec's spelling: only those of the mesh, alone as a bare name."""
    names = tuple(name for name in _as_tuple(mesh_axes) if name in mesh.shape)
    return names[0] if len(names) == 1 else (names or None)


def _as_tuple(mesh_axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (mesh_axes,) if isinstance(mesh_axes, str) else tuple(mesh_axes or ())
