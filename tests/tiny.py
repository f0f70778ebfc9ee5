"""A tiny configuration and a ragged batch for each architecture: what most tests run on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbert.config import ModelConfig
from jbert.execution import Execution
from jbert.loaded import abstract_params
from jbert.models import REGISTRY, model_class

VOCAB, LENGTH, BATCH = 99, 11, 3
_SHARED = {"vocab_size": VOCAB, "max_position_embeddings": 32}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
          "intermediate_size": 36, **_SHARED}  # fmt: skip
FIELDS: dict[str, dict[str, Any]] = {
    "bert": _SIZES,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 36, **_SHARED},
    "mobilebert": {
        **_SIZES,
        "embedding_size": 16,
        "intra_bottleneck_size": 16,
        "num_feedforward_networks": 3,
    },
    "convbert": {**_SIZES, "embedding_size": 16, "num_groups": 2, "conv_kernel_size": 5},
}
ARCHITECTURES = tuple(FIELDS)
PAIRS = [(arch, task) for arch in ARCHITECTURES for task in REGISTRY[arch].tasks]


def config(arch: str, task: str | None = None, **changes: Any) -> ModelConfig:
    if task == "causal_lm":
        changes = {"is_decoder": True, **changes}
    return REGISTRY[arch].config_class(**{**FIELDS[arch], **changes})


def batch(arch: str, task: str | None = None, seed: int = 0, length: int = LENGTH) -> dict:
    """Three rows of unequal length with two segments; with a second choice where the task wants."""
    rng = np.random.default_rng(seed)
    lengths = np.array([length, max(length - 4, 1), max(length - 7, 1)])
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    ids = rng.integers(3, VOCAB, (BATCH, length)).astype(np.int32) * mask
    inputs = {"input_ids": ids, "attention_mask": mask}
    if arch != "distilbert":
        segments = (np.arange(length) >= (lengths // 2)[:, None]).astype(np.int32)
        inputs["token_type_ids"] = segments * mask
    if task == "multiple_choice":
        # The other choice is another text of the same lengths.
        inputs = {k: np.stack([v, v], axis=1) for k, v in inputs.items()}
        other = rng.integers(3, VOCAB, (BATCH, length)).astype(np.int32) * mask
        inputs["input_ids"][:, 1] = other
    return inputs


def labels(task: str | None, inputs: dict, seed: int = 0, num_labels: int = 2) -> dict:
    """Labels for `batch`, with ignored positions where the task has any."""
    rng = np.random.default_rng(seed + 1)
    shape = inputs["input_ids"].shape
    tokens = rng.integers(0, VOCAB, shape).astype(np.int32)
    some = np.where(rng.random(shape) < 0.5, tokens, -100).astype(np.int32)
    some[:, 1] = tokens[:, 1]
    sentence = rng.integers(0, 2, shape[0]).astype(np.int32)
    per_token = np.where(inputs["attention_mask"] == 1, tokens % num_labels, -100).astype(np.int32)
    return {
        "pretraining": {"labels": some, "next_sentence_label": sentence},
        "masked_lm": {"labels": some},
        "causal_lm": {"labels": some},
        "next_sentence": {"labels": sentence},
        "sequence_classification": {"labels": sentence % num_labels},
        "multiple_choice": {"labels": sentence},
        "token_classification": {"labels": per_token},
        "question_answering": {
            "start_positions": np.array([1, 2, shape[-1]], np.int32),
            "end_positions": np.array([3, shape[-1] + 5, 2], np.int32),
        },
        "replaced_token_detection": {"labels": per_token},
    }.get(task or "", {})


def model(arch: str, task: str | None = None, execution: Execution | None = None, **changes: Any):
    """A module and parameters large enough that every weight moves the output."""
    cfg = config(arch, task, **changes)
    module = model_class(cfg, task)(cfg, execution or Execution())
    return module, random_params(abstract_params(module))


def random_params(shapes: Any, seed: int = 0, scale: float = 0.15) -> Any:
    """Normal values in every leaf (around 1 in norms' scales), the same for the same tree."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        values = rng.standard_normal(leaf.shape, np.float32) * scale
        # Around 0 they would make MobileBERT, whose norms do not normalise, forget its input.
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(values + centre, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)
