"""The tables of a report: scores, seeds, confusions and the configuration, as HTML."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jbert.training.axes import short
from jbert.training.report_page import escape

# What a page shows at most; it says how much it leaves out.
MOST_ROWS = 500
MOST_LABELS = 60
MOST_CONFUSIONS = 50
# A cell without a number.
NONE = "–"


class ReportError(ValueError):
    """Extras that are not in the shape that the report shows."""


def plain(value: Any) -> Any:
    """Python's own number for one of numpy's."""
    return value.item() if isinstance(value, np.generic) else value


def scalar(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escape(value)
    try:
        return short(value)
    except OverflowError:
        return escape(value)


def table(name: str, given: Any) -> str:
    """{"header": names, "rows": lists of as many cells}."""
    if not isinstance(given, Mapping) or not {"header", "rows"} <= given.keys():
        raise ReportError(f"{name} is {_seen(given)}; expected a header and rows")
    header, rows = list(given["header"]), [list(map(plain, row)) for row in given["rows"]]
    for at, row in enumerate(rows):
        if len(row) != len(header):
            raise ReportError(
                f"{name}: row {at} has {len(row)} cells; expected {len(header)}, as the header has"
            )
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float) or row[i] == NONE for row in rows)
        for i in range(len(header))
    ]
    return _table(header, rows[:MOST_ROWS], numeric) + _left_out(len(rows), "rows", MOST_ROWS)


def _table(header: Sequence, rows: Sequence[Sequence], numeric: Sequence[bool]) -> str:
    kind = [' class="number"' if is_number else "" for is_number in numeric]
    top = "".join(f"<th{k}>{escape(name)}</th>" for k, name in zip(kind, header, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{k}>{scalar(cell)}</td>" for k, cell in zip(kind, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="box"><table class="wide"><thead><tr>'
        f"{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def seeds_table(given: Any) -> str:
    """{seed: {metric: value}}: mean ± sample standard deviation, then every seed's own."""
    if not isinstance(given, Mapping) or not all(isinstance(v, Mapping) for v in given.values()):
        raise ReportError(f"seeds is {_seen(given)}; expected {{seed: {{metric: value}}}}")
    names = list(dict.fromkeys(name for row in given.values() for name in row))
    header = ["metric", "mean ± spread", "lowest", "highest", *(f"seed {seed}" for seed in given)]
    rows = []
    for name in names:
        cells = [plain(row.get(name)) for row in given.values()]
        values = [v for v in cells if isinstance(v, int | float) and math.isfinite(v)]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else math.nan
            around = f" ± {short(spread)}" if len(values) > 1 else ""
            summary = [f"{short(statistics.fmean(values))}{around}", min(values), max(values)]
        else:
            summary = [NONE] * 3
        rows.append([name, *summary, *(NONE if cell is None else cell for cell in cells)])
    note = "The spread is the standard deviation over seeds (n − 1)."
    numeric = [False] + [True] * (len(header) - 1)
    return _table(header, rows[:MOST_ROWS], numeric) + f'<p class="note">{note}</p>'


def confusion(given: Any) -> str:
    """{"labels": names, "matrix": counts}: a row for each label, a column for each prediction."""
    if not isinstance(given, Mapping) or not {"labels", "matrix"} <= given.keys():
        raise ReportError(f"confusion is {_seen(given)}; expected labels and a matrix")
    labels = [str(name) for name in given["labels"]]
    matrix = [list(map(plain, row)) for row in given["matrix"]]
    if [len(row) for row in matrix] != [len(labels)] * len(labels):
        sizes = sorted({len(row) for row in matrix})
        raise ReportError(
            f"confusion: {len(labels)} labels and {len(matrix)} rows of {sizes} cells; "
            "expected a square matrix of as many"
        )
    for row in matrix:
        for count in row:
            if not isinstance(count, int | float) or not 0 <= count < math.inf:
                raise ReportError(f"confusion holds {count!r}; expected counts")
    if len(labels) > MOST_LABELS:
        return _most_confused(labels, matrix)
    top = "".join(f'<th title="{escape(n)}"><span>{escape(n, 40)}</span></th>' for n in labels)
    rows = "".join(_confusion_row(i, labels, row) for i, row in enumerate(matrix))
    return (
        '<div class="box"><table class="confusion"><thead><tr><th></th>'
        f"{top}</tr></thead><tbody>{rows}</tbody></table></div>"
        '<p class="note">Rows: the label. Columns: the prediction. Colour: share of the row.</p>'
    )


