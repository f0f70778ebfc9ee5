"""Pretraining: a model that learns a language from text alone."""

from jbert.training.pretrain.config import (
    CorpusConfig,
    GeneratorConfig,
    PackingConfig,
    Phase,
    PretrainConfig,
)
from jbert.training.pretrain.run import Pretraining, pretrain
from jbert.training.start import StartConfig

# What a configuration file needs.
__all__ = [
    "CorpusConfig",
    "GeneratorConfig",
    "PackingConfig",
    "Phase",
    "PretrainConfig",
    "Pretraining",
    "StartConfig",
    "pretrain",
]
