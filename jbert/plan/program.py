"""A step as a program: traced and lowered by JAX, compiled by the TPU's own compiler."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from jbert import backend
from jbert.compiled import step_options
from jbert.fused_attention import NAME as ATTENTION
from jbert.fused_feed_forward import NAME as FEED_FORWARD
from jbert.loaded import abstract_params, forward
from jbert.models import model_class
from jbert.plan.arithmetic import Count, count
from jbert.plan.beside import Attached
from jbert.plan.cache import Cache
from jbert.plan.chips import Slice
from jbert.plan.hlo import Collective, Reading, read
from jbert.plan.kernels import kernels_of
from jbert.plan.topology import compiler_version, devices_of
from jbert.plan.work import PREDICTING, Work
from jbert.sharding import make_mesh, param_shardings
from jbert.training.optimizer import Optimizer
from jbert.training.parallel import JitParallel, check_batch
from jbert.training.pretrain.objective import MaskedTokens
from jbert.training.state import abstract_state
from jbert.training.step import TaskObjective, TrainStep
from jbert.trees import flatten

# The schedule is part of the program, its length is not of any weight.
_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the compiler says of a program, on each device; all of it goes into a file and back.

    needed:   bytes of HBM, where it did not fit and there is no program; the rest is then zero.
    attention, feed_forward: xla, or the kernel that the program calls.
    optimal_seconds: the compiler's own estimate of a whole step, valid or not.
    """

    compiler: str = ""
    seconds: float = 0.0
    needed: int = 0
    arguments: int = 0
    results: int = 0
    aliased: int = 0
    temporary: int = 0
    code: int = 0
    attention: str = "xla"
    feed_forward: str = "xla"
    optimal_seconds: float = 0.0
    reading: Reading = Reading(0, {}, (), ())

    def memory(self) -> int:
        held = self.arguments + self.results - self.aliased + self.temporary + self.code
        return self.needed or held

    def kernels(self) -> list[str]:
        """What Pallas computes."""
        named = {"attention": self.attention, "feed-forward layers": self.feed_forward}
        return [f"{kernel} {what}" for what, kernel in named.items() if kernel != "xla"]

    def calls(self, kernel: str) -> bool:
        """Whether a kernel that the step would call on a single device is in this program."""
        if kernel.startswith(FEED_FORWARD):
            return self.feed_forward == "fused"
        return self.attention == ("fused" if kernel.startswith(ATTENTION) else "splash")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Facts":
        values = json.loads(text)
        reading = values["reading"]
        reading["collectives"] = tuple(Collective(**one) for one in reading["collectives"])
        reading["loops"] = tuple(reading["loops"])
        return cls(**{**values, "reading": Reading(**reading)})


def traced(work: Work, devices: list[Any]) -> Any:
    """The library's own step on abstract arrays, traced for a TPU."""
    mesh = make_mesh(work.mesh.data, work.mesh.fsdp, work.mesh.tensor, devices)
    with _lowering_for(devices):
        return _train_step(work, mesh) if work.train else _forward_pass(work, mesh)


def _lowering_for(devices: list[Any]) -> contextlib.AbstractContextManager[None]:
    kind = devices[0].device_kind if devices[0].platform == "tpu" else ""
    return backend.lowering_for("tpu", kind)


