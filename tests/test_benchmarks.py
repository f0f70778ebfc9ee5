"""The harness: its arithmetic, when it refuses a ratio, and rounds of real workers."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest

import benchmarks.__main__
from benchmarks import channel, contenders, figures, idle, papers, results, rounds, workloads
from benchmarks.__main__ import parse
from benchmarks.cells import CELLS
from benchmarks.scaling import growth
from benchmarks.workloads import Workload
from jbert.losses import IGNORE

STEADY = [[1.0, 1.01, 0.99]] * 5


def test_a_ratio_is_the_median_over_rounds_of_medians_over_calls():
    own = [[1.0, 9.0, 1.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [4.0, 4.0, 4.0]]
    peer = [[2.0], [4.2], [1.9], [2.0], [8.0]]
    found = figures.ratio(own, peer)
    assert found.rounds == pytest.approx((2.0, 2.1, 1.9, 2.0, 2.0))
    assert (found.median, found.lower, found.why) == (2.0, 2.0, "")


def test_no_ratio_of_too_few_rounds_nor_of_unequal_ones():
    assert figures.ratio(STEADY[:4], STEADY[:4]).why == "4 rounds of 5"
    with pytest.raises(ValueError, match="5 rounds beside 4"):
        figures.ratio(STEADY, STEADY[:4])


def test_no_ratio_where_rounds_disagree_by_more_than_calls_do():
    drifting = [[1.0], [1.2], [1.4], [1.6], [1.8]]
    assert "ratios from 1.00 to 1.80" in figures.ratio(STEADY, drifting).why
    # The same drift among calls that differ by as much is chance.
    noisy = [[x * 0.8, x * 0.9, x, x * 1.1, x * 1.2] for x in (1.0, 1.1, 1.0, 1.1, 1.2)]
    assert figures.ratio(STEADY, noisy).why == ""
    # But nothing is quoted where everything is noise.
    wild = [[x * 0.2, x, x * 3.0] for x in (1.0, 1.5, 2.0, 2.5, 3.0)]
    assert "calls within a round allow 25%" in figures.ratio(wild, STEADY).why
    # What happened to both sides of a round happened to none of the ratios.
    assert figures.ratio(drifting, drifting).why == ""


def test_what_others_used_of_the_machine(monkeypatch):
    monkeypatch.setattr(idle.os, "cpu_count", lambda: 2)
    assert idle.share(10.0, 13.0, own=2.0, wall=1.0) == pytest.approx(0.5)
    assert idle.share(10.0, 11.0, own=1.5, wall=1.0) == 0.0
    assert idle.share(None, None, own=1.0, wall=1.0) == 0.0


@pytest.mark.parametrize(("step", "quiet"), [(0.0, True), (1.0, False)])
def test_waiting_for_an_idle_machine_has_an_end(monkeypatch, step, quiet):
    clock = iter(np.arange(0, 1000, 0.5))
    busy = iter(np.arange(0, 1000) * step)
    monkeypatch.setattr(idle.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(idle.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(idle, "busy_seconds", lambda: next(busy))
    waited, found = idle.wait(patience=10.0)
    assert found is quiet and waited <= 12.0


def test_the_machine_is_read_from_its_counters(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 5000 700 1 2 3 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    monkeypatch.setattr(idle, "STAT", stat)
    monkeypatch.setattr(idle.os, "sysconf", lambda name: 100)
    assert idle.busy_seconds() == pytest.approx(1.56)
    monkeypatch.setattr(idle, "STAT", tmp_path / "none")
    assert idle.busy_seconds() is None and idle.wait(0.0) == (0.0, True)


@pytest.mark.parametrize(("flags", "with_"), {
    "fpu": "", "fpu avx2": " with avx2",
    "avx512f fma avx2 avx512_bf16": " with avx2, avx512f, avx512_bf16",
}.items())  # fmt: skip
def test_machines_of_one_name_are_told_apart(monkeypatch, flags, with_):
    said = {"model name": "Some CPU", "flags": flags}
    monkeypatch.setattr(benchmarks.__main__, "host_cpu", lambda: said)
    monkeypatch.setattr(benchmarks.__main__.os, "cpu_count", lambda: 2)
    assert benchmarks.__main__.machine("cpu", "cpu") == f"Some CPU, 2 CPU cores{with_}"
    assert benchmarks.__main__.machine("gpu", "Some GPU") == "Some GPU, 2 CPU cores"


# A worker of the protocol without a library: it answers from its command line.
FAKE = """
import json, sys
speed, units, turns = float(sys.argv[1]), 0, 0
for line in sys.stdin:
    asked = json.loads(line)
    do = asked["do"]
    print("a library's chatter", file=sys.stderr)
    turns += do == "turn"
    if sys.argv[2] == "dies" and turns == 3:
        sys.exit("out of memory")
    if sys.argv[2] == "cannot":
        answer = {"unsupported": "no such model"}
    elif do == "build":
        units = asked["work"]["batch"]
        answer = {"first_seconds": 0.5, "units": units, "versions": {"fake": "1"}}
    else:
        answer = {"calls": [speed / units], "cpu": 1e9, "wall": 0.1, "peak_bytes": 1}
    print(json.dumps(answer), flush=True)
