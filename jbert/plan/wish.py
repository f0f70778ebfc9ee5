"""From a name, a recipe or a file, and what a user says beside it, to the step that is planned."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from jbert.config import ModelConfig, read_config_json
from jbert.data.masking import most_predictions
from jbert.execution import Execution
from jbert.load import ENCODER
from jbert.loaded import decoder_config
from jbert.models import config_from_dict, presets
from jbert.plan.beside import Beside, Generating, Taught
from jbert.plan.chips import PlanError
from jbert.plan.work import PREDICTING, Work
from jbert.training.command import known_configs, load_config
from jbert.training.config import RunConfig
from jbert.training.distill.config import DistillConfig
from jbert.training.distill.layers import pair_layers
from jbert.training.distill.progress import Turns
from jbert.training.distill.teacher import check_sizes
from jbert.training.finetune import FinetuneConfig, processor_of
from jbert.training.pretrain import PretrainConfig
from jbert.training.pretrain.config import GeneratorConfig
from jbert.training.pretrain.detection import REPLACED

MASK_RATE = 0.15


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a user says of a step beside its name; None leaves a model's or a recipe's own.

    teacher: a model to take for a recipe's teacher, which may not be trained yet.
    """

    task: str | None = None
    teacher: str | None = None
    batch_size: int | None = None
    length: int | None = None
    predictions: int | None = None
    accumulate: int | None = None
    dtype: str | None = None
    remat: str | None = None
    attention: str | None = None
    data: int | None = None
    fsdp: int | None = None
    tensor: int | None = None
    zero: bool | None = None
    inference: bool = False
    unrolled: bool = False


_NOTHING = Wish()


def work_of(name: str, devices: int, wish: Wish = _NOTHING) -> Work:
    """The step of a recipe in configs/ or another configuration file, or of a model by its short
    name or its config.json."""
    path = Path(name).expanduser()
    if config := _published(name):
        return _of_model(name, config, devices, wish)
    if path.suffix == ".json" or (path.is_dir() and (path / "config.json").is_file()):
        return _of_model(name, model_config(name), devices, wish)
    if path.suffix != ".py" and (path.parent != Path() or path.stem not in known_configs()):
        raise PlanError(
            f"{name}: expected a recipe ({', '.join(known_configs())}), another configuration "
            "file, a config.json, a directory with one, or a model "
            f"({', '.join(sorted(presets()))})"
        )
    run, _ = load_config(name, RunConfig)
    return _of_recipe(path.stem, run, wish)


# -- models ---------------------------------------------------------------------------------


def _of_model(name: str, config: ModelConfig, devices: int, wish: Wish) -> Work:
    if wish.teacher is not None:
        raise PlanError(f"{name} is a model, which has no teacher; --teacher is for recipes")
    task = wish.task or (ENCODER if wish.inference else "masked_lm")
    task = None if task == ENCODER else task
    config = decoder_config(config, task)
    detects = task == REPLACED and not wish.inference
    work = Work(
        name,
        config,
        task,
        32 * devices,
        min(512, config.max_position_embeddings),
        Execution(wish.dtype or "bfloat16", scan_layers=True),
        train=not wish.inference,
        beside=Generating(GeneratorConfig()) if detects else None,
    )
    return _with_wishes(work, wish, gathers=True)


def model_config(name: str) -> ModelConfig:
    """Of a short name, a hub id that has one, a config.json or a directory with one, or of what a
    recipe will leave: nothing is downloaded."""
    if config := _published(name):
        return config
    path = Path(name).expanduser()
    for place in (path, path / "config.json", path / "model" / "config.json"):
        if place.is_file():
            return config_from_dict(read_config_json(place))
    if config := _of_a_run(str(path)):
        return config
    raise PlanError(
        f"model {name!r}: expected one of {', '.join(sorted(presets()))}, or a config.json or a "
        "directory with one; a plan downloads nothing"
    )


def _published(name: str) -> ModelConfig | None:
    known = presets()
    by_hub_id = {preset.hub_id: short for short, preset in known.items() if preset.hub_id}
    short = by_hub_id.get(name, name)
    return known[short].config if short in known else None


@functools.cache
def _of_a_run(path: str) -> ModelConfig | None:
    """Of the model that one of jbert's own recipes would leave there."""
    for name in known_configs():
        run, _ = load_config(name, RunConfig)
        if path in (run.output_dir, f"{run.output_dir}/model"):
            return model_config(run.model).replace(**run.start.overrides)
    return None


# -- recipes --------------------------------------------------------------------------------