def _train_step(work: Work, mesh: Mesh) -> Any:
    module, attached = work.module(), attached_to(work, mesh)
    extra = attached.companions | attached.fixed
    others = {path: leaf.sharding for path, leaf in extra.items()}
    parallel = JitParallel(module, mesh, work.mesh.rules, work.mesh.zero, others)
    check_batch("batch_size / accumulate", work.batch_size // work.accumulate, parallel.ways())
    layers = getattr(work.config, "num_hidden_layers", 0)
    optimizer = Optimizer(work.optimizer, _STEPS, layers)
    params = flatten(abstract_params(module)) | attached.companions
    state = abstract_state(params, optimizer, parallel)._replace(fixed=attached.fixed or None)
    step = TrainStep(attached.objective, optimizer, work.accumulate)
    return parallel.train(step).trace(state, work.batch(mesh))


def attached_to(work: Work, mesh: Mesh) -> Attached:
    """What is minimised, and the parameters that it has beside the model's."""
    module = work.module()
    own = (MaskedTokens(module, work.task, work.chunked) if work.task in PREDICTING
           else TaskObjective(module, work.task))  # fmt: skip
    if work.beside is None or not work.train:
        return Attached(own, {}, {})
    return work.beside.attach(own, mesh, work.mesh.rules)


def _forward_pass(work: Work, mesh: Mesh) -> Any:
    module = work.module()
    shardings = param_shardings(abstract_params(module, boxed=True), mesh, work.mesh.rules)

    def placed(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    params = jax.tree.map(placed, abstract_params(module), shardings)
    return forward.plain.trace(
        params, work.inputs(mesh), module=module, mesh=mesh, rules=work.mesh.rules,
        output_hidden_states=None, output_attentions=None,
    )  # fmt: skip


def counted(work: Work) -> Count:
    """The arithmetic of the step and what it keeps, of all devices together."""
    return _counted(_alone(work))


def useful_flops(work: Work) -> int:
    """What the models themselves ask for, nothing computed twice: a backward pass is twice a
    forward one. MFU is the share of this in what the chips could do."""
    beside = work.beside
    if beside is None or not work.train:
        return (3 if work.train else 1) * _forward_flops(work, work.config, work.task)
    if beside.everywhere:
        work = dataclasses.replace(work, predictions=0)
    own = 3 * _forward_flops(work, work.config, work.task)
    config, task = beside.model(work.config, work.task)
    return own + (3 if beside.trained else 1) * _forward_flops(work, config, task)


def _forward_flops(work: Work, config: Any, task: str | None) -> int:
    execution = dataclasses.replace(work.execution, remat="none", attention="xla")
    predictions = work.predictions if model_class(config, task).fills_in else 0
    forward_pass = dataclasses.replace(
        work, config=config, task=task, execution=execution, predictions=predictions,
        train=False, accumulate=1, beside=None,
    )  # fmt: skip
    return _counted(_alone(forward_pass)).flops


def _alone(work: Work) -> Work:
    """The same on one device, with its layers scanned, to see what they keep."""
    execution = dataclasses.replace(work.execution, scan_layers=True)
    mesh = dataclasses.replace(work.mesh, data=1, fsdp=1, tensor=1)
    return dataclasses.replace(work, execution=execution, mesh=mesh)


@functools.lru_cache(maxsize=256)
def _counted(work: Work) -> Count:
    return count(traced(work, jax.devices("cpu")[:1]).jaxpr)


def kernel_seconds(work: Work, wanted: Slice, facts: Facts) -> float:
    """Of Pallas' kernels in a compiled step, on each device, by estimate."""
    jaxpr = traced(_alone(work), jax.devices("cpu")[:1]).jaxpr
    found = kernels_of(jaxpr, wanted.chip.tile)
    return sum(times * one.seconds(wanted) for times, one in found if facts.calls(one.name))


def compiled(work: Work, wanted: Slice, cache: Cache, say: bool = True) -> Facts:
    """What the TPU compiler says of the step on a slice; from the cache where that is known."""
    compiler = compiler_version()
    devices = devices_of(wanted)
    with _progress(f"{work.name} for {wanted.name}: tracing", say):
        lowered = traced(work, devices).lower()
    text = lowered.as_text()
    with _lowering_for(devices):
        # What else the compiler is told, by jbert and by the user.
        told = json.dumps(step_options()), os.environ.get("LIBTPU_INIT_ARGS", "")
    key = cache.key(text, wanted.name, compiler, jax.__version__, *told)
    if known := cache.get(key):
        return Facts.from_json(known)
    start = time.perf_counter()
    with _progress(f"{work.name} for {wanted.name}: compiling", say):
        try:
            facts = _facts(lowered.compile(), len(devices))
        except Exception as error:
            needed = needed_memory(str(error))
            if needed is None:
                raise
            facts = Facts(needed=needed)
    facts = dataclasses.replace(
        facts,
        compiler=compiler,
        seconds=time.perf_counter() - start,
        attention="fused" if ATTENTION in text else "splash" if "splash" in text else "xla",
        feed_forward="fused" if FEED_FORWARD in text else "xla",
    )
    cache.put(key, facts.to_json())
    return facts


def _facts(program: Any, devices: int) -> Facts:
    size, costs = program.memory_analysis(), program.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs or {}
    return Facts(
        arguments=size.argument_size_in_bytes,
        results=size.output_size_in_bytes,
        aliased=size.alias_size_in_bytes,
        temporary=size.temp_size_in_bytes,
        code=size.generated_code_size_in_bytes,
        optimal_seconds=float(costs.get("optimal_seconds", 0.0)),
        reading=read(program.as_text(), devices),
    )


_NEEDED = (
    re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm"),
    re.compile(r"memory required for HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds"),
)


def needed_memory(error: str) -> int | None:
    """The bytes of HBM that a refusal of the compiler asks for; None of any other error."""
    if "RESOURCE_EXHAUSTED" not in error and "Ran out of memory" not in error:
        return None
    for pattern in _NEEDED:
        if match := pattern.search(error):
            return round(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))
    return None


@contextlib.contextmanager
def _progress(what: str, say: bool) -> Iterator[None]:
    """Say what is done, and on a terminal for how long: compilation takes minutes."""
    start, done = time.perf_counter(), threading.Event()
    live = say and sys.stderr.isatty()

    def tick():
        while not done.wait(1):
            spent = time.perf_counter() - start
            print(f"\r{what} … {spent:.0f} s", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tick, daemon=True)
    if live:
        thread.start()
    elif say:
        print(f"{what} …", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        done.set()
        if live:
            thread.join()
            print(f"\r{what} … {time.perf_counter() - start:.0f} s", file=sys.stderr)
