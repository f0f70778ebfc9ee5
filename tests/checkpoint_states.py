"""Training states whose every value tells its step and its place, and targets to restore them."""

from collections.abc import Mapping

import disk
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jbert.training.step_files import open_step

State = dict[str, jax.Array]


def state(step: int, numbers: int = 64) -> State:
    ramp = np.arange(numbers, dtype=np.float32)
    return {
        "params/encoder/kernel": jnp.asarray(ramp + step),
        "params/encoder/bias": jnp.asarray(ramp[: numbers // 8] % 64 + step, jnp.bfloat16),
        "opt_state/0/mu/encoder/kernel": jnp.asarray(ramp[::4].reshape(-1, 2) * step),
        "opt_state/0/count": jnp.asarray(step, jnp.int32),
    }


def target(
    arrays: Mapping[str, jax.Array], count: int = 1, dtype=None
) -> dict[str, jax.ShapeDtypeStruct]:
    """The same on so many devices: split over them, and scalars whole on each."""
    mesh = Mesh(np.array(jax.devices()[:count]), ("d",))
    split, whole = NamedSharding(mesh, PartitionSpec("d")), NamedSharding(mesh, PartitionSpec())
    return {
        name: jax.ShapeDtypeStruct(
            leaf.shape, dtype or leaf.dtype, sharding=split if leaf.ndim else whole
        )
        for name, leaf in arrays.items()
    }


def whole(arrays: Mapping[str, jax.Array], count: int) -> State:
    """The whole of each array on each of so many devices."""
    mesh = Mesh(np.array(jax.devices()[:count]), ("d",))
    return jax.device_put(dict(arrays), NamedSharding(mesh, PartitionSpec()))


def placed(arrays: Mapping[str, jax.Array], count: int) -> State:
    """Split over so many devices; of several processes each makes the shards that it holds."""
    return {
        name: jax.make_array_from_callback(
            leaf.shape, leaf.sharding, np.asarray(arrays[name]).__getitem__
        )
        for name, leaf in target(arrays, count).items()
    }


def assert_step(directory, step: int, expected: State) -> None:
    """The step in `directory` is whole, and is what was saved."""
    files = open_step(directory / str(step))
    assert files.step == step
    disk.assert_same(files.restore(target(expected)), expected)
