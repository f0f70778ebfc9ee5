"""Parameter trees as flat dicts, "layer_0/attention/query/kernel" -> array, and back."""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    return dict(traverse_util.flatten_dict(tree, sep="/"))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    return dict(traverse_util.unflatten_dict(flat, sep="/"))
