"""`report.html`: a run on one page that needs nothing but itself."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jbert.metrics import MetricError, greater_is_better
from jbert.training.axes import duration, short
from jbert.training.charts import Line, line_chart
from jbert.training.history import History, read_history
from jbert.training.report_page import escape, page
from jbert.training.report_tables import (
    NONE,
    ReportError,
    configuration,
    confusion,
    plain,
    scalar,
    seeds_table,
    table,
)

TRAIN = "train"
TITLES = {
    "loss": "Loss",
    "learning_rate": "Learning rate",
    "examples_per_second": "Throughput, examples/s",
    "tokens_per_second": "Throughput, tokens/s",
    "grad_norm": "Gradient norm",
    "mfu": "Model FLOPs utilisation",
}
# How charts follow each other, after the loss and what is evaluated.
ORDER = ["learning_rate", "examples_per_second", "tokens_per_second", "mfu", "grad_norm"]
# What the clock says of a line is no curve, nor is how many examples it has seen.
CLOCKS = {"epoch", "time", "elapsed_seconds", "examples", "tokens"}
FROM_ZERO = {"learning_rate", "examples_per_second", "tokens_per_second", "mfu"}
SPEEDS = {"examples_per_second", "tokens_per_second", "mfu"}
MOST_CHARTS = 60
MOST_LINES = 12
# All charts share these, so that the page stays below two megabytes.
POINTS = 30_000


def write_report(run_directory: Path, extras: Mapping[str, Any] | None = None) -> Path:
    """Writes the run's `report.html` from its `config.json` and `metrics.jsonl`; returns its path.

    extras, all optional:
        summary     {name: text or number}: tiles at the top; `task`, `model`, `devices` and `time`
                    (in seconds) go before what the configuration says of them
        confusion   {"labels": names, "matrix": counts}, a row for each label
        per_label, entities, or any other name: {"header": names, "rows": lists}
        seeds       {seed: {metric: value}}, for the mean ± spread of several runs
    """
    directory = Path(run_directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is no directory; expected that of a run")
    config, problem = _read_config(directory / "config.json")
    history = read_history(directory / "metrics.jsonl")
    extras = dict(extras or {})
    summary = extras.pop("summary", {})
    if not isinstance(summary, Mapping):
        raise ReportError(f"summary is a {type(summary).__name__}; expected {{name: value}}")
    sections = [
        _headline(directory, config, summary, history),
        *_curves(history),
        _scores(history),
        *(_extra(name, given) for name, given in extras.items()),
        "<h2>Configuration</h2>",
        f'<p class="dim">{escape(problem)}</p>' if problem else configuration(config),
    ]
    target = directory / "report.html"
    _write(target, page(f"{directory.resolve().name}: training report", "".join(sections)))
    return target


def _read_config(path: Path) -> tuple[Any, str]:
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="replace")), ""
    except FileNotFoundError:
        return {}, "The run directory has no config.json."
    except (ValueError, RecursionError) as error:
        return {}, f"config.json could not be read: {error}"


class Best(NamedTuple):
    split: str
    name: str
    value: float
    step: float


def _headline(directory: Path, config: Any, summary: Mapping[str, Any], history: History) -> str:
    given = {str(name): plain(value) for name, value in summary.items()}
    known = {
        "task": _first(config, ("task",)),
        "model": _first(config, ("model", "model_name", "architecture")),
        "time": _elapsed(history),
        "devices": _first(config, ("devices", "num_devices")),
    }
    facts = {name: given.pop(name, value) for name, value in known.items()}
    seconds = facts["time"]
    if isinstance(seconds, int | float):
        facts["time"] = duration(seconds)
    tiles = [
        *((name, facts[name], "") for name in ("task", "model")),
        *_results(config, history),
        *((name, facts[name], "") for name in ("time", "devices")),
        *((name, value, "") for name, value in given.items()),
    ]
    cells = "".join(
        f"<div><span>{escape(_title(name))}</span><b>{scalar(value)}</b>"
        f"<small>{escape(note)}</small></div>"
        for name, value, note in tiles
        if value is not None
    )
    about = f"{history.lines:,} log line{'' if history.lines == 1 else 's'}"
    about = about if history.lines else "Nothing has been logged yet"
    if history.unreadable:
        about += (
            f"; {history.unreadable:,} could not be read, "
            f"the first in line {history.first_unreadable:,} of metrics.jsonl"
        )
    return (
        f'<h1>{escape(directory.resolve().name)}</h1><p class="dim">{about}.</p>'
        f'<div class="tiles">{cells}</div>'
    )


def _results(config: Any, history: History) -> Iterator[tuple[str, str, str]]:
    best = _best(config, history)
    if best is not None:
        yield f"Best {best.name}", short(best.value), f"{best.split}, step {short(best.step)}"
    loss = history.series.get((TRAIN, "loss"))
    if loss is not None:
        # The mean of the end says more than the last line, which is chance.
        end = loss.finite().values[-max(1, len(loss.values) // 50) :]
        value = short(float(end.mean())) if len(end) else "not finite"
        over = (
            f"mean of the last {len(end)} lines"
            if len(end) > 1
            else f"step {short(loss.steps[-1])}"
        )
        yield "Final loss", value, f"train, {over}"


def _first(config: Any, keys: tuple[str, ...]) -> Any:
    """The value of the outermost of these keys; of a part, the name it gives itself."""
    level = [config]
    while level:
        for part in level:
            for key in keys:
                value = part.get(key) if isinstance(part, Mapping) else None
                if isinstance(value, Mapping):
                    names = (value.get(name) for name in ("name", "model", "task", "model_type"))
                    value = next((name for name in names if isinstance(name, str)), None)
                if isinstance(value, str | int) and value != "":
                    return value
        level = [v for part in level if isinstance(part, Mapping) for v in part.values()]
    return None


def _elapsed(history: History) -> float | None:
    clocks = [s.finite() for (_, name), s in history.series.items() if name == "elapsed_seconds"]
    return max((float(clock.values.max()) for clock in clocks if len(clock.values)), default=None)


def _best(config: Any, history: History) -> Best | None:
    """Of the metric that the run selects by; else of the first evaluated one, or of the loss."""
    found = list(_bests(history))
    wanted = _first(config, ("metric",))
    chosen = [best for best in found if wanted in (best.name, f"{best.split}/{best.name}")]
    other = [best for best in found if best.name != "loss"]
    return next(iter([*chosen, *other, *found]), None)


def _bests(history: History) -> Iterator[Best]:
    for (split, name), series in history.series.items():
        kept = series.finite()
        if split == TRAIN or not len(kept.steps):
            continue
        try:
            values = kept.values if greater_is_better(name) else -kept.values
        except MetricError:
            continue
        at = int(values.argmax())
        yield Best(split, name, float(kept.values[at]), float(kept.steps[at]))


def _curves(history: History) -> Iterator[str]:
    drawn = {key: series for key, series in history.series.items() if _is_curve(*key)}
    names = dict.fromkeys(name for _, name in drawn)
    if not names:
        return
    evaluated = {name for split, name in drawn if split != TRAIN}
    ordered = sorted(names, key=lambda name: _rank(name, evaluated))
    # The same colour for a split in all charts.
    splits = sorted(history.splits(), key=lambda split: split != TRAIN)
    points = max(40, min(800, POINTS // len(drawn)))
    charts = []
    for name in ordered[:MOST_CHARTS]:
        lines = [
            Line(split, drawn[split, name], color, _may_be_smoothed(split, name))
            for color, split in enumerate(splits)
            if (split, name) in drawn
        ]
        may_be_log = name in ("loss", "perplexity", "grad_norm")
        shown = lines[:MOST_LINES]
        charts.append(line_chart(_title(name), shown, points, name in FROM_ZERO, may_be_log))
    yield f'<h2>Curves</h2><div class="charts">{"".join(charts)}</div>'
    for rest, what in (
        (len(ordered) - MOST_CHARTS, "figures"),
        (len(splits) - MOST_LINES, "splits"),
    ):
        if rest > 0:
            yield f'<p class="note">{rest:,} more {what} are in metrics.jsonl.</p>'


def _is_curve(split: str, name: str) -> bool:
    if name in CLOCKS or name.endswith("total"):
        return False
    # How fast an evaluation was would dwarf, on one axis, how fast training is.
    return split == TRAIN or name not in SPEEDS


def _rank(name: str, evaluated: set[str]) -> int:
    """Loss first, then what is evaluated, then how training went."""
    if name == "loss" or name in evaluated:
        return 0 if name == "loss" else 1
    return 2 + (ORDER.index(name) if name in ORDER else len(ORDER))


def _may_be_smoothed(split: str, name: str) -> bool:
    return split == TRAIN and name != "learning_rate"


def _title(name: str) -> str:
    words = name.replace("_", " ")
    return TITLES.get(name, words[:1].upper() + words[1:]).replace("f1", "F1")


def _scores(history: History) -> str:
    best = {(best.split, best.name): best for best in _bests(history)}
    rows = []
    for (split, name), series in history.series.items():
        if split == TRAIN or name in CLOCKS | SPEEDS:
            continue
        found = best.get((split, name))
        top: list[Any] = [NONE, NONE] if found is None else [found.value, found.step]
        rows.append([split, name, *top, float(series.values[-1]), float(series.steps[-1])])
    if not rows:
        return ""
    header = ["split", "metric", "best", "at step", "last", "at step"]
    return f"<h2>Evaluation</h2>{table('evaluation', {'header': header, 'rows': rows})}"


def _extra(name: str, given: Any) -> str:
    if name == "confusion":
        return f"<h2>Confusion matrix</h2>{confusion(given)}"
    if name == "seeds":
        return f"<h2>Seeds</h2>{seeds_table(given)}"
    title = name.replace("_", " ").capitalize()
    return f"<h2>{escape(title)}</h2>{table(name, given)}"


def _write(target: Path, text: str) -> None:
    """All of the file or, where anything fails, what was there before."""
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(staging, "wb") as file:
            # Half a surrogate pair, which JSON can hold, has no UTF-8.
            file.write(text.encode("utf-8", errors="replace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            staging.unlink()
