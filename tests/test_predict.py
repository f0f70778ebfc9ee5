"""`jbert predict`: files in, one JSON line an answer, bad rows reported and the rest answered."""

import json

import pytest
from pipeline_models import close, model, pipe

import jbert
from jbert.cli import main
from jbert.predict import parse_options, predict

SHAPES = {"buckets": (32,), "batch_size": 4}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Directories of models by task."""
    root = tmp_path_factory.mktemp("models")
    for task in ("sequence_classification", "multiple_choice"):
        jbert.save(model("bert", task), root / task)
    return root


def run(saved, file, content, task="text-classification", **options):
    """The exit status and the records that a file of these contents gives."""
    mode = "wb" if isinstance(content, bytes) else "w"
    with open(file, mode, **({} if mode == "wb" else {"encoding": "utf-8"})) as target:
        target.write(content)
    head = task.replace("text-c", "sequence_c").replace("-", "_")
    out = file.with_suffix(".out")
    status = predict(task, str(saved / head), file=file, out=out, options=SHAPES | options)
    return status, [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_the_command_answers_texts_in_order(saved, capsys):
    status = main([
        "predict", "text-classification", "the bread", "was good", "--model",
        str(saved / "sequence_classification"), "--option", "top_k=2", "--option", "buckets=[32]",
    ])  # fmt: skip
    assert status == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = pipe("text-classification", model("bert", "sequence_classification"))(
        ["the bread", "was good"], top_k=2
    )
    assert [record["line"] for record in records] == [1, 2]
    close([record["result"] for record in records], expected, 1e-5)


def test_a_bad_row_is_reported_and_the_rest_answered(saved, tmp_path, capsys):
    rows = ['{"text": "a"}', "", "{broken", '"just text"', '{"other": 1}', "null",
            '{"text": "a", "text_pair": "b"}']  # fmt: skip
    status, records = run(saved, tmp_path / "rows.jsonl", "\n".join(rows) + "\n")
    assert status == 3
    assert [(record["line"], "result" in record) for record in records] == [
        (1, True), (3, False), (4, True), (5, False), (6, False), (7, True)
    ]  # fmt: skip
    errors = {record["line"]: record["error"] for record in records if "error" in record}
    assert "not JSON" in errors[3]
    assert "'text' is missing" in errors[5]
    told = capsys.readouterr().err
    for line, error in errors.items():
        assert f"line {line}: {error}" in told
    assert "3 rows answered, 3 failed" in told


def test_csv_rows(saved, tmp_path):
    content = (
        b"\xef\xbb\xbftext,text_pair\r\n"
        b'"two\nlines",b\r\n'
        b"only one\r\n"
        b"bad \xff byte,b\r\n"
        b'"say ""hi""",b\r\n'
    )
    status, records = run(saved, tmp_path / "rows.csv", content)
    assert status == 3
    assert [record["line"] for record in records] == [2, 4, 5, 6]
    assert ["result" in record for record in records] == [True, False, False, True]
    assert "1 columns where the header has 2" in records[1]["error"]
    assert "not UTF-8" in records[2]["error"]
    expected = pipe("text-classification", model("bert", "sequence_classification"))(
        [("two\nlines", "b"), ('say "hi"', "b")]
    )
    close([records[0]["result"], records[3]["result"]], expected)


def test_a_text_a_line(saved, tmp_path):
    # Neither \r nor U+2028 ends a line, and an empty line is an empty text.
    status, records = run(saved, tmp_path / "rows.txt", "one\rstill one\u2028and one\n\nthree")
    assert status == 0
    assert [record["line"] for record in records] == [1, 2, 3]


def test_choices_in_a_csv_are_json(saved, tmp_path):
    rows = 'question,choices\nwho?,"[""he"", ""she""]"\nwho?,"[he"\nwho?,he\n'
    status, records = run(saved, tmp_path / "rows.csv", rows, "multiple-choice")
    assert status == 3
    assert {answer["choice"] for answer in records[0]["result"]} == {"he", "she"}
    assert "not JSON" in records[1]["error"]
    assert "list of texts" in records[2]["error"]


def test_what_utf8_cannot_hold_is_escaped(saved, tmp_path):
    row = '{"question": "who?", "choices": ["\\ud800 he", "café"]}'
    status, records = run(saved, tmp_path / "rows.jsonl", row, "multiple-choice")
    assert status == 0
    assert {answer["choice"] for answer in records[0]["result"]} == {"\ud800 he", "café"}


def test_arrays_become_lists(saved, tmp_path):
    (tmp_path / "rows.txt").write_text("a\nb c\n")
    out = tmp_path / "out.jsonl"
    args = ("sentence-embedding", str(saved / "sequence_classification"))
    assert predict(*args, file=tmp_path / "rows.txt", out=out, options=SHAPES) == 0
    first = json.loads(out.read_text().splitlines()[0])
    assert len(first["result"]) == 32


def test_what_is_there_is_not_replaced_unasked(saved, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    out.write_text("answers of a week\n")
    words = ["predict", "text-classification", "a", "--model",
             str(saved / "sequence_classification"), "--out", str(out)]  # fmt: skip
    assert main(words) == 1
    assert "--force" in capsys.readouterr().err
    assert out.read_text() == "answers of a week\n"
    assert main([*words, "--force"]) == 0
    assert json.loads(out.read_text())["line"] == 1


def test_wrong_use_is_said_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="either texts or --file"):
        predict("fill-mask", "nowhere")
    with pytest.raises(ValueError, match="not both"):
        predict("fill-mask", "nowhere", ["a"], tmp_path / "a.txt")
    with pytest.raises(ValueError, match="--format"):
        predict("fill-mask", "nowhere", file=tmp_path / "a.xlsx")
    with pytest.raises(FileNotFoundError, match="no such file"):
        predict("fill-mask", "nowhere", file=tmp_path / "a.txt")
    with pytest.raises(ValueError, match="name=value"):
        parse_options(["top_k"])
    assert parse_options(["top_k=3", "pooling=cls", "x=[1]"]) == {
        "top_k": 3, "pooling": "cls", "x": [1]
    }  # fmt: skip
