"""What `jbert plan` says."""

import dataclasses
import math
from collections.abc import Iterator

from jbert.plan.chips import GIB, Slice
from jbert.plan.hlo import Collective
from jbert.plan.program import Facts
from jbert.plan.roofline import Prediction, estimate
from jbert.plan.search import REMAT, Candidate
from jbert.plan.work import Work, mesh_sizes

MIB = 2**20


def report(
    work: Work, wanted: Slice, facts: Facts, prediction: Prediction | None, steps: int
) -> str:
    """The whole plan of one step; without a prediction it does not fit."""
    lines = [*_heading(work, wanted, facts), _memory(wanted, facts)]
    if prediction is None:
        return "\n".join([*lines, *advice(work, wanted, facts)])
    return "\n".join(
        [
            *lines,
            _arithmetic(wanted, prediction),
            *_collectives(facts.reading.collectives),
            *_times(wanted, facts, prediction),
            *_rates(work, wanted, prediction, steps),
        ]
    )


def _heading(work: Work, wanted: Slice, facts: Facts) -> Iterator[str]:
    data, fsdp, tensor = mesh_sizes(work, wanted.devices)
    run = work.execution
    kind = "training step" if work.train else "forward pass"
    rows = f"{work.batch_size} × {work.length} tokens"
    if work.accumulate > 1:
        rows += f" in {work.accumulate} micro-batches"
    if work.predictions:
        rows += f", {work.predictions} predictions a row"
    if work.beside is not None and work.train:
        rows += f", beside its {work.beside.role}"
    layers = "scanned" if run.scan_layers else "unrolled"
    yield f"{work.name}: {work.task or 'encoder'}, {kind}, {rows}"
    yield (
        f"computed    in {run.dtype}, remat {run.remat}, layers {layers}, "
        f"attention by {facts.attention}"
    )
    yield (
        f"on          {wanted.name}: {_number(wanted.chips, 'chip')}, "
        f"{_number(wanted.devices, 'device')}; data {data} × fsdp {fsdp} × tensor {tensor}"
        + (", ZeRO-1" if work.mesh.zero else "")
    )
    yield f"compiled by {facts.compiler} in {facts.seconds:.0f} s"


def _memory(wanted: Slice, facts: Facts) -> str:
    need, room = facts.memory(), wanted.chip.memory
    text = f"memory      {_gib(need)} on a device that has {_gib(room)}: "
    if need > room:
        return text + f"does not fit, {_gib(need - room)} too much"
    state = facts.arguments + facts.results - facts.aliased
    return text + f"fits ({_gib(state)} state and batch, {_gib(facts.temporary)} temporary)"


def advice(work: Work, wanted: Slice, facts: Facts) -> Iterator[str]:
    """What would make it fit, by estimates that start from what the compiler asked for."""
    base = estimate(work, wanted).memory
    scale = facts.memory() / base
    fitting = [
        option
        for option, changed in _smaller(work, wanted)
        if scale * estimate(changed, wanted).memory <= wanted.chip.memory
    ]
    if fitting:
        yield "would fit   " + "\n            ".join(fitting) + "\n            (by estimate)"
    else:
        yield "would fit   nothing that was tried: take more chips, or chips with more memory"
    if work.execution.scan_layers:
        yield "            (unrolled layers often take less: --unrolled compiles them, for longer)"


def _smaller(work: Work, wanted: Slice) -> Iterator[tuple[str, Work]]:
    """Ways to take less memory, alone and one after the other, with how to ask for them."""
    data, fsdp, tensor = mesh_sizes(work, wanted.devices)
    ways = data * fsdp
    rows = work.batch_size // work.accumulate
    for remat in REMAT[1:] if work.train else ():
        if remat != work.execution.remat:
            execution = dataclasses.replace(work.execution, remat=remat)
            yield f"--remat {remat}", dataclasses.replace(work, execution=execution)
    if data > 1:
        mesh = dataclasses.replace(work.mesh, data=1, fsdp=ways, tensor=tensor)
        yield f"--data 1 --fsdp {ways}", dataclasses.replace(work, mesh=mesh)
        if work.train and not work.mesh.zero:
            mesh = dataclasses.replace(work.mesh, zero=True)
            yield "--zero", dataclasses.replace(work, mesh=mesh)
    parts = 2
    while rows % (parts * ways) == 0:
        if work.train:
            more = work.accumulate * parts
            yield f"--accumulate {more}", dataclasses.replace(work, accumulate=more)
        less = work.batch_size // parts
        yield f"--batch-size {less}", dataclasses.replace(work, batch_size=less)
        parts *= 2


