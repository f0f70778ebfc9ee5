"""`read_file`: a local file of any of the formats, plain or gzip, as a Table."""

import difflib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jbert.data.choices import read_codah, read_swag
from jbert.data.conll import read_conll
from jbert.data.delimited import read_csv, read_tsv
from jbert.data.json_files import (
    add_object,
    parse,
    read_jsonl,
    read_list,
    syntax_error,
    whole_text,
)
from jbert.data.lines import check_file, not_text, numbered_lines, without_end
from jbert.data.parquet import read_parquet
from jbert.data.rows import OnBadRow, Rows
from jbert.data.squad_files import is_squad, read_squad, squad_table
from jbert.data.table import DataError, Table


def read_file(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    on_bad_row: OnBadRow = "error",
    columns: Sequence[str] | None = None,
    token_column: int | None = None,
    tag_column: int | None = None,
) -> Table:
    """The rows of a file.

    Args:
        path: the file, which may be gzip.
        format: one of `FORMATS`; by default what the name ends in. SQuAD's is found in a .json;
            "swag" and "codah" must be asked for.
        on_bad_row: "error" raises a DataError that names the first bad row; "skip" leaves such rows
            out, warns with their number, and lists them in `Table.skipped`.
        columns: the column names of a csv or tsv whose first line is a row.
        token_column: where a CoNLL file has the words; by default the first column, 0.
        tag_column: where a CoNLL file has the tags; by default the last column, -1.
    """
    path = Path(os.path.expanduser(path))
    format = _format(path, format)
    given = {"columns": columns, "token_column": token_column, "tag_column": tag_column}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in FORMATS[format].options:
            raise ValueError(f"{path}: {name}= has no meaning for the format {format!r}")
    return FORMATS[format].read(path, Rows(str(path), on_bad_row), **options)


def read_json(path: Path, rows: Rows) -> Table:
    """A list of objects, SQuAD's JSON, or JSON lines in a file that is called .json."""
    text = whole_text(path)
    if text.lstrip().startswith("["):
        return read_list(path, rows, text)
    try:
        document = parse(text)
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return read_jsonl(path, rows)
        raise syntax_error(path, error) from error
    if is_squad(document):
        return squad_table(document, rows)
    add_object(rows, 1, document)
    return rows.table()


def read_txt(path: Path, rows: Rows) -> Table:
    """A text a line, as the column `text`; blank lines are no rows."""
    for number, line in numbered_lines(path):
        line = without_end(line)
        if problem := not_text(line):
            rows.bad(number, problem)
        elif line.strip():
            rows.add(number, {"text": line})
    return rows.table()


class Format(NamedTuple):
    read: Callable[..., Table]
    endings: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


FORMATS = {
    "csv": Format(read_csv, (".csv",), ("columns",)),
    "tsv": Format(read_tsv, (".tsv",), ("columns",)),
    "jsonl": Format(read_jsonl, (".jsonl", ".ndjson")),
    "json": Format(read_json, (".json",)),
    "parquet": Format(read_parquet, (".parquet",)),
    "txt": Format(read_txt, (".txt", ".text")),
    "conll": Format(read_conll, (".conll", ".iob", ".bio"), ("token_column", "tag_column")),
    "squad": Format(read_squad),
    "swag": Format(read_swag),
    "codah": Format(read_codah),
}


def _format(path: Path, format: str | None) -> str:
    if format is None:
        ending = Path(path.name.removesuffix(".gz")).suffix.lower()
        found = [name for name, known in FORMATS.items() if ending in known.endings]
        if found:
            return found[0]
        check_file(path)
        raise DataError(
            f"{path}: expected a name that ends in "
            f"{', '.join(end for known in FORMATS.values() for end in known.endings)}, found "
            f"{ending or 'none'!r}. Pass format=, one of {', '.join(FORMATS)}"
        )
    if format not in FORMATS:
        near = difflib.get_close_matches(str(format), FORMATS, n=1)
        hint = f" Nearest: {near[0]!r}." if near else ""
        raise ValueError(
            f"{path}: format is {format!r}, expected one of {', '.join(FORMATS)}.{hint}"
        )
    return format
