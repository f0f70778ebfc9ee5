"""Distillation on a corpus: a student learns a language from text, and from a teacher that does."""

import dataclasses
from typing import Any

from jbert.loaded import Bert
from jbert.training.config import RunError
from jbert.training.distill.beside import Beside, students_start
from jbert.training.distill.config import DistillConfig
from jbert.training.distill.teacher import find_teacher
from jbert.training.pretrain import Pretraining
from jbert.training.pretrain.config import PretrainConfig
from jbert.training.start import Start


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusDistillConfig(PretrainConfig, DistillConfig):
    """A run that pretrains a student beside a pretrained teacher."""

    def __post_init__(self):
        super().__post_init__()
        if self.task == "replaced_token_detection":
            raise RunError(
                "task is replaced_token_detection, in which a teacher would judge another "
                "generator's tokens; distillation expects masked_lm or pretraining"
            )


class CorpusDistilling(Pretraining):
    """A pretraining run with another objective."""

    config: CorpusDistillConfig

    def __init__(self, config: CorpusDistillConfig):
        super().__init__(dataclasses.replace(config, start=students_start(config, config.start)))

    def _check(self, start: Start) -> None:
        super()._check(start)
        self.teacher = find_teacher(
            self.config, start, self.config.task, max(self.config.lengths())
        )

    def _model(self, start: Start) -> Bert:
        self.beside = Beside(self.config, self.teacher, super()._model(start))
        return self.beside.student

    def _beside(self) -> dict[str, Any]:
        return self.beside.of(self._objective())
