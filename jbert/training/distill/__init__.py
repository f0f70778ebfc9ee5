"""Distillation: a student that learns beside its teacher, from a corpus or on a task."""

from jbert.training.distill.config import (
    DistillConfig,
    InitialConfig,
    ProgressConfig,
    TeacherConfig,
    TransferConfig,
)
from jbert.training.distill.corpus import CorpusDistillConfig
from jbert.training.distill.run import distill, explain_settings
from jbert.training.distill.task import TaskDistillConfig
from jbert.training.pretrain.config import CorpusConfig
from jbert.training.start import StartConfig

# What a configuration file needs.
__all__ = [
    "CorpusConfig",
    "CorpusDistillConfig",
    "DistillConfig",
    "InitialConfig",
    "ProgressConfig",
    "StartConfig",
    "TaskDistillConfig",
    "TeacherConfig",
    "TransferConfig",
    "distill",
    "explain_settings",
]
