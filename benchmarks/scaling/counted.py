"""Scale tests of what is counted: programs, bytes and numbers, the same on any machine."""

import jax
import numpy as np

from benchmarks.scaling.growth import Check, Curve, Scale, band, growth
from benchmarks.scaling.steps import (
    Sizes,
    classified,
    gathered,
    ids,
    temporary_bytes,
    training,
)
from jbert.losses import sum_terms
from jbert.pipelines.buckets import make_buckets
from jbert.pipelines.runner import Runner
from jbert.sharding import make_mesh
from jbert.training.parallel import JitParallel
from jbert.training.step import State


def programs(size: Sizes, calls: int = 1000) -> Scale:
    """S4: ragged calls never compile more programs than there are buckets, nor one twice."""
    bert = size.bert("sequence_classification", num_hidden_layers=1)
    buckets = make_buckets(512, batch_size=4)

    def program(module, params, inputs, extra):
        return {"logits": module.apply({"params": params}, **inputs).logits}

    runner, compiled = Runner(bert, program, buckets, "benchmark"), []
    rng = np.random.default_rng(0)
    for _ in range(calls):
        rows = int(rng.integers(1, 4))
        lengths = rng.integers(1, 513, rows)
        mask = (np.arange(512) < lengths[:, None]).astype(np.int32)
        runner.run({"input_ids": ids(rows, 512) * mask, "attention_mask": mask})
        compiled.append(len(runner.compilations))
    again = sum(runner.compilations.values()) - len(runner.compilations)
    return Scale(
        "S4: programs compiled over ragged calls", "calls", "programs",
        [Curve("compiled", range(1, calls + 1), compiled)],
        [Check("programs", len(runner.compilations), most=len(buckets.shapes())),
         Check("compiled again", again, most=0)],
    )  # fmt: skip


def vocabulary(size: Sizes) -> Scale:
    """S5: where losses are computed in chunks, no logits of the whole batch are ever held."""
    batch, places, words = 16, 256, (16000, 32000, 64000, 128000, 250000)
    found, logits = [], []
    for count in words:
        bert = size.bert("masked_lm", vocab_size=count, num_hidden_layers=1)
        step, state = training(bert)
        inputs = gathered(batch, places, places, count)
        found.append(temporary_bytes(jax.jit(step, donate_argnums=0), state, inputs))
        logits.append(4 * batch * places * count)
    # The table's gradient: from the lookup, from the head, their sum, and that clipped.
    rows = [4 * 4 * size.width * count for count in words]
    rest = [whole - table for whole, table in zip(found, rows, strict=True)]
    return Scale(
        "S5: temporary memory of a masked-LM step", "words", "bytes",
        [Curve("step", words, found), Curve("without the table's gradients", words, rest),
         Curve("the logits alone, if held", words, logits)],
        [Check("growth without the table's gradients", growth(rest), most=1.1)],
    )  # fmt: skip


def accumulation(size: Sizes) -> Scale:
    """S7: more micro-batches of one size take no more memory, and give the whole's gradient."""
    ways, micro, length = (2, 4, 8, 16, 32, 64), 2, 32
    bert = size.bert("sequence_classification", num_hidden_layers=2)
    found = []
    for n in ways:
        step, state = training(bert, n)
        found.append(temporary_bytes(jax.jit(step), state, classified(n * micro, length)))
    batch, norms, losses = classified(8 * micro, length), [], []
    for n in (1, 8):
        step, state = training(bert, n)
        _, figures = jax.jit(step)(state, batch)
        norms.append(float(figures["grad_norm"]))
        losses.append(float(sum_terms(figures["terms"])))
    return Scale(
        "S7: temporary memory and accumulation", "micro-batches", "bytes",
        [Curve("step", ways, found)],
        [Check("band of the memory", band(found), most=0.05),
         Check("difference of the gradients' norms", abs(norms[1] / norms[0] - 1), most=1e-5),
         Check("difference of the losses", abs(losses[1] / losses[0] - 1), most=1e-6)],
        logarithmic=True,
    )  # fmt: skip


def devices(size: Sizes) -> Scale:
    """S8: the same loss on any number of devices, and the optimizer's state split over them."""
    bert = size.bert("sequence_classification", num_hidden_layers=2)
    counts = [n for n in (1, 2, 4, 8) if n <= jax.device_count()]
    losses, held = [], []
    for n in counts:
        mesh = make_mesh(devices=jax.devices()[:n])
        parallel = JitParallel(bert.module, mesh, "data", zero=True)
        step, state = training(bert)
        placed = jax.device_put(state, parallel.shardings(state))
        held.append(_on_one_device(placed))
        batch = parallel.put(16, lambda rows: {k: v[rows] for k, v in classified(16, 32).items()})
        _, figures = parallel.train(step)(parallel.take(placed), batch)
        losses.append(float(sum_terms(figures["terms"])))
    apart = max(abs(loss / losses[0] - 1) for loss in losses)
    return Scale(
        "S8: bytes of the optimizer's state on one device", "devices", "bytes",
        [Curve("with ZeRO", counts, held)],
        [Check("difference of the losses", apart, most=1e-6),
         Check("share on the last", held[-1] / held[0] * counts[-1], most=1.05)],
        logarithmic=True,
    )  # fmt: skip


def _on_one_device(state: State) -> int:
    leaves = jax.tree.leaves(state.opt_state)
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
