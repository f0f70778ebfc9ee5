"""The splits of a run's data, from TFDS, GLUE's files, local files, or the package itself."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jbert.data.files import read_file
from jbert.data.glue import glue_task, has_files, read_glue
from jbert.data.quickstart import QUICKSTART, quickstart_splits
from jbert.data.table import DataError, Table
from jbert.data.tfds import read_tfds, tfds_splits

TRAIN, VALIDATION, TEST = "train", "validation", "test"
# What a few of TFDS's data sets, such as conll2003, call them.
OTHER_NAMES = {"dev": VALIDATION}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learned from, and how it is read."""

    dataset: str = ""
    """A TFDS data set such as glue/mrpc or squad/v2.0, or quickstart; or nothing, and files."""
    data_dir: str | None = None
    """Where TFDS has its data sets, or for a GLUE task the directory of its tsv files."""
    train_file: str | None = None
    """A csv, tsv, jsonl, json, parquet, conll or txt file, also gzip."""
    validation_file: str | None = None
    """Of the same format."""
    test_file: str | None = None
    """Of the same format; its labels, if it has any, are not used for anything but a score."""
    format: str | None = None
    """Of the files; by default what their names end in. swag and codah have to be named."""
    columns: tuple[str, ...] = ()
    """The names of a csv's or tsv's columns, where its first line is not them."""
    validation_share: float = 0.1
    """How much of the training data is held out where there is no validation split: the same rows
    in every run."""
    rows: int | None = None
    """Use only so many rows of each split, for a quick look."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at a row that cannot be read, or leave such rows out and say how many."""
    cache_dir: str | None = None
    """Where tokenised data are kept; by default the user's cache directory."""

    def __post_init__(self):
        if not 0 < self.validation_share < 1:
            raise DataError(
                f"data.validation_share is {self.validation_share}; expected a share, 0 to 1"
            )
        if self.rows is not None and self.rows < 1:
            raise DataError(f"data.rows is {self.rows}; expected at least 1")


def read_splits(data: DataConfig) -> dict[str, Table]:
    """The tables by split, `train` first; MNLI has two validation and two test splits."""
    tables = _read(data)
    if TRAIN not in tables:
        raise DataError(f"expected a split called train, found {', '.join(tables) or 'none'}")
    if not any(name.startswith(VALIDATION) for name in tables):
        tables[TRAIN], held_out = _hold_out(tables[TRAIN], data.validation_share)
        tables = {TRAIN: tables.pop(TRAIN), VALIDATION: held_out, **tables}
    if data.rows is not None:
        tables = {name: t.select(range(min(len(t), data.rows))) for name, t in tables.items()}
    return tables


def _read(data: DataConfig) -> dict[str, Table]:
    files = {TRAIN: data.train_file, VALIDATION: data.validation_file, TEST: data.test_file}
    files = {split: path for split, path in files.items() if path}
    if bool(files) == bool(data.dataset):
        raise DataError(
            "expected either data.dataset or data.train_file to be given, found "
            + ("both" if files else "neither")
        )
    if files:
        return {split: _read_file(path, data) for split, path in files.items()}
    if data.dataset == QUICKSTART:
        return quickstart_splits()
    if data.dataset.startswith("glue/"):
        task = glue_task(data.dataset)
        here = data.data_dir is not None and has_files(task, data.data_dir)
        place: dict[str, Any] = {"directory" if here else "data_dir": data.data_dir}
        return _in_order(read_glue(task.name, **place, on_bad_row=data.on_bad_row))
    splits = tfds_splits(data.dataset, data.data_dir)
    names = {split: OTHER_NAMES.get(split, split) for split in splits}
    read = {
        name: read_tfds(data.dataset, split, data.data_dir, on_bad_row=data.on_bad_row)
        for split, name in names.items()
        if name.split("_")[0] in (TRAIN, VALIDATION, TEST)
    }
    return _in_order(read)


def _read_file(path: str, data: DataConfig) -> Table:
    options: dict[str, Any] = {"columns": data.columns} if data.columns else {}
    return read_file(path, data.format, on_bad_row=data.on_bad_row, **options)


def _in_order(tables: Mapping[str, Table]) -> dict[str, Table]:
    order = (TRAIN, VALIDATION, TEST)
    return dict(sorted(tables.items(), key=lambda item: order.index(item[0].split("_")[0])))


def _hold_out(table: Table, share: float) -> tuple[Table, Table]:
    """Some rows at random as a split of their own: the same ones whatever the run's seed, so that
    runs can be compared. Rows that share a context go the same way: who has learned one question
    about a text knows something about the others."""
    contexts = table.columns.get("context", range(len(table)))
    groups: dict[Any, list[int]] = {}
    for row, context in enumerate(contexts):
        groups.setdefault(context, []).append(row)
    if len(groups) < 2:
        raise DataError(
            f"{table.source} has {len(table)} row(s), too few to hold some out for validation; "
            "give data.validation_file"
        )
    several = list(groups.values())
    wanted, held_out = share * len(table), list[int]()
    for group in np.random.default_rng(len(table)).permutation(len(several)).tolist()[1:]:
        if held_out and len(held_out) >= wanted:
            break
        held_out += several[group]
    kept = set(range(len(table))) - set(held_out)
    return table.select(sorted(kept)), table.select(sorted(held_out))
