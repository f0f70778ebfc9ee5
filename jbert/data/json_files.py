"""JSON lines, and JSON lists of objects: one row an object, its keys the columns."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jbert.data.lines import not_text, numbered_lines
from jbert.data.rows import Rows
from jbert.data.table import DataError, Table

NESTING = "values that are nested too deeply"


def read_jsonl(path: Path, rows: Rows) -> Table:
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        problem = not_text(line)
        if problem is not None:
            rows.bad(number, problem)
            continue
        try:
            value = parse(line)
        except ValueError as error:
            rows.bad(number, f"expected JSON, found {_reason(error)}")
            continue
        add_object(rows, number, value)
    return rows.table()


def read_list(path: Path, rows: Rows, text: str) -> Table:
    """The rows of a JSON list, `text` being what the file holds."""
    for number, value in _elements(path, text):
        add_object(rows, number, value)
    return rows.table()


def whole_text(path: Path) -> str:
    lines = []
    for number, line in numbered_lines(path):
        # Which object a bad line belongs to cannot be told, so none can be skipped.
        if problem := not_text(line):
            raise DataError(f"{path}:{number}: {problem}. Write the file again in UTF-8")
        lines.append(line)
    return "".join(lines)


def parse(text: str) -> Any:
    """The value that a JSON text is; ValueError also for what only Python takes for JSON."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError(NESTING) from None


def syntax_error(path: Path, error: ValueError, line: int | None = None) -> DataError:
    """What to raise for a file whose JSON cannot be parsed; `line` is where the value starts."""
    line = error.lineno if isinstance(error, json.JSONDecodeError) else line
    where = f"{path}:{line}" if line else f"{path}"
    return DataError(f"{where}: expected JSON, found {_reason(error)}. Correct the file")


def add_object(rows: Rows, number: int, value: Any) -> None:
    if not isinstance(value, dict):
        rows.bad(number, f"expected a JSON object, found {_kind(value)}")
    elif not value:
        rows.bad(number, "expected a JSON object with columns, found an empty one")
    else:
        rows.add(number, value)


def _elements(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The values of a JSON list, each with the line that it starts on."""
    position, line, counted = text.index("[") + 1, 1, 0
    ending = ""
    while True:
        position = _after_space(text, position)
        if text[position : position + 1] == "]" and ending != ",":
            break
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = _DECODER.raw_decode(text, position)
        except RecursionError:
            raise syntax_error(path, ValueError(NESTING), line) from None
        except ValueError as error:
            raise syntax_error(path, error, line) from error
        yield line, value
        position = _after_space(text, position)
        ending = text[position : position + 1]
        if ending not in (",", "]"):
            found = repr(ending) if ending else "the end of the file"
            line += text.count("\n", counted, position)
            raise DataError(f"{path}:{line}: expected ',' or ']', found {found}. Correct the file")
        if ending == "]":
            break
        position += 1
    if text[position + 1 :].strip():
        raise DataError(f"{path}: expected one JSON list, found more after it. Correct the file")


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\n", "\r", "\t"):
        position += 1
    return position


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} twice in one object")
    return made


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text}, which is no finite number")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_number)


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"a mistake at column {error.colno} ({error.msg})"
    return str(error)


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
