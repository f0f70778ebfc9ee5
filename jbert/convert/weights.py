"""Checkpoints' named arrays to parameters, and back: strict, and clear about what does not fit."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jbert.convert.rules import NameTable, Rule

# What wrappers put before every name: DataParallel, torch.compile, sentence-transformers.
_WRAPPERS = ("module.", "_orig_mod.", "0.auto_model.", "auto_model.", "model.")
# Index buffers that older transformers saved beside the weights.
_BUFFERS = re.compile(r"(.*\.)?embeddings\.(position_ids|token_type_ids)")
# TensorFlow's words for a norm's scale and shift, in many published files.
_GAMMA_BETA = {"gamma": "weight", "beta": "bias"}


class ConversionError(ValueError):
    """A checkpoint that does not fit the model; the message lists every name that is wrong."""


@dataclasses.dataclass(frozen=True)
class Matched:
    """How a checkpoint's names meet a model's parameters.

    sources: for each parameter path found, its rule and the name in the checkpoint.
    absent:  parameter paths of heads that the checkpoint does not have, to be initialised.
    unused:  names in the checkpoint that belong to heads this model does not have.
    """

    sources: dict[str, tuple[Rule, str]]
    absent: list[str]
    unused: list[str]


def canonical_names(names: Iterator[str] | list[str]) -> dict[str, str]:
    """Each name without wrappers and in the words of PyTorch, beside the name as stored."""
    names = [name for name in names if not _BUFFERS.fullmatch(name)]
    stripped = {name: name for name in names}
    changed = True
    while changed and stripped:
        changed = False
        for wrapper in _WRAPPERS:
            if all(short.startswith(wrapper) for short in stripped.values()):
                stripped = {n: short.removeprefix(wrapper) for n, short in stripped.items()}
                changed = True
    result = {}
    for name, short in stripped.items():
        head, dot, last = short.rpartition(".")
        result[name] = head + dot + _GAMMA_BETA.get(last, last)
    return result


def match(
    shapes: Mapping[str, tuple[int, ...]],
    table: NameTable,
    task: str | None,
    params: Mapping[str, Any],
    source: str,
    new_head: bool = False,
) -> Matched:
    """Pair a checkpoint's names and shapes with a model's parameter paths and shapes.

    Raises ConversionError with four labelled lists, of encoder weights that are missing or
    unexpected and of any that are set twice or have another shape. Weights of a head may be absent,
    and with `new_head` count as absent when their shape does not fit.
    """
    by_name = {rule.hf: rule for rule in table.rules(task, params)}
    copies = {copy: rule.hf for rule in by_name.values() for copy in rule.copies}
    found: dict[str, list[str]] = {}
    unexpected, unused = [], []
    for stored, name in canonical_names(list(shapes)).items():
        name = _with_prefix(name, table, task)
        if name in by_name:
            found.setdefault(name, []).append(stored)
        elif name in copies:
            # Where the two differ the copy is the one in use: transformers 5 ties an output bias
            # to its copy only together with the word embeddings, and reads the copy.
            found.setdefault(copies[name], []).insert(0, stored)
        elif _known_elsewhere(name, table):
            unused.append(stored)
        else:
            unexpected.append(stored)
    absent, missing, misshapen, twice = [], [], [], []
    sources = {}
    for name, rule in by_name.items():
        stored = found.get(name, [])
        optional = not is_encoder(rule.path, task)
        if not stored:
            (absent if optional else missing).append(rule.path if optional else name)
            continue
        if len(stored) > 1 and not _copies_of_each_other(stored, rule):
            twice.append(f"{name}: {', '.join(stored)}")
        expected = rule.transform.hf_shape(params[rule.path].shape)
        if tuple(shapes[stored[0]]) != expected and optional and new_head:
            absent.append(rule.path)
            continue
        if tuple(shapes[stored[0]]) != expected:
            misshapen.append(f"{stored[0]}: expected {expected}, found {tuple(shapes[stored[0]])}")
        sources[rule.path] = (rule, stored[0])
    problems = {"missing": missing, "unexpected": unexpected, "set twice": twice,
                "of another shape": misshapen}  # fmt: skip
    if any(problems.values()):
        raise ConversionError(_explain(source, problems))
    return Matched(sources, absent, unused)


def _explain(source: str, problems: Mapping[str, list[str]]) -> str:
    lines = [f"{source} does not fit the model:"]
    for label, entries in problems.items():
        lines += [f"  {label} ({len(entries)}):"] if entries else []
        lines += [f"    {entry}" for entry in entries]
    lines.append(
        "Is the config.json that of this checkpoint, and are task and num_labels those it was "
        "saved with?"
    )
    return "\n".join(lines)


def _with_prefix(name: str, table: NameTable, task: str | None) -> str:
    """Encoder names with the prefix that a model with this task has, or without."""
    bare = name.removeprefix(table.prefix + ".")
    if bare == name and name.split(".")[0] not in _encoder_roots(table):
        return name
    return bare if task is None else f"{table.prefix}.{bare}"


def _encoder_roots(table: NameTable) -> set[str]:
    return {rule.hf.split(".")[0] for rule in (*table.encoder, *table.pooler)}


def is_encoder(path: str, task: str | None) -> bool:
    """Whether a parameter must be in a checkpoint; those of heads and poolers may be new."""
    bare = path if task is None else path.removeprefix("encoder/")
    of_encoder = task is None or bare != path
    return of_encoder and not bare.startswith("pooler/")


def _known_elsewhere(name: str, table: NameTable) -> bool:
    """Whether another model of this architecture has this weight: a pooler, or another head."""
    bare = name.removeprefix(table.prefix + ".")
    if any(rule.hf == bare for rule in table.pooler):
        return True
    return any(name in (rule.hf, *rule.copies) for rules in table.heads.values() for rule in rules)


def _copies_of_each_other(stored: list[str], rule: Rule) -> bool:
    return (
        bool(rule.copies)
        and len(stored) <= 1 + len(rule.copies)
        and len({name.rpartition(".")[0] for name in stored}) == len(stored)
    )


def export(
    params: Mapping[str, Any], table: NameTable, task: str | None, tied: bool = False
) -> dict[str, np.ndarray]:
    """Parameters, flat by path, as Hugging Face's names and layouts.

    tied: leave out the copies, which transformers makes itself in a model with tied embeddings.
    """
    return {
        name: np.ascontiguousarray(rule.transform.to_hf(np.asarray(params[rule.path])))
        for rule in table.rules(task, params)
        for name in (rule.hf, *(() if tied else rule.copies))
    }
