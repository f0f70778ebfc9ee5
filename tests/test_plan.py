"""`jbert plan` without its compiler: chips, estimates, search, errors."""

import dataclasses
import importlib.util
import json

import jax
import pytest
import tiny
from plan_works import FACTS, base, small

from jbert import cli, compiled
from jbert.execution import Execution
from jbert.models import presets
from jbert.plan import command, program, topology
from jbert.plan.cache import Cache
from jbert.plan.chips import CHIPS, GIB, PlanError, slice_of
from jbert.plan.hlo import Collective, Reading
from jbert.plan.program import Facts, counted, needed_memory, useful_flops
from jbert.plan.report import ranking, report, row
from jbert.plan.roofline import estimate, predict, seconds_of
from jbert.plan.search import candidates, meshes, search
from jbert.plan.work import Work
from jbert.sharding import make_mesh
from jbert.training.config import MeshConfig


@pytest.fixture
def no_compiler(monkeypatch):
    find = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "libtpu" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(topology.importlib.util, "find_spec", hidden)


# -- slices ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "chips", "devices"),
    [("v5e:2x4", 8, 8), ("V5E:1x1", 1, 1), ("v3:2x2", 4, 8), ("v4:2x2x1", 4, 4),
     ("v5p:4x8x8", 256, 256), ("v7x:2x2x1", 4, 8), ("v5litepod-16", 16, 16), ("v5p-8", 4, 4),
     ("v3-8", 4, 8), ("v5p:4x4x12", 192, 192)],
)  # fmt: skip
def test_a_slice_has_its_chips(name, chips, devices):
    found = slice_of(name)
    assert (found.chips, found.devices) == (chips, devices)


@pytest.mark.parametrize(
    "name",
    ["v5e:3x3", "v5e", "v9:2x2", "", "v5p:2x2", "v5e-3", "v5p:4x4x6", "v5p:8x4x4", "v5e:8x12"],
)
def test_an_unknown_slice_lists_those_there_are(name):
    with pytest.raises(PlanError, match="v5e: 1x1, 2x2, 2x4") as error:
        slice_of(name)
    assert all(f"{one}: " in str(error.value) for one in CHIPS)


def test_without_the_extra_it_says_what_to_install(no_compiler, capsys):
    assert cli.main(["plan", "bert_glue"]) == 1
    assert "pip install 'jbert[tpu-plan]'" in capsys.readouterr().err


def test_an_unknown_slice_is_found_before_a_missing_compiler(no_compiler, capsys):
    assert cli.main(["plan", "bert_glue", "--topology", "v5e:2x5"]) == 1
    assert "did you mean v5e:2x4" in capsys.readouterr().err


# -- arithmetic -----------------------------------------------------------------------------


def test_the_arithmetic_of_bert_base_is_the_formulas():
    inside = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    token = 2 * inside + 4 * 12 * 512 * 768
    head = 77 * 2 * (768 * 768 + 768 * 30522)
    expected = 3 * 32 * (512 * token + head)
    assert useful_flops(base()) == pytest.approx(expected, rel=1e-3)
    plain = Execution("bfloat16", scan_layers=True, attention="xla")
    assert counted(base(execution=plain)).flops == pytest.approx(expected, rel=1e-3)
    # The kernel computes its scores again in the backward pass: one product in six.
    again = 32 * 512 * 2 * 12 * 512 * 768
    assert counted(base()).flops == pytest.approx(expected + again, rel=1e-3)


def test_recomputing_costs_arithmetic_and_saves_memory():
    remat = lambda name: base(execution=Execution("bfloat16", remat=name, scan_layers=True))  # noqa: E731
    none, some, full = (counted(remat(name)) for name in ("none", "dots_no_batch", "full"))
    # Every product is kept, and what the kernel has attended to.
    assert none.flops == some.flops < full.flops
    assert none.kept > some.kept > full.kept > 12 * 32 * 512 * 768
    assert useful_flops(remat("full")) == useful_flops(remat("none"))


