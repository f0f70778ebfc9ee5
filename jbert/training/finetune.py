"""Fine-tuning, from a configuration to a finished model: `jbert finetune`, `train/finetune.py`."""

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from jbert.data.glue import GLUE, glue_task
from jbert.data.processors import PROCESSORS
from jbert.data.splits import TEST, TRAIN, VALIDATION, DataConfig, read_splits
from jbert.data.table import DataError, Table
from jbert.metrics import greater_is_better
from jbert.save import save
from jbert.training.cluster import join
from jbert.training.config import RunConfig, RunError
from jbert.training.directory import MODEL, PREDICTIONS, RunDirectory, write_whole
from jbert.training.evaluation import Evaluation, Predictions
from jbert.training.loop import Trainer
from jbert.training.parallel import mesh_of
from jbert.training.recipes import RECIPES, Figures, Recipe
from jbert.training.report import write_report
from jbert.training.seeds import run_seeds
from jbert.training.start import StartConfig, start_model

logger = logging.getLogger("jbert")

TOKENIZER, FIGURES = "tokenizer", "figures.json"
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
    processing: Mapping[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    """Settings of the task's processor, such as max_length 128; see jbert.data.processors."""
    scheme: Literal["default", "iob1", "iob2", "bioes", "bilou"] = "default"
    """How entities are counted: as conlleval does, or strictly by a scheme of tags."""
    seeds: tuple[int, ...] = ()
    """Several runs, one a seed, below output_dir; what is reported is their mean and spread."""

    def __post_init__(self):
        super().__post_init__()
        known = {field.name for field in dataclasses.fields(PROCESSORS[self.task])}
        for name in self.processing:
            if name not in known:
                raise RunError(
                    f"processing.{name}: the settings of {self.task} are {', '.join(sorted(known))}"
                )
        if len(set(self.seeds)) < len(self.seeds):
            raise RunError(f"seeds are {self.seeds}; expected each of them once")


def finetune(config: FinetuneConfig) -> dict[str, Figures]:
    """Run it, and return the best model's figures by split; of several seeds their means."""
    join(config.cluster)
    return run_seeds(config, _finetune) if config.seeds else _finetune(config)[0]


def _finetune(config: FinetuneConfig) -> tuple[dict[str, Figures], str]:
    """The figures of one run, and the name of the one that its best checkpoint was best at."""
    with RunDirectory(config).prepare(config):
        run = Finetuning(config)
        return run.run(), run.trainer.metric


class Finetuning:
    """One run: data, model and trainer, made in the order in which they need each other."""

    def __init__(self, config: FinetuneConfig):
        self.config = config
        self.directory = Path(config.output_dir).expanduser().resolve()
        self.tables = read_splits(config.data, config.seed)
        self.recipe = make_recipe(config, self.tables[TRAIN])
        mesh, rules = mesh_of(config)
        self.bert = start_model(
            config, config.start, config.task, self.recipe.head(), mesh, rules,
            self._texts(), self.directory / TOKENIZER,
        )  # fmt: skip
        self._check_length()
        cache = config.data.cache_dir or True
        self.features = {
            split: self.recipe.processor.process(table, self.bert.tokenizer, cache)
            for split, table in self.tables.items()
        }
        if not _is_labelled(self.features[TRAIN]):
            raise DataError(f"{self.tables[TRAIN].source}: expected labels to train on, found none")
        self.trainer = self._trainer()

    def _texts(self) -> Iterator[str]:
        for column in self.tables[TRAIN].columns.values():
            for value in column:
                yield from _strings(value)

    def _check_length(self) -> None:
        room = getattr(self.bert.config, "max_position_embeddings", None)
        length = self.recipe.processor.max_length
        if room is not None and length > room:
            raise RunError(
                f"processing.max_length is {length}, but the model has {room} positions; "
                f"expected at most {room}"
            )

    def _trainer(self) -> Trainer:
        config, metric = self.config, self.config.evaluation.metric or self.recipe.main_metric
        return Trainer(
            config,
            self.bert,
            self.features[TRAIN],
            {
                split: Evaluation(features, self._score(split))
                for split, features in self.features.items()
                if split.startswith(VALIDATION) and _is_labelled(features)
            },
            predict=self.recipe.predict,
            metric=metric,
            greater_is_better=greater_is_better(metric),
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
        return figures

    def _write(self, figures: dict[str, Figures], found: Mapping[str, Predictions]) -> None:
        write_whole(self.directory / FIGURES, json.dumps(figures, indent=2) + "\n")
        # The test split's, where there is one: the others have labels to compare with.
        split = next((name for name in found if name.startswith(TEST)), next(iter(found), None))
        extras: dict[str, Any] = {}
        if split is not None:
            table, features = self.tables[split], self.features[split]
            rows = self.recipe.predictions(table, features, found[split])
            write_whole(self.directory / PREDICTIONS, "".join(_lines(table, rows)))
        scored = next(iter(figures), None)
        if scored is not None:
            table, features = self.tables[scored], self.features[scored]
            extras = self.recipe.tables(table, features, found[scored])
            best = {f"{scored} {name}": value for name, value in figures[scored].items()}
            extras["summary"] = {"task": self.config.task, "model": self.config.model, **best}
        logger.info("report: %s", write_report(self.directory, extras))


def make_recipe(config: FinetuneConfig, train: Table) -> Recipe:
    """The task's recipe, with the labels and the columns that the training split has."""
    settings: dict[str, Any] = dict(config.processing)
    glue = None
    if config.data.dataset.startswith("glue/"):
        task = glue_task(config.data.dataset)
        glue = task.name
        names = dict(zip(("text", "pair"), GLUE[glue].text_columns, strict=False))
        settings = {**names, "problem_type": task.problem_type, **settings}
        if task.label_names:
            settings.setdefault("labels", task.label_names)
    processor = PROCESSORS[config.task](**settings).fit(train)
    return RECIPES[config.task](processor, glue, config.scheme)


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
