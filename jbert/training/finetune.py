"""Fine-tuning, from a configuration to a finished model: `jbert finetune`, `train/finetune.py`."""

import dataclasses
import difflib
import inspect
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from jbert.card import write_run_card
from jbert.config import ModelConfig
from jbert.data.glue import GlueTask, glue_task
from jbert.data.processors import PROCESSORS, Processor
from jbert.data.splits import TEST, TRAIN, VALIDATION, DataConfig, read_splits
from jbert.data.table import Table
from jbert.loaded import Bert
from jbert.metrics import greater_is_better
from jbert.save import save
from jbert.tokenizer import Tokenizer
from jbert.training.attempt import attempt
from jbert.training.cluster import join
from jbert.training.config import RunConfig, RunError
from jbert.training.directory import (
    FIGURES,
    MODEL,
    PREDICTIONS,
    TOKENIZER,
    RunDirectory,
    write_whole,
)
from jbert.training.evaluation import Evaluation, Predictions
from jbert.training.loop import Trainer
from jbert.training.parallel import mesh_of
from jbert.training.recipes import RECIPES, Figures, Recipe
from jbert.training.report import write_report
from jbert.training.seeds import run_seeds
from jbert.training.start import Scalar, Start, StartConfig, find_start, keep_tokenizer

logger = logging.getLogger("jbert")

