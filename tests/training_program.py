"""A training run in a process of its own: tiny, the same every time, and broken where a test says.

`main` is what such a process does; `start` and `run` are for the test that wants one. Processes are
forks of a server that has imported everything and started nothing, and share what was compiled.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tiny
from tqdm import tqdm

import jbert
from jbert.training import checkpoints
from jbert.training.cluster import join
from jbert.training.config import RunConfig
from jbert.training.directory import RunDirectory
from jbert.training.evaluation import Evaluation
from jbert.training.loop import Trainer
from jbert.training.parallel import mesh_of
from jbert.training.state import to_flat
from jbert.training.step import State
from jbert.trees import flatten

LENGTH, FIRST_ID = 8, 3
DROPOUTS = ("dropout", "attention_dropout", "seq_classif_dropout")
# How a full disk shows: while a step is being written, or before.
FULL = {"full disk": ("describe", checkpoints.describe),
        "no room": ("check_room", checkpoints.check_room)}  # fmt: skip
# Cheap to compile; what is compared here is one program's result with its own.
FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


@dataclasses.dataclass(frozen=True)
class Job:
    """What to train, where, and what is to happen.

    place:   the directory that all of the test's files lie in; the run's own is `output_dir`.
    name:    of this process's files there: NAME.log, NAME.order, NAME.npz, NAME.phase.
    scores:  the metric of the evaluation at each step; by default the negative loss.
    poison:  a row whose label is infinite.
    slow:    seconds that each step takes longer.
    fault:   what happens, and `at` which steps: see `Watched`.
    """

    run: RunConfig
    place: str
    name: str = "run"
    devices: int = 2
    layers: int = 1
    examples: int = 21
    held_out: int = 13
    dropout: bool = True
    scores: dict[int, float] | None = None
    poison: int | None = None
    slow: float = 0.0
    fault: str = ""
    at: tuple[int, ...] = ()

    def path(self, ending: str) -> Path:
        return Path(self.place, f"{self.name}.{ending}")


class Rows:
    """Numbers to predict from a few tokens; the second token of a row is its number."""

    fingerprint = "rows"

    def __init__(self, count: int, poison: int | None = None):
        random = np.random.default_rng(7)
        self.lengths = random.integers(4, LENGTH + 1, count).astype(np.int32)
        self.ids = random.integers(FIRST_ID, tiny.VOCAB, (count, LENGTH)).astype(np.int32)
        self.targets = random.normal(size=count).astype(np.float32)
        self.ids[:, 1] = FIRST_ID + np.arange(count)
        if poison is not None:
            self.targets[poison] = np.inf

    def __len__(self) -> int:
        return len(self.lengths)

    def length(self, rows: np.ndarray) -> int:
        return LENGTH

    def batch(self, rows: np.ndarray, length: int, epoch: int) -> dict[str, np.ndarray]:
        mask = (np.arange(length) < self.lengths[rows, None]).astype(np.int32)
        return {
            "input_ids": self.ids[rows, :length] * mask,
            "attention_mask": mask,
            "labels": self.targets[rows],
        }


class Watched(Trainer):
    """Writes down the rows of each step, keeps its last state, and meets with the job's fault."""

    def __init__(self, job: Job, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.job, self.evaluating = job, False

    def _compile(self) -> Any:
        return WatchedStep(super()._compile(), self)

    def _train(self, state: Any) -> Any:
        state = super()._train(state)
        flat = to_flat(self.parallel.give(state))
        self.last = {name: _values(x) for name, x in flat.items()}
        return state

    def fit(self) -> Any:
        bert = super().fit()
        params = to_flat(State(None, flatten(bert.params), {}))
        final = {name.replace("params", "final", 1): _values(x) for name, x in params.items()}
        np.savez(self.job.path("npz"), **self.last, **final)
        return bert

    def _evaluate(self, state: Any) -> Any:
        self.evaluating = True
        self.job.path("phase").write_text("evaluating")
        try:
            return super()._evaluate(state)
        finally:
            self.evaluating = False
            self.job.path("phase").write_text("training")

    def _stop_if_told(self, state: Any) -> None:
        self.meet("evaluation" if self.evaluating else "training", self.progress.step)
        super()._stop_if_told(state)

    def meet(self, where: str, step: int) -> None:
        fault, *rest = self.job.fault.split(" in ")
        if step not in self.job.at or where != (rest or ["training"])[0]:
            return
        if fault in FULL:
            # Full at the first of the steps, and not at the second any more.
            if self.checkpoints._thread is not None:
                self.checkpoints._thread.join()
            name, function = FULL[fault]
            setattr(checkpoints, name, no_room if step == self.job.at[0] else function)
        elif fault == "hang":
            self.job.path("phase").write_text("hanging")
            time.sleep(600)
        elif fault:
            for name in fault.split():
                signal.raise_signal(getattr(signal, name))


class WatchedStep:
    def __init__(self, program: Any, trainer: Watched):
        self._program, self._trainer = program, trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)

    def __call__(self, state: Any, batch: Any) -> Any:
        weights, ids = (_values(batch[name]) for name in ("weights", "input_ids"))
        rows = ids.reshape(-1, LENGTH)[weights.reshape(-1) > 0][:, 1] - FIRST_ID
        with self._trainer.job.path("order").open("a") as file:
            file.write(json.dumps([self._trainer.progress.step, rows.tolist()]) + "\n")
        time.sleep(self._trainer.job.slow)
        return self._program(state, batch)


