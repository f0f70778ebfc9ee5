"""What `jbert plan` makes of kernels, of which the compiler states no cycles."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from plan_works import FACTS, base

from jbert.execution import Execution
from jbert.fused_attention import LONGEST, attend_fused
from jbert.models import presets
from jbert.plan.cache import Cache
from jbert.plan.chips import slice_of
from jbert.plan.kernels import Kernel, kernels_of
from jbert.plan.program import compiled, kernel_seconds, traced
from jbert.plan.report import report
from jbert.plan.roofline import predict
from jbert.plan.work import Work

FUSED = dataclasses.replace(FACTS, attention="fused")


def of_one_block(tile=128):
    """Forward and backward, of a row and two heads of 64."""
    x = jax.ShapeDtypeStruct((1, 2, 512, 64), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((1, 512), jnp.int32)
    streams = jax.ShapeDtypeStruct((1, 2, 2), jnp.int32)

    def loss(x, ids, streams):
        return attend_fused(x, x, x, ids, ids, streams, 0.1).astype(jnp.float32).sum()

    return kernels_of(jax.make_jaxpr(jax.grad(loss))(x, ids, streams), tile)


def test_products_fill_tiles_and_other_operations_are_counted_by_weight():
    (once, forward), (also_once, backward) = of_one_block()
    assert once == also_once == 1
    weights = 2 * 512 * 512
    # Heads of 64 are half a tile, where they are the summed axis or the last one of the result.
    assert forward.products == 2 * weights * (128 + 64)
    assert backward.products == 2 * weights * (4 * 128 + 64)
    assert 17 < forward.elements / weights < 21 and 22 < backward.elements / weights < 28
    # Three arrays are read and one written; seven, with the gradient: and a little beside them.
    assert 1.0 < forward.bytes / (4 * 512 * 128 * 2) < 1.05
    assert 1.0 < backward.bytes / (7 * 512 * 128 * 2) < 1.05
    assert of_one_block(256)[0][1].products > forward.products


def test_the_estimate_is_near_the_compilers_schedule():
    # What libtpu 0.0.42.1 schedules on v5p for a program of the grid, of which a core runs each.
    chip = slice_of("v5p:2x2x1").chip
    for (_, kernel), instructions in zip(of_one_block(), (3763, 5955), strict=True):
        found = kernel.seconds(slice_of("v5p:2x2x1")) * 4 * chip.cores * chip.clock
        assert found == pytest.approx(instructions, rel=0.15)


def test_the_slowest_unit_decides_on_each_device():
    wanted = slice_of("v5e:2x4")
    chip = wanted.chip
    for field, speed in (("products", chip.flops), ("elements", 4096 * chip.clock),
                         ("bytes", chip.bandwidth)):  # fmt: skip
        one = dataclasses.replace(Kernel(1, 1, 1), **{field: 10**15})
        assert one.seconds(wanted) == pytest.approx(10**15 / speed / 0.7 / 8)


def test_a_step_has_the_kernels_of_all_its_layers_and_says_whose_estimate_that_is():
    wanted = slice_of("v5p:2x2x1")
    work = base(batch_size=128)
    reading = dataclasses.replace(FACTS.reading, cycles=10**8)
    facts = dataclasses.replace(FUSED, reading=reading)
    seconds = kernel_seconds(work, wanted, facts)
    # Twelve layers of 32 rows and six blocks, on two cores.
    whole = sum(kernel.seconds(wanted) * 4 for _, kernel in of_one_block())
    assert seconds == pytest.approx(12 * 32 * 6 * whole, rel=0.02)
    found = predict(work, wanted, facts)
    assert found.kernels == seconds
    assert found.step() == pytest.approx(found.cycles + seconds + found.links)
    text = report(work, wanted, facts, found, 1)
    assert "ms of fused attention by jbert's own estimate" in text
    assert predict(work, wanted, FACTS).kernels == 0.0
    assert "own estimate" not in report(work, wanted, FACTS, predict(work, wanted, FACTS), 1)


@pytest.mark.parametrize(("remat", "runs"), [("none", 24), ("dots_no_batch", 24), ("full", 36)])
def test_only_full_rematerialisation_attends_twice(remat, runs):
    work = base(execution=Execution("bfloat16", remat=remat, scan_layers=True))
    found = kernels_of(traced(work, jax.devices("cpu")[:1]).jaxpr, 128)
    assert sum(times for times, _ in found) == runs


def test_splash_is_counted_too():
    config = base().config.replace(attention_probs_dropout_prob=0.0)
    execution = Execution("bfloat16", attention="splash", scan_layers=True)
    work = base(config=config, execution=execution)
    wanted = slice_of("v5p:2x2x1")
    splash = dataclasses.replace(FACTS, attention="splash")
    found = kernel_seconds(work, wanted, splash)
    assert 0 < found < 2 * kernel_seconds(base(), wanted, FUSED)


def test_a_kernel_counts_where_the_program_calls_it():
    """Of layers that a mesh splits there is none, though a single device would call it."""
    wanted, config = slice_of("v5e:2x2"), presets()["mobilebert-uncased"].config
    work = base(config=config, execution=Execution("bfloat16", scan_layers=True))
    both = dataclasses.replace(FUSED, feed_forward="fused")
    feed_forward = dataclasses.replace(FACTS, feed_forward="fused")
    seconds = [predict(work, wanted, facts).kernels for facts in (FUSED, feed_forward, both)]
    assert min(seconds) > 0 and seconds[0] + seconds[1] == pytest.approx(seconds[2])


# -- the compiler itself --------------------------------------------------------------------


@pytest.mark.tpu_plan
@pytest.mark.parametrize(
    ("topology", "attention"),
    [("v4:2x2x1", "fused"), ("v5e:2x2", "fused"), ("v5p:2x2x1", "fused"), ("v6e:2x2", "fused"),
     ("v3:2x2", "xla")],
)  # fmt: skip
def test_attention_compiles_for_every_generation(topology, attention):
    """With dropout, and without it in a forward pass of the longest rows in the wider dtype."""
    pytest.importorskip("libtpu", reason="the extra tpu-plan is not installed")
    wanted, tiny = slice_of(topology), presets()["bert-tiny"].config
    step = Work("tiny", tiny, "masked_lm", wanted.devices, 512, predictions=5)
    long = tiny.replace(max_position_embeddings=LONGEST)
    forward = Work("tiny", long, None, wanted.devices, LONGEST, Execution("float32"), train=False)
    for work, expected in ((step, attention), (forward, attention.replace("xla", "splash"))):
        facts = compiled(work, wanted, Cache(enabled=False), say=False)
        assert facts.attention == expected and facts.reading.cycles > 0


@pytest.mark.tpu_plan
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "v3:2x2"])
def test_feed_forward_layers_compile_for_every_generation(topology):
    pytest.importorskip("libtpu", reason="the extra tpu-plan is not installed")
    wanted, published = slice_of(topology), presets()["mobilebert-uncased"].config
    small = published.replace(num_hidden_layers=2, vocab_size=512)
    work = Work("small", small, "masked_lm", wanted.devices, 512, predictions=5)
    facts = compiled(work, wanted, Cache(enabled=False), say=False)
    assert facts.feed_forward == ("xla" if topology.startswith("v3") else "fused")
    assert facts.reading.cycles > 0
