"""Scale tests of what is timed, beside what of it can be counted."""

import time

import jax
import numpy as np

from benchmarks.packing import wikipedia_like
from benchmarks.scaling.growth import Check, Curve, Scale, band, growth, line
from benchmarks.scaling.steps import Sizes, forward, ids, seconds, temporary_bytes
from jbert import Bert
from jbert.data.packing import build_rows, pack


def length(size: Sizes) -> Scale:
    """S1: at as many tokens a batch, a token costs a constant and a share of the length."""
    bert = size.bert(None)
    run, lengths = forward(bert), [64, 128, 256, 512, 1024, 2048, 4096]
    lengths = [n for n in lengths if n <= size.tokens]
    times, held = [], []
    for n in lengths:
        inputs = {"input_ids": ids(size.tokens // n, n)}
        times.append(seconds(lambda inputs=inputs: run(bert.params, inputs)) / size.tokens * 1e9)
        held.append(temporary_bytes(run, bert.params, inputs) / size.tokens)
    fitted = line(lengths, times)
    return Scale(
        "S1: time and memory of a token by the length of its text", "length", "ns, bytes",
        [Curve("ns a token", lengths, times), Curve("bytes a token", lengths, held)],
        [Check("R² of the time's line", fitted.r2, least=0.95, timed=True),
         # Scores are a row of floats for each token and head; anything steeper holds them twice.
         Check("score matrices held at once", line(lengths, held).slope / (4 * size.heads),
               most=4.0)],
    )  # fmt: skip


def batch(size: Sizes) -> Scale:
    """S2: throughput by batch."""
    bert = size.bert(None)
    run, n = forward(bert), 128 if size.tokens >= 4096 else 32
    batches = [2**i for i in range(10) if 2**i * n <= 2 * size.tokens]
    speeds = []
    for b in batches:
        inputs = {"input_ids": ids(b, n)}
        speeds.append(b / seconds(lambda inputs=inputs: run(bert.params, inputs)))
    enough = [s for b, s in zip(batches, speeds, strict=True) if b * n <= 16384]
    return Scale(
        "S2: throughput by batch", "batch", "sequences/s",
        [Curve(f"length {n}", batches, speeds)],
        [Check("share of the best by 16k tokens", max(enough) / max(speeds), least=0.9,
               timed=True)],
        logarithmic=True,
    )  # fmt: skip


def depth(size: Sizes) -> Scale:
    """S3: time is linear in layers; compilation is not, where one layer stands for all."""
    depths, curves = [2, 6, 12, 24, 48], []
    inputs = {"input_ids": ids(2, 64)}
    compiling: dict[bool, list[float]] = {False: [], True: []}
    times, lines = [], []
    for layers in depths:
        for scanned in (False, True):
            bert = size.bert(None, num_hidden_layers=layers, scan_layers=scanned)
            compiling[scanned].append(min(_compiling(bert, inputs) for _ in range(3)))
            run = forward(bert)
            if scanned:
                lines.append(len(run.lower(bert.params, inputs).as_text().splitlines()))
            else:
                times.append(seconds(lambda b=bert, r=run: r(b.params, inputs)))
    fitted = line(depths, times)
    curves = [Curve("run, unrolled", depths, times)]
    curves += [Curve(f"compile, {'scanned' if s else 'unrolled'}", depths, t)
               for s, t in compiling.items()]  # fmt: skip
    return Scale(
        "S3: seconds by layers", "layers", "seconds", curves,
        [Check("R² of the time's line", fitted.r2, least=0.99, timed=True),
         Check("its start, of 12 layers", fitted.intercept / times[2], most=0.1, timed=True),
         Check("compilation of 48 over 12, scanned", compiling[True][4] / compiling[True][2],
               most=1.2, timed=True),
         Check("compilation of 48 over 12, unrolled", compiling[False][4] / compiling[False][2],
               most=4.5, timed=True),
         Check("growth of the scanned program", growth(lines), most=1.0)],
    )  # fmt: skip


def _compiling(bert: Bert, inputs: dict[str, np.ndarray]) -> float:
    """Seconds; of a new function, as what was compiled before is kept, and alone."""
    jax.block_until_ready(bert.params)  # which are drawn meanwhile
    lowered = forward(bert).lower(bert.params, inputs)
    start = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - start


def padding(size: Sizes) -> Scale:
    """S6: packed rows are as fast however short the texts are; padded ones are not."""
    bert, n = size.bert(None), 128
    run, shares, packed, alone = forward(bert), [0.0, 0.5, 0.75, 0.875], [], []
    rows = max(size.tokens // n, 4)
    for share in shares:
        each = round(n * (1 - share))  # divides n: packed rows are full
        count = rows * (n // each)
        lengths = np.full(count, each)
        chosen, place = pack(lengths, n).select(np.arange(rows))
        texts = {"input_ids": ids(count, each)[chosen]}
        full = build_rows(texts, lengths[chosen], place, (rows, n))
        mask = (np.arange(n) < each).astype(np.int32)[None].repeat(rows, 0)
        single = {"input_ids": ids(rows, n) * mask, "attention_mask": mask}
        for inputs, real, speeds in (
            (full, np.count_nonzero(full["segment_ids"]), packed),
            (single, mask.sum(), alone),
        ):
            speeds.append(real / seconds(lambda inputs=inputs: run(bert.params, inputs)))
    return Scale(
        "S6: real tokens a second by the share of padding", "padding", "tokens/s",
        [Curve("packed", shares, packed), Curve("padded", shares, alone)],
        [Check("band of the packed", band(packed), most=0.2, timed=True),
         Check("padded at 87.5 % over none", growth(alone), most=0.2, timed=True)],
    )  # fmt: skip


def host(size: Sizes) -> Scale:
    """S9: packing keeps up with any accelerator."""
    counts = [10_000, 100_000, 1_000_000] if size.tokens >= 4096 else [1000, 10_000]
    speeds = []
    for count in counts:
        lengths = wikipedia_like(count)
        speeds.append(count / seconds(lambda lengths=lengths: len(pack(lengths, 512)), 3))
    return Scale(
        "S9: sequences packed a second", "sequences", "sequences/s",
        [Curve("pack", counts, speeds)],
        [Check("a second, of the most", speeds[-1], least=1e6, timed=True)],
        logarithmic=True,
    )  # fmt: skip