def test_micro_batches_and_devices_share_what_is_kept():
    wanted = slice_of("v5e:2x4")
    work = small(batch_size=2**16)
    whole = estimate(work, slice_of("v5e:1x1")).memory
    shared = estimate(work, wanted).memory
    in_parts = estimate(dataclasses.replace(work, accumulate=8), wanted).memory
    assert whole > 4 * shared > 4 * in_parts
    fsdp = dataclasses.replace(work, mesh=MeshConfig(data=1, fsdp=8))
    zero = dataclasses.replace(work, mesh=MeshConfig(zero=True))
    assert estimate(fsdp, wanted).memory < estimate(zero, wanted).memory < shared


# -- predictions ----------------------------------------------------------------------------


def test_the_step_is_the_cycles_and_what_moves_between_chips():
    wanted, work = slice_of("v5e:2x4"), small()
    found = predict(work, wanted, FACTS)
    assert found.cycles == pytest.approx(0.010)
    assert found.links == pytest.approx(2 * 7 / 8 * 400e6 / 200e9)
    assert found.step() == pytest.approx(found.cycles + found.links)
    assert found.roofline.memory == pytest.approx(10 * GIB / 819e9)
    # Never less than the roofline, whatever the compiler left out.
    blind = dataclasses.replace(FACTS, reading=Reading(0, {}, (), ()))
    assert predict(work, wanted, blind).step() == pytest.approx(10 * GIB / 819e9)


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("v5e:2x4", {}, "not plausible for whole models on v5e"),
        ("v5p:2x2x2", {}, "counts the body of a loop once"),
        ("v5p:2x2x2", {"reading": Reading(1, {}, (), ()), "optimal_seconds": -3.0}, "-3 s, which"),
        ("v5p:2x2x2", {"reading": Reading(1, {}, (), ())}, ""),
        # Three operations that draw random bits, which count as -1 s each.
        ("v5p:2x2x2", {"reading": Reading(1, {}, (), ()), "optimal_seconds": 0.04}, ""),
    ],
)
def test_optimal_seconds_are_shown_only_where_they_mean_something(name, changes, why):
    found = predict(small(), slice_of(name), dataclasses.replace(FACTS, **changes))
    assert found.why_not.startswith(why) and bool(found.why_not) == bool(why)
    assert found.optimal == (None if why else pytest.approx(0.04))


@pytest.mark.parametrize(
    ("kind", "share"),
    [("all-reduce", 1.5), ("all-gather", 0.75), ("reduce-scatter", 3.0), ("all-to-all", 0.75),
     ("collective-permute", 1.0)],
)  # fmt: skip
def test_the_time_of_a_collective(kind, share):
    assert seconds_of(Collective(kind, 4, 1, 10**9, 10**9), 1e9) == pytest.approx(share)


def test_the_report_names_what_was_asked_for():
    work, wanted = small(mesh=MeshConfig(zero=True)), slice_of("v5e:2x4")
    text = report(work, wanted, FACTS, predict(work, wanted, FACTS), 3000)
    for part in ("masked_lm, training step, 8 × 16 tokens", "8 chips", "ZeRO-1", "5.00 GiB on",
                 "fits", "all-reduce × 4 among 8 devices: 381.5 MiB", "10 ms by the compiler's",
                 "attention 60%", "not plausible", "MFU", "tokens/s", "3,000 steps in 40 s",
                 "chip-hours"):  # fmt: skip
        assert part in text, text
    assert row(work, wanted, FACTS, predict(work, wanted, FACTS)).count("|") == 9


def test_what_does_not_fit_says_by_how_much_and_what_would():
    wanted = slice_of("v5e:2x4")
    work = small(batch_size=64)
    needed = Facts("libtpu 9", 1.0, needed=20 * GIB)
    text = report(work, wanted, needed, None, 1000)
    assert "does not fit, 4.25 GiB too much" in text
    assert "--remat full" in text and "--batch-size 32" in text and "--accumulate 2" in text
    hopeless = dataclasses.replace(needed, needed=10**6 * GIB)
    assert "nothing that was tried" in report(work, wanted, hopeless, None, 1000)


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 23.50G of 15.75G hbm. "
         "Exceeded hbm capacity by 7.75G.", 23.5 * GIB),
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
         "temporaries (8.00T) exceeds available HBM (15.75G).", 8192 * GIB),
        ("INTERNAL: a bug", None),
    ],
)  # fmt: skip
def test_a_refusal_of_the_compiler_is_read(error, needed):
    assert needed_memory(error) == needed


