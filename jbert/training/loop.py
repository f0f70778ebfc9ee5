"""The loop around the step: data in, figures out, states saved, and every way to end."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jbert.data.batches import TrainingOrder, prefetch
from jbert.data.features import Source
from jbert.data.phases import PhasedOrder
from jbert.loaded import Bert
from jbert.training import replaced
from jbert.training.checkpoints import Checkpoints
from jbert.training.config import RunConfig, RunError
from jbert.training.directory import FAILED, RunDirectory, write_whole
from jbert.training.evaluation import Evaluation, Evaluator, Predictions
from jbert.training.meter import Sums, is_finite
from jbert.training.optimizer import Flat, Optimizer
from jbert.training.parallel import Parallel, check_batch, parallel_of
from jbert.training.preemption import Preempted, Preemption
from jbert.training.progress import Progress
from jbert.training.record import Record
from jbert.training.state import abstract_state, flat_target, from_flat, new_state, to_flat
from jbert.training.step import EvalStep, Objective, Predict, State, TaskObjective, TrainStep
from jbert.training.step_files import AVERAGE, PARAMS
from jbert.trees import flatten, unflatten

logger = logging.getLogger("jbert")


class NonFiniteError(RunError):
    """A loss or a gradient that is NaN or infinite."""


class Trainer:
    """Trains a model as a RunConfig says, and leaves everything in its directory.

    bert:        the model, on the mesh that `mesh_of(run)` gave; its parameters are used up.
    train:       what it learns from: rows, or an order of batches of several kinds of rows.
    evaluations: splits by name; the first one decides what the best checkpoint is.
    predict:     what an evaluation keeps of each batch's outputs, for `Evaluation.score`.
    metric:      the figure of the first evaluation that is to become best, and in which direction.
    objective:   what is minimised, if that is not the loss of the model's task.
    companions:  parameters that are trained and saved along with the model's, under names that it
                 has not, such as a generator's.
    fixed:       parameters that the objective only reads, such as a teacher's.

    Both lie on the model's mesh already, and are used up like the model's own.
    """

    def __init__(
        self,
        run: RunConfig,
        bert: Bert,
        train: Source | PhasedOrder,
        evaluations: Mapping[str, Evaluation] | None = None,
        *,
        predict: Predict = lambda output, batch: {},
        metric: str = "loss",
        greater_is_better: bool = False,
        objective: Objective | None = None,
        companions: Flat | None = None,
        fixed: Flat | None = None,
    ):
        if bert.mesh is None:
            raise RunError(
                "the model lies on no mesh; load it with the one that mesh_of(run) gives"
            )
        self.run, self.bert = run, bert
        self.evaluations = dict(evaluations or {})
        for name, evaluation in self.evaluations.items():
            if len(evaluation.source) == 0:
                raise RunError(f"the split {name!r} has no example; expected at least one")
        self.metric = run.evaluation.metric or metric
        self.greater_is_better = greater_is_better
        self.order = train if isinstance(train, PhasedOrder) else TrainingOrder(
            train, run.batch_size, run.seed, run.group_by_length
        )  # fmt: skip
        self.total = run.steps or self.order.total(run.epochs)
        own: Flat = flatten(bert.params)
        self._own, self.fixed, companions = frozenset(own), fixed, companions or {}
        self._params: Flat = own | companions
        others = {path: leaf.sharding for path, leaf in (companions | (fixed or {})).items()}
        if taken := sorted(own.keys() & others.keys()):
            raise RunError(f"companions and what is fixed need other names than {', '.join(taken)}")
        self.parallel: Parallel = parallel_of(run, bert.module, bert.mesh, str(bert.rules), others)
        for size in self.order.batch_sizes:
            check_batch("batch_size / accumulate", size // run.accumulate, self.parallel.ways())
        layers = getattr(bert.config, "num_hidden_layers", 0)
        self.optimizer = Optimizer(run.optimizer, self.total, layers)
        self.optimizer.check(self._params)
        self.abstract = abstract_state(self._params, self.optimizer, self.parallel)
        self.objective = objective or TaskObjective(bert.module, bert.task)
        step = EvalStep(self.objective, predict, self.parallel.axis)
        size = run.evaluation.batch_size or 2 * min(self.order.batch_sizes)
        self.evaluator = Evaluator(self.parallel, step, size)

    # -- the run ----------------------------------------------------------------------------

    def fit(self) -> Bert:
        """Train to the end, and give back the best model; what there is to see is in the directory.
        What it was trained along with is then in `companions`.

        Raises Preempted, a SystemExit, when it was told to stop and has saved its state.
        """
        directory = RunDirectory(self.run)
        checkpoints = Checkpoints(
            directory.checkpoints,
            keep=self.run.checkpoints.keep,
            keep_best=self.run.checkpoints.best,
            greater_is_better=self.greater_is_better,
        )
        self.record = Record(self.run, directory, self)
        if jax.process_index() == 0:
            replaced.forget(directory.path)
        with checkpoints, self.record, Preemption().listening() as preemption:
            self.checkpoints, self.preemption = checkpoints, preemption
            state = self._begin()
            self.record.start(self.progress.step)
            state = self._train(state)
            return self._end(state)

    def _begin(self) -> Any:
        found = self.checkpoints.latest()
        if found is None:
            self.progress = Progress()
            self.record.begin(self.progress)
            self._step = self._compile()
            return new_state(self._params, self.optimizer, self.parallel, self.fixed)
        info = found.info
        self._check_same_model(info["model"])
        self.order.check_position(info["position"])
        self.progress = Progress.from_dict(info["progress"])
        self._step = self._compile()
        for leaf in self._params.values():
            leaf.delete()  # there may be no room for both
        flat = self.checkpoints.restore(found.step, flat_target(self.abstract))
        self.record.begin(self.progress)
        state = from_flat(flat, self.abstract)._replace(fixed=self.fixed)
        return self.parallel.take(state)

    def compile_seconds(self) -> float:
        """What the compiler took of the time for steps; evaluations are timed by nobody."""
        return self._step.compile_seconds

    def _compile(self) -> Any:
        step = TrainStep(
            self.objective, self.optimizer, self.run.accumulate, self.run.seed, self.parallel.axis
        )
        return self.parallel.train(step)

    def _model(self) -> dict[str, Any]:
        return {"config": self.bert.config.to_dict(), "task": self.bert.task}

    def _check_same_model(self, stored: Mapping[str, Any]) -> None:
        mine = self._model()
        if stored != mine:
            names = sorted(stored["config"] | mine["config"])
            changed = [
                f"{name}: {stored['config'].get(name)!r} there, {mine['config'].get(name)!r} here"
                for name in names if stored["config"].get(name) != mine["config"].get(name)
            ]  # fmt: skip
            if stored["task"] != mine["task"]:
                changed.append(f"task: {stored['task']!r} there, {mine['task']!r} here")
            raise RunError(
                "the checkpoint is of another model; go on with the former one, or start anew "
                "elsewhere:\n  " + "\n  ".join(changed)
            )

    # -- training ---------------------------------------------------------------------------

    def _train(self, state: Any) -> Any:
        progress, self._unsettled = self.progress, None
        self._saved = progress.step
        if self._evaluation_is_due() and progress.evaluated < progress.step:
            # The run was stopped in the middle of this evaluation.
            self._evaluate_and_judge(state)
            self._amend()
        batches = prefetch(range(progress.step, self.total), self._batch)
        try:
            for batch in batches:
                if self._is_over():
                    break
                state, figures = self._step(state, batch)
                # The device works on this step while the host reads what the last one said.
                self._settle()
                progress.step += 1
                self._unsettled = figures
                better = False
                if self._evaluation_is_due():
                    better = self._evaluate_and_judge(state)
                if better or progress.step % self.run.checkpoints.steps == 0:
                    self._save(state)
                self._stop_if_told(state)
        finally:
            batches.close()
        self._save(state, last=True)
        return state

    def _batch(self, number: int) -> Any:
        batch, source = self.order.batch(number), self.order.source_at(number)
        return self.parallel.put(batch.size, lambda places: batch.read(source, places))

    def _is_over(self) -> bool:
        patience = self.run.evaluation.patience
        return bool(patience) and self.progress.without_better >= patience

    def _settle(self) -> None:
        """Take notice of the last step's figures."""
        figures, self._unsettled = self._unsettled, None
        if figures is None:
            return
        step = self.progress.step
        if not is_finite(figures):
            self._fail(step, figures)
        self.progress.window.add(figures)
        self.progress.seen.add(figures)
        self.record.tick(step, self.progress, figures)
        if step % self.run.logging.steps == 0 or step == self.total:
            self.record.trained(step, self.progress, figures)
            self.progress.window = Sums()

    def _fail(self, step: int, figures: Mapping[str, Any]) -> None:
        batch = self.order.batch(step - 1)
        rows = batch.examples().tolist()
        path = self.record.directory.path / FAILED
        if jax.process_index() == 0:
            write_whole(path, json.dumps({"step": step, "epoch": batch.epoch, "rows": rows}) + "\n")
        sums = Sums()
        sums.add(figures)
        with contextlib.suppress(OSError):
            self.checkpoints.wait()
        kept = self.checkpoints.steps()
        raise NonFiniteError(
            f"step {step}: the loss is {sums.loss()}, the gradient's norm "
            f"{float(figures['grad_norm'])}; expected finite numbers. The batch was rows "
            f"{rows[:8]}{'…' if len(rows) > 8 else ''} of the training data ({path.name} names "
            f"all). Nothing was saved since; the newest checkpoint is "
            f"{f'step {kept[-1]}' if kept else 'none'}. Look at these rows, lower "
            "optimizer.learning_rate, or lengthen optimizer.warmup_steps"
        )

    def _stop_if_told(self, state: Any) -> None:
        code = self.preemption.exit_code()
        if code is None:
            return
        self._save(state, last=True)
        self.checkpoints.wait()
        logger.warning("stopped and saved at step %d; --resume goes on", self.progress.step)
        raise Preempted(code)

    # -- saving -----------------------------------------------------------------------------

    def _save(self, state: Any, last: bool = False) -> None:
        """Save this step. A disk that is full ends no run, unless there is no later try."""
        self._settle()
        step = self.progress.step
        if step == self._saved:
            return
        with self.record.pause():
            given = self.parallel.give(state)
            if not _all_finite(given.params):
                raise NonFiniteError(
                    f"step {step}: a parameter is not finite, though the loss still was; nothing "
                    "was saved. Lower optimizer.learning_rate"
                )
            flat = to_flat(given)
            # An error can be that of the save before, which went on in the background.
            error = self._write(step, flat) and self._write(step, flat)
        if error is None:
            self._saved = step
        elif last:
            raise error

    def _write(self, step: int, flat: Flat) -> OSError | None:
        try:
            self.checkpoints.save(step, flat, self._info(), self.progress.metric_now())
        except OSError as error:
            logger.error("%s\nThe next checkpoint is tried in its turn", error)
            return error
        return None

    def _amend(self) -> None:
        """Tell the checkpoint of this step what came out of its evaluation."""
        step = self.progress.step
        try:
            self.checkpoints.amend(step, self._info(), self.progress.metric_now())
        except OSError as error:
            logger.error("step %d keeps its description without its metric: %s", step, error)

    def _info(self) -> dict[str, Any]:
        return {
            "model": self._model(),
            "run": self.record.directory.config,
            "position": self.order.position(self.progress.step),
            "progress": self.progress.to_dict(),
        }

    # -- evaluating -------------------------------------------------------------------------

    def _evaluation_is_due(self) -> bool:
        step, every = self.progress.step, self.run.evaluation.steps
        if not self.evaluations or step == 0:
            return False
        epochs = self.order.epochs
        due = step % every == 0 if every else int(epochs(step)) > int(epochs(step - 1))
        return due or step == self.total

    def _evaluate_and_judge(self, state: Any) -> bool:
        """Evaluate on every split; whether this state is the best so far, and to be kept."""
        self._settle()
        try:
            with self.record.pause():
                found = self._evaluate(state)
        except Exception:
            # One that is wrong in its metric must not cost the steps since the last checkpoint.
            if jax.process_count() == 1:
                self._save(state)
            raise
        for name, figures in found.items():
            self.record.evaluated(self.progress.step, name, figures)
        metric = next(iter(found.values()))[self.metric]
        return self.progress.judge(metric, self.greater_is_better) and self.run.checkpoints.best

    def _evaluate(self, state: Any) -> dict[str, dict[str, float]]:
        params = state.evaluated()
        # Evaluations can be long, and machines give little notice.
        between = lambda: self._stop_if_told(state)  # noqa: E731
        found = {
            name: self.evaluator.figures(params, evaluation, between)
            for name, evaluation in self.evaluations.items()
        }
        first = next(iter(found))
        if self.metric not in found[first]:
            raise RunError(
                f"evaluation.metric is {self.metric!r}; {first} has {sorted(found[first])}"
            )
        return found

    # -- the end ----------------------------------------------------------------------------

    def _end(self, state: Any) -> Bert:
        self._settle()
        self.checkpoints.wait()
        best = self.checkpoints.best() if self.run.checkpoints.best else None
        params = self._params_of(self.progress.step if best is None else best, state)
        self.final = self.parallel.take(State(None, params, {}))
        self.companions = {path: params[path] for path in params.keys() - self._own}
        mine = {path: params[path] for path in self._own}
        return dataclasses.replace(self.bert, params=unflatten(mine))

    def predict_best(self, source: Source) -> tuple[Sums, Predictions]:
        """What the model that `fit` gave back says of each row."""
        return self.evaluator.predict(self.final.evaluated(), source)

    def _params_of(self, step: int, state: Any) -> Flat:
        """The parameters that count of a step: of this state, or of a checkpoint."""
        if step == self.progress.step:
            return self.parallel.give(state).evaluated()
        target = {
            name: leaf for name, leaf in flat_target(self.abstract).items()
            if name.split("/")[0] in (PARAMS, AVERAGE)
        }  # fmt: skip
        flat = self.checkpoints.restore(step, target, partial=True)
        return from_flat(flat, self.abstract._replace(step=None, opt_state={})).evaluated()


@jax.jit
def _all_finite(params: Flat) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in params.values()]).all()
