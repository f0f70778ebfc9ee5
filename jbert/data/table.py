"""Raw examples in columns; each row knows the file and line, or the split and index, it is from."""

import difflib
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Why a test split's labels, tags or answers are absent from its table.
UNLABELLED = "there are no labels: this data can be predicted, but neither trained on nor evaluated"


class DataError(ValueError):
    """Data that cannot be used as it is: where, what was expected and found, and what to do."""


class DataNotFoundError(DataError, FileNotFoundError):
    """A file or a data set that is not there."""


class DataWarning(UserWarning):
    """Data that was used, but not all of it."""


class Table:
    """Rows of str, int, float, bool, None, and lists and dicts of these: never bytes or arrays.

    Attributes:
        columns: the values by column, all of one length. None where a row has no value.
        source: the file or split, as messages name it.
        places: where in the source each row is: a line number, or the text that follows the
            source in a message. Without it, rows are counted from 0.
        label_names: for a column of classes (numbers, or lists of tags), their names in order.
        skipped: where and why, for each row that was left out.
        absent: for a column that is left out on purpose, why.
    """

    def __init__(
        self,
        columns: Mapping[str, Sequence[Any]],
        source: str = "table",
        *,
        places: Sequence[int | str] | None = None,
        label_names: Mapping[str, Sequence[str]] | None = None,
        skipped: Iterable[str] = (),
        absent: Mapping[str, str] | None = None,
    ) -> None:
        self.columns = dict(columns)
        self.source = source
        self.places = places
        self.label_names = {name: tuple(names) for name, names in (label_names or {}).items()}
        self.skipped = tuple(skipped)
        self.absent = dict(absent or {})
        lengths = {name: len(values) for name, values in self.columns.items()}
        if places is not None:
            lengths["(places)"] = len(places)
        self._length = next(iter(lengths.values()), 0)
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
            raise DataError(f"{source}: expected columns of one length, found {found} values")
        for name, values in self.columns.items():
            row = next((i for i, value in enumerate(values) if isinstance(value, bytes)), None)
            if row is not None:
                raise DataError(f"{self.where(row)}: column {name!r} is bytes; decode it to str")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.source} has {len(self)} rows, and no row {row}")
        return {name: values[row] for name, values in self.columns.items()}

    def __repr__(self) -> str:
        return f"Table({self.source!r}, {len(self)} rows of {', '.join(self.columns)})"

    def where(self, row: int) -> str:
        """The place a row came from, such as "train.jsonl:17" or "glue/mrpc train[17]"."""
        row = range(len(self))[row]
        place = f"[{row}]" if self.places is None else self.places[row]
        return f"{self.source}:{place}" if isinstance(place, int) else f"{self.source}{place}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of columns and values: of what is in the rows, not of how a file spells it.

        Neither the order of the columns nor the format counts; the values' types do, so that the
        text "1" of a csv is not the number 1.
        """
        digest = hashlib.sha256()
        for name in sorted(self.columns):
            digest.update(f"{json.dumps(name)} {len(self)}\n".encode())
            for value in self.columns[name]:
                digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def require(self, *names: str) -> None:
        """Checks that the columns are there and that every row has a value in each of them."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise DataError(f"{self.source}: {self._missing(missing)}")
        for name in names:
            row = next((i for i, value in enumerate(self.columns[name]) if value is None), None)
            if row is not None:
                raise DataError(
                    f"{self.where(row)}: expected a value of {name!r}, found none. Complete the "
                    "row or leave it out"
                )

    def _missing(self, names: Sequence[str]) -> str:
        reasons = [self.absent[name] for name in names if name in self.absent]
        if reasons:
            return "; ".join(dict.fromkeys(reasons))
        near = {
            name: close[0]
            for name in names
            if (close := difflib.get_close_matches(name, self.columns, n=1, cutoff=0.5))
        }
        hint = "".join(f" Nearest to {name!r}: {close!r}." for name, close in near.items())
        return (
            f"expected the columns {', '.join(map(repr, names))}, found only "
            f"{', '.join(map(repr, self.columns)) or 'no column'}.{hint} Rename the column, or say "
            "in the configuration which one is meant"
        )

    def complete(self, *names: str) -> "Table":
        """The rows that have a value in each of these columns; the others count as skipped."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise DataError(f"{self.source}: {self._missing(missing)}")
        kept, skipped = [], []
        for row in range(len(self)):
            lacking = [name for name in names if self.columns[name][row] is None]
            if lacking:
                skipped.append(f"{self.where(row)}: no value of {', '.join(map(repr, lacking))}")
            else:
                kept.append(row)
        table = self.select(kept)
        table.skipped += tuple(skipped)
        return table

    def select(self, rows: Iterable[int]) -> "Table":
        """The rows with these numbers, in this order; each still knows its place."""
        rows = list(rows)
        places = [f"[{row}]" if self.places is None else self.places[row] for row in rows]
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return self.replace(columns, places)

    def rename(self, mapping: Mapping[str, str]) -> "Table":
        """The columns under other names; `mapping` is {name here: new name}."""
        missing = [name for name in mapping if name not in self.columns]
        if missing:
            raise DataError(f"{self.source}: {self._missing(missing)}")
        names = [mapping.get(name, name) for name in self.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(
                f"{self.source}: two columns would be called {', '.join(map(repr, twice))}. "
                "Rename or leave out the other one"
            )
        table = self.replace(dict(zip(names, self.columns.values(), strict=True)))
        table.label_names = {mapping.get(n, n): names for n, names in self.label_names.items()}
        return table

    def replace(
        self, columns: Mapping[str, Sequence[Any]], places: Sequence[int | str] | None = None
    ) -> "Table":
        """The same rows, or those at `places`, with other columns."""
        return Table(
            columns,
            self.source,
            places=self.places if places is None else places,
            label_names={n: names for n, names in self.label_names.items() if n in columns},
            skipped=self.skipped,
            absent={n: why for n, why in self.absent.items() if n not in columns},
        )