# -- search ---------------------------------------------------------------------------------


def test_meshes_hold_whole_heads():
    assert set(meshes(8, 12)) == {
        (8, 1, 1), (4, 2, 1), (2, 4, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2), (1, 4, 2),
        (2, 1, 4), (1, 2, 4),
    }  # fmt: skip


def test_a_search_compiles_the_most_promising_and_prefers_what_fits():
    wanted, asked = slice_of("v5e:2x2"), []

    def run(work: Work) -> Facts:
        asked.append(work)
        # The second is the fastest, and too large.
        cycles = 10**6 * (5 if len(asked) == 2 else 10 - len(asked))
        size = wanted.chip.memory + 1 if len(asked) == 2 else GIB
        return Facts(code=int(size), reading=Reading(cycles, {}, (), ()))

    found = search(small(), wanted, run, 3)
    assert len(asked) == 3 and [one.work for one in found] == [asked[2], asked[0], asked[1]]
    assert [one.fits(wanted) for one in found] == [True, True, False]
    assert "does not fit" in ranking(found, wanted).splitlines()[-1]
    assert asked[0] == candidates(small(), wanted)[0].work


def test_a_search_goes_on_until_something_fits():
    wanted = slice_of("v5e:2x2")
    sizes = iter([2**40, 2**40, 2**20])
    found = search(small(), wanted, lambda work: Facts(temporary=next(sizes)), 1)
    assert len(found) == 3 and found[0].fits(wanted)


def test_candidates_divide_the_batch_and_leave_out_what_cannot_fit():
    wanted = slice_of("v5e:2x4")
    ways = {c.work.mesh.data * c.work.mesh.fsdp for c in candidates(small(batch_size=4), wanted)}
    assert max(ways) == 4
    with pytest.raises(PlanError, match="no mesh of 8 devices divides a batch of 1"):
        candidates(small(batch_size=1, config=tiny.config("bert", num_attention_heads=1)), wanted)
    large = candidates(small(batch_size=2**24), wanted)
    assert large and all(c.work.execution.remat == "full" for c in large)


# -- the command and its cache --------------------------------------------------------------


def test_facts_are_kept_by_what_was_compiled_and_with_what(tmp_path):
    cache = Cache(tmp_path / "plans")
    key = cache.key("program", "v5e:1x1", "libtpu 9")
    assert cache.get(key) is None
    cache.put(key, FACTS.to_json())
    assert Facts.from_json(cache.get(key) or "") == FACTS
    assert len({key, cache.key("other", "v5e:1x1", "libtpu 9"), cache.key("program", "v5e:2x2"),
                cache.key("program", "v5e:1x1", "libtpu 10")}) == 4  # fmt: skip
    off = Cache(tmp_path / "plans", enabled=False)
    off.put("new", "x")
    assert off.get(key) is None and cache.get("new") is None
    (tmp_path / "file").write_text("")
    Cache(tmp_path / "file" / "below").put("key", "x")  # no place for it, and no error


