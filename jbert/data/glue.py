"""The nine GLUE tasks: their columns, labels and metrics, from the published tsv files or TFDS."""

import contextlib
import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jbert.data.files import read_file
from jbert.data.lines import numbered_lines
from jbert.data.rows import OnBadRow, checked
from jbert.data.table import UNLABELLED, DataError, DataNotFoundError, Table
from jbert.data.tfds import read_tfds, tfds_splits

SPLITS = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
MNLI_SPLITS = {
    "train": "train.tsv",
    "validation_matched": "dev_matched.tsv",
    "validation_mismatched": "dev_mismatched.tsv",
    "test_matched": "test_matched.tsv",
    "test_mismatched": "test_mismatched.tsv",
}


@dataclass(frozen=True)
class GlueTask:
    """One task, whose tables have the columns `text_columns`, `label` and `idx` from any source.

    Attributes:
        text_columns: the text, or the two texts in their order, by the names that TFDS gives them.
        label_names: the classes in their published order; none for a regression.
        metrics: what is reported, by the names of `jbert.metrics`; the first chooses the best.
        folder: the directory of its tsv files.
        file_columns: what the tsv files call the texts, where it is something else.
        label_column: what the tsv files call the label.
        splits: each split's file.
        headerless: the columns of train.tsv and dev.tsv, where they do not name them themselves.
    """

    name: str
    folder: str
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    file_columns: Mapping[str, str] = field(default_factory=dict)
    label_column: str = "label"
    splits: Mapping[str, str] = field(default_factory=lambda: SPLITS)
    headerless: tuple[str, ...] = ()

    @property
    def num_labels(self) -> int:
        return len(self.label_names) or 1

    @property
    def problem_type(self) -> Literal["single_label_classification", "regression"]:
        return "single_label_classification" if self.label_names else "regression"

    @property
    def tfds(self) -> str:
        return f"glue/{self.name}"


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_TASKS = (
    GlueTask(
        name="cola",
        folder="CoLA",
        text_columns=("sentence",),
        label_names=("unacceptable", "acceptable"),
        metrics=("matthews_correlation",),
        headerless=("source", "label", "mark", "sentence"),
    ),
    GlueTask("sst2", "SST-2", ("sentence",), ("negative", "positive")),
    GlueTask(
        name="mrpc",
        folder="MRPC",
        text_columns=_PAIR,
        label_names=("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"),
        file_columns={"#1 String": "sentence1", "#2 String": "sentence2"},
        label_column="Quality",
    ),
    GlueTask(
        name="qqp",
        folder="QQP",
        text_columns=("question1", "question2"),
        label_names=("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
        label_column="is_duplicate",
    ),
    GlueTask("stsb", "STS-B", _PAIR, (), ("pearson", "spearmanr"), label_column="score"),
    GlueTask(
        name="mnli",
        folder="MNLI",
        text_columns=("premise", "hypothesis"),
        label_names=("entailment", "neutral", "contradiction"),
        file_columns={"sentence1": "premise", "sentence2": "hypothesis"},
        label_column="gold_label",
        splits=MNLI_SPLITS,
    ),
    GlueTask("qnli", "QNLI", ("question", "sentence"), _ENTAILMENT),
    GlueTask("rte", "RTE", _PAIR, _ENTAILMENT),
    GlueTask("wnli", "WNLI", _PAIR, _ENTAILMENT[::-1]),
)
GLUE = {task.name: task for task in _TASKS}


def glue_task(name: str) -> GlueTask:
    """The task of a name in any of its spellings: "sst2", "SST-2", "glue/sst2"."""
    plain = name.lower().removeprefix("glue/").replace("-", "")
    if plain not in GLUE:
        near = difflib.get_close_matches(plain, GLUE, n=1)
        hint = f" Nearest: {near[0]!r}." if near else ""
        raise DataError(f"expected one of the GLUE tasks {', '.join(GLUE)}, found {name!r}.{hint}")
    return GLUE[plain]


def read_glue(
    name: str,
    directory: str | os.PathLike[str] | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    on_bad_row: OnBadRow = "error",
) -> dict[str, Table]:
    """Every split there is of a task, by its name: `train`, `validation`, `test`; MNLI has
    `validation_matched`, `validation_mismatched` and so on.

    Args:
        name: the task.
        directory: the unpacked tsv files: the task's own folder, or the one that holds all of them.
            Without it, TFDS is read.
        data_dir: where TFDS has its data sets, if not in its own place.
        on_bad_row: "error" or "skip", as in `read_file`.
    """
    task = glue_task(name)
    if directory is None:
        splits = tfds_splits(task.tfds, data_dir)
        read = {s: read_tfds(task.tfds, s, data_dir, on_bad_row=on_bad_row) for s in splits}
        return {split: _as_task(task, table, {}, on_bad_row) for split, table in read.items()}
    if data_dir is not None:
        raise ValueError("directory is of tsv files and data_dir of TFDS: give one of them")
    folder = _folder(task, Path(os.path.expanduser(directory)))
    files = {s: folder / f for s, f in task.splits.items() if (folder / f).is_file()}
    return {s: read_glue_file(name, path, on_bad_row=on_bad_row) for s, path in files.items()}


def read_glue_file(
    name: str, path: str | os.PathLike[str], *, on_bad_row: OnBadRow = "error"
) -> Table:
    """One tsv file of a task."""
    task, path = glue_task(name), Path(os.path.expanduser(path))
    columns = task.headerless if _is_headerless(task, path) else None
    table = read_file(path, "tsv", columns=columns, on_bad_row=on_bad_row)
    first = 1 if columns else 2
    lines = [int(place) for place in table.places or ()]
    table = table.replace(table.columns | {"idx": [line - first for line in lines]})
    label = "label" if columns else task.label_column
    return _as_task(task, table, dict(task.file_columns) | {label: "label"}, on_bad_row)


def _is_headerless(task: GlueTask, path: Path) -> bool:
    if not task.headerless:
        return False
    # Of CoLA's files, only test.tsv has a header, and that has fewer columns.
    _, line = next(numbered_lines(path))
    return line.count("\t") + 1 == len(task.headerless)


def has_files(task: GlueTask, directory: str | os.PathLike[str]) -> bool:
    """Whether the task's tsv files are in a directory; if not it may be one of TFDS."""
    try:
        _folder(task, Path(os.path.expanduser(directory)))
    except DataNotFoundError:
        return False
    return True


def _folder(task: GlueTask, directory: Path) -> Path:
    """Where the task's files are: in `directory`, or in a folder there that has the task's name."""
    if not directory.is_dir():
        raise DataNotFoundError(f"{directory}: expected a directory, found none. Check the path")
    names = (task.folder.lower(), task.name)
    folders = [folder for folder in sorted(directory.iterdir()) if folder.name.lower() in names]
    for folder in (*folders, directory):
        if any((folder / file).is_file() for file in task.splits.values()):
            return folder
    raise DataNotFoundError(
        f"{directory}: expected {task.folder}/ or one of {', '.join(task.splits.values())}, found "
        f"{', '.join(sorted(file.name for file in directory.iterdir())[:10]) or 'nothing'}. "
        "Download the task from gluebenchmark.com, or leave out the directory to read TFDS"
    )


def _as_task(
    task: GlueTask, table: Table, file_columns: Mapping[str, str], on_bad_row: OnBadRow
) -> Table:
    """The table with the task's columns alone; `file_columns` maps what it has to their names."""
    origin = {new: old for old, new in file_columns.items()}
    texts = {name: origin.get(name, name) for name in task.text_columns}
    table.require(*texts.values())
    columns: dict[str, Any] = {name: table.columns[old] for name, old in texts.items()}
    labels = table.columns.get(origin.get("label", "label"), [])
    problems: dict[int, str] = {}
    # -1 and -1.0 are how the sources write that a test split's label is not published.
    if all(str(label) in ("", "-1", "-1.0") for label in labels):
        labels = []
    if labels:
        columns["label"] = numbers = []
        for row, label in enumerate(labels):
            try:
                numbers.append(_label(task, label))
            except ValueError as error:
                numbers.append(None)
                problems[row] = str(error)
    made = table.replace(columns | {"idx": table.columns["idx"]})
    if task.label_names:
        made.label_names = {"label": task.label_names}
    if not labels:
        made.absent = {"label": UNLABELLED}
    return checked(made, problems, on_bad_row)


def _label(task: GlueTask, label: Any) -> int | float:
    if not task.label_names:
        with contextlib.suppress(ValueError):
            if math.isfinite(score := float(label)):
                return score
        raise ValueError(f"expected a number as label, found {label!r}")
    if label in task.label_names:
        return task.label_names.index(label)
    numbers = [str(number) for number in range(task.num_labels)]
    if str(label) in numbers:
        return int(label)
    expected = ", ".join((*task.label_names, *numbers))
    raise ValueError(f"expected one of the labels {expected}, found {label!r}")