def _confusion_row(place: int, labels: Sequence[str], counts: Sequence[float]) -> str:
    total = sum(counts)
    cells = []
    for column, count in enumerate(counts):
        share = count / total if total else 0.0
        kinds = ["hot"] * (share > 0.55) + ["diagonal"] * (column == place)
        title = f"{labels[place]} → {labels[column]}: {count:,} ({share:.1%})"
        mark = f' class="{" ".join(kinds)}"' if kinds else ""
        style = f' style="--a:{share:.2f}"' if share >= 0.005 else ""
        text = _compact(count) if count else ""
        cells.append(f'<td{mark}{style} title="{escape(title)}">{text}</td>')
    name = labels[place]
    return f'<tr><th title="{escape(name)}">{escape(name, 40)}</th>{"".join(cells)}</tr>'


def _compact(count: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= size:
            return f"{count / (1e3 if suffix == 'k' else size):.3g}{suffix}"
    return short(count)


def _most_confused(labels: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    pairs = [
        (count, labels[i], labels[j], sum(row))
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    pairs.sort(key=lambda pair: -pair[0])
    rows = [[gold, found, count, count / total] for count, gold, found, total in pairs]
    shown = _table(
        ["label", "predicted as", "examples", "share of the label"],
        rows[:MOST_CONFUSIONS], [False, False, True, True],
    )  # fmt: skip
    note = (
        f"{len(labels)} labels are too many for a matrix; these are the most frequent confusions."
    )
    return f'<p class="dim">{note}</p>{shown}'


def configuration(config: Any) -> str:
    """Every value by its dotted name, in a section for each part of the configuration."""
    parts: dict[str, list[tuple[str, Any]]] = {}
    for path, value in _leaves(config, ()):
        nested = len(path) > 1
        parts.setdefault(path[0] if nested else "", []).append(
            (".".join(path[1:] if nested else path), value)
        )
    shown, total = 0, sum(map(len, parts.values()))
    sections = []
    for name, values in sorted(parts.items(), key=lambda part: part[0] != ""):
        values = values[: max(0, MOST_ROWS - shown)]
        shown += len(values)
        rows = "".join(f"<tr><th>{escape(k)}</th><td>{_value(v)}</td></tr>" for k, v in values)
        if rows:
            sections.append(
                f"<details open><summary>{escape(name or 'run')}</summary>"
                f'<table class="config"><tbody>{rows}</tbody></table></details>'
            )
    return f'<div class="box">{"".join(sections)}</div>{_left_out(total, "values", MOST_ROWS)}'


def _leaves(value: Any, path: tuple[str, ...]):
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _leaves(part, (*path, str(key)))
    elif isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        for place, part in enumerate(value):
            yield from _leaves(part, (*path, str(place)))
    else:
        yield path or ("value",), value


def _value(value: Any) -> str:
    if value is None:
        return '<span class="dim">none</span>'
    if isinstance(value, list):
        return escape(", ".join(map(str, value)) or "[]")
    return escape(repr(value) if value == "" or isinstance(value, dict) else value)


def _left_out(total: int, what: str, limit: int) -> str:
    if total <= limit:
        return ""
    return f'<p class="note">The first {limit} of {total:,} {what}.</p>'


def _seen(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping of {list(value)[:8]}"
    return f"a {type(value).__name__}"