def _values(array: Any) -> np.ndarray:
    """An array's values; of one that several processes hold, those that are here."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    if array.is_fully_replicated:
        return np.asarray(array.addressable_data(0))
    return np.concatenate([np.asarray(shard.data) for shard in array.addressable_shards])


def no_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def predict(output: Any, batch: Any) -> dict[str, jax.Array]:
    return {"values": output.logits}


def train(job: Job) -> None:
    """The whole of a run, in this process."""
    run = job.run
    join(run.cluster)
    with RunDirectory(run).prepare(run):
        mesh, rules = mesh_of(run)
        config = tiny.config(
            "distilbert", "sequence_classification", num_labels=1, problem_type="regression",
            dim=16, n_heads=2, hidden_dim=20, n_layers=job.layers,
            **({} if job.dropout else dict.fromkeys(DROPOUTS, 0.0)),
        )  # fmt: skip
        bert = jbert.from_config(
            config, "sequence_classification", seed=run.seed, mesh=mesh, rules=rules,
            scan_layers=run.execution.scan_layers,
        )  # fmt: skip

        def score(found: Any, loss: float) -> dict[str, float]:
            step, scores = trainer.progress.step, job.scores
            return {"score": -loss if scores is None else scores[step],
                    "mean": float(found["values"].mean())}  # fmt: skip

        held_out = {"validation": Evaluation(Rows(job.held_out), score)} if job.held_out else {}
        trainer = Watched(
            job, run, bert, Rows(job.examples, job.poison), held_out,
            predict=predict, metric="score", greater_is_better=True,
        )  # fmt: skip
        trainer.fit()


def main(job: Job) -> None:
    log = os.open(job.path("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ["XLA_FLAGS"] = FLAGS
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", job.devices)
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # Its own one is a semaphore of the system, which a process that is killed leaves behind.
    tqdm.set_lock(threading.RLock())
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("absl").setLevel(logging.ERROR)
    train(job)


# -- the test's side --------------------------------------------------------------------------


@functools.cache
def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    cache = tempfile.TemporaryDirectory(prefix="jbert-compiled-")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache.name)
    places = [str(Path(__file__).parent), str(Path(jbert.__file__).parents[1])]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(places)
    try:
        context.set_forkserver_preload(["training_program", "orbax.checkpoint", "tensorboardX"])
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context, cache


def start(job: Job) -> Any:
    """A process that does the job; it is killed at the latest when the test's own ends."""
    Path(job.place).mkdir(parents=True, exist_ok=True)
    process = _server()[0].Process(target=main, args=(job,), daemon=True)
    process.start()
    return process


def code_of(process: Any, timeout: float = 180) -> int:
    """How a process ends; it is killed if that takes too long."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"the process was still running after {timeout} s")
    return process.exitcode


def run(job: Job, code: int = 0) -> "Result":
    """Do the job in a process, which is expected to end with this code."""
    found = code_of(start(job))
    assert found == code, f"ended with {found}:\n{job.path('log').read_text()}"
    return Result(job)


class Result:
    """What a job has left behind.

    order: the rows of each step. state: all of the last state, and final/…, what `fit` returned.
    """

    def __init__(self, job: Job):
        self.directory = Path(job.run.output_dir)
        self.log = job.path("log").read_text()
        self.order: dict[int, list[int]] = {}
        self.state: dict[str, np.ndarray] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in job.path("order").read_text().splitlines():
                step, rows = json.loads(line)
                assert self.order.setdefault(step, rows) == rows, "a step with two batches"
        with contextlib.suppress(FileNotFoundError):
            self.state = dict(np.load(job.path("npz")))

    def lines(self, timeless: bool = True) -> list[dict[str, Any]]:
        """metrics.jsonl, without the figures that are times."""
        lines = map(json.loads, (self.directory / "metrics.jsonl").read_text().splitlines())
        times = ("examples_per_second", "tokens_per_second", "mfu") if timeless else ()
        return [{name: x for name, x in line.items() if name not in times} for line in lines]

    def steps(self) -> list[int]:
        names = [path.name for path in (self.directory / "checkpoints").iterdir()]
        return sorted(int(name) for name in names if name.isdecimal())


def assert_same_state(one: Result, other: Result) -> None:
    """Equal to the last bit."""
    assert one.state.keys() == other.state.keys() and one.state
    for name, array in one.state.items():
        assert array.tobytes() == other.state[name].tobytes(), name


def assert_same_run(one: Result, other: Result) -> None:
    """Equal in everything but the time it took."""
    assert_same_state(one, other)
    assert one.lines() == other.lines()
    assert one.order == other.order


def assert_close_run(one: Result, other: Result) -> None:
    """Equal but for rounding, which other devices do in another order."""
    assert one.state.keys() == other.state.keys() and one.state
    for name, array in other.state.items():
        np.testing.assert_allclose(one.state[name], array, rtol=2e-3, atol=2e-5, err_msg=name)
    assert len(one.lines()) == len(other.lines())
    for line, expected in zip(one.lines(), other.lines(), strict=True):
        assert line.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, str):
                assert line[name] == value
            else:
                np.testing.assert_allclose(line[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
