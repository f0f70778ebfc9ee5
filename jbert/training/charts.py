"""Line charts as inline SVG.

The SVG holds lines alone, and is stretched to any width; ticks and legend are HTML text around it,
in the size of the page's other text however narrow the chart.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jbert.training.axes import Axis, short, step_axis, tick_labels, value_axis
from jbert.training.history import Series
from jbert.training.report_page import escape

WIDTH, HEIGHT = 1000, 300
COLORS = 8
# Fewer points are shown one by one, without a smoothed line among them.
FEW = 30
MARKED = 60


class Line(NamedTuple):
    """A series with its name in the legend and its colour, the same in all charts."""

    name: str
    series: Series
    color: int
    smoothed: bool = False


def line_chart(
    title: str,
    lines: Sequence[Line],
    points: int = 800,
    from_zero: bool = False,
    may_be_log: bool = False,
) -> str:
    """A figure of lines over steps, each of at most `points` points."""
    notes = [_missing(line) for line in lines if not np.isfinite(line.series.values).all()]
    drawn = [line for line in lines if np.isfinite(line.series.values).any()]
    if not drawn:
        return _figure(title, "", '<p class="empty">No value to draw.</p>', notes)
    finite = [line.series.finite() for line in drawn]
    x = step_axis(np.concatenate([series.steps for series in finite]))
    values = np.concatenate([series.values for series in finite])
    y = value_axis(values, from_zero, may_be_log)
    if y.logarithmic:
        title += " (log scale)"
    if len(values) == 1:
        notes.append(f"One value so far, at step {short(finite[0].steps[0])}.")
    if any(_is_smoothed(line) for line in drawn):
        notes.append("Faint: as logged. Strong: moving mean.")
    paths = [path for line in drawn for path in _paths(line, x, y, points)]
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}">{_grid(x, y)}{"".join(paths)}</svg>'
    )
    body = _with_labels(svg, x, y) + _data(drawn, x, points)
    return _figure(title, _legend(drawn), body, notes)


def thin(series: Series, limit: int) -> Series:
    """At most `limit` points, with the first, last, lowest and highest of each stretch."""
    count = len(series.steps)
    if count <= limit:
        return series
    edges = np.linspace(0, count, max(limit // 4, 1) + 1).astype(int)
    kept = set()
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        stretch = series.values[start:end]
        kept |= {start, end - 1, start + int(stretch.argmin()), start + int(stretch.argmax())}
    places = np.array(sorted(kept))
    return Series(series.steps[places], series.values[places])


def smooth(series: Series, stretches: int = 1000, width: int = 41) -> Series:
    """A moving mean over about a fortieth of the steps, centred, narrower at both ends."""
    count = len(series.steps)
    edges = np.unique(np.linspace(0, count, min(stretches, count) + 1).astype(int))
    sizes = np.diff(edges)
    means = np.add.reduceat(series.values, edges[:-1]) / sizes
    steps = np.add.reduceat(series.steps, edges[:-1]) / sizes
    half = max(1, len(means) // width // 2 + 1)
    result = np.empty_like(means)
    for place in range(len(means)):
        around = means[max(0, place - half) : place + half + 1]
        result[place] = around.mean()
    return Series(steps, result)


def _is_smoothed(line: Line) -> bool:
    return line.smoothed and np.isfinite(line.series.values).sum() > FEW


def _paths(line: Line, x: Axis, y: Axis, points: int) -> list[str]:
    color, finite = _color(line.color), line.series.finite()
    raw = _path(_with_gaps(thin(finite, points), line.series), x, y)
    if _is_smoothed(line):
        curve = _path(smooth(finite), x, y)
        return [f'<path class="raw {color}" d="{raw}"/>', f'<path class="{color}" d="{curve}"/>']
    parts = [f'<path class="{color}" d="{raw}"/>']
    if len(finite.steps) <= MARKED:
        dots = "".join(f"M{px} {py}h0" for px, py in _pixels(finite, x, y))
        parts.append(f'<path class="dot {color}" d="{dots}"/>')
    return parts


def _with_gaps(kept: Series, whole: Series) -> Series:
    """The kept points with a NaN wherever one of the whole series was not finite."""
    broken = whole.steps[~np.isfinite(whole.values)]
    # One gap between two kept points says as much as a thousand.
    places = np.unique(np.searchsorted(kept.steps, broken))
    steps = np.insert(kept.steps, places, np.nan)
    return Series(steps, np.insert(kept.values, places, np.nan))


def _path(series: Series, x: Axis, y: Axis) -> str:
    text, command = [], "M"
    for step, (px, py) in zip(series.steps, _pixels(series, x, y), strict=True):
        if np.isnan(step):
            command = "M"
        else:
            text.append(f"{command}{px} {py}")
            command = "L"
    return "".join(text)


def _pixels(series: Series, x: Axis, y: Axis) -> list[tuple[str, str]]:
    across = np.clip(x.place(series.steps), 0, 1) * WIDTH
    down = (1 - np.clip(y.place(series.values), 0, 1)) * HEIGHT
    return [(f"{a:.1f}", f"{b:.1f}") for a, b in zip(across, down, strict=True)]


def _grid(x: Axis, y: Axis) -> str:
    rows = (1 - y.place(np.array(y.ticks))) * HEIGHT
    columns = x.place(np.array(x.ticks)) * WIDTH
    d = "".join(f"M0 {row:.1f}H{WIDTH}" for row in rows)
    d += "".join(f"M{column:.1f} 0V{HEIGHT}" for column in columns)
    return f'<path class="grid" d="{d}"/>'


def _with_labels(svg: str, x: Axis, y: Axis) -> str:
    rows, columns = tick_labels(y), tick_labels(x)
    left = "".join(
        f'<span style="top:{100 - 100 * place:.2f}%">{label}</span>'
        for place, label in zip(y.place(np.array(y.ticks)), rows, strict=True)
    )
    below = "".join(
        f'<span style="left:{100 * place:.2f}%">{label}</span>'
        for place, label in zip(x.place(np.array(x.ticks)), columns, strict=True)
    )
    width = max(map(len, rows), default=1) + 1
    return (
        f'<div class="plot" style="--y:{width}ch"><div class="y">{left}</div>'
        f'<div class="area">{svg}<i class="cursor"></i></div>'
        f'<div class="x">{below}</div><div class="unit">step</div></div>'
    )


def _legend(lines: Sequence[Line]) -> str:
    items = "".join(
        f'<li><i class="{_color(line.color)}"></i>{escape(line.name)} '
        f"<b>{short(line.series.finite().values[-1])}</b></li>"
        for line in lines
    )
    return f'<ul class="legend">{items}</ul>'


def _data(lines: Sequence[Line], x: Axis, points: int) -> str:
    """The points as JSON, for reading them off under the pointer."""
    rows = []
    for line in lines:
        kept = thin(line.series.finite(), points)
        values = [float(f"{value:.5g}") for value in kept.values]
        rows.append([kept.steps.astype(float).tolist(), values])
    text = json.dumps({"x": [x.low, x.high], "lines": rows}, separators=(",", ":"))
    text = text.replace(".0,", ",").replace(".0]", "]")
    return f'<script type="application/json">{text}</script>'


def _missing(line: Line) -> str:
    broken = ~np.isfinite(line.series.values)
    count, first = int(broken.sum()), line.series.steps[broken.argmax()]
    what = "1 value is not finite," if count == 1 else f"{count:,} values are not finite, the first"
    return f"{escape(line.name)}: {what} at step {short(first)}."


def _figure(title: str, legend: str, body: str, notes: Sequence[str]) -> str:
    below = "".join(f'<p class="note">{note}</p>' for note in notes)
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<span class="at"></span>'
        f"</figcaption>{legend}{body}{below}</figure>"
    )


def _color(number: int) -> str:
    dashed = " dashed" if number >= COLORS else ""
    return f"s{number % COLORS}{dashed}"
