"""What a run shows and writes while it goes on: a bar, lines of metrics, TensorBoard, the report.

Only process 0 shows and writes; in the others every method does nothing.
"""

import contextlib
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from jbert.data.gathered import projected_share
from jbert.training.config import RunConfig
from jbert.training.directory import BOARD, METRICS, MetricsLog, RunDirectory
from jbert.training.meter import Clock, Sums, flops_per_token, peak_flops
from jbert.training.state import state_bytes

logger = logging.getLogger("jbert")

RATES = ("examples", "tokens")


class Record:
    """The record of one run, from `start` to the end of the `with`."""

    def __init__(self, run: RunConfig, directory: RunDirectory, trainer: Any):
        self.run, self.directory, self._trainer = run, directory, trainer
        self.speaks = jax.process_index() == 0
        self._metrics = MetricsLog(directory.path / METRICS)
        self._clock = Clock()
        self._here = Sums()  # since the clock's last lap, in this process
        self._bar: Any = None
        self._rates: list[str] = []  # of the last line, for the bar
        self._board: Any = None
        self._peak = peak_flops()
        self._compiled = 0.0
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Record":
        self._open.callback(self._metrics.close)
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.close()

    # -- the start --------------------------------------------------------------------------

    def start(self, step: int) -> None:
        trainer = self._trainer
        if not self.speaks:
            return
        logger.info("%s", summary(trainer))
        if self.run.logging.tensorboard:
            self._board = _board(self.directory, step)
            self._open.callback(self._board.close)
        shown = self.run.logging.progress
        shown = sys.stderr.isatty() if shown is None else shown
        self._bar = tqdm(
            total=trainer.order.work(trainer.total), initial=trainer.order.work(step),
            desc="training", unit=" steps", disable=not shown, dynamic_ncols=True,
        )  # fmt: skip
        self._open.callback(self._bar.close)
        if shown:
            self._open.enter_context(logging_redirect_tqdm())
        self._lap()

    def begin(self, progress: Any) -> None:
        """Forget the lines of steps that will be made again."""
        if self.speaks:
            pending = progress.evaluated < progress.step
            self._metrics.cut(progress.step, "train" if pending else None)
        if progress.step:
            logger.info("going on from step %d", progress.step)

    # -- while it goes on -------------------------------------------------------------------

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time that is not spent on training steps."""
        self._clock.pause()
        try:
            yield
        finally:
            self._clock.go_on()

    def tick(self, step: int, progress: Any, figures: Mapping[str, Any]) -> None:
        """One step is done."""
        self._here.add(figures)
        if self._bar is None:
            return
        self._bar.update(self._trainer.order.work(step) - self._bar.n)
        words = [f"loss {progress.window.loss():.4g}", *self._rates]
        self._bar.set_postfix_str(", ".join(words), refresh=False)

    def trained(self, step: int, progress: Any, figures: Mapping[str, Any]) -> None:
        """The line of the steps since the last one."""
        here, seconds = self._here, self._lap()
        names = self._trainer.objective.names
        parts = zip(names, progress.window.parts(), strict=True) if names else ()
        line = {
            "loss": progress.window.loss(),
            **{f"{name}_loss": part for name, part in parts},
            "learning_rate": float(figures["learning_rate"]),
            "grad_norm": float(figures["grad_norm"]),
            "epoch": self._trainer.order.epochs(step),
            "examples": round(progress.seen.examples),
            "tokens": round(progress.seen.tokens),
            "examples_per_second": here.examples / seconds,
            "tokens_per_second": here.tokens / seconds,
        }
        self._rates = [f"{line[f'{name}_per_second']:.4g} {name}/s" for name in RATES]
        if self._peak is not None:
            line["mfu"] = self._flops(step) * here.tokens / seconds / self._peak
            self._rates.append(f"MFU {line['mfu']:.1%}")
        self._write(step, "train", line)

    def _flops(self, step: int) -> float:
        """What one token of that step's batch took."""
        trainer, number = self._trainer, step - 1
        projected = projected_share(trainer.order.source_at(number))
        length = trainer.order.length_at(number)
        return flops_per_token(trainer.abstract.params, trainer.bert.config, length, projected)

    def _lap(self) -> float:
        """The seconds since the last lap, without what the compiler took of them."""
        self._here = Sums()
        compiling = self._trainer.compile_seconds()
        spent, self._compiled = compiling - self._compiled, compiling
        return max(self._clock.lap() - spent, 1e-9)

    def evaluated(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        self._write(step, split, figures)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        logger.info("step %d  %s  %s", step, split, shown)

    def _write(self, step: int, split: str, figures: Mapping[str, Any]) -> None:
        if not self.speaks:
            return
        self._metrics.write(step, split, figures)
        if self._board is not None:
            for name, value in figures.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    self._board.add_scalar(f"{split}/{name}", value, step)


def summary(trainer: Any) -> str:
    """One block that says what is about to happen."""
    run, abstract = trainer.run, trainer.abstract
    devices = jax.devices()
    mesh = " × ".join(f"{name} {size}" for name, size in trainer.bert.mesh.shape.items())
    size = trainer.order.batch_sizes[0]
    each = size // run.accumulate // trainer.parallel.ways()
    trained = trainer.optimizer.trainable(abstract.params)
    count = sum(leaf.size for leaf in abstract.params.values())
    learning = sum(leaf.size for leaf in trained.values())
    lines = {
        "devices": f"{len(devices)} × {devices[0].device_kind}, {jax.process_count()} process(es)",
        "parallel": run.parallel + (f" over {mesh}" if run.parallel == "jit" else ""),
        "batch": f"{size} examples = {trainer.parallel.ways()} × {each} at once"
        + (f" × {run.accumulate} micro-batches" if run.accumulate > 1 else ""),
        "steps": f"{trainer.total}, {trainer.order.describe()}",
        "parameters": f"{count / 1e6:.1f} M, trained {learning / 1e6:.1f} M, "
        f"computed in {run.execution.dtype}",
        "memory": f"{state_bytes((abstract, trainer.fixed)) / 1e9:.2f} GB a device for the state, "
        f"{state_bytes(trained) / 1e9:.2f} GB for gradients, and what activations take",
        "directory": str(trainer.record.directory.path),
    }
    return "\n".join(f"  {name:<11}{text}" for name, text in lines.items())


def _board(directory: RunDirectory, step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "logging.tensorboard needs tensorboardX: pip install 'jbert[tensorboard]'"
        ) from error
    # What there is of later steps will be made again, and is not to be shown twice.
    return SummaryWriter(str(directory.path / BOARD), purge_step=step + 1 if step else None)
