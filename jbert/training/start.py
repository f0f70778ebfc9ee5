"""The model and the tokenizer that a run starts from: published, saved, or new.

Configuration and tokenizer come first, for the data to be checked against, and the weights, which
take time, after that.
"""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jbert.atomic import replacing
from jbert.config import ModelConfig, default_labels, read_config_json
from jbert.initial import init_params
from jbert.load import ENCODER, default_task, from_config, load, read_config, read_tokenizer
from jbert.loaded import Bert
from jbert.locate import locate
from jbert.models import config_from_dict, presets
from jbert.processes import together
from jbert.tokenizer import Tokenizer
from jbert.training.config import RunConfig, RunError
from jbert.trees import flatten, unflatten

logger = logging.getLogger("jbert")

Scalar = int | float | bool | str


@dataclasses.dataclass(frozen=True)
class StartConfig:
    """What a run starts from, where that is not simply a model with its tokenizer."""

    scratch: bool = False
    """Take only the configuration of `model`, which may also be a config.json: random weights."""
    tokenizer: str = ""
    """A vocab.txt, a tokenizer.json, a directory or a hub id; by default the model's own."""
    vocab_size: int = 0
    """With scratch: train a tokenizer of this size on the training texts."""
    lowercase: bool = True
    """Of a tokenizer that is trained, or read from a vocab.txt."""
    overrides: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    """Fields of the model's configuration to change: --start.overrides.hidden_dropout_prob 0."""

    def __post_init__(self):
        if self.vocab_size and (self.tokenizer or not self.scratch):
            raise RunError(
                f"start.vocab_size is {self.vocab_size}, which trains a new tokenizer; that "
                "expects start.scratch, and no start.tokenizer"
            )
        if self.vocab_size < 0:
            raise RunError(f"start.vocab_size is {self.vocab_size}; expected at least 0")


@dataclasses.dataclass(frozen=True)
class Start:
    """What is known of a model before its weights are read.

    labels: the names of the classes that its head has learned, in their order; None without one.
    """

    run: RunConfig
    start: StartConfig
    task: str | None
    config: ModelConfig
    tokenizer: Tokenizer
    labels: tuple[str, ...] | None = None

    def model(self, head: Mapping[str, Any], mesh: Mesh, rules: str) -> Bert:
        """The model on its mesh; `head` is what `jbert.load` is told about its labels."""
        options: dict[str, Any] = {**dataclasses.asdict(self.run.execution), "mesh": mesh}
        options |= {"rules": rules, "seed": self.run.seed, **head}
        if self.start.scratch:
            bert = from_config(self.config, self.task, **options)
        else:
            task = ENCODER if self.task is None else self.task
            # What the task says of the head comes before what the user says of the model.
            bert = load(self.run.model, task, **{**self.start.overrides, **options})
            bert = self._with_right_head(bert, head)
        return dataclasses.replace(bert, tokenizer=self.tokenizer)

    def _with_right_head(self, bert: Bert, head: Mapping[str, Any]) -> Bert:
        """A head that has learned as many other classes fits by its shape alone: a new one."""
        wanted = tuple(head.get("id2label", {}).values())
        if not wanted or self.labels is None or len(self.labels) != len(wanted):
            return bert
        if self.labels == wanted:
            return bert
        logger.warning(
            "%s has learned the labels %s, the data have %s: the head starts anew",
            self.run.model, ", ".join(self.labels), ", ".join(wanted),
        )  # fmt: skip
        old = flatten(bert.params)
        of_head = tuple(path for path in old if not path.startswith("encoder/"))
        new = init_params(bert.module, self.run.seed, bert.mesh, bert.rules, only=of_head)
        return dataclasses.replace(bert, params=unflatten(old | new))


