"""CoNLL columns: a word a line with its tag, and a blank line after each sentence."""

from collections.abc import Iterator
from pathlib import Path

from jbert.data.lines import not_text, numbered_lines, without_end
from jbert.data.rows import Rows
from jbert.data.table import UNLABELLED, DataError, Table

DOCUMENT = "-DOCSTART-"

Line = tuple[int, list[str], str | None]  # number, columns, what is wrong


def read_conll(path: Path, rows: Rows, token_column: int = 0, tag_column: int = -1) -> Table:
    """Sentences as `tokens` and `tags`. Columns count from 0, or back from -1, the last.

    In a file of a single column, which has no tags, the column `tags` is absent.
    """
    width = None
    for sentence in _sentences(path):
        if width is None:
            number, columns, _ = sentence[0]
            width = len(columns)
            _check_columns(f"{path}:{number}", width, token_column, tag_column)
        problems = [(line[0], why) for line in sentence if (why := _problem(line, width))]
        if problems:
            number, why = problems[0]
            rows.bad(number, f"{why}, in the sentence from line {sentence[0][0]}")
            continue
        row = {"tokens": [columns[token_column] for _, columns, _ in sentence]}
        if width > 1:
            row["tags"] = [columns[tag_column] for _, columns, _ in sentence]
        rows.add(sentence[0][0], row)
    table = rows.table()
    if "tags" not in table.columns:
        table.absent["tags"] = UNLABELLED
    return table


def _sentences(path: Path) -> Iterator[list[Line]]:
    sentence: list[Line] = []
    for number, text in numbered_lines(path):
        text = without_end(text)
        if text.strip() and not text.startswith(DOCUMENT):
            # Not split(), which also parts words at the no-break spaces within them.
            if "\t" in text:
                columns = [column.strip(" ") for column in text.split("\t")]
            else:
                columns = [column for column in text.split(" ") if column]
            sentence.append((number, columns, not_text(text)))
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _check_columns(where: str, width: int, token_column: int, tag_column: int) -> None:
    for name, column in (("token_column", token_column), ("tag_column", tag_column)):
        if not -width <= column < width:
            raise DataError(f"{where}: expected a column {column} ({name}), found {width} columns")
    if width > 1 and token_column % width == tag_column % width:
        raise DataError(f"{where}: token_column and tag_column are both column {token_column}")


def _problem(line: Line, width: int) -> str | None:
    _, columns, problem = line
    if problem is None and len(columns) != width:
        problem = f"expected {width} columns as in the first sentence, found {len(columns)}"
    if problem is None and not all(columns):
        problem = "expected a value in every column, found an empty one"
    return problem
