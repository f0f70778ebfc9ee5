"""The architectures: one file each, and this table of what each file offers."""

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from jbert.config import ConfigError, ModelConfig
from jbert.models import bert, convbert, distilbert, mobilebert
from jbert.models.base import Model
from jbert.models.presets import Preset


@dataclasses.dataclass(frozen=True)
class Architecture:
    config_class: type[ModelConfig]
    tasks: Mapping[str | None, type[Model]]
    presets: Mapping[str, Preset]
    module: ModuleType


REGISTRY: dict[str, Architecture] = {
    "bert": Architecture(bert.BertConfig, bert.TASKS, bert.PRESETS, bert),
    "distilbert": Architecture(
        distilbert.DistilBertConfig, distilbert.TASKS, distilbert.PRESETS, distilbert
    ),
    "mobilebert": Architecture(
        mobilebert.MobileBertConfig, mobilebert.TASKS, mobilebert.PRESETS, mobilebert
    ),
    "convbert": Architecture(convbert.ConvBertConfig, convbert.TASKS, convbert.PRESETS, convbert),
}


def presets() -> dict[str, Preset]:
    """Every published model that `jbert.load` knows by a short name."""
    return {name: p for arch in REGISTRY.values() for name, p in arch.presets.items()}


def architecture(model_type: str) -> Architecture:
    if model_type in REGISTRY:
        return REGISTRY[model_type]
    near = get_close_matches(str(model_type), REGISTRY, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigError(
        f"model_type is {model_type!r}{hint}; jbert has the families {sorted(REGISTRY)}"
    )


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration in a config.json's contents, of the family it names."""
    if "model_type" not in values:
        raise ConfigError(
            f"the config has no model_type, which says its family; add one of {sorted(REGISTRY)}"
        )
    return architecture(values["model_type"]).config_class.from_dict(values)


def model_class(config: ModelConfig, task: str | None) -> type[Model]:
    """The module class for a task, or an error that lists the tasks of this family."""
    tasks = architecture(config.model_type).tasks
    if task in tasks:
        return tasks[task]
    names = sorted(name for name in tasks if name)
    near = get_close_matches(str(task), names, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(
        f"{config.model_type} has no task {task!r}{hint}; expected None for the bare encoder, "
        f"or one of {names}"
    )