def find_start(
    run: RunConfig, start: StartConfig, task: str | None, texts: Iterable[str], directory: Path
) -> Start:
    """Configuration and tokenizer.

    texts, directory: what a new tokenizer is trained on, and where it is kept: a run that is
                      resumed must have the same one, and so must every process.
    """
    if start.scratch:
        return _from_scratch(run, start, task, texts, directory)
    path, _ = locate(run.model)
    place = path if path.is_dir() else path.parent
    stored = read_config(place, path)
    config = stored.replace(**start.overrides) if start.overrides else stored
    tokenizer = _named_tokenizer(start, config) or read_tokenizer(place, config)
    if tokenizer is None:
        raise RunError(_no_tokenizer(run.model))
    tokenizer.check_model(config.vocab_size)
    labels = labels_of(stored) if task is not None and default_task(path) == task else None
    return Start(run, start, task, config, tokenizer, labels)


def labels_of(config: ModelConfig) -> tuple[str, ...] | None:
    """The names of a head's classes, unless they are none but LABEL_0, LABEL_1, …"""
    names = config.id2label or {}
    if names == default_labels(len(names)):
        return None
    return tuple(names[number] for number in sorted(names))


def _from_scratch(
    run: RunConfig, start: StartConfig, task: str | None, texts: Iterable[str], directory: Path
) -> Start:
    config = _configuration(run.model)
    logger.info("%s: its configuration alone, with new weights (start.scratch)", run.model)
    overrides = dict(start.overrides)
    if overrides:
        config = config.replace(**overrides)
    if start.vocab_size:
        tokenizer = _trained_tokenizer(start, config, texts, directory)
    else:
        tokenizer = _named_tokenizer(start, config) or _own_tokenizer(run.model, config)
    if "vocab_size" not in overrides:
        config = config.replace(vocab_size=len(tokenizer))
    tokenizer.check_model(config.vocab_size)
    return Start(run, start, task, config, tokenizer)


def _configuration(name: str) -> ModelConfig:
    """A preset's configuration, or that of a config.json, or of the directory with one."""
    if name in presets():
        return presets()[name].config
    path = Path(name).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise RunError(
            f"model is {name!r}; with start.scratch expected a config.json, a directory with one, "
            f"or one of {', '.join(sorted(presets()))}"
        )
    return config_from_dict(read_config_json(path))


def _own_tokenizer(name: str, config: ModelConfig) -> Tokenizer:
    path = Path(name).expanduser()
    path = path.parent if path.is_file() else path
    try:
        return Tokenizer.from_pretrained(path if path.is_dir() else name, **_options(config))
    except FileNotFoundError as error:
        raise RunError(f"{_no_tokenizer(name)} ({error})") from error


def _no_tokenizer(name: str) -> str:
    return (
        f"model {name!r} has no tokenizer; say which one with --start.tokenizer, a vocab.txt, a "
        "tokenizer.json, a directory or a hub id, or with --start.scratch train one by "
        "--start.vocab_size"
    )


def _options(config: ModelConfig) -> dict[str, Any]:
    """What a tokenizer takes from its model."""
    return {
        "model_max_length": config.max_position_embeddings,
        "token_type_ids": config.model_type != "distilbert",
    }


def _trained_tokenizer(
    start: StartConfig, config: ModelConfig, texts: Iterable[str], directory: Path
) -> Tokenizer:
    with together():
        if jax.process_index() == 0 and not directory.is_dir():
            logger.info("training a tokenizer of %d entries", start.vocab_size)
            options = {"lowercase": start.lowercase, **_options(config)}
            _save(Tokenizer.train(texts, start.vocab_size, **options), directory)
    return Tokenizer.from_pretrained(directory)


def keep_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Beside a run's checkpoints, which can then be loaded before the run has ended."""
    with together():
        if jax.process_index() == 0 and not directory.is_dir():
            _save(tokenizer, directory)


def _save(tokenizer: Tokenizer, directory: Path) -> None:
    with replacing(directory) as staging:
        tokenizer.save(staging)


def _named_tokenizer(start: StartConfig, config: ModelConfig) -> Tokenizer | None:
    if not start.tokenizer:
        return None
    path, options = Path(start.tokenizer).expanduser(), _options(config)
    if path.suffix == ".txt":
        return Tokenizer.from_vocab(path, lowercase=start.lowercase, **options)
    if path.suffix == ".json":
        return Tokenizer.from_file(path, **options)
    return Tokenizer.from_pretrained(path if path.is_dir() else start.tokenizer, **options)
