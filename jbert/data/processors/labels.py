"""Names of classes: how values spell them, which there are, and which number each has."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jbert.data.table import DataError, Table

# More classes than any of our tasks has: what is in the column must be something else.
MOST = 10_000


def labelled(table: Table, column: str) -> bool:
    """Whether the split has labels; those of test sets are left out, empty, or -1 throughout."""
    return any(value not in (None, "", -1) for value in table.columns.get(column, ()))


def require_labels(table: Table, column: str) -> None:
    """Checks that a training split has a label in every row."""
    table.require(column)
    if not labelled(table, column):
        raise DataError(f"{table.source}: expected labels in {column!r} to train on, found none")


def spell(table: Table, column: str, row: int, value: Any) -> str:
    """The name of a value's class: numbers are names too, unless the table knows better ones."""
    names = table.label_names.get(column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        if names is None:
            return str(value)
        if 0 <= value < len(names):
            return names[value]
        raise DataError(
            f"{table.where(row)}: {column!r} is {value}; expected the number of a class, 0 to "
            f"{len(names) - 1} ({_listed(names)})"
        )
    if isinstance(value, str) and value:
        return value
    raise DataError(
        f"{table.where(row)}: expected a label in {column!r}, found {value!r:.80}. Labels are "
        "names or whole numbers; numbers to predict need problem_type='regression'"
    )


def infer(table: Table, column: str, names: Iterable[str]) -> tuple[str, ...]:
    """The classes of a training split: those the table lists, or what occurs, sorted."""
    listed = table.label_names.get(column)
    found = set(names)
    if listed is not None:
        return listed
    if len(found) > MOST:
        raise DataError(
            f"{table.source}: {column!r} has {len(found)} different values, such as "
            f"{min(found)!r:.80}; expected the labels of classes"
        )
    if all(re.fullmatch(r"-?\d+", name) for name in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


class Numbers:
    """The number of each label, for one column of a table."""

    def __init__(self, table: Table, column: str, labels: Sequence[str]):
        self.table, self.column, self.labels = table, column, labels
        self.numbers = {name: number for number, name in enumerate(labels)}

    def number(self, row: int, value: Any) -> int:
        name = spell(self.table, self.column, row, value)
        if name in self.numbers:
            return self.numbers[name]
        near = difflib.get_close_matches(name, self.labels, n=1, cutoff=0.5)
        hint = f"; nearest to it is {near[0]!r}" if near else ""
        raise DataError(
            f"{self.table.where(row)}: {self.column!r} is {name!r:.80}, which is none of the "
            f"labels {_listed(self.labels)}{hint}. Correct the row, or list all labels in `labels`"
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:20]))
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"
