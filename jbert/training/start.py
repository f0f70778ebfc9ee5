"""The model and the tokenizer that a run starts from: published, saved, or new."""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jbert.atomic import replacing
from jbert.config import ModelConfig, read_config_json
from jbert.load import ENCODER, from_config, load
from jbert.loaded import Bert
from jbert.models import config_from_dict, presets
from jbert.tokenizer import Tokenizer
from jbert.training.config import RunConfig, RunError
from jbert.training.processes import together

logger = logging.getLogger("jbert")


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
    overrides: Mapping[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    """Fields of the model's configuration to change, such as hidden_dropout_prob 0."""

    def __post_init__(self):
        if self.vocab_size and (self.tokenizer or not self.scratch):
            raise RunError(
                f"start.vocab_size is {self.vocab_size}, which trains a new tokenizer; that "
                "expects start.scratch, and no start.tokenizer"
            )


def start_model(
    run: RunConfig,
    start: StartConfig,
    task: str | None,
    head: Mapping[str, Any],
    mesh: Mesh,
    rules: str,
    texts: Iterable[str],
    directory: Path,
) -> Bert:
    """The model on its mesh, with its tokenizer.

    texts, directory: what a new tokenizer is trained on, and where it is kept: a run that is
                      resumed must have the same one, and so must every process.
    """
    options: dict[str, Any] = {**dataclasses.asdict(run.execution), "mesh": mesh, "rules": rules}
    options |= {"seed": run.seed, **head, **start.overrides}
    if not start.scratch:
        bert = load(run.model, ENCODER if task is None else task, **options)
        tokenizer = _read_tokenizer(start) or bert.tokenizer
        return _with_tokenizer(bert, tokenizer, run.model)
    if start.vocab_size:
        tokenizer = _trained_tokenizer(start, texts, directory)
        options["vocab_size"] = len(tokenizer)
    else:
        tokenizer = _read_tokenizer(start) or Tokenizer.from_pretrained(run.model)
        options.setdefault("vocab_size", len(tokenizer))
    return _with_tokenizer(from_config(_configuration(run.model), task, **options), tokenizer, "")


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


def _trained_tokenizer(start: StartConfig, texts: Iterable[str], directory: Path) -> Tokenizer:
    with together():
        if jax.process_index() == 0 and not directory.is_dir():
            logger.info("training a tokenizer of %d entries", start.vocab_size)
            trained = Tokenizer.train(texts, start.vocab_size, lowercase=start.lowercase)
            with replacing(directory) as staging:
                trained.save(staging)
    return Tokenizer.from_pretrained(directory)


def _read_tokenizer(start: StartConfig) -> Tokenizer | None:
    if not start.tokenizer:
        return None
    path = Path(start.tokenizer).expanduser()
    if path.suffix == ".txt":
        return Tokenizer.from_vocab(path, lowercase=start.lowercase)
    if path.suffix == ".json":
        return Tokenizer.from_file(path)
    return Tokenizer.from_pretrained(start.tokenizer)


def _with_tokenizer(bert: Bert, tokenizer: Tokenizer | None, name: str) -> Bert:
    if tokenizer is None:
        raise RunError(
            f"model {name!r} has no tokenizer; say which one with --start.tokenizer, a vocab.txt, "
            "a tokenizer.json, a directory or a hub id"
        )
    tokenizer.check_model(bert.config.vocab_size)
    return dataclasses.replace(bert, tokenizer=tokenizer)
