"""The curves of a run in a notebook, drawn again and again while it goes on."""

import contextlib
import io
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jbert.data.splits import TRAIN
from jbert.training.charts import FEW, smooth
from jbert.training.config import RunError
from jbert.training.directory import METRICS
from jbert.training.history import History, Series, read_history

INCHES, DOTS = (10, 3.2), 144
LOSS, PERPLEXITY = "loss", "perplexity"


@contextlib.contextmanager
def watch(
    output_dir: str | Path, seconds: float = 5.0, stop_at: int | None = None
) -> Iterator[None]:
    """While inside, a notebook's cell shows the curves of the run, new every few seconds:

        with watch(config.output_dir):
            finetune(config)

    stop_at: once the run has logged this step, stop it as the notebook's stop button does.
    """
    show, Image = _display()
    done = threading.Event()

    def draw() -> Any:
        return Image(_png(curves(output_dir)), width=INCHES[0] * 80)

    place = show(draw(), display_id=True)

    def follow() -> None:
        to_stop = stop_at
        while not done.wait(seconds):
            place.update(draw())
            if to_stop is not None and _last_step(output_dir) >= to_stop:
                signal.raise_signal(signal.SIGINT)
                to_stop = None

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        place.update(draw())


def _last_step(output_dir: str | Path) -> float:
    history = _history(output_dir)
    return max((series.steps[-1] for series in history.series.values()), default=0)


def _history(output_dir: str | Path) -> History:
    return read_history(Path(output_dir).expanduser() / METRICS)


def curves(output_dir: str | Path) -> Any:
    """A matplotlib figure of a run: its losses, and what its evaluations found."""
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("curves need matplotlib: pip install 'jbert[colab]'") from error

    history = _history(output_dir)
    figure = Figure(INCHES, layout="constrained")
    losses, scores = figure.subplots(1, 2)
    _draw(losses, LOSS, _found(history, lambda split, name: name == LOSS))
    # Perplexities would leave no room for any other score, and say what losses say.
    scores_of = _found(history, lambda split, name: name not in (LOSS, PERPLEXITY))
    _draw(scores, "evaluation", scores_of or _found(history, lambda split, name: name != LOSS))
    return figure


def _found(history: History, wanted: Callable[[str, str], bool]) -> dict[str, Series]:
    """Losses, or of evaluations some scores: what of them is finite, under names for the legend."""
    return {
        split if name == LOSS else f"{split} {name}": series.finite()
        for (split, name), series in history.series.items()
        if wanted(split, name) and (name == LOSS or split != TRAIN)
    }


def _draw(axes: Any, title: str, lines: dict[str, Series]) -> None:
    axes.set(title=title, xlabel="step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    for place, (name, series) in enumerate(lines.items()):
        color = f"C{place}"
        if len(series.steps) > FEW:
            axes.plot(*series, color=color, alpha=0.25)
            axes.plot(*smooth(series), color=color, label=name)
        else:
            axes.plot(*series, "o-", color=color, label=name, markersize=4)
    if lines:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing yet", ha="center", color="gray", transform=axes.transAxes)


def _png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DOTS)
    return data.getvalue()


def _display() -> tuple[Any, Any]:
    """IPython's function that shows a picture, and the kind of picture it shows."""
    try:
        from IPython.core.getipython import (  # pyright: ignore[reportMissingImports]
            get_ipython,
        )
        from IPython.display import Image, display  # pyright: ignore[reportMissingImports]
    except ImportError:
        get_ipython = Image = display = lambda: None
    if get_ipython() is None:
        raise RunError(
            "watch draws below the cell of a notebook, and this is none; "
            "report.html in the run's directory has the same curves"
        )
    return display, Image
