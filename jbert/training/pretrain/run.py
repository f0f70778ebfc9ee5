"""Pretraining, from a configuration to a finished model: `jbert pretrain`, `train/pretrain.py`."""

import json
import logging
from pathlib import Path
from typing import Any

import jax

from jbert.card import write_run_card
from jbert.data.splits import TRAIN, VALIDATION
from jbert.loaded import Bert
from jbert.metrics import greater_is_better
from jbert.models import model_class
from jbert.save import save
from jbert.training.attempt import attempt
from jbert.training.cluster import join
from jbert.training.config import RunError
from jbert.training.directory import FIGURES, GENERATOR, MODEL, TOKENIZER, RunDirectory, write_whole
from jbert.training.evaluation import Evaluation
from jbert.training.loop import Trainer
from jbert.training.parallel import mesh_of
from jbert.training.pretrain import detection
from jbert.training.pretrain import objective as filling_in
from jbert.training.pretrain.config import METRICS, PretrainConfig
from jbert.training.pretrain.generator import generator_config, new_generator
from jbert.training.pretrain.text import (
    evaluated_rows,
    read_corpora,
    training_order,
    training_texts,
)
from jbert.training.recipes import Figures
from jbert.training.report import write_report
from jbert.training.start import Start, find_start, keep_tokenizer

logger = logging.getLogger("jbert")


def pretrain(config: PretrainConfig) -> dict[str, Figures]:
    """Run it, and return the model's figures on what was held out, at each of the run's lengths."""
    join(config.cluster)
    directory = RunDirectory(config)
    with directory.prepare(config), attempt(directory.path, TOKENIZER):
        return Pretraining(config).run()


class Pretraining:
    """One run: text, model and trainer, made in the order in which they need each other.

    What can be wrong with the text is found before the weights are made or anything is compiled.
    """

    def __init__(self, config: PretrainConfig):
        self.config = config
        self.directory = Path(config.output_dir).expanduser().resolve()
        tokenizer = self.directory / TOKENIZER
        start = find_start(config, config.start, config.task, training_texts(config), tokenizer)
        self._check(start)
        corpora = read_corpora(config, start.tokenizer)
        order = training_order(config, corpora[TRAIN])
        self.evaluated = evaluated_rows(config, corpora[VALIDATION])
        keep_tokenizer(start.tokenizer, tokenizer)
        self.bert = self._model(start)
        self.generator, self.companions = None, None
        self.part = filling_in
        if config.task == detection.REPLACED:
            self.part = detection
            self.generator, self.companions = new_generator(
                self.bert, config.generator, config.seed
            )
        metric = config.evaluation.metric or METRICS[config.task][0]
        self.trainer = Trainer(
            config, self.bert, order,
            {name: Evaluation(rows, self.part.score) for name, rows in self.evaluated.items()},
            predict=self.part.keep, metric=metric, greater_is_better=greater_is_better(metric),
            **self._beside(),
        )  # fmt: skip

    def _check(self, start: Start) -> None:
        """Refuse what cannot be trained so, before anything takes time."""
        model_class(start.config, self.config.task)
        check_lengths(self.config, start)
        check_vocabulary(start)
        if self.config.task == detection.REPLACED:
            generator_config(start.config, self.config.generator)

    def _model(self, start: Start) -> Bert:
        return start.model({}, *mesh_of(self.config))

    def _beside(self) -> dict[str, Any]:
        """What the trainer is told besides: what is minimised, and other parameters for it."""
        return {"objective": self._objective(), "companions": self.companions}

    def _objective(self) -> detection.ReplacedTokens | filling_in.MaskedTokens:
        config, module = self.config, self.bert.module
        if self.generator is None:
            return filling_in.MaskedTokens(module, config.task, config.chunked_loss)
        weights = config.generator.weight, config.generator.discriminator_weight
        return detection.ReplacedTokens(module, self.generator, weights)

    def run(self) -> dict[str, Figures]:
        best = self.trainer.fit()
        save(best, self.directory / MODEL, force=True)
        if self.generator is not None:
            generator = self.generator.model(best, self.trainer.companions)
            save(generator, self.directory / GENERATOR, force=True)
        figures: dict[str, Figures] = {}
        for name, rows in self.evaluated.items():
            sums, found = self.trainer.predict_best(rows)
            figures[name] = {"loss": sums.loss(), **self.part.score(found, sums.loss())}
        if jax.process_index() == 0:
            self._write(figures)
            write_run_card(best, self.directory / MODEL, self.config, figures)
        return figures

    def _write(self, figures: dict[str, Figures]) -> None:
        write_whole(self.directory / FIGURES, json.dumps(figures, indent=2) + "\n")
        last = {f"{name} {key}": x for name, found in figures.items() for key, x in found.items()}
        summary = {"task": self.config.task, "model": self.config.model, **last}
        logger.info("report: %s", write_report(self.directory, {"summary": summary}))


def check_lengths(config: PretrainConfig, start: Start) -> None:
    room, longest = start.config.max_position_embeddings, max(config.lengths())
    if longest > room:
        what = "a phase's length" if config.phases else "max_length"
        raise RunError(
            f"{what} is {longest}, but the model has {room} positions; expected at most {room}, or "
            "with start.scratch a model with more: --start.overrides.max_position_embeddings"
        )


def check_vocabulary(start: Start) -> None:
    """Embeddings that were learned mean nothing under another tokenizer's numbers."""
    given, size = start.start, start.config.vocab_size
    if given.tokenizer and not given.scratch and len(start.tokenizer) != size:
        raise RunError(
            f"start.tokenizer has {len(start.tokenizer)} tokens, but the model has learned "
            f"embeddings of {size}; expected as many, or no start.tokenizer for the model's own, "
            "or start.scratch"
        )
