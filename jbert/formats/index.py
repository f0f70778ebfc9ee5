"""Sharded weights: a `*.index.json` that says which file holds which tensor."""

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jbert.formats import strict_json
from jbert.formats.errors import FormatError, WeightsNotFoundError, clip, listing
from jbert.formats.mapped import MappedFile
from jbert.formats.weights import Tensor, Weights

# The suffix that every shard of an index must have: a safetensors index that names a .bin file
# would smuggle a pickle past someone who chose safetensors to have none.
SUFFIXES = (".safetensors", ".bin", ".msgpack")
MAX_INDEX = 1 << 24
MAX_SHARDS = 10_000
AGAIN = "Download the index and its shards again, from one revision"


def open_index(path: Path, open_shard: Callable[[Path], Weights]) -> Weights:
    """All tensors of the shards that `path` names, as one `Weights`."""
    index = _parse(path)
    weight_map = _weight_map(path, index)
    shards = sorted(set(weight_map.values()))
    _check_names(path, shards)
    missing = [shard for shard in shards if not os.path.isfile(path.parent / shard)]
    if missing:
        raise WeightsNotFoundError(
            path,
            f"{len(shards)} shards beside it",
            f"{len(missing)} missing: {listing(missing, limit=200)}",
            "Download the missing files into the same directory",
        )
    opened: dict[str, Weights] = {}
    for shard in shards:
        opened[shard] = open_shard(path.parent / shard)
    formats = {weights.format for weights in opened.values()}
    if len(formats) > 1:
        raise _bad(path, f"shards of several formats: {listing(formats)}")
    tensors = _merge(path, weight_map, opened)
    _check_total(path, index, tensors)
    files = tuple(opened.values())
    return Weights(path, formats.pop(), tensors, files, next(iter(files)).metadata)


def _parse(path: Path) -> dict[str, Any]:
    file = MappedFile(path)
    if file.size > MAX_INDEX:
        raise _bad(path, f"{file.size} bytes, over the limit of {MAX_INDEX}")
    try:
        index = strict_json.parse(file.read(0, file.size))
    except strict_json.JsonError as error:
        raise _bad(path, str(error)) from error
    file.close()
    if not isinstance(index, dict):
        raise _bad(path, "JSON that is not an object")
    return index


def _weight_map(path: Path, index: dict[str, Any]) -> dict[str, str]:
    table = index.get("weight_map")
    if not isinstance(table, dict) or not table:
        raise _bad(path, "no weight_map, or an empty one")
    if not all(isinstance(shard, str) for shard in table.values()):
        raise _bad(path, "a weight_map whose values are not file names")
    return table


def _check_names(path: Path, shards: list[str]) -> None:
    """Shards lie beside the index or below it, and all are of the index's own kind."""
    if len(shards) > MAX_SHARDS:
        raise _bad(path, f"{len(shards)} shards, over the limit of {MAX_SHARDS}")
    for shard in shards:
        # Both separators and the drive colon, so that a name means the same on every system.
        parts = shard.split("/")
        if re.search(r"[\\:\x00-\x1f]", shard) or any(part in ("", ".", "..") for part in parts):
            raise FormatError(
                path,
                "shards in the index's own directory",
                f"the name {clip(shard)}, which points outside it",
                "Do not trust this checkpoint; get it from its publisher",
            )
    declared = [suffix for suffix in SUFFIXES if path.name.endswith(f"{suffix}.index.json")]
    allowed = declared or [suffix for suffix in SUFFIXES if shards[0].endswith(suffix)]
    odd = [shard for shard in shards if not allowed or not shard.endswith(allowed[0])]
    if odd:
        raise FormatError(
            path,
            f"shards that end in {allowed[0] if allowed else ' or '.join(SUFFIXES)}",
            listing(odd),
            "Do not trust this checkpoint; get it from its publisher",
        )


def _merge(path: Path, weight_map: dict[str, str], opened: dict[str, Weights]) -> dict[str, Tensor]:
    problems = []
    holders: dict[str, list[str]] = {}
    for shard, weights in opened.items():
        for name in weights:
            holders.setdefault(name, []).append(shard)
    twice = [name for name, shards in holders.items() if len(shards) > 1]
    if twice:
        problems.append(f"tensors in more than one shard: {listing(twice)}")
    absent = [name for name, shard in weight_map.items() if name not in opened[shard]]
    if absent:
        problems.append(f"tensors that their shard does not hold: {listing(absent)}")
    unlisted = [name for name in holders if name not in weight_map]
    if unlisted:
        problems.append(f"tensors that the index does not list: {listing(unlisted)}")
    if problems:
        raise _bad(path, "; ".join(problems))
    return {name: opened[shard][name] for name, shard in weight_map.items()}


def _check_total(path: Path, index: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    notes = index.get("metadata")
    declared = notes.get("total_size") if isinstance(notes, dict) else None
    if declared is None:
        return
    # Writers disagree on whether tied weights count once or each time.
    each = sum(tensor.nbytes for tensor in tensors.values())
    once = sum({tensor.storage: tensor.nbytes for tensor in tensors.values()}.values())
    if declared not in (each, once):
        warnings.warn(
            f"{path}: metadata says total_size {clip(declared)}, the shards hold {each} bytes",
            stacklevel=4,
        )


def _bad(path: Path, found: str) -> FormatError:
    return FormatError(path, "an index of sharded weights", found, AGAIN)
