"""`jbert predict`: a pipeline over a file or the command line's texts, one JSON line an answer."""

import collections
import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from jbert.pipelines import pipeline

FORMATS = ("jsonl", "csv", "txt")
# 1 and 2 are taken, by errors and wrong usage.
SOME_ROWS_FAILED = 3
# What a byte that is not UTF-8 is read as, so that only its row fails.
NOT_UTF8 = re.compile("[\udc80-\udcff]")

Row = tuple[int, Any]  # the line it starts on, and its input or the error that it is


def predict(
    task: str,
    model: str,
    texts: Sequence[str] = (),
    file: Path | None = None,
    format: str | None = None,
    out: Path | None = None,
    options: Mapping[str, Any] | None = None,
    force: bool = False,
) -> int:
    """Answers every row it can; returns 0, or 3 if some rows had no answer.

    Each answer is one line {"line": n, "result": …}, in the order of the rows; a row without one is
    {"line": n, "error": "…"} there, and is named on stderr too. Lines count from 1, in a csv from
    its header. Answers are written as they come, so that an interrupted run keeps them.
    """
    rows = _rows(texts, file, format)
    if out is not None and out.exists() and not force:
        raise FileExistsError(f"{out} exists; pass --force to replace it")
    made = pipeline(task, model, **dict(options or {}))
    total = len(texts) if file is None else _count(file)
    if out is None:
        return _run(made, rows, total, sys.stdout)
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", encoding="utf-8") as target:
        return _run(made, rows, total, target)


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """name=value, the value as JSON where it is (3, true, ["a"]) and as text where it is not."""
    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"option {word!r}: expected name=value, such as top_k=3")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _run(made: Any, rows: Iterator[Row], total: int, target: TextIO) -> int:
    lines: collections.deque[int] = collections.deque()

    def inputs() -> Iterator[Any]:
        for line, item in rows:
            lines.append(line)
            yield item

    failed = done = 0
    for answer in tqdm(made(inputs(), on_error="return"), unit=" rows", total=total, disable=None):
        line, done = lines.popleft(), done + 1
        if isinstance(answer, Exception):
            failed += 1
            message = re.sub(r"^inputs\[\d+\]: ", "", str(answer))
            tqdm.write(f"line {line}: {message}", file=sys.stderr)
            record = {"line": line, "error": message}
        else:
            record = {"line": line, "result": plain(answer)}
        print(_line(record, target.encoding), file=target, flush=True)
    print(f"{done - failed} rows answered, {failed} failed", file=sys.stderr)
    return SOME_ROWS_FAILED if failed else 0


def _line(record: dict[str, Any], encoding: str | None) -> str:
    """JSON that can be written: characters as they are, or escaped where that is impossible, as
    with a terminal of another encoding or a lone surrogate in a text."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(record)
    return text


def plain(answer: Any) -> Any:
    """An answer as JSON knows it."""
    if isinstance(answer, np.ndarray | np.generic):
        return answer.tolist()
    if isinstance(answer, Mapping):
        return {key: plain(value) for key, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [plain(value) for value in answer]
    return answer


# -- rows -----------------------------------------------------------------------------------


def _rows(texts: Sequence[str], file: Path | None, format: str | None) -> Iterator[Row]:
    if (file is None) == (not texts):
        raise ValueError("give either texts or --file" + ("" if file is None else ", not both"))
    if file is None:
        return iter(list(enumerate(texts, 1)))
    format = format or file.suffix.lstrip(".").lower()
    if format not in FORMATS:
        raise ValueError(
            f"{file}: format {format!r} is not known; pass --format {'|'.join(FORMATS)}"
        )
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    return {"jsonl": _jsonl, "csv": _csv, "txt": _txt}[format](file)


def _count(file: Path) -> int:
    """About how many rows a file has: its lines."""
    with open(file, "rb") as source:
        return sum(block.count(b"\n") for block in iter(lambda: source.read(1 << 20), b""))


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    # Only line feeds end a row: a text may hold any other separator.
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as source:
        for number, line in enumerate(source, 1):
            yield number, line.rstrip("\n").removesuffix("\r")


def _txt(file: Path) -> Iterator[Row]:
    for number, line in _lines(file):
        yield number, _decoded(line)


def _jsonl(file: Path) -> Iterator[Row]:
    for number, line in _lines(file):
        if not line.strip():
            continue
        item = _decoded(line)
        if isinstance(item, str):
            try:
                item = json.loads(item)
            except ValueError as error:
                item = ValueError(f"not JSON ({error})")
        yield number, item


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as source:
        reader = csv.reader(source, strict=True)
        header = next(reader, None)
        if not header:
            raise ValueError(f"{file}: no header; its first line names the columns")
        while True:
            number = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, ValueError(f"not CSV ({error})")
                continue
            if row:
                yield number, _record(header, row)


def _record(header: list[str], row: list[str]) -> Any:
    if len(row) != len(header):
        return ValueError(f"{len(row)} columns where the header has {len(header)}")
    for value in row:
        if isinstance(error := _decoded(value), Exception):
            return error
    record: dict[str, Any] = dict(zip(header, row, strict=True))
    # The one input that is a list is written as JSON.
    if record.get("choices", "").startswith("["):
        try:
            record["choices"] = json.loads(record["choices"])
        except ValueError as error:
            return ValueError(f"column 'choices' is not JSON ({error})")
    return record


def _decoded(text: str) -> str | ValueError:
    found = NOT_UTF8.search(text)
    return text if found is None else ValueError(f"not UTF-8 (at character {found.start() + 1})")
