"""What a sentence-transformers directory says about pooling, in its own words or not at all."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jbert.vocabulary import read_text

SUPPORTED = ["Transformer", "Pooling", "Normalize"]
# sentence-transformers' flags in the order in which it joins the vectors they ask for.
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
}


@dataclasses.dataclass(frozen=True)
class SentenceSettings:
    """What the directory settles; None where it leaves the choice to the caller."""

    transformer: Path
    pooling: str | None = None
    normalize: bool | None = None
    max_seq_length: int | None = None
    lowercase: bool | None = None


def read_settings(directory: Path) -> SentenceSettings:
    """The settings in a directory; one without modules.json settles nothing."""
    if not (directory / "modules.json").is_file():
        return SentenceSettings(directory)
    modules = _read(directory / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise ValueError(f"{directory}/modules.json: expected a list of modules")
    kinds = [_kind(module) for module in modules]
    if kinds not in (SUPPORTED[:2], SUPPORTED):
        raise ValueError(
            f"{directory}/modules.json: expected Transformer, Pooling and maybe Normalize, found "
            f"{kinds}; without one of its modules the embeddings would be others"
        )
    transformer = directory / modules[0].get("path", "")
    pooling = _pooling(directory / modules[1].get("path", "") / "config.json")
    sentence = {}
    for name in ("sentence_bert_config.json", "sentence_distilbert_config.json"):
        if (transformer / name).is_file():
            sentence = _read(transformer / name)
    return SentenceSettings(
        transformer,
        pooling,
        "Normalize" in kinds,
        sentence.get("max_seq_length"),
        sentence.get("do_lower_case") or None,
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None


def _kind(module: dict[str, Any]) -> str:
    """The class of a module; with its package if that is not sentence-transformers'."""
    full = str(module.get("type", ""))
    return full.rpartition(".")[2] if full.startswith("sentence_transformers.") else full


def _pooling(path: Path) -> str:
    config = _read(path)
    if isinstance(config.get("pooling_mode"), str):
        chosen = [config["pooling_mode"]]
    else:
        asked = [name for name, on in config.items() if name.startswith("pooling_mode_") and on]
        if unknown := [name for name in asked if name not in MODES]:
            raise ValueError(f"{path}: {unknown[0]} is not supported; expected one of {[*MODES]}")
        chosen = [mode for name, mode in MODES.items() if name in asked]
    if len(chosen) != 1 or chosen[0] not in MODES.values():
        raise ValueError(f"{path}: found the poolings {chosen}; expected one of cls, max and mean")
    return chosen[0]
