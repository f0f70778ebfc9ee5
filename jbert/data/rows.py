"""How every reader gathers its rows, and what becomes of a bad one."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

from jbert.data.table import DataError, DataWarning, Table

OnBadRow = Literal["error", "skip"]


class Rows:
    """The rows read so far. A bad one ends the reading, or is skipped, counted and reported."""

    def __init__(self, source: str, on_bad_row: OnBadRow = "error") -> None:
        if on_bad_row not in get_args(OnBadRow):
            raise ValueError(f"on_bad_row is {on_bad_row!r}, expected 'error' or 'skip'")
        self.source = source
        self.on_bad_row: OnBadRow = on_bad_row
        self.columns: dict[str, list[Any]] = {}
        self.places: list[int | str] = []
        self.skipped: list[str] = []

    def add(self, place: int | str, row: Mapping[str, Any]) -> None:
        for name in row:
            if name not in self.columns:
                self.columns[name] = [None] * len(self.places)
        for name, values in self.columns.items():
            values.append(row.get(name))
        self.places.append(place)

    def bad(self, place: int | str, why: str) -> None:
        """Reports the row at a line (or another place, as a text that follows the source)."""
        where = f"{self.source}:{place}" if isinstance(place, int) else f"{self.source}{place}"
        self.bad_at(where, why)

    def bad_at(self, where: str, why: str) -> None:
        if self.on_bad_row == "error":
            raise DataError(f'{where}: {why}. Correct the row, or pass on_bad_row="skip"')
        self.skipped.append(f"{where}: {why}")

    def table(self) -> Table:
        """All rows, of which there must be one; skipped ones are warned of."""
        skipped, total = len(self.skipped), len(self.skipped) + len(self.places)
        if not self.places:
            found = f"{skipped} rows, all bad, the first {self.skipped[0]}" if skipped else "none"
            raise DataError(f"{self.source}: expected rows of data, found {found}")
        if skipped:
            warn_of_skipped(self.source, self.skipped, total)
        return Table(self.columns, self.source, places=self.places, skipped=self.skipped)


def warn_of_skipped(source: str, skipped: list[str], total: int) -> None:
    warnings.warn(
        f"{source}: skipped {len(skipped)} of {total} rows, the first {skipped[0]}",
        DataWarning,
        stacklevel=2,
    )


def checked(table: Table, problems: Mapping[int, str], on_bad_row: OnBadRow) -> Table:
    """The table without the rows that `problems` names, if the policy lets it go on at all."""
    rows = Rows(table.source, on_bad_row)
    for row, why in problems.items():
        rows.bad_at(table.where(row), why)
    if not problems:
        return table
    kept = table.select(row for row in range(len(table)) if row not in problems)
    if not len(kept):
        return rows.table()  # which says that none is left
    warn_of_skipped(table.source, rows.skipped, len(table))
    kept.skipped += tuple(rows.skipped)
    return kept
