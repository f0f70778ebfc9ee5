"""What the parity tests run on: every variant of every architecture, tiny, and ragged batches."""

from typing import Any

import numpy as np
import tiny

from jbert.models import REGISTRY

LENGTH = 11
ROWS = 4
# Of a text and of its other choices; a multiple of nothing, and one row of a single token.
LENGTHS = np.array([LENGTH, 8, 5, 1])

BASE: dict[str, dict[str, Any]] = {
    **tiny.FIELDS,
    "mobilebert": {**tiny.FIELDS["mobilebert"], "num_feedforward_networks": 2},
}

_SHARED: dict[str, dict[str, Any]] = {
    "default": {},
    "no_pad": {"pad_token_id": None},
    "pad_5": {"pad_token_id": 5},
    "untied": {"tie_word_embeddings": False},
}
_TYPES = {"types_1": {"type_vocab_size": 1}, "types_4": {"type_vocab_size": 4}}
_ACTS = {act: {"hidden_act": act} for act in ("gelu", "relu", "silu", "gelu_new")}
_LARGE_EPS = {"large_eps": {"layer_norm_eps": 0.1}}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "bert": {
        **_SHARED,
        **_TYPES,
        **_LARGE_EPS,
        **{k: v for k, v in _ACTS.items() if k != "gelu"},
        "decoder": {"is_decoder": True},
    },
    "distilbert": {
        **_SHARED,
        "sinusoidal": {"sinusoidal_pos_embds": True},
        "other_vocab": {"vocab_size": 120},
        **{act: {"activation": act} for act in ("relu", "silu", "gelu_new")},
    },
    "mobilebert": {
        **_SHARED,
        **_TYPES,
        "gelu": {"hidden_act": "gelu"},
        "no_bottleneck": {"use_bottleneck": False},
        "bottleneck_attention": {"use_bottleneck_attention": True},
        # The reference has no other widths for this one: its queries read the whole hidden state
        # through weights as wide as the bottleneck.
        "neither": {"key_query_shared_bottleneck": False, "intra_bottleneck_size": 32},
        "bottleneck_attention_alone": {
            "use_bottleneck_attention": True, "key_query_shared_bottleneck": False,
        },
        "layer_norm": {"normalization_type": "layer_norm", "layer_norm_eps": 0.1},
        "layer_norm_no_bottleneck": {
            "normalization_type": "layer_norm", "layer_norm_eps": 0.1, "use_bottleneck": False,
        },
        "layer_norm_bottleneck_attention": {
            "normalization_type": "layer_norm", "use_bottleneck_attention": True,
        },
        "no_trigram": {"trigram_input": False},
        "no_trigram_same_width": {"trigram_input": False, "embedding_size": 32},
        "trigram_same_width": {"embedding_size": 32},
        "ffn_1": {"num_feedforward_networks": 1},
        "ffn_3": {"num_feedforward_networks": 3},
        "ffn_4": {"num_feedforward_networks": 4},
        "no_classifier_activation": {"classifier_activation": False},
    },
    "convbert": {
        **_SHARED,
        **_TYPES,
        **_LARGE_EPS,
        "relu": {"hidden_act": "relu"},
        "ratio_1": {"head_ratio": 1},
        "ratio_4": {"head_ratio": 4},
        "ratio_beyond_heads": {"head_ratio": 8},
        "ungrouped": {"num_groups": 1},
        "same_width": {"embedding_size": 32},
        "taps_3": {"conv_kernel_size": 3},
        "taps_9": {"conv_kernel_size": 9},
    },
}  # fmt: skip

# Fields that only the heads of these tasks read.
OF_TASKS: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("convbert", "multiple_choice"): {
        **{f"summary_{kind}": {"summary_type": kind} for kind in ("first", "mean", "cls_index")},
        "summary_projected": {"summary_use_proj": True},
        "summary_tanh": {"summary_use_proj": True, "summary_activation": "tanh",
                         "summary_type": "first"},
        "summary_gelu": {"summary_activation": "gelu"},
    },
    **{(arch, "token_classification"): {"labels_5": {"num_labels": 5}} for arch in BASE},
}  # fmt: skip


def cases() -> list[tuple[str, str, str | None]]:
    """(architecture, variant, task), every one of every one."""
    found: list[tuple[str, str, str | None]] = []
    for arch, variants in VARIANTS.items():
        for task in REGISTRY[arch].tasks:
            names = [*variants, *OF_TASKS.get((arch, task or ""), ())]
            found += [(arch, name, task) for name in names]
    return found


def fields(arch: str, variant: str, task: str | None) -> dict[str, Any]:
    changes = VARIANTS[arch].get(variant)
    if changes is None:
        changes = OF_TASKS[arch, task or ""][variant]
    decoder = {"is_decoder": True} if task == "causal_lm" else {}
    return {**BASE[arch], **decoder, **changes}


def batch(arch: str, task: str | None, config: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Four rows of unequal length, with all the token types; two by two where there are choices."""
    rng = np.random.default_rng(seed)
    positions = np.arange(LENGTH)
    mask = (positions < LENGTHS[:, None]).astype(np.int32)
    ids = rng.integers(0, config.vocab_size, (ROWS, LENGTH)).astype(np.int32)
    pad = 0 if config.pad_token_id is None else config.pad_token_id
    ids = np.where(mask == 1, ids, pad).astype(np.int32)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if arch != "distilbert":
        types = config.type_vocab_size
        share = np.maximum(LENGTHS // types, 1)[:, None]
        segments = np.minimum(positions[None] // share, types - 1)
        inputs["token_type_ids"] = (segments * mask).astype(np.int32)
    if task == "multiple_choice":
        inputs = {name: value.reshape(2, 2, LENGTH) for name, value in inputs.items()}
    return inputs


def labels(task: str | None, config: Any, inputs: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Labels for `batch` under transformers' argument names, with positions to ignore."""
    rng = np.random.default_rng(seed + 1)
    shape = inputs["input_ids"].shape
    tokens = rng.integers(0, config.vocab_size, shape).astype(np.int32)
    ignored = (rng.random(shape) < 0.5) | (inputs["attention_mask"] == 0)
    some = np.where(ignored, -100, tokens).astype(np.int32)
    some[:, 1] = tokens[:, 1]
    rows = rng.integers(0, 2, shape[0]).astype(np.int32)
    outside = inputs["attention_mask"] == 0
    if task == "pretraining":
        return {"labels": some, "next_sentence_label": rows}
    if task in ("masked_lm", "causal_lm"):
        return {"labels": some}
    if task in ("next_sentence", "sequence_classification", "multiple_choice"):
        return {"labels": rows}
    if task == "token_classification":
        return {"labels": np.where(outside, -100, tokens % config.num_labels).astype(np.int32)}
    if task == "question_answering":
        # In the text; the last position; the first that is ignored; clamped from above and below.
        return {
            "start_positions": np.array([2, LENGTH - 1, LENGTH, -3], np.int32),
            "end_positions": np.array([LENGTH + 7, 3, 4, 0], np.int32),
        }
    if task == "replaced_token_detection":
        return {"labels": (tokens % 2).astype(np.int32)}
    return {}