@pytest.fixture
def compiler_for_cpu(monkeypatch, tmp_path):
    """The whole way, with the CPU's compiler in the place of the TPU's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for module in (program, command):
        monkeypatch.setattr(module, "compiler_version", lambda: "cpu")
    monkeypatch.setattr(program, "devices_of", lambda wanted: jax.devices("cpu")[: wanted.devices])
    config = tiny.config("bert", num_hidden_layers=1)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    return str(tmp_path / "config.json")


def test_a_whole_plan_and_what_is_asked_again_is_not_compiled(
    compiler_for_cpu, capsys, monkeypatch
):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    ask = ["plan", compiler_for_cpu, "--topology", "v5e:2x2", "--length", "16",
           "--batch-size", "8", "--dtype", "float32"]  # fmt: skip
    assert cli.main(ask) == 0
    first = capsys.readouterr()
    assert "compiling" in first.err and "all-reduce" in first.out and "4 chips" in first.out
    assert cli.main(ask) == 0
    again = capsys.readouterr()
    assert again.out == first.out and "compiling" not in again.err
    # The compiler is told more now.
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_something=1")
    assert cli.main(ask) == 0 and "compiling" in capsys.readouterr().err


def test_a_search_and_a_forward_pass_by_command(compiler_for_cpu, capsys):
    ask = ["plan", compiler_for_cpu, "--topology", "v5e:2x2", "--length", "16", "--inference",
           "--dtype", "float32", "--search", "--compiles", "1", "--no-cache"]  # fmt: skip
    assert cli.main(ask) == 0
    out = capsys.readouterr().out
    assert "forward pass, 128 × 16 tokens" in out and "searched" in out
    assert cli.main([*ask, "--compiles", "0"]) == 1
    assert "compiles is 0" in capsys.readouterr().err


def test_the_mesh_of_a_plan_is_the_one_that_was_asked_for():
    work = small(mesh=MeshConfig(data=1, fsdp=4))
    arrays = work.batch(make_mesh(1, 4, 1, jax.devices("cpu")[:4]))
    assert arrays["input_ids"].sharding.spec[0] == ("data", "fsdp")
    assert arrays["weights"].shape == (8,)


# -- the compiler itself --------------------------------------------------------------------


@pytest.mark.tpu_plan
def test_a_small_model_compiles_for_a_slice(tmp_path):
    pytest.importorskip("libtpu", reason="the extra tpu-plan is not installed")
    wanted = slice_of("v5e:2x4")
    config = presets()["bert-tiny"].config.replace(attention_probs_dropout_prob=0.0)
    execution = Execution("bfloat16", attention="splash", scan_layers=True)
    work = Work("tiny", config, "masked_lm", 16, 512, execution, predictions=77)
    facts = program.compiled(work, wanted, Cache(tmp_path))
    assert facts.attention == "splash" and facts.reading.loops == (2, 2)
    assert {one.kind for one in facts.reading.collectives} == {"all-reduce"}
    assert 0 < facts.memory() < wanted.chip.memory and facts.reading.cycles > 10**5
    assert predict(work, wanted, facts).step() > 0
    assert program.compiled(work, wanted, Cache(tmp_path)) == facts
    large = dataclasses.replace(work, batch_size=2**16)
    assert program.compiled(large, wanted, Cache(tmp_path)).needed > wanted.chip.memory


@pytest.mark.tpu_plan
def test_the_compiler_is_told_how_much_a_loop_may_hold(monkeypatch):
    pytest.importorskip("libtpu", reason="the extra tpu-plan is not installed")
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    monkeypatch.setattr(compiled, "LOOP_MEMORY", dict.fromkeys(compiled.LOOP_MEMORY, "much"))
    work = Work("tiny", presets()["bert-tiny"].config, "masked_lm", 8, 128, predictions=18)
    for name in ("v5p:2x2x1", "v5e:1x1"):
        with pytest.raises(jax.errors.JaxRuntimeError, match=compiled.LOOP_LIMIT):
            program.compiled(work, slice_of(name), Cache(enabled=False), say=False)
    of_v6e = program.compiled(work, slice_of("v6e:1x1"), Cache(enabled=False), say=False)
    assert of_v6e.reading.cycles > 0


@pytest.mark.tpu_plan
def test_a_device_takes_no_more_for_the_rows_of_others():
    """Dropout was once drawn for the whole batch on every chip."""
    pytest.importorskip("libtpu", reason="the extra tpu-plan is not installed")
    config, taken = presets()["bert-tiny"].config, []
    for wanted in map(slice_of, ("v5e:2x2", "v5e:4x4")):
        work = Work("tiny", config, "masked_lm", 32 * wanted.devices, 120, predictions=18)
        taken.append(program.compiled(work, wanted, Cache(enabled=False), say=False).temporary)
    assert taken[1] < 1.1 * taken[0]
