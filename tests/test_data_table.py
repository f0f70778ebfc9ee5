"""Tables: where rows come from, fingerprints, and what is required of columns."""

import pickle

import pytest

from jbert.data.files import read_file
from jbert.data.table import UNLABELLED, DataError, Table


def test_rows_know_their_line_or_their_index_and_keep_it_when_selected():
    lines = Table({"text": ["a", "b", "c"]}, "train.jsonl", places=[1, 2, 17])
    assert lines.where(2) == lines.where(-1) == "train.jsonl:17"
    assert lines.select([2, 0]).where(0) == "train.jsonl:17"
    split = Table({"text": ["a", "b", "c"]}, "glue/mrpc train")
    assert split.where(1) == "glue/mrpc train[1]"
    assert split.select([2]).where(0) == "glue/mrpc train[2]"
    assert split.select([2, 0]).columns == {"text": ["c", "a"]}


def test_rows_and_their_number():
    table = Table({"text": ["a", "b"], "label": [0, 1]})
    assert len(table) == 2 and table[1] == table[-1] == {"text": "b", "label": 1}
    assert [row["text"] for row in table] == ["a", "b"]
    with pytest.raises(IndexError, match="2 rows, and no row 2"):
        table[2]
    assert len(Table({})) == 0


def test_columns_of_different_lengths_and_bytes_are_refused():
    with pytest.raises(DataError, match=r"one length, found 'a' 2, 'b' 1 values"):
        Table({"a": [1, 2], "b": [1]})
    with pytest.raises(DataError, match=r"one length.*\(places\)"):
        Table({"a": [1, 2]}, places=[1])
    with pytest.raises(DataError, match=r"^t\[1\]: column 'a' is bytes; decode it"):
        Table({"a": ["x", b"y"]}, "t")


def test_the_fingerprint_is_of_the_contents_alone(tmp_path):
    (tmp_path / "a.csv").write_text('text,tag\n"ä, b",x\nc,y\n', encoding="utf-8")
    (tmp_path / "a.tsv").write_bytes("\ufefftag\ttext\r\nx\tä, b\r\n\r\ny\tc\r\n".encode())
    (tmp_path / "a.jsonl").write_text('{"text": "\\u00e4, b", "tag": "x"}\n{"text":"c","tag":"y"}')
    tables = [read_file(tmp_path / f"a.{ending}") for ending in ("csv", "tsv", "jsonl")]
    assert len({table.fingerprint for table in tables}) == 1
    contents = Table({"text": ["ä, b", "c"], "tag": ["x", "y"]})
    assert contents.fingerprint == tables[0].fingerprint
    for other in (
        {"text": ["ä, b", "d"], "tag": ["x", "y"]},
        {"text": ["c", "ä, b"], "tag": ["y", "x"]},
        {"text": ["ä, b", "c"], "tags": ["x", "y"]},
        {"text": ["ä, b", "c"]},
        {"text": ["ä, b", "c"], "tag": ["x", None]},
    ):
        assert Table(other).fingerprint != contents.fingerprint
    assert Table({"a": ["1"]}).fingerprint != Table({"a": [1]}).fingerprint
    assert Table({"a": ["x", "y"]}).fingerprint != Table({"a": ['x"\n"y']}).fingerprint


def test_fingerprints_of_dicts_do_not_depend_on_the_order_of_keys():
    one, other = {"text": ["a"], "answer_start": [1]}, {"answer_start": [1], "text": ["a"]}
    assert Table({"answers": [one]}).fingerprint == Table({"answers": [other]}).fingerprint


def test_a_fingerprint_takes_a_text_that_is_no_utf8():
    assert Table({"a": ["\ud800"]}).fingerprint != Table({"a": ["\ud801"]}).fingerprint


def test_missing_columns_are_named_with_what_is_there_and_the_nearest():
    table = Table({"txt": ["a"], "label": [0]}, "train.csv", places=[2])
    table.require("txt", "label")
    with pytest.raises(DataError) as error:
        table.require("text", "label", "pair")
    message = str(error.value)
    assert message.startswith("train.csv: expected the columns 'text', 'pair', found only 'txt'")
    assert "Nearest to 'text': 'txt'." in message and "'pair':" not in message


def test_a_required_column_has_a_value_in_every_row():
    table = Table({"text": ["a", None], "label": [0, 1]}, "t.jsonl", places=[3, 5])
    with pytest.raises(DataError, match=r"^t.jsonl:5: expected a value of 'text', found none"):
        table.require("text")
    table.require("label")
    kept = table.complete("text")
    assert kept.columns == {"text": ["a"], "label": [0]}
    assert kept.skipped == ("t.jsonl:5: no value of 'text'",)
    with pytest.raises(DataError, match="expected the columns 'words'"):
        table.complete("words")


def test_a_column_left_out_on_purpose_says_why():
    table = Table({"text": ["a"]}, "test.tsv", absent={"label": UNLABELLED})
    with pytest.raises(DataError, match="test.tsv: there are no labels.*neither trained on nor"):
        table.require("text", "label")
    assert table.select([0]).absent == {"label": UNLABELLED}
    assert table.replace({"text": ["a"], "label": [1]}).absent == {}


def test_renaming_keeps_places_and_label_names():
    table = Table({"a": ["x"], "b": [1]}, "t", places=[4], label_names={"b": ["no", "yes"]})
    renamed = table.rename({"a": "text", "b": "label"})
    assert renamed[0] == {"text": "x", "label": 1} and renamed.where(0) == "t:4"
    assert renamed.label_names == {"label": ("no", "yes")}
    with pytest.raises(DataError, match="two columns would be called 'b'"):
        table.rename({"a": "b"})
    with pytest.raises(DataError, match="expected the columns 'c'"):
        table.rename({"c": "text"})


def test_a_table_goes_to_another_process_whole():
    table = Table({"text": ["a"]}, "t", places=[4], skipped=["t:3: bad"])
    copy = pickle.loads(pickle.dumps(table))
    assert copy.where(0) == "t:4" and copy.skipped == ("t:3: bad",)
    assert copy.fingerprint == table.fingerprint
