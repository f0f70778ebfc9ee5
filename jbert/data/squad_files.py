"""Questions on a context: SQuAD's JSON, versions 1.1 and 2.0, and what its rows must hold."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jbert.data.json_files import parse, syntax_error, whole_text
from jbert.data.rows import OnBadRow, Rows, checked
from jbert.data.table import UNLABELLED, DataError, Table

COLUMNS = ("id", "title", "context", "question", "answers", "is_impossible")
SHOWN = 60  # characters of a text that a message quotes


def is_squad(document: Any) -> bool:
    articles = document.get("data") if isinstance(document, dict) else None
    return isinstance(articles, list) and any(
        isinstance(article, dict) and "paragraphs" in article for article in articles
    )


def read_squad(path: Path, rows: Rows) -> Table:
    text = whole_text(path)
    try:
        document = parse(text)
    except ValueError as error:
        raise syntax_error(path, error) from error
    if not is_squad(document):
        raise DataError(
            f'{path}: expected SQuAD\'s JSON, an object whose list "data" has articles with '
            f"paragraphs, found {_kind(document)} without. Pass the right format="
        )
    return squad_table(document, rows)


def squad_table(document: Mapping[str, Any], rows: Rows) -> Table:
    """One row a question: the columns of `COLUMNS`, answers as {"text": […], "answer_start": […]}.

    `answers` and `is_impossible` are absent if no question has answers, as in a test set.
    """
    for place, question in _questions(document["data"], rows):
        _add(rows, place, question)
    return checked_squad(rows.table(), rows.on_bad_row)


def checked_squad(table: Table, on_bad_row: OnBadRow = "error") -> Table:
    """The table with the columns of `COLUMNS`, each answer found in its context, no id twice."""
    table.require("id", "context", "question")
    columns = {name: table.columns[name] for name in COLUMNS if name in table.columns}
    columns.setdefault("title", [""] * len(table))
    if "answers" not in columns or all(answers is None for answers in columns["answers"]):
        for name in ("answers", "is_impossible"):
            columns.pop(name, None)
    problems: dict[int, str] = {}
    first_of: dict[str, int] = {}
    impossible = columns.get("is_impossible", [None] * len(table))
    for row, (id, context) in enumerate(zip(columns["id"], columns["context"], strict=True)):
        first = first_of.setdefault(str(id), row)
        if first != row:
            problems[row] = f"the id is also that of {table.where(first)}"
        elif "answers" in columns:
            why = _problem_of_answers(columns["answers"][row], impossible[row], context)
            if why is not None:
                problems[row] = why
    absent = dict(table.absent)
    if "answers" in columns:
        columns["is_impossible"] = [bool(a) and not a["text"] for a in columns["answers"]]
    else:
        absent["answers"] = UNLABELLED
    ordered = {name: columns[name] for name in COLUMNS if name in columns}
    table = table.replace(ordered)
    table.absent = absent
    return checked(table, problems, on_bad_row)


def _questions(articles: list[Any], rows: Rows) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each question with its place, and its title and context beside what it holds itself."""
    for i, article in enumerate(articles):
        place = f" data[{i}]"
        for j, paragraph in enumerate(_list(article, "paragraphs", place, rows)):
            inner = f"{place}.paragraphs[{j}]"
            for k, question in enumerate(_list(paragraph, "qas", inner, rows)):
                if not isinstance(question, dict):
                    rows.bad(f"{inner}.qas[{k}]", f"expected an object, found {_kind(question)}")
                    continue
                shown = f" (id {question['id']!r})" if "id" in question else ""
                whole = {"title": article.get("title", ""), "context": paragraph.get("context")}
                yield f"{inner}.qas[{k}]{shown}", question | whole


def _list(owner: Any, name: str, place: str, rows: Rows) -> list[Any]:
    values = owner.get(name) if isinstance(owner, dict) else None
    if isinstance(values, list):
        return values
    found = _kind(values) if isinstance(owner, dict) else _kind(owner)
    rows.bad(place, f"expected an object with a list {name!r}, found {found}")
    return []


def _add(rows: Rows, place: str, question: Mapping[str, Any]) -> None:
    row = {name: question.get(name) for name in COLUMNS}
    for name in ("id", "title", "context", "question"):
        if not isinstance(row[name], str):
            rows.bad(place, f"expected a text {name!r}, found {_kind(row[name])}")
            return
    if row["answers"] is not None:
        answers = row["answers"]
        if not isinstance(answers, list) or not all(isinstance(a, dict) for a in answers):
            rows.bad(place, f"expected a list of objects 'answers', found {_kind(answers)}")
            return
        names = ("text", "answer_start")
        row["answers"] = {name: [answer.get(name) for answer in answers] for name in names}
    rows.add(place, row)


def _problem_of_answers(answers: Any, impossible: Any, context: Any) -> str | None:
    if not isinstance(context, str):
        return f"expected a text 'context', found {_kind(context)}"
    if answers is None:
        return "expected answers as the other questions have, found none"
    names = ("text", "answer_start")
    if not isinstance(answers, dict) or not all(isinstance(answers.get(n), list) for n in names):
        return f"expected answers with lists 'text' and 'answer_start', found {_kind(answers)}"
    texts, starts = answers["text"], answers["answer_start"]
    if len(texts) != len(starts):
        return f"expected as many answer_start as texts ({len(texts)}), found {len(starts)}"
    if impossible is not None and bool(impossible) == bool(texts):
        found = f"is_impossible {str(bool(impossible)).lower()}"
        return f"expected is_impossible to be true without answers only, found {found} with " + (
            f"{len(texts)} answers" if texts else "none"
        )
    for text, start in zip(texts, starts, strict=True):
        if why := _problem_of_answer(text, start, context):
            return why
    return None


def _problem_of_answer(text: Any, start: Any, context: str) -> str | None:
    if not isinstance(text, str) or not text:
        return f"expected an answer's text, found {text!r}"
    if isinstance(start, bool) or not isinstance(start, int):
        return f"expected a whole number as answer_start, found {start!r}"
    found = context[start : start + len(text)] if start >= 0 else ""
    if found == text:
        return None
    places = list(_occurrences(text, context))
    nearest = min(places, key=lambda at: abs(at - start), default=None)
    hint = f"the nearest is at {nearest}" if places else "the context does not hold it at all"
    return f"expected the answer {_short(text)} at {start}, found {_short(found)}; {hint}"


def _occurrences(text: str, context: str) -> Iterator[int]:
    at = context.find(text)
    while at >= 0:
        yield at
        at = context.find(text, at + 1)


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
