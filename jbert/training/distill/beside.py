"""What a distillation has beside the run that it is: a teacher in memory, and a loss with it."""

import dataclasses
import logging
from typing import Any

from jbert.load import read_config
from jbert.loaded import Bert
from jbert.locate import locate
from jbert.stored import is_step, tokenizer_directory
from jbert.training.config import RunError
from jbert.training.distill.config import DistillConfig
from jbert.training.distill.objective import DistillObjective
from jbert.training.distill.progress import LayerByLayer
from jbert.training.distill.student import student_of
from jbert.training.distill.teacher import Teacher, new_mapping
from jbert.training.start import StartConfig
from jbert.training.step import Objective

logger = logging.getLogger("jbert")


def students_start(run: DistillConfig, start: StartConfig) -> StartConfig:
    """A student from scratch has its teacher's tokenizer and vocabulary, if it names no other."""
    if not run.teacher.model:
        raise RunError("teacher.model is empty; expected a directory, a short name or a hub id")
    if not start.scratch or start.tokenizer or start.vocab_size:
        return start
    path, _ = locate(run.teacher.model)
    place = path if path.is_dir() else path.parent
    size = read_config(place, path).vocab_size
    place = tokenizer_directory(place) if is_step(place) else place
    overrides = {"vocab_size": size, **start.overrides}
    return dataclasses.replace(start, tokenizer=str(place), overrides=overrides)


class Beside:
    """The teacher's parameters beside a student's, which may start from them.

    student: as it starts.
    classes: for each class of the student its number at the teacher, where they differ.
    """

    def __init__(
        self,
        run: DistillConfig,
        teacher: Teacher,
        student: Bert,
        classes: tuple[int, ...] | None = None,
    ):
        if student.mesh is None:
            raise RunError("the student lies on no mesh; expected the one that mesh_of(run) gives")
        mesh = student.mesh
        loaded = teacher.model(mesh, str(student.rules))
        take, layers = run.initial.take, run.initial.layers
        if take != "nothing":
            chosen = () if take == "outside" else layers or None
            student = student_of(student, loaded, chosen, heads=classes is None)
        self.student, self._teacher, self._run = student, teacher, run
        self._module, self._classes = loaded.module, classes
        self._mapping = new_mapping(run.transfer, student.config, loaded.config, mesh, run.seed)
        self._fixed = teacher.fixed(loaded)
        logger.info(
            "teacher: %s, %.1f M parameters; layers compared, the student's with the teacher's: %s",
            loaded.source, loaded.num_params() / 1e6,
            ", ".join(f"{i} with {j}" for i, j in teacher.pairs) or "none",
        )  # fmt: skip

    def of(self, task: Any) -> dict[str, Any]:
        """For the trainer: the objective, and the parameters that it has beside the student's.

        task: the student's own objective, a TaskObjective.
        """
        teacher = self._teacher
        whole = DistillObjective(
            task, self._module, self._run.transfer, teacher.pairs, self._classes
        )
        objective: Objective = whole
        if teacher.turns is not None:
            objective = LayerByLayer(whole, teacher.turns)
        return {"objective": objective, "companions": self._mapping, "fixed": self._fixed}
