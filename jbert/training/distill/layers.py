"""Which layer of a teacher a layer of its student goes with, counted from 0 in both."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from jbert.training.config import RunError

Pairs = tuple[tuple[int, int], ...]
# What has no teacher in an explicit map.
NONE = -1


def spread_layers(student: int, teacher: int) -> tuple[int, ...]:
    """The teacher's layers that a student starts from: the first, the last, and evenly between.

    Six of twelve are 0, 2, 4, 7, 9, 11, as DistilBERT was made.
    """
    if student > teacher:
        raise RunError(
            f"the student has {student} layers, more than the {teacher} of its teacher, so that "
            "not each can start from one; name the layers one by one, or use a deeper teacher"
        )
    return tuple(int(i) for i in np.rint(np.linspace(0, teacher - 1, student)))


def pair_layers(
    layers: Literal["uniform", "last"] | Sequence[int], student: int, teacher: int
) -> Pairs:
    """(student's layer, teacher's layer) for each pair that is compared.

    layers: "uniform", where the teacher's layers are cut into as many blocks as the student has
            layers, and each of these is compared with the last of its block; "last", the teacher's
            last ones; or for each layer of the student the teacher's, -1 for none.
    """
    if not isinstance(layers, str):
        return _explicit(tuple(layers), student, teacher)
    if student > teacher:
        raise RunError(
            f"transfer.layers is {layers!r}, but the student has {student} layers and its teacher "
            f"only {teacher}; expected a teacher at least as deep, or the layers one by one"
        )
    if layers == "last":
        return tuple((i, teacher - student + i) for i in range(student))
    return tuple((i, (i + 1) * teacher // student - 1) for i in range(student))


def _explicit(layers: tuple[int, ...], student: int, teacher: int) -> Pairs:
    if len(layers) != student:
        raise RunError(
            f"transfer.layers names {len(layers)} layers of the teacher; expected {student}, one "
            f"for each layer of the student, {NONE} for none"
        )
    check_range("transfer.layers", layers, teacher, NONE)
    pairs = tuple((i, layer) for i, layer in enumerate(layers) if layer != NONE)
    if not pairs:
        raise RunError(f"transfer.layers is {layers}, which compares nothing; name at least one")
    return pairs


def check_range(name: str, layers: Sequence[int], teacher: int, least: int = 0) -> None:
    bad = [layer for layer in layers if not least <= layer < teacher]
    if bad:
        raise RunError(
            f"{name} names layer {bad[0]} of a teacher with {teacher} layers; expected "
            f"{least} to {teacher - 1}"
        )
