"""Parquet files, through pyarrow."""

import math
from pathlib import Path
from typing import Any

from jbert.data.lines import check_file
from jbert.data.rows import Rows
from jbert.data.table import DataError, Table


def read_parquet(path: Path, rows: Rows) -> Table:
    """One row each; a row's place is its number from 0."""
    check_file(path)
    columns = _columns(path)
    for row, values in enumerate(zip(*columns.values(), strict=True)):
        plain, problem = {}, None
        for name, value in zip(columns, values, strict=True):
            try:
                plain[name] = plain_value(value)
            except ValueError as error:
                problem = problem or f"column {name!r}: {error}"
        if problem is None:
            rows.add(f"[{row}]", plain)
        else:
            rows.bad(f"[{row}]", problem)
    return rows.table()


def _columns(path: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{path}: parquet is read with pyarrow, which is not installed. "
            "Run: pip install 'jbert[data]'"
        ) from error
    if not path.stat().st_size:
        raise DataError(f"{path}: expected data, found an empty file. Download or write it")
    texts = (pyarrow.string(), pyarrow.large_string())
    columns: dict[str, list[Any]] = {}
    try:
        # Not read_table, which adds the columns that a path such as year=2020/ spells.
        with parquet.ParquetFile(path) as file:
            table = file.read()
        names = table.column_names
        for name, column in zip(names, table.columns, strict=True):
            # As bytes, so that a text that is not UTF-8 is one bad row and not a bad file.
            bytes_of = column.cast(pyarrow.large_binary()) if column.type in texts else column
            columns[name] = bytes_of.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        found = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path}: expected parquet, found a damaged or other file ({found}). "
            "Download or write it again"
        ) from error
    if len(columns) < len(names) or len(set(map(len, columns.values()))) > 1:
        raise DataError(
            f"{path}: expected columns of different names and one length, found "
            f"{', '.join(map(repr, names))}. Write it again"
        )
    return columns


def plain_value(value: Any) -> Any:
    """The value as a Table holds it: bytes become str, numpy's types Python's; else ValueError."""
    if isinstance(value, str | int | bool) or value is None:
        return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = value[error.start]
            raise ValueError(
                f"expected UTF-8, found the byte 0x{byte:02x} (byte {error.start + 1})"
            ) from None
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number, found {value}")
        return float(value)
    if isinstance(value, list | tuple):
        return [plain_value(entry) for entry in value]
    if isinstance(value, dict):
        return {name: plain_value(entry) for name, entry in value.items()}
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return plain_value(value.tolist())
    raise ValueError(f"expected text, numbers or lists of them, found {type(value).__name__}")