Task = Literal[
    "sequence_classification", "token_classification", "question_answering", "multiple_choice",
    "masked_lm",
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """A run that adapts a model to a task."""

    task: Task = "sequence_classification"
    """What the model is to do."""
    data: DataConfig = DataConfig()
    start: StartConfig = StartConfig()
    processing: Mapping[str, Scalar | tuple[Scalar, ...]] = dataclasses.field(default_factory=dict)
    """Settings of the task's processor: --processing.max_length 128."""
    scheme: Literal["default", "iob1", "iob2", "bioes", "bilou"] = "default"
    """How entities are counted: as conlleval does, or strictly by a scheme of tags."""
    seeds: tuple[int, ...] = ()
    """Several runs, one a seed, below output_dir; what is reported is their mean and spread."""

    def __post_init__(self):
        super().__post_init__()
        processor_of(self)
        if len(set(self.seeds)) < len(self.seeds):
            raise RunError(f"seeds are {self.seeds}; expected each of them once")


def processor_of(config: FinetuneConfig) -> Processor:
    """The task's processor with the settings of the run, and the columns of a GLUE task."""
    settings: dict[str, Any] = dict(config.processing)
    kind, task = PROCESSORS[config.task], _glue(config)
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    known = sorted(types)
    for name, value in settings.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; nearest is {near[0]}" if near else ""
            raise RunError(
                f"processing.{name}: the settings of {config.task} are {', '.join(known)}{hint}"
            )
        if "tuple" in str(types[name]):
            settings[name] = tuple(value) if isinstance(value, list | tuple) else (value,)
    if task is not None:
        names = dict(zip(("text", "pair"), task.text_columns, strict=False))
        settings = {**names, "problem_type": task.problem_type, **settings}
        if task.label_names:
            settings.setdefault("labels", task.label_names)
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        raise RunError(f"processing: {error}") from error


def explain_settings(config: FinetuneConfig) -> str:
    """What there is for `processing`, for the command line's help."""
    kind, processor = PROCESSORS[config.task], processor_of(config)
    text = "\n".join(inspect.cleandoc(base.__doc__ or "") for base in (kind, Processor))
    about = {}
    for entry in re.split(r"\n(?=\w[\w, ]*:)", text):
        names, _, meaning = entry.partition(":")
        about |= dict.fromkeys(re.split(", *", names.split("\n")[-1]), " ".join(meaning.split()))
    lines = [
        f"- {field.name}: {about.get(field.name, '')} (default: {getattr(processor, field.name)})"
        for field in dataclasses.fields(kind)
    ]
    return f"Settings of {config.task}, as --processing.NAME VALUE:\n" + "\n".join(lines)


def _glue(config: FinetuneConfig) -> GlueTask | None:
    """The GLUE task, where that is what is learned."""
    its = config.task == "sequence_classification" and config.data.dataset.startswith("glue/")
    return glue_task(config.data.dataset) if its else None


def finetune(config: FinetuneConfig) -> dict[str, Figures]:
    """Run it, and return the best model's figures by split; of several seeds their means."""
    join(config.cluster)
    return run_seeds(config, _finetune) if config.seeds else _finetune(config)[0]


def _finetune(config: FinetuneConfig) -> tuple[dict[str, Figures], str]:
    """The figures of one run, and the name of the one that its best checkpoint was best at."""
    directory = RunDirectory(config)
    with directory.prepare(config), attempt(directory.path, TOKENIZER):
        run = Finetuning(config)
        return run.run(), run.metric


class Finetuning:
    """One run: data, model and trainer, made in the order in which they need each other.

    What can be wrong with the data is found before the weights are read or anything is compiled.
    """

    def __init__(self, config: FinetuneConfig):
        self.config = config
        self.directory = Path(config.output_dir).expanduser().resolve()
        self.tables = read_splits(config.data)
        recipe = make_recipe(config, self.tables[TRAIN])
        tokenizer = self.directory / TOKENIZER
        start = find_start(config, config.start, config.task, self._texts(), tokenizer)
        self.recipe = recipe.in_order(start.labels)
        self.metric = config.evaluation.metric or self.recipe.main_metric
        better = greater_is_better(self.metric)
        self._check_length(start.config)
        reader = self._reader(start)
        cache = config.data.cache_dir or True
        self.features = {
            split: self.recipe.processor.process(table, reader, cache)
            for split, table in self.tables.items()
        }
        keep_tokenizer(start.tokenizer, tokenizer)
        self.bert = self._model(start)
        self.trainer = self._trainer(better)

    def _reader(self, start: Start) -> Tokenizer:
        """The tokenizer that makes rows of texts."""
        return start.tokenizer

    def _model(self, start: Start) -> Bert:
        return start.model(self.recipe.head(), *mesh_of(self.config))

    def _beside(self) -> dict[str, Any]:
        """What the trainer is told besides: another objective, and other parameters for it."""
        return {}

    def _texts(self) -> Iterator[str]:
        for column in self.tables[TRAIN].columns.values():
            for value in column:
                yield from _strings(value)

    def _check_length(self, model: ModelConfig) -> None:
        room, length = model.max_position_embeddings, self.recipe.processor.max_length
        if length > room:
            raise RunError(
                f"processing.max_length is {length}, but the model has {room} positions; "
                f"expected at most {room}"
            )

    def _trainer(self, better: bool) -> Trainer:
        return Trainer(
            self.config,
            self.bert,
            self.features[TRAIN],
            {
                split: Evaluation(features, self._score(split))
                for split, features in self.features.items()
                if split.startswith(VALIDATION) and _is_labelled(features)
            },
            predict=self.recipe.predict,
            metric=self.metric,
            greater_is_better=better,
            **self._beside(),
        )

    def _score(self, split: str) -> Any:
        table, features = self.tables[split], self.features[split]
        return lambda found, loss: self.recipe.score(table, features, found, loss)

    def run(self) -> dict[str, Figures]:
        best = self.trainer.fit()
        save(best, self.directory / MODEL, force=True)
        figures, found = {}, {}
        for split in self.tables:
            if split == TRAIN:
                continue
            sums, found[split] = self.trainer.predict_best(self.features[split])
            if _is_labelled(self.features[split]):
                loss = sums.loss()
                figures[split] = {"loss": loss, **self._score(split)(found[split], loss)}
        if jax.process_index() == 0:
            self._write(figures, found)
            write_run_card(best, self.directory / MODEL, self.config, figures)
        return figures

    def _write(self, figures: dict[str, Figures], found: Mapping[str, Predictions]) -> None:
        write_whole(self.directory / FIGURES, json.dumps(figures, indent=2) + "\n")
        # The test split's, where there is one: the others have labels to compare with.
        split = next((name for name in found if name.startswith(TEST)), next(iter(found), None))
        extras: dict[str, Any] = {}
        if split is not None:
            table, features = self.tables[split], self.features[split]
            if rows := self.recipe.predictions(table, features, found[split]):
                write_whole(self.directory / PREDICTIONS, "".join(_lines(table, rows)))
        scored = next(iter(figures), None)
        if scored is not None:
            table, features = self.tables[scored], self.features[scored]
            extras = self.recipe.tables(table, features, found[scored])
            best = {f"{scored} {name}": value for name, value in figures[scored].items()}
            extras["summary"] = {"task": self.config.task, "model": self.config.model, **best}
        logger.info("report: %s", write_report(self.directory, extras))


def make_recipe(config: FinetuneConfig, train: Table) -> Recipe:
    """The task's recipe, with the labels that the training split has."""
    task = _glue(config)
    processor = processor_of(config).fit(train)
    return RECIPES[config.task](processor, task and task.name, config.scheme)


def _is_labelled(features: Any) -> bool:
    return getattr(features, "labelled", True)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


def _lines(table: Table, rows: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each prediction, under the id of its row or the row's place in the file."""
    ids = table.columns.get("id") or table.columns.get("idx")
    for number, row in enumerate(rows):
        name = {"where": table.where(number)} if ids is None else {"id": ids[number]}
        yield json.dumps(name | row, ensure_ascii=False) + "\n"