"""
WORK = Workload("bert-base 4×128", "encode", "bert-base", 4, 128)
PLAN = rounds.Plan(rounds=5, seconds=0.0, patience=0.0)


def fake(speed: float, how: str = "works") -> list[str]:
    return [sys.executable, "-c", FAKE, str(speed), how]


def test_rounds_of_workers(tmp_path):
    commands = {"jbert": fake(1.0), "torch-sdpa": fake(2.0), "keras": fake(1.0, "cannot"),
                "flax": fake(1.0, "dies")}  # fmt: skip
    said: list[str] = []
    measured = rounds.measure(WORK, commands, PLAN, said.append)
    stored = {"workload": dataclasses.asdict(WORK), "machine": "here",
              "disturbed": measured.pop("disturbed"), "contenders": measured}  # fmt: skip
    assert measured["keras"]["left_out"] == "no such model"
    assert "out of memory" in measured["flax"]["left_out"] and "out of memory" in said[-1]
    assert measured["flax"]["turns"] == []
    found = results.ratios(stored)
    assert set(found) == {"torch-sdpa"}
    assert found["torch-sdpa"].median == 2.0 and found["torch-sdpa"].rounds == (2.0,) * 5
    path = results.path_of(tmp_path, "B", WORK)
    results.write(path, stored)
    assert results.finished(path, WORK, list(commands), 5)
    assert not results.finished(path, WORK, list(commands), 6)
    assert not results.finished(path, WORK, [*commands, "torch-eager"], 5)
    assert not results.finished(path, dataclasses.replace(WORK, batch=8), list(commands), 5)
    text = results.table(tmp_path)
    assert "4.0 sequences/s" in text and "2.00 (2.00)" in text and "fake 1" in text


def test_each_may_have_a_workload_of_its_own():
    works = {"small": dataclasses.replace(WORK, batch=2), "large": WORK}
    measured = rounds.measure_each(works, dict.fromkeys(works, fake(1.0)), PLAN, lambda line: None)
    assert [measured[name]["facts"]["units"] for name in works] == [2, 4]


def test_a_new_process_for_every_turn():
    plan = dataclasses.replace(PLAN, rounds=4, fresh=True)
    # One that lives for two turns only never comes to its third.
    measured = rounds.measure(WORK, {"jbert": fake(1.0, "dies")}, plan, lambda line: None)
    assert len(measured["jbert"]["turns"]) == 4


def test_disturbed_rounds_are_made_again(monkeypatch):
    seen = iter([0.5, 0.5, *[0.0] * 10])
    monkeypatch.setattr(rounds.idle, "share", lambda *args: next(seen))
    monkeypatch.setattr(rounds.idle, "wait", lambda patience: (0.0, True))
    plan = dataclasses.replace(PLAN, rounds=3)
    measured = rounds.measure(WORK, {"jbert": fake(1.0)}, plan, lambda line: None)
    assert measured["disturbed"] == 2
    assert [turn["others"] for turn in measured["jbert"]["turns"]] == [0.0] * 3


def test_a_first_call_is_measured_in_new_processes():
    work = dataclasses.replace(WORK, mode="cold")
    plan = dataclasses.replace(PLAN, rounds=2)
    measured = rounds.measure(work, {"jbert": fake(9.0)}, plan, lambda line: None)
    assert [turn["calls"] for turn in measured["jbert"]["turns"]] == [[0.5], [0.5]]


def test_a_worker_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(channel, "PATIENCE", 0.2)
    with channel.channel([sys.executable, "-c", "import time; time.sleep(60)"]) as opened:
        with pytest.raises(channel.Failed, match="no answer"):
            opened.ask("build")
        opened._process.kill()


def test_environments(tmp_path):
    file = tmp_path / "peers.json"
    file.write_text(json.dumps({"jbert": sys.executable}))
    found = contenders.environments({}, file)
    present, missing = contenders.taking_part(["jbert", "torch-sdpa", "keras"], found, tmp_path)
    assert present == ["jbert", contenders.BEFORE]
    assert ["torch-sdpa" in missing[0], "keras" in missing[1]] == [True, True]
    for given, message in (
        ({"pytorch": "python"}, "expected some of"),
        ({"keras": str(tmp_path / "none")}, "No such file"),
        ({"keras": shutil.which("false")}, "has no keras_hub; pip install keras-hub"),
    ):
        with pytest.raises(contenders.EnvironmentsError, match=message):
            contenders.environments(given, None)


def test_every_cell_is_of_known_models_and_has_a_file_of_its_own(tmp_path):
    for accelerator in (False, True):
        paths = [results.path_of(tmp_path, name, work) for name, cell in CELLS.items()
                 for work in cell.make(accelerator)]  # fmt: skip
        assert len(set(paths)) == len(paths) > 20
        for cell in CELLS.values():
            assert {work.model for work in cell.make(accelerator)} <= set(workloads.MODELS)


def test_labels_stand_at_a_share_of_the_real_positions():
    rows = [np.arange(200, 200 + n, dtype=np.int32) for n in (100, 20, 3)]
    batch = workloads.with_labels(workloads.padded(rows, 100), seed=0)
    labelled = batch["labels"] != IGNORE
    assert labelled.sum(axis=1).tolist() == [15, 3, 1]
    assert not (labelled & (batch["attention_mask"] == 0)).any()
    assert (batch["labels"][labelled] == batch["input_ids"][labelled]).all()


def test_lines_and_checks():
    fitted = growth.line([1, 2, 3, 4], [3.0, 5.0, 7.0, 9.0])
    assert (fitted.slope, fitted.intercept, fitted.r2) == pytest.approx((2, 1, 1))
    assert growth.line([1, 2, 3, 4], [1, 9, 2, 8]).r2 < 0.5
    assert growth.band([9.0, 10.0, 11.0]) == pytest.approx(0.2)
    assert growth.Check("", 1.0, most=1.0).holds() and not growth.Check("", 1.1, most=1.0).holds()
    assert not growth.Check("", 0.8, least=0.9).holds()
    assert not growth.Check("", math.nan, most=1.0).holds()


def test_a_profile_tells_products_from_the_rest_by_what_they_are_for():
    command = [sys.executable, "-m", "benchmarks.profile", "D", "--match", "bert-base", "--tiny"]
    done = subprocess.run(
        [*command, "--calls", "2"], capture_output=True, text=True, check=True, timeout=300
    )
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "%" in line]
    shares = {part: tuple(float(x.rstrip("%")) for x in two) for part, *two in rows}
    assert sum(shares.pop("all")) == pytest.approx(100, abs=0.2)
    assert sum(map(sum, shares.values())) == pytest.approx(100, abs=2)
    assert {"attention", "feed-forward", "dropout", "optimizer"} <= shares.keys()
    assert shares["feed-forward"][0] > 0 and shares["attention"][0] > 0
    assert shares["dropout"][0] == 0 and shares["optimizer"][1] > 0


def test_the_papers_ratios_are_of_berts_time_and_parameters(monkeypatch, capsys):
    """With four models that take 4, 2, 1 and 3 seconds a call."""
    seconds = dict(zip(papers.COMPARED, (4.0, 2.0, 1.0, 3.0), strict=True))

    def measured(works, commands, plan, say):
        turns = {name: {"quiet": True, "calls": [seconds[name]] * 3} for name in works}
        return {name: {"turns": [turn] * plan.rounds} for name, turn in turns.items()}

    monkeypatch.setattr(papers, "measure_each", measured)
    monkeypatch.setattr(sys, "argv", ["papers"])
    papers.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    found = {row[0]: row[1:] for row in rows if row[0] in papers.COMPARED}
    # As published: bert-base-uncased has 109,482,240 with its pooler, distilbert 66,362,880.
    assert found["distilbert"][:3] == ["66,362,880", "1.65 ×", "2.00 (2.00)"]
    assert found["mobilebert"][2:4] == ["4.00 (4.00)"] * 2
    assert found["convbert"][2:] == ["1.33 (1.33)"] * 2 + ["–"]


def test_a_table_goes_between_its_marks(tmp_path):
    document = tmp_path / "speed.md"
    document.write_text("before\n" + "\nold\n".join(results.MARKS) + "\nafter\n")
    results.put_into(document, "new\n")
    assert document.read_text() == f"before\n{results.MARKS[0]}\nnew\n{results.MARKS[1]}\nafter\n"
    document.write_text("nothing here")
    with pytest.raises(ValueError, match="expected the lines"):
        results.put_into(document, "new\n")


@pytest.mark.parametrize("arguments", [["Z"], ["A", "--rounds", "0"], ["A", "--env", "torch"]])
def test_mistakes_on_the_command_line(arguments, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert "error" in capsys.readouterr().err
