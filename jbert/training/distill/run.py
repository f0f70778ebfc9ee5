"""Distillation, from a configuration to a finished student: `jbert distill`, `train/distill.py`."""

from jbert.training.attempt import attempt
from jbert.training.cluster import join
from jbert.training.config import RunError
from jbert.training.directory import TOKENIZER, RunDirectory
from jbert.training.distill.config import DistillConfig
from jbert.training.distill.corpus import CorpusDistillConfig, CorpusDistilling
from jbert.training.distill.task import TaskDistillConfig, TaskDistilling
from jbert.training.finetune import explain_settings as explain_task
from jbert.training.recipes import Figures
from jbert.training.seeds import run_seeds


def distill(config: DistillConfig) -> dict[str, Figures]:
    """Run it, and return the best student's figures by split; of several seeds their means."""
    join(config.cluster)
    if isinstance(config, TaskDistillConfig) and config.seeds:
        return run_seeds(config, _distill)
    return _distill(config)[0]


def _distill(config: DistillConfig) -> tuple[dict[str, Figures], str]:
    """The figures of one run, and the name of the one that its best checkpoint was best at."""
    directory = RunDirectory(config)
    with directory.prepare(config), attempt(directory.path, TOKENIZER):
        if isinstance(config, TaskDistillConfig):
            run = TaskDistilling(config)
        elif isinstance(config, CorpusDistillConfig):
            run = CorpusDistilling(config)
        else:
            raise RunError(
                f"the configuration is a {type(config).__name__}, which says nothing of data; "
                "expected a TaskDistillConfig or a CorpusDistillConfig"
            )
        return run.run(), run.trainer.metric


def explain_settings(config: DistillConfig) -> str:
    """What there is for `processing`, for the command line's help."""
    return explain_task(config) if isinstance(config, TaskDistillConfig) else ""