def _of_recipe(name: str, run: RunConfig, wish: Wish) -> Work:
    if isinstance(run, FinetuneConfig):
        processor = processor_of(run)
        shape: dict[str, Any] = {"length": processor.max_length, "batch_size": run.batch_size}
        kind = getattr(processor, "problem_type", None)
        changes = {} if kind is None else {"problem_type": kind}
    elif isinstance(run, PretrainConfig):
        shape, changes = _of_corpus(run), {}
        if wish.inference:
            shape["predictions"] = 0  # every position, which is all that a detector has
    else:
        raise PlanError(
            f"{name} is a {type(run).__name__}; expected a FinetuneConfig, a PretrainConfig, a "
            "TaskDistillConfig or a CorpusDistillConfig. Name its model instead, with --task"
        )
    teacher = _teacher(name, run, wish)
    if teacher is not None and run.start.scratch and not run.start.tokenizer:
        # Such a student has its teacher's tokenizer.
        changes["vocab_size"] = teacher.vocab_size
    changes |= dict(run.start.overrides)
    if run.start.vocab_size:
        changes["vocab_size"] = run.start.vocab_size
    config = model_config(run.model).replace(**changes)
    work = Work(
        name,
        config,
        run.task,
        execution=dataclasses.replace(run.execution, scan_layers=True),
        accumulate=run.accumulate,
        mesh=run.mesh,
        optimizer=run.optimizer,
        train=not wish.inference,
        beside=None if wish.inference else _beside(run, config, teacher, shape["length"]),
        **shape,
    )
    return _with_wishes(work, wish, isinstance(run, PretrainConfig) and run.gather)


def _of_corpus(run: PretrainConfig) -> dict[str, Any]:
    """The rows of the phase with the longest ones: these decide what fits."""
    phase = max(run.phases, key=lambda phase: phase.length, default=None)
    length = run.max_length if phase is None else phase.length
    packed = run.packing.enabled is not False and run.task != "pretraining"
    return {
        "length": run.packing.row_length or length,
        "batch_size": (phase and phase.batch_size) or run.batch_size,
        "chunked": run.chunked_loss,
        "packed": packed,
        "predictions": _predictions(length, run.masking.rate, run.masking.max_predictions),
    }


def _predictions(length: int, rate: float = MASK_RATE, most: int | None = None) -> int:
    """Of a row between [CLS] and [SEP]."""
    wanted = int(most_predictions(np.asarray(max(length - 2, 1)), rate))
    return wanted if most is None else min(wanted, most)


def _teacher(name: str, run: RunConfig, wish: Wish) -> Any:
    if not isinstance(run, DistillConfig):
        if wish.teacher is not None:
            raise PlanError(f"{name} has no teacher; --teacher is for recipes of distillation")
        return None
    chosen = wish.teacher or run.teacher.model
    try:
        return model_config(chosen)
    except PlanError as error:
        raise PlanError(
            f"the teacher of {name}, {chosen!r}, is not there to be looked at; name a model of its "
            f"size: --teacher bert-base-uncased ({error})"
        ) from error


def _beside(run: Any, config: Any, teacher: Any, length: int) -> Beside | None:
    if getattr(run, "task", None) == REPLACED:
        return Generating(run.generator)
    if teacher is None:
        return None
    transfer, depths = run.transfer, (config.num_hidden_layers, teacher.num_hidden_layers)
    if teacher.vocab_size != config.vocab_size:
        raise PlanError(
            f"the teacher has a vocabulary of {teacher.vocab_size}, the student one of "
            f"{config.vocab_size}; expected the same: change the recipe, or --teacher"
        )
    check_sizes(run.teacher.model, teacher, config, transfer, length)
    turns = None
    if run.progress.layer_by_layer:
        turns = Turns(run.progress, run.steps, config.num_hidden_layers)
    return Taught(
        teacher,
        transfer,
        pair_layers(transfer.layers, *depths) if transfer.of_pairs else (),
        turns,
        run.teacher.dtype,
        run.teacher.param_dtype,
    )


# -- what a user says -----------------------------------------------------------------------


def _with_wishes(work: Work, wish: Wish, gathers: bool) -> Work:
    if wish.task is not None and wish.task not in (work.task, ENCODER):
        raise PlanError(f"{work.name} is a recipe of {work.task}; --task is for models")
    changes = _named(wish, "batch_size", "length", "accumulate")
    gathers = gathers and work.train and (work.task in PREDICTING or work.task == REPLACED)
    if wish.predictions is not None:
        changes["predictions"] = wish.predictions
    elif not gathers:
        changes["predictions"] = 0
    elif not work.predictions or wish.length is not None:
        changes["predictions"] = _predictions(changes.get("length", work.length))
    execution = dataclasses.replace(work.execution, **_named(wish, "dtype", "remat", "attention"))
    if wish.unrolled:
        execution = dataclasses.replace(execution, scan_layers=False)
    if wish.inference and execution.param_dtype == "float32":
        # Weights that are only read are kept in the dtype they are used in.
        execution = dataclasses.replace(execution, param_dtype=execution.dtype)
    mesh = dataclasses.replace(work.mesh, **_named(wish, "data", "fsdp", "tensor", "zero"))
    return dataclasses.replace(work, execution=execution, mesh=mesh, **changes)


def _named(wish: Wish, *names: str) -> dict[str, Any]:
    return {name: getattr(wish, name) for name in names if getattr(wish, name) is not None}
