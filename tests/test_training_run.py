"""What a run shows and writes while it goes on, and what comes out of it."""

import dataclasses
import json
import struct
import sys
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny
import training_program as program
from checkpoint_states import target
from test_training_resume import job, resumed
from training_program import DROPOUTS, Rows, assert_same_state

import jbert
from jbert.loaded import Bert
from jbert.losses import Term
from jbert.training import meter
from jbert.training.config import (
    CheckpointConfig,
    EvaluationConfig,
    LoggingConfig,
    OptimizerConfig,
    RunConfig,
    RunError,
)
from jbert.training.directory import RunDirectory
from jbert.training.evaluation import Evaluation
from jbert.training.loop import Trainer
from jbert.training.meter import flops_per_token
from jbert.training.parallel import mesh_of
from jbert.training.progress import Progress
from jbert.training.step_files import open_step
from jbert.trees import unflatten

TASK = "sequence_classification"
CONFIG = tiny.config("distilbert", n_layers=1, num_labels=1, problem_type="regression")


class Time:
    """A clock that moves only when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        clock = types.SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(meter, "time", clock)


class Figure:
    """A number of a step, on the device until somebody asks for it."""

    def __init__(self, step: int, value: float, steps: "Steps"):
        self.step, self.value, self.steps = step, value, steps

    def __float__(self) -> float:
        self.steps.read.setdefault(self.step, self.steps.dispatched)
        return self.value

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return np.asarray(float(self))


class Steps:
    """In the place of the compiled step: takes a tenth of a second, and the first one a minute to
    compile. `read` is how many steps were dispatched when the figures of each were first read."""

    def __init__(self, time: Time):
        self.time, self.dispatched, self.compile_seconds = time, 0, 0.0
        self.read: dict[int, int] = {}

    def __call__(self, state: Any, batch: Any) -> Any:
        if not self.dispatched:
            self.time.now += 60
            self.compile_seconds += 60
        self.time.now += 0.1
        self.dispatched += 1

        def figure(value: float) -> Figure:
            return Figure(self.dispatched, value, self)

        term = Term(figure(4.0 * self.dispatched), figure(8.0), 1.0)
        numbers = {"examples": 8.0, "tokens": 40.0, "grad_norm": 1.5, "finite": 1.0,
                   "learning_rate": 0.25}  # fmt: skip
        return state, {"terms": [term], **{k: figure(v) for k, v in numbers.items()}}


class Timed(Trainer):
    """The loop alone: its steps are `Steps`, evaluations take an hour, and nothing is saved."""

    def __init__(self, time: Time, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.steps = self._step = Steps(time)

    def _begin(self) -> None:
        self.progress = Progress()
        self.record.begin(self.progress)

    def _evaluate(self, state: Any) -> Any:
        self.steps.time.now += 3600
        return {"validation": {"loss": 0.25, "mse": 0.125}}

    def _save(self, state: Any, last: bool = False) -> None:
        self._settle()

    def _end(self, state: Any) -> Bert:
        return self.bert


@pytest.fixture(scope="module")
def bert():
    mesh, rules = mesh_of(RunConfig())
    return jbert.from_config(CONFIG, TASK, mesh=mesh, rules=rules)


@pytest.fixture
def train(bert, tmp_path, monkeypatch):
    """Trains in tmp_path/run; gives the trainer and the lines of metrics."""

    def train(**changes: Any) -> tuple[Timed, list[dict[str, Any]]]:
        options = {
            "output_dir": str(tmp_path / "run"), "batch_size": 8, "steps": 6,
            "evaluation": EvaluationConfig(steps=3), "logging": LoggingConfig(steps=2),
        }  # fmt: skip
        run = RunConfig(**options | changes)
        with RunDirectory(run).prepare(run):
            held_out = {"validation": Evaluation(Rows(5))}
            trainer = Timed(Time(monkeypatch), run, bert, Rows(21), held_out, metric="mse")
            trainer.fit()
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        return trainer, [json.loads(line) for line in lines]

    return train


def test_lines_of_metrics(train):
    """Rates are of steps alone: neither compiling nor evaluating counts."""
    _, lines = train(logging=LoggingConfig(steps=3))
    # Step 3 is evaluated before step 4 begins, so that its figures are waited for.
    assert lines[0] == {
        "step": 3, "split": "train", "loss": 1.0, "learning_rate": 0.25, "grad_norm": 1.5,
        "epoch": 1.0, "examples": 24, "tokens": 120,
        "examples_per_second": pytest.approx(80.0), "tokens_per_second": pytest.approx(400.0),
    }  # fmt: skip
    assert lines[1] == {"step": 3, "split": "validation", "loss": 0.25, "mse": 0.125}
    assert [(line["step"], line["split"], line["loss"]) for line in lines[2:]] == [
        (6, "train", 2.5), (6, "validation", 0.25),
    ]  # fmt: skip
    assert lines[2]["tokens_per_second"] == pytest.approx(400.0)
    assert all("mfu" not in line for line in lines)


def test_time_before_an_evaluation_counts(train):
    _, lines = train(logging=LoggingConfig(steps=3), evaluation=EvaluationConfig(steps=5))
    # The line of step 3 is written when step 4 has been dispatched: two steps' time is left.
    assert [line["split"] for line in lines] == ["train", "validation", "train", "validation"]
    assert lines[2]["examples_per_second"] == pytest.approx(24 / 0.2)


def test_figures_are_read_when_the_next_step_is_on_its_way(train):
    trainer, _ = train(evaluation=EvaluationConfig(steps=6))
    assert trainer.steps.read == {1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 6}


def test_the_share_of_the_peak_where_it_is_known(train, monkeypatch):
    monkeypatch.setitem(meter.PEAKS, "cpu", 1e9)
    trainer, lines = train()
    each = flops_per_token(trainer.abstract.params, CONFIG, program.LENGTH)
    for line in lines:
        if line["split"] == "train":
            assert line["mfu"] == pytest.approx(line["tokens_per_second"] * each / 8e9)


def test_one_block_at_the_start(train, tmp_path, caplog):
    caplog.set_level("INFO", "jbert")
    trainer, _ = train(batch_size=16, accumulate=2)
    (block,) = [text for text in caplog.messages if "parameters" in text]
    count = sum(leaf.size for leaf in trainer.abstract.params.values()) / 1e6
    assert [line.split(maxsplit=1) for line in block.splitlines()] == [
        ["devices", "8 × cpu, 1 process(es)"],
        ["parallel", "jit over data 8 × fsdp 1 × tensor 1"],
        ["batch", "16 examples = 8 × 1 at once × 2 micro-batches"],
        ["steps", "6, 2 an epoch, 21 examples"],
        ["parameters", f"{count:.1f} M, trained {count:.1f} M, computed in float32"],
        ["memory", "0.00 GB a device for the state, 0.00 GB for gradients, and what activations "
         "take"],
        ["directory", str(tmp_path / "run")],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "terminal", "shown"),
    [(None, False, False), (None, True, True), (True, False, True), (False, True, False)],
)
def test_a_bar_on_a_terminal_or_where_it_is_asked_for(
    train, monkeypatch, capsys, asked, terminal, shown
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    train(logging=LoggingConfig(steps=2, progress=asked))
    said = capsys.readouterr().err
    assert ("training: 100%" in said) == shown
    assert ("6/6" in said and "loss 2.75, 80 examples/s, 400 tokens/s" in said) == shown


# -- TensorBoard ------------------------------------------------------------------------------


def events(place: Path) -> list[Any]:
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted((place / "run" / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            found.append(event_pb2.Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return found


def test_scalars_for_tensorboard(train, tmp_path):
    pytest.importorskip("tensorboardX")
    _, lines = train(logging=LoggingConfig(steps=2, tensorboard=True))
    scalars = {
        (event.step, value.tag): value.simple_value
        for event in events(tmp_path)
        for value in event.summary.value
    }
    assert scalars == {
        (line["step"], f"{line['split']}/{name}"): pytest.approx(value)
        for line in lines
        for name, value in line.items()
        if name not in ("step", "split")
    }


def test_tensorboard_that_is_not_installed(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"needs tensorboardX: pip install 'jbert\[tensorboard\]"):
        train(logging=LoggingConfig(tensorboard=True))


def test_without_tensorboard_there_is_none(train, tmp_path):
    train()
    assert not (tmp_path / "run" / "tensorboard").exists()


# -- what comes out ---------------------------------------------------------------------------


def test_a_run_ends_when_it_gets_no_better_and_gives_the_best_model(tmp_path):
    """And with an average of the parameters that is what is evaluated, and comes out."""
    scores = {2: 0.1, 4: 0.5, 6: 0.2, 8: 0.5, 10: 1.0}
    patient = EvaluationConfig(steps=2, patience=2)
    of = job(tmp_path, scores=scores, evaluation=patient, steps=100)
    result = program.run(of)
    # Step 8 is as good as step 4, not better.
    assert max(result.order) == 7
    assert result.steps() == [4, 5, 8]
    best = open_step(result.directory / "checkpoints" / "4")
    found = best.restore(target(best.leaves))
    for name, array in result.state.items():
        if name.startswith("final/"):
            average = np.asarray(found[name.replace("final", "average", 1)])
            assert average.tobytes() == array.tobytes()
            assert (average != found[name.replace("final", "params", 1)]).any()
    (line,) = [line for line in result.lines() if (line["step"], "score" in line) == (4, True)]
    assert mean_prediction(result.state) == pytest.approx(line["mean"], abs=1e-5)
    # To resume a run that is over changes nothing.
    again = program.run(resumed(of))
    assert_same_state(again, result)


def mean_prediction(state: dict[str, np.ndarray]) -> float:
    config = CONFIG.replace(dim=16, n_heads=2, hidden_dim=20, **dict.fromkeys(DROPOUTS, 0.0))
    final = {k.removeprefix("final/"): v for k, v in state.items() if k.startswith("final/")}
    bert = jbert.from_config(config, TASK)
    bert = dataclasses.replace(bert, params=unflatten(final))
    batch = Rows(13).batch(np.arange(13), program.LENGTH, 0)
    del batch["labels"]
    return float(np.mean(jax.device_get(bert(**batch).logits)))


def test_the_last_model_where_the_best_one_is_not_wanted(tmp_path):
    last = CheckpointConfig(steps=5, best=False, keep=1)
    plain = OptimizerConfig(learning_rate=1e-2)
    result = program.run(job(tmp_path, checkpoints=last, optimizer=plain))
    assert result.steps() == [12]
    final = {name for name in result.state if name.startswith("final/")}
    assert final
    for name in final:
        assert (result.state[name] == result.state[name.replace("final", "params", 1)]).all()


def test_a_run_without_evaluations(tmp_path):
    result = program.run(job(tmp_path, held_out=0))
    assert {line["split"] for line in result.lines()} == {"train"}
    assert result.steps() == [10, 12]


def test_a_configuration_says_what_is_wrong_with_it():
    for changes in ({"batch_size": 0}, {"steps": 0}, {"epochs": 0.0}, {"accumulate": 0}):
        (name,) = changes
        with pytest.raises(RunError, match=f"RunConfig: {name} is 0"):
            RunConfig(**changes)
