"""The two ways to run the same step on many devices: jit over a mesh, and pmap.

Both hold states and batches in their own way, and speak to the outside in the same one: rows of
numpy arrays in, numbers out, and for checkpoints a state of global arrays.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jbert.compiled import step_options
from jbert.loaded import abstract_params
from jbert.models.base import Model
from jbert.sharding import Rules, activations_on, batch_sharding, make_mesh, param_shardings
from jbert.training.config import MeshConfig, RunConfig, RunError
from jbert.training.optimizer import Flat
from jbert.training.step import EvalStep, State, TrainStep
from jbert.trees import flatten

logger = logging.getLogger("jbert")

# The rows of a batch that are asked for, by their places in it.
ReadRows = Callable[[np.ndarray], Mapping[str, np.ndarray]]
AXIS = "devices"


class Parallel(Protocol):
    """What the loop needs of either wrapper."""

    @property
    def axis(self) -> str | None:
        """The name over which steps add up by themselves."""
        ...

    def ways(self) -> int:
        """Into how many equal parts a batch is split."""
        ...

    def shardings(self, state: Any) -> Any:
        """Where the global arrays of a state lie: for a checkpoint to be read to."""
        ...

    def take(self, state: State) -> Any:
        """A state of global arrays in the form that steps work on."""
        ...

    def give(self, state: Any) -> State:
        """The state as global arrays again."""
        ...

    def put(self, size: int, read: ReadRows) -> Any:
        """A batch of so many rows on its devices; each process reads only its own rows."""
        ...

    def train(self, step: TrainStep) -> "Program":
        """The step compiled; it consumes the state that it is given."""
        ...

    def evaluate(self, step: EvalStep) -> "Program":
        """The step compiled; every process gets the whole of its results."""
        ...


class Program:
    """A function that is compiled once for each shape of its last argument, and says so.

    ahead: compile before the first call, not by it.
    """

    def __init__(
        self,
        name: str,
        function: Any,
        finish: Callable[[Any], Any] = lambda x: x,
        ahead: bool = True,
    ):
        self._name, self._function, self._finish, self._ahead = name, function, finish, ahead
        self._compiled: dict[Any, Any] = {}
        self.compile_seconds = 0.0

    def __call__(self, *arguments: Any) -> Any:
        shapes = tuple((name, x.shape, x.dtype) for name, x in sorted(arguments[-1].items()))
        if shapes in self._compiled:
            return self._finish(self._compiled[shapes](*arguments))
        start = time.perf_counter()
        program = self._function.lower(*arguments).compile() if self._ahead else self._function
        compiled = time.perf_counter()
        result = program(*arguments)
        spent = (compiled if self._ahead else time.perf_counter()) - start
        self._compiled[shapes] = program
        self.compile_seconds += spent
        shape = arguments[-1]["input_ids"].shape
        logger.info(
            "compiled the %s for inputs of %s in %.1f s; it needs %.2f GB beside the state",
            self._name, shape, spent, self._temporary(program) / 1e9,
        )  # fmt: skip
        return self._finish(result)

    def trace(self, *arguments: Any) -> Any:
        """The function traced for arguments that may be abstract, to be compiled elsewhere."""
        return self._function.trace(*arguments)

    def temporary_bytes(self) -> int:
        """What the largest of the programs needs on a device besides its arguments, if known."""
        return max(map(self._temporary, self._compiled.values()), default=0)

    def _temporary(self, program: Any) -> int:
        size = program.memory_analysis() if self._ahead else None
        return 0 if size is None else size.temp_size_in_bytes


class JitParallel:
    """jit with NamedShardings over the mesh ("data", "fsdp", "tensor").

    others: where parameters lie that are not the module's own.
    """

    axis = None

    def __init__(
        self,
        module: Model,
        mesh: Mesh,
        rules: str | Rules,
        zero: bool = False,
        others: Mapping[str, NamedSharding] | None = None,
    ):
        self.mesh, self.rules, self.zero = mesh, rules, zero
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        boxed = abstract_params(module, boxed=True)
        self._of_params: Flat = flatten(param_shardings(boxed, mesh, rules)) | dict(others or {})

    def ways(self) -> int:
        spec = batch_sharding(self.mesh, self.rules).spec
        return math.prod(self.mesh.shape[axis] for axis in _axes(spec))

    def shardings(self, state: Any) -> Any:
        def moments(tree: Any) -> Any:
            if not isinstance(tree, Mapping):
                return self._everywhere
            return {path: self._of_moment(path, leaf.shape) for path, leaf in tree.items()}

        def params(tree: Any) -> Any:
            return None if tree is None else {path: self._of_params[path] for path in tree}

        return State(
            step=None if state.step is None else self._everywhere,
            params=params(state.params),
            opt_state={name: moments(tree) for name, tree in state.opt_state.items()},
            average=params(state.average),
            fixed=params(state.fixed),
        )

    def _of_moment(self, path: str, shape: tuple[int, ...]) -> NamedSharding:
        """Where moments lie: beside their parameter, or with ZeRO also split over `data`."""
        sharding = self._of_params[path]
        if not self.zero or "data" in _axes(sharding.spec):
            return sharding
        spec = list(sharding.spec) + [None] * (len(shape) - len(sharding.spec))
        for i, size in enumerate(shape):
            # Beside the axes that are there, which may be of a single device.
            axes = (*_as_tuple(spec[i]), "data")
            if size % math.prod(self.mesh.shape[axis] for axis in axes) == 0:
                spec[i] = axes
                return NamedSharding(self.mesh, PartitionSpec(*spec))
        return sharding

    def take(self, state: State) -> Any:
        return jax.device_put(state, self.shardings(state))

    def give(self, state: Any) -> State:
        return state

    def put(self, size: int, read: ReadRows) -> Any:
        sharding = batch_sharding(self.mesh, self.rules, size)
        wanted = sharding.addressable_devices_indices_map((size,)).values()
        rows = np.unique(np.concatenate([np.arange(size)[index] for index in wanted]))
        return {
            name: jax.make_array_from_process_local_data(sharding, value, (size, *value.shape[1:]))
            for name, value in read(rows).items()
        }

    def train(self, step: TrainStep) -> Program:
        def run(state, batch):
            with activations_on(self.mesh, self.rules):
                new, figures = step(state, batch)
            # Or the compiler may leave a parameter split as its gradient was.
            placed = jax.lax.with_sharding_constraint(new, self.shardings(new))
            figures = jax.lax.with_sharding_constraint(figures, self._everywhere)
            return placed, figures

        run = jax.jit(run, donate_argnums=0, compiler_options=step_options())
        return Program("train step", run)

    def evaluate(self, step: EvalStep) -> Program:
        def run(params, batch):
            with activations_on(self.mesh, self.rules):
                return step(params, batch)

        return Program("eval step", jax.jit(run, out_shardings=self._everywhere))


class PmapParallel:
    """pmap over all devices, each with a copy of the state. Steps add up over `AXIS`."""

    axis = AXIS

    def __init__(self, mesh: Mesh):
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._local = jax.local_device_count()

    def ways(self) -> int:
        return jax.device_count()

    def shardings(self, state: Any) -> Any:
        return jax.tree.map(lambda _: self._everywhere, state)

    def take(self, state: State) -> Any:
        here = jax.tree.map(lambda x: x.addressable_data(0), state)
        # pmap asks for one argument that differs between devices.
        copy: Any = jax.pmap(lambda state, _: state, in_axes=(None, 0))
        return copy(here, np.zeros(self._local))

    def give(self, state: Any) -> State:
        def whole(x):
            copies = [shard.data.reshape(x.shape[1:]) for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape[1:], self._everywhere, copies)

        return jax.tree.map(whole, state)

    def put(self, size: int, read: ReadRows) -> Any:
        share = size // jax.process_count()
        first = jax.process_index() * share
        batch = read(np.arange(first, first + share))
        return {
            name: value.reshape(self._local, share // self._local, *value.shape[1:])
            for name, value in batch.items()
        }

    def train(self, step: TrainStep) -> Program:
        run = jax.pmap(step, axis_name=AXIS, donate_argnums=0)
        finish = lambda result: (result[0], _first(result[1]))  # noqa: E731
        return Program("train step", run, finish, self._ahead())

    def evaluate(self, step: EvalStep) -> Program:
        run = jax.pmap(step, axis_name=AXIS)
        return Program("eval step", run, _first, self._ahead())

    def _ahead(self) -> bool:
        # Among several processes the compiled form takes other arguments than pmap itself.
        return jax.process_count() == 1


def _first(tree: Any) -> Any:
    """Of results that are the same on every device, those of the first one here."""
    return jax.tree.map(lambda x: x.addressable_shards[0].data.reshape(x.shape[1:]), tree)


def _axes(spec: PartitionSpec) -> set[str]:
    """The mesh axes that a PartitionSpec names."""
    return {axis for part in spec for axis in _as_tuple(part)}


def _as_tuple(part: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (part,) if isinstance(part, str) else part or ()


def mesh_of(run: RunConfig) -> tuple[Mesh, str]:
    """The mesh on which a run's model is loaded, and its rules; under pmap all are copies."""
    if run.parallel == "jit":
        return make_mesh(run.mesh.data, run.mesh.fsdp, run.mesh.tensor), run.mesh.rules
    if run.mesh != MeshConfig():
        raise RunError(
            f"parallel is 'pmap', which copies the model to every device, but the mesh is "
            f"{run.mesh}; leave the mesh as it is, or use parallel='jit'"
        )
    return make_mesh(), "data"


def parallel_of(
    run: RunConfig,
    module: Model,
    mesh: Mesh,
    rules: str,
    others: Mapping[str, NamedSharding] | None = None,
) -> Parallel:
    if run.parallel == "pmap":
        return PmapParallel(mesh)
    return JitParallel(module, mesh, rules, run.mesh.zero, others)


def check_batch(name: str, size: int, ways: int) -> None:
    """Refuse a batch that cannot be split evenly, before anything is compiled."""
    if size % ways:
        near = ways * max(1, round(size / ways))
        raise RunError(
            f"{name} is {size}, but each batch is split over {ways} devices; "
            f"expected a multiple of {ways}, such as {near}"
        )
