"""SWAG's and CODAH's files as one form: a context, the choices that may follow it, a label."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jbert.data.delimited import read_csv, read_tsv
from jbert.data.rows import OnBadRow, Rows, checked
from jbert.data.table import UNLABELLED, Table

ENDINGS = tuple(f"ending{number}" for number in range(4))
# CODAH's files have no header; its paper's categories are idioms, references and so on, as letters.
CODAH_COLUMNS = ("category", "context", *ENDINGS, "label")


def read_swag(path: Path, rows: Rows) -> Table:
    """The first sentence is the context; the second one's start is part of every choice."""
    table = read_csv(path, rows)
    table.require("sent1", "sent2", *ENDINGS)
    starts = [start.strip() for start in table.columns["sent2"]]
    starts = [f"{start} " if start else "" for start in starts]
    return _choices(table, table.columns["sent1"], starts, rows.on_bad_row)


def read_codah(path: Path, rows: Rows) -> Table:
    table = read_tsv(path, rows, CODAH_COLUMNS)
    return _choices(table, table.columns["context"], [""] * len(table), rows.on_bad_row)


def _choices(
    table: Table, contexts: Sequence[str], starts: Sequence[str], on_bad_row: OnBadRow
) -> Table:
    endings = zip(*(table.columns[name] for name in ENDINGS), strict=True)
    made: dict[str, list[Any]] = {
        "context": list(contexts),
        "choices": [
            [start + ending for ending in four] for start, four in zip(starts, endings, strict=True)
        ],
    }
    problems: dict[int, str] = {}
    if "label" in table.columns:
        labels = [str(label) for label in table.columns["label"]]
        allowed = [str(number) for number in range(len(ENDINGS))]
        made["label"] = [int(label) if label in allowed else None for label in labels]
        for row, label in enumerate(labels):
            if label not in allowed:
                problems[row] = f"expected a label from 0 to 3, found {label!r}"
    result = table.replace(made)
    if "label" not in made:
        result.absent["label"] = UNLABELLED
    return checked(result, problems, on_bad_row)
