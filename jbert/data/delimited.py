"""csv with quoted values, and tsv as GLUE writes it, where a quote is a character like others."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jbert.data.lines import not_text, numbered_lines, without_end
from jbert.data.rows import Rows
from jbert.data.table import DataError, Table

LONGEST_VALUE = 2**31 - 1  # csv's own limit, 131072 characters, is shorter than some documents


class Record(NamedTuple):
    first: int  # its first line, and its last
    last: int
    values: list[str]
    problem: str | None = None


def read_tsv(path: Path, rows: Rows, columns: Sequence[str] | None = None) -> Table:
    """Reads lines of values between tabs; without `columns`, the first line names them."""
    records = _tsv(path)
    names = _names(path, records, columns)
    for record in records:
        _add(rows, names, record)
    return rows.table()


def read_csv(path: Path, rows: Rows, columns: Sequence[str] | None = None) -> Table:
    """Reads values between commas, quoted or not; without `columns`, the first line names them."""
    records = _Csv(path)
    names = _names(path, records, columns)
    for record in records:
        _add(rows, names, record)
        if record.problem is None and len(record.values) != len(names):
            records.resume_after(record.first)
    return rows.table()


def _names(path: Path, records: Iterator[Record], columns: Sequence[str] | None) -> tuple[str, ...]:
    if columns is None:
        record = next(records, None)
        if record is None:
            raise DataError(f"{path}: expected a line of column names, found only blank lines")
        if record.problem is not None:
            raise DataError(
                f"{path}:{record.first}: {record.problem}, in the line of column names. Correct it"
            )
        columns = record.values
    twice = list(dict.fromkeys(name for name in columns if list(columns).count(name) > 1))
    if twice:
        raise DataError(
            f"{path}: expected columns of different names, found {', '.join(map(repr, twice))} "
            "more than once. Rename them; if the first line is a row, give names with columns="
        )
    return tuple(columns)


def _add(rows: Rows, names: tuple[str, ...], record: Record) -> None:
    problem = record.problem
    if problem is None and len(record.values) != len(names):
        problem = f"expected {len(names)} values as there are columns, found {len(record.values)}"
        if record.last > record.first:
            problem += f", one of them in quotes up to line {record.last}"
    if problem is None:
        rows.add(record.first, dict(zip(names, record.values, strict=True)))
    else:
        rows.bad(record.first, problem)


def _tsv(path: Path) -> Iterator[Record]:
    for number, line in numbered_lines(path):
        line = without_end(line)
        if line:
            yield Record(number, number, line.split("\t"), not_text(line))


class _Csv(Iterator[Record]):
    """The records of a csv.

    A stray quote joins the lines up to the next one. Only its own line is bad, so after such a
    record the reading resumes at the line after its first.
    """

    def __init__(self, path: Path) -> None:
        csv.field_size_limit(LONGEST_VALUE)
        self.lines = [line for _, line in numbered_lines(path)]
        self.resume_after(0)

    def resume_after(self, line: int) -> None:
        self.before = line
        rest = (self.lines[index] for index in range(line, len(self.lines)))
        self.reader = csv.reader(rest, strict=True)

    def __next__(self) -> Record:
        while True:
            first = self.before + self.reader.line_num + 1
            try:
                values, problem = next(self.reader), None
            except csv.Error as error:
                values, problem = [], _csv_problem(error)
            last = self.before + self.reader.line_num
            if problem:
                self.resume_after(first)
            if values or problem:
                break
        for number in range(first, last + 1):
            if problem is None and (why := not_text(self.lines[number - 1])):
                problem = f"{why} of line {number}" if last > first else why
        return Record(first, last, values, problem)


def _csv_problem(error: csv.Error) -> str:
    text = str(error)
    if "end of data" in text:
        return "expected the quote that it opens to be closed, found the end of the file"
    if "new-line" in text:
        return "expected a line feed at the line's end, found a carriage return within the line"
    return f"expected csv, found a misplaced quote ({text})"
