"""From the scores of tokens to entities: transformers' aggregation strategies."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

STRATEGIES = ("none", "simple", "first", "average", "max")
# How IOB1, IOB2, BILOU and IOBES mark a token; in IOB1 only an entity right after one of its own
# kind starts with B, which is what is asked of B below.
STARTS = ("B", "U", "S")
ENDS = ("L", "U", "E", "S")
PREFIXES = ("I", *STARTS, *ENDS)

Join = Callable[[list[str]], str]


def split_label(label: str, prefixes: Sequence[str]) -> tuple[str, str]:
    """("B", "PER") of "B-PER"; a label without a prefix continues."""
    prefix, dash, kind = label.partition("-")
    return (prefix, kind) if dash and prefix in prefixes else ("I", label)


def known_prefixes(labels: Sequence[str]) -> tuple[str, ...]:
    """The prefixes of a label set: beyond B and I only where every label but O has one of all."""
    marked = [label for label in labels if label != "O"]
    every = all(label[1:2] == "-" and label[0] in PREFIXES for label in marked)
    return PREFIXES if every else ("B", "I")


def best(scores: np.ndarray, names: Mapping[int, str]) -> tuple[str, float]:
    place = int(scores.argmax())
    return names[place], float(scores[place])


def aggregate(
    tokens: list[dict[str, Any]], strategy: str, names: Mapping[int, str], join: Join
) -> list[dict[str, Any]]:
    """Entities of tokens that have word, scores, start, end, index and is_subword."""
    if strategy in ("none", "simple"):
        entities = []
        for token in tokens:
            label, score = best(token["scores"], names)
            place = {key: token[key] for key in ("index", "word", "start", "end")}
            entities.append({"entity": label, "score": score, **place})
        return entities if strategy == "none" else group(entities, names, join)
    words: list[list[dict]] = []
    for token in tokens:
        if words and token["is_subword"]:
            words[-1].append(token)
        else:
            words.append([token])
    return group([one_word(word, strategy, names, join) for word in words], names, join)


def one_word(
    tokens: list[dict[str, Any]], strategy: str, names: Mapping[int, str], join: Join
) -> dict[str, Any]:
    """A word with one label, though its tokens may disagree."""
    if strategy == "first":
        scores = tokens[0]["scores"]
    elif strategy == "max":
        scores = max(tokens, key=lambda token: token["scores"].max())["scores"]
    else:
        scores = np.stack([token["scores"] for token in tokens]).mean(axis=0)
    label, score = best(scores, names)
    return {
        "entity": label,
        "score": score,
        "word": join([token["word"] for token in tokens]),
        "start": tokens[0]["start"],
        "end": tokens[-1]["end"],
    }


def group(entities: list[dict], names: Mapping[int, str], join: Join) -> list[dict[str, Any]]:
    """Joins neighbours with one kind of entity, unless their marks say that they are two."""
    prefixes = known_prefixes(list(names.values()))
    groups: list[list[dict]] = []
    last = ("", "")
    for entity in entities:
        mark, kind = split_label(entity["entity"], prefixes)
        joined = kind == last[1] and mark not in STARTS and last[0] not in ENDS
        if groups and joined:
            groups[-1].append(entity)
        else:
            groups.append([entity])
        last = (mark, kind)
    return [
        {
            "entity_group": split_label(members[0]["entity"], prefixes)[1],
            "score": float(np.mean([entity["score"] for entity in members])),
            "word": join([entity["word"] for entity in members]),
            "start": members[0]["start"],
            "end": members[-1]["end"],
        }
        for members in groups
    ]


def without_overlaps(entities: list[dict]) -> list[dict]:
    """Where windows overlap, the longer of two entities, or the more certain of two as long."""
    kept: list[dict] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
            continue
        size = lambda e: (e["end"] - e["start"], e["score"])  # noqa: E731
        if size(entity) > size(kept[-1]):
            kept[-1] = entity
    return kept
