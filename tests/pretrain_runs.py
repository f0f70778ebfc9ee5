"""A little text, and pretraining runs of a tiny model on it: what tests of pretraining run on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny
from finetune_runs import VOCABULARY, write_vocabulary

from jbert.sharding import make_mesh
from jbert.training.config import LoggingConfig, OptimizerConfig
from jbert.training.pretrain import CorpusConfig, PretrainConfig
from jbert.training.pretrain import run as module
from jbert.training.start import StartConfig

LENGTH = 24
HEADS = {"distilbert": {"n_layers": 1, "n_heads": 4}}


@pytest.fixture(scope="module", autouse=True)
def one_device(tmp_path_factory):
    """Tests that import this run on one device."""
    first = make_mesh(devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "mesh_of", lambda run: (first, run.mesh.rules))
        patch.setenv("JBERT_NO_COMPILE_CACHE", "1")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


def write_text(place: Path, documents: int = 40, seed: int = 0) -> str:
    """Documents of two to five sentences, in which a few words are frequent."""
    random, words = np.random.default_rng(seed), VOCABULARY[5:]
    texts = []
    for _ in range(documents):
        sentences = []
        for _ in range(random.integers(2, 6)):
            numbers = random.geometric(0.5, random.integers(4, 10)) - 1
            sentences.append(" ".join(words[n % len(words)] for n in numbers))
        texts.append("\n".join(sentences))
    (place / "text.txt").write_text("\n\n".join(texts) + "\n", "utf-8")
    return str(place / "text.txt")


def config(place: Path, arch: str = "bert", **changes: Any) -> PretrainConfig:
    """Three steps of 8 rows, of one narrow layer from scratch."""
    place.mkdir(exist_ok=True, parents=True)
    layers = HEADS.get(arch, {"num_hidden_layers": 1})
    tiny.config(arch, pad_token_id=0, **layers).to_json(place / "config.json")
    start = StartConfig(scratch=True, tokenizer=write_vocabulary(place))
    options: dict[str, Any] = {
        "output_dir": str(place / "run"), "model": str(place / "config.json"), "start": start,
        "data": CorpusConfig(
            train_files=(write_text(place),), validation_share=0.2, cache_dir=str(place / "cache")
        ),
        "max_length": LENGTH, "steps": 3, "batch_size": 8,
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
        "logging": LoggingConfig(steps=1, progress=False),
    }  # fmt: skip
    return PretrainConfig(**options | changes)


def again(run: PretrainConfig, **changes: Any) -> PretrainConfig:
    return dataclasses.replace(run, **changes)


def logged(run: PretrainConfig, timeless: bool = True) -> list[dict[str, Any]]:
    lines = (Path(run.output_dir) / "metrics.jsonl").read_text("utf-8").splitlines()
    times = ("examples_per_second", "tokens_per_second", "mfu") if timeless else ()
    return [
        {name: value for name, value in json.loads(line).items() if name not in times}
        for line in lines
    ]