def _arithmetic(wanted: Slice, prediction: Prediction) -> str:
    useful = prediction.useful / wanted.devices / 1e12
    extra = prediction.flops / prediction.useful - 1
    text = f"arithmetic  {useful:.3g} TFLOP a device"
    return text + (f", and {extra:.0%} more that is computed again" if extra > 0.005 else "")


def _collectives(found: tuple[Collective, ...]) -> Iterator[str]:
    if not found:
        yield "collectives none"
    for number, one in enumerate(sorted(found, key=lambda one: -one.bytes)):
        word = "collectives" if not number else " " * 11
        yield (
            f"{word} {one.kind} × {one.count} among {one.devices} devices: "
            f"{_mib(one.bytes)}, the largest {_mib(one.largest)}"
        )


def _times(wanted: Slice, facts: Facts, prediction: Prediction) -> Iterator[str]:
    roofline, reading = prediction.roofline, facts.reading
    parts = sorted(reading.parts.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{part} {cycles / reading.cycles:.0%}" for part, cycles in parts[:6])
    yield f"time        {_ms(prediction.cycles)} by the compiler's cycles of every operation"
    yield f"            ({shares})"
    if None in reading.loops:
        yield "            a loop was counted once, whose length the program does not tell"
    if facts.kernels():
        yield (
            f"            {_ms(prediction.kernels)} of {' and '.join(facts.kernels())} "
            "by jbert's own estimate: the compiler states no cycles for kernels"
        )
    yield f"            {_ms(prediction.links)} of collectives, where nothing hides them"
    yield (
        f"            {_ms(roofline.seconds())} roofline: arithmetic {_ms(roofline.arithmetic)}, "
        f"memory {_ms(roofline.memory)}, links {_ms(roofline.links)}"
    )
    if prediction.optimal is None:
        yield f"            optimal_seconds: {prediction.why_not}"
    else:
        yield f"            {_ms(prediction.optimal)} by the compiler's optimal_seconds"


def _rates(work: Work, wanted: Slice, prediction: Prediction, steps: int) -> Iterator[str]:
    step = prediction.step()
    yield (
        f"predicted   {_ms(step)} a step: {mfu(wanted, prediction):.1%} MFU, "
        f"{work.tokens() / step:,.0f} tokens/s, {work.batch_size / step:,.0f} rows/s"
    )
    hours = steps * step / 3600
    yield (
        f"            {_number(steps, 'step')} in {_duration(steps * step)}, "
        f"{wanted.chips * hours:.3g} chip-hours"
    )


def mfu(wanted: Slice, prediction: Prediction) -> float:
    return prediction.useful / (prediction.step() * wanted.devices * wanted.chip.flops)


def ranking(found: list[Candidate], wanted: Slice) -> str:
    """What a search has compiled, best first."""
    lines = ["searched"]
    for one in found:
        if one.facts is None:
            continue
        memory = _gib(one.facts.memory())
        fit = f"{memory} fits" if one.fits(wanted) else f"{memory} does not fit"
        time = "" if one.prediction is None else f", {_ms(one.prediction.step())}"
        lines.append(f"  {one.label()}: {fit}{time}")
    return "\n".join(lines)


def row(work: Work, wanted: Slice, facts: Facts, prediction: Prediction | None) -> str:
    """A line of the table in docs/plan.md."""
    fits = f"{facts.memory() / GIB:.2f} of {wanted.chip.memory / GIB:.2f}"
    cells = [
        work.name, wanted.name, f"{work.batch_size} × {work.length}", work.execution.dtype, fits,
    ]  # fmt: skip
    if prediction is None:
        cells += ["does not fit", "", ""]
    else:
        cells += [
            f"{1e3 * prediction.step():.1f}",
            f"{mfu(wanted, prediction):.0%}",
            f"{work.batch_size / prediction.step():,.0f}",
        ]
    return "| " + " | ".join(cells) + " |"


ROW_NAMES = (
    "| recipe | slice | batch | dtype | GiB a device | ms a step | MFU | rows/s |\n"
    "|---|---|---|---|---|---|---|---|"
)


def _number(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _mib(size: float) -> str:
    return f"{size / MIB:,.1f} MiB" if size >= MIB / 10 else f"{size:,.0f} bytes"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.1 else f"{1e3 * seconds:.0f} ms"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
