"""Distillation on a fine-tuning task: from labels, and from a teacher that has learned it."""

import dataclasses
import logging
from typing import Any

from jbert.loaded import Bert
from jbert.tokenizer import Tokenizer
from jbert.training.config import RunError
from jbert.training.distill.beside import Beside, students_start
from jbert.training.distill.config import DistillConfig
from jbert.training.distill.teacher import Teacher, find_teacher
from jbert.training.finetune import FinetuneConfig, Finetuning
from jbert.training.recipes import Recipe
from jbert.training.start import Start
from jbert.training.step import TaskObjective

logger = logging.getLogger("jbert")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskDistillConfig(FinetuneConfig, DistillConfig):
    """A run that adapts a student to a task beside a teacher that knows it."""


class TaskDistilling(Finetuning):
    """A fine-tuning run with another objective."""

    config: TaskDistillConfig

    def __init__(self, config: TaskDistillConfig):
        super().__init__(dataclasses.replace(config, start=students_start(config, config.start)))

    def _reader(self, start: Start) -> Tokenizer:
        config, length = self.config, self.recipe.processor.max_length
        self.teacher = find_teacher(config, start, config.task, length)
        if start.labels is None:
            self.recipe = self.recipe.in_order(self.teacher.labels)
        self.classes = classes_of(self.recipe, self.teacher) if config.transfer.soft else None
        return self.teacher.reader(start.tokenizer)

    def _model(self, start: Start) -> Bert:
        student = super()._model(start)
        self.beside = Beside(self.config, self.teacher, student, self.classes)
        return self.beside.student

    def _beside(self) -> dict[str, Any]:
        return self.beside.of(TaskObjective(self.bert.module, self.bert.task))


def classes_of(recipe: Recipe, teacher: Teacher) -> tuple[int, ...] | None:
    """For each class its number at the teacher; an error where both do not have the same."""
    head, name = recipe.head(), teacher.run.teacher.model
    kind, theirs = head.get("problem_type"), teacher.config.problem_type
    if kind is not None and theirs is not None and kind != theirs:
        raise RunError(
            f"teacher.model {name} has learned {theirs}, the data are {kind}; expected a teacher "
            "of the same"
        )
    if "id2label" not in head:
        return None
    mine = tuple(head["id2label"].values())
    if teacher.labels is None and teacher.config.num_labels == len(mine):
        logger.warning(
            "%s does not name its classes; they are taken to be %s, in this order",
            name, ", ".join(mine),
        )  # fmt: skip
        return None
    found = teacher.labels or (f"{teacher.config.num_labels} without names",)
    if sorted(found) != sorted(mine):
        raise RunError(
            f"teacher.model {name} has the labels {', '.join(found)}, the data have "
            f"{', '.join(mine)}; expected the same ones, in any order"
        )
    return teacher.classes(mine)
