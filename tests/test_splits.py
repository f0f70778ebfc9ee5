"""Where a run's splits come from, and what is held out where there is none."""

import finetune_runs as runs
import pytest

from jbert.data import splits
from jbert.data.splits import DataConfig, read_splits
from jbert.data.table import DataError, DataNotFoundError, Table

TASK = "sequence_classification"


def test_files_become_splits_in_order(tmp_path):
    data = runs.write_splits(tmp_path, TASK, test=3, validation=4, train=5)
    assert {name: len(table) for name, table in read_splits(data).items()} == {
        "train": 5, "validation": 4, "test": 3,
    }  # fmt: skip
    assert list(read_splits(data)) == ["train", "validation", "test"]


def test_rows_are_held_out_where_there_is_no_validation_split(tmp_path):
    data = runs.write_splits(tmp_path, TASK, train=40, test=3)
    tables = read_splits(data)
    assert {name: len(table) for name, table in tables.items()} == {
        "train": 36, "validation": 4, "test": 3,
    }  # fmt: skip
    lines = [int(place) for name in ("train", "validation") for place in tables[name].places]
    assert sorted(lines) == list(range(1, 41))
    assert read_splits(data)["validation"].places == tables["validation"].places
    quarter = DataConfig(train_file=data.train_file, validation_share=0.25)
    assert len(read_splits(quarter)["validation"]) == 10


def test_questions_on_one_context_are_not_torn_apart(tmp_path):
    several = [{**row, "context": f"story {i // 4}"} for i, row in enumerate(runs.rows(TASK, 40))]
    data = DataConfig(train_file=runs.write_jsonl(tmp_path / "rows.jsonl", several))
    tables = read_splits(data)
    seen, held_out = (set(tables[name].columns["context"]) for name in ("train", "validation"))
    assert len(seen) == 9 and len(held_out) == 1 and not seen & held_out
    one = DataConfig(train_file=runs.write_jsonl(tmp_path / "one.jsonl", several[:4]))
    with pytest.raises(DataError, match="too few to hold some out.*data.validation_file"):
        read_splits(one)


def test_two_rows_are_enough_and_one_is_not(tmp_path):
    for count in (2, 1):
        data = runs.write_splits(tmp_path, TASK, train=count)
        if count == 2:
            assert [len(table) for table in read_splits(data).values()] == [1, 1]
        else:
            with pytest.raises(DataError, match="has 1 row.*too few"):
                read_splits(data)


def test_only_some_rows_are_used_for_a_quick_look(tmp_path):
    data = runs.write_splits(tmp_path, TASK, train=20, validation=4)
    few = DataConfig(train_file=data.train_file, validation_file=data.validation_file, rows=6)
    assert [len(table) for table in read_splits(few).values()] == [6, 4]


def test_a_csv_without_a_header_and_a_file_of_another_ending(tmp_path):
    (tmp_path / "a.csv").write_text("fine,good\ncold,bad\n")
    data = DataConfig(train_file=str(tmp_path / "a.csv"), columns=("text", "label"))
    assert read_splits(data)["train"].columns.keys() == {"text", "label"}
    (tmp_path / "a.data").write_text("text\tlabel\nfine\tgood\ncold\tbad\n")
    data = DataConfig(train_file=str(tmp_path / "a.data"), format="tsv")
    assert sum(map(len, read_splits(data).values())) == 2
    with pytest.raises(DataError, match="expected a name that ends in .csv"):
        read_splits(DataConfig(train_file=str(tmp_path / "a.data")))


def test_a_bad_row_is_an_error_or_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    runs.write_jsonl(path, runs.rows(TASK, 4))
    path.write_bytes(path.read_bytes() + b'{"text": "\xff", "label": "good"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:5: expected UTF-8, found the byte 0xff"):
        read_splits(DataConfig(train_file=str(path)))
    with pytest.warns(UserWarning, match="skipped 1 of 5 rows"):
        tables = read_splits(DataConfig(train_file=str(path), on_bad_row="skip"))
    assert sum(map(len, tables.values())) == 4


@pytest.mark.parametrize(
    "fields, error",
    [
        ({}, "either data.dataset or data.train_file.*found neither"),
        ({"dataset": "quickstart", "train_file": "x"}, "found both"),
        ({"test_file": "{}/test.jsonl"}, "expected a split called train, found test"),
        ({"train_file": "{}/tset.jsonl"}, "no such file. Beside it there is test.jsonl"),
        ({"dataset": "glue/mrcp", "data_dir": "{}"}, "GLUE tasks.*Nearest: 'mrpc'"),
        ({"dataset": "imbd", "data_dir": "{}"}, "TFDS has no data set 'imbd'"),
        ({"dataset": "imdb_reviews", "data_dir": "{}"}, "found nothing there.*download_and_prepar"),
        ({"dataset": "quickstart", "validation_share": 1.0}, "validation_share is 1.0"),
        ({"dataset": "quickstart", "rows": 0}, "data.rows is 0; expected at least 1"),
    ],
)
def test_mistakes_are_explained(tmp_path, fields, error):
    runs.write_splits(tmp_path, TASK, test=3)
    place = {k: v.format(tmp_path) if isinstance(v, str) else v for k, v in fields.items()}
    with pytest.raises((DataError, DataNotFoundError), match=error):
        read_splits(DataConfig(**place))


def test_glue_is_read_from_its_tsv_files(tmp_path):
    folder = tmp_path / "RTE"
    folder.mkdir()
    row = "{}\tthe sea was calm\tthe sea was cold\t{}\n"
    for file in ("train.tsv", "dev.tsv"):
        text = "index\tsentence1\tsentence2\tlabel\n" + row.format(0, "entailment")
        (folder / file).write_text(text + row.format(1, "not_entailment"))
    (folder / "test.tsv").write_text("index\tsentence1\tsentence2\n0\tthe sea\tthe wind\n")
    tables = read_splits(DataConfig(dataset="glue/rte", data_dir=str(tmp_path)))
    assert list(tables) == ["train", "validation", "test"]
    assert tables["train"].columns["label"] == [0, 1] and "label" not in tables["test"].columns


def test_a_split_called_dev_is_for_validation(monkeypatch):
    rows = {"train": 3, "dev": 2, "test": 1, "unsupervised": 9}
    monkeypatch.setattr(splits, "tfds_splits", lambda name, place: tuple(rows))
    monkeypatch.setattr(
        splits, "read_tfds", lambda name, split, *_, **__: Table({"text": ["a"] * rows[split]})
    )
    found = read_splits(DataConfig(dataset="conll2003"))
    assert {name: len(table) for name, table in found.items()} == {
        "train": 3, "validation": 2, "test": 1,
    }  # fmt: skip
