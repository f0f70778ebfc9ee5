"""Prepared TFDS data sets, read with array_record (or parquet) and without TensorFlow."""

import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from jbert.data.parquet import plain_value
from jbert.data.rows import OnBadRow, Rows
from jbert.data.squad_files import checked_squad
from jbert.data.table import UNLABELLED, DataError, DataNotFoundError, Table

UNKNOWN_CLASS = -1  # what TFDS puts where a test split's class is not published
SQUAD = {"id", "context", "question", "answers"}


def read_tfds(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    on_bad_row: OnBadRow = "error",
) -> Table:
    """One split of a prepared data set, such as "glue/mrpc" and "train" or "train[:10%]".

    Nothing is downloaded. Classes stay numbers, with their names in `Table.label_names`; sequences
    of classes become lists of names, `ner` under the name `tags`. A split whose classes are all
    unknown has no such column. SQuAD's rows are those of `squad_files`.

    Args:
        name: the data set, with its configuration and version if need be ("squad/v2.0:3.0.0").
        split: a split, or a slice of one, as TFDS writes them.
        data_dir: where data sets are prepared; by default TFDS's own place.
        on_bad_row: "error" or "skip", as in `read_file`.
    """
    builder = _builder(name, data_dir)
    _check_split(builder, name, split)
    source = _data_source(builder, name, split, data_dir)
    rows = Rows(f"{name} {split}", on_bad_row)
    for index in tqdm(
        range(len(source)), desc=rows.source, unit=" rows", leave=False, disable=None
    ):
        try:
            rows.add(f"[{index}]", _plain_row(source[index]))
        except ValueError as error:
            rows.bad(f"[{index}]", str(error))
        except RuntimeError as error:  # array_record's, where a file is missing or damaged
            raise _damaged(f"{name} {split}", error) from error
    table = _as_declared(rows.table(), builder.info.features)
    return checked_squad(table, on_bad_row) if set(table.columns) >= SQUAD else table


def tfds_splits(name: str, data_dir: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """The splits of a prepared data set."""
    return tuple(_builder(name, data_dir).info.splits)


def _tfds() -> Any:
    try:
        import array_record  # noqa: F401 — TFDS names it only once a data set is opened
        import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f"TFDS data sets are read with tensorflow-datasets and array-record; {error.name} is "
            "not installed. Run: pip install 'jbert[data]'"
        ) from error
    return tensorflow_datasets


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    tfds = _tfds()
    given = None if data_dir is None else _place(data_dir)
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=given)
    except tfds.core.DatasetNotFoundError:
        pass
    except Exception as error:  # TFDS, etils and protobuf share no class of errors
        raise _damaged(name, error) from error
    _check_name(tfds, name)
    raise DataNotFoundError(
        f"{name}: expected it prepared in {_place(data_dir)}, found nothing there. With a "
        f"network, run: {_command(name, _place(data_dir))}"
    )


def _place(data_dir: str | os.PathLike[str] | None) -> str:
    if data_dir is not None:
        return os.path.abspath(os.path.expanduser(data_dir))
    return str(_tfds().core.constants.DATA_DIR)


def _command(name: str, place: str) -> str:
    # `tfds build` needs TensorFlow, and so do most texts unless their modules are imported.
    return (
        'python -c "import tensorflow_datasets as tfds, tensorflow_datasets.text; '
        f"tfds.builder({name!r}, data_dir={place!r}, file_format='array_record')"
        '.download_and_prepare()"'
    )


def _check_name(tfds: Any, name: str) -> None:
    """Raises if TFDS knows no such data set, or it has no such configuration."""
    import tensorflow_datasets.text  # noqa: F401 — TFDS itself only does if TensorFlow is there

    stem, _, config = name.split(":")[0].partition("/")
    known = tfds.list_builders(with_community_datasets=False)
    if stem not in known:
        raise DataNotFoundError(
            f"{name}: TFDS has no data set {stem!r}, and none is prepared under that name. "
            f"{_nearest(stem, known) or 'Check its spelling'}"
        )
    configs = list(tfds.builder_cls(stem).builder_configs)
    if config and config not in configs:
        raise DataNotFoundError(
            f"{name}: the data set {stem!r} has no configuration {config!r}. "
            f"{_nearest(config, configs) or 'It has ' + (', '.join(configs) or 'none')}"
        )


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"Nearest: {', '.join(near)}" if near else ""


def _check_split(builder: Any, name: str, split: str) -> None:
    known = list(builder.info.splits)
    for part in split.split("+"):
        stem = part.partition("[")[0].strip()
        if stem not in known and stem != "all":
            raise DataError(
                f"{name}: expected one of the splits {', '.join(known)}, found {stem!r}. "
                f"{_nearest(stem, known) or 'Pass one of them'}"
            )


def _data_source(builder: Any, name: str, split: str, data_dir: Any) -> Sequence[Any]:
    try:
        return builder.as_data_source(split=split)
    except NotImplementedError as error:
        found = getattr(builder.info.file_format, "value", "an unknown format")
        raise DataError(
            f"{name}: expected array_record or parquet, found {found} in {builder.data_path}, "
            "which takes TensorFlow to read. Prepare it again in another place, and pass that as "
            f"data_dir: {_command(name, _place(data_dir) + '_array_record')}"
        ) from error
    except (ValueError, RuntimeError, OSError) as error:
        raise _damaged(f"{name} {split}", error) from error


def _damaged(source: str, error: BaseException) -> DataError:
    found = (str(error).strip() or type(error).__name__).splitlines()[0]
    return DataError(
        f"{source}: expected a prepared data set, found: {found}. Prepare it again, or update "
        "tensorflow-datasets"
    )


def _plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    plain = {}
    for name, value in row.items():
        try:
            plain[name] = plain_value(value)
        except ValueError as error:
            raise ValueError(f"column {name!r}: {error}") from None
    return plain


def _as_declared(table: Table, features: Mapping[str, Any]) -> Table:
    """The table with classes as Table has them, and without those that are all unknown."""
    columns, names, absent = dict(table.columns), {}, dict(table.absent)
    for name, feature in features.items():
        of_each = getattr(getattr(feature, "feature", None), "names", None)
        classes = of_each or getattr(feature, "names", None)
        if classes:
            values = [_known_class(value, of_each) for value in columns.pop(name)]
            name = "tags" if of_each and name == "ner" and "tags" not in features else name
            names[name] = tuple(classes)
            if all(value is None for value in values):
                absent[name] = UNLABELLED
            else:
                columns[name] = values
        elif getattr(feature, "np_dtype", None) == np.float32 and not feature.shape:
            # The shortest number that is this float32, such as 4.2 for 4.199999809265137.
            columns[name] = [float(str(np.float32(value))) for value in columns[name]]
    table = table.replace(columns)
    table.label_names = names
    table.absent = absent
    return table


def _known_class(value: Any, of_each: Sequence[str] | None) -> Any:
    """A class's number, or the names of a list of them (`of_each`); None for an unknown one."""
    if of_each is None:
        return None if value == UNKNOWN_CLASS else value
    return None if UNKNOWN_CLASS in value else [of_each[number] for number in value]
