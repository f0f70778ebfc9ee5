"""SQuAD's files, and SWAG's and CODAH's: questions on a context, and choices that follow one."""

import json

import pytest

from jbert.data.files import read_file
from jbert.data.squad_files import checked_squad
from jbert.data.table import DataError, DataWarning


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    return write


def squad_json(*questions, context="Ada saw the sea. The sea was calm."):
    return json.dumps(
        {"data": [{"title": "Sea", "paragraphs": [{"context": context, "qas": list(questions)}]}]}
    )


def asked(id, *answers, **more):
    return {
        "id": id,
        "question": "What?",
        "answers": [{"text": text, "answer_start": start} for text, start in answers],
    } | more


@pytest.mark.parametrize("format", [None, "squad"])
def test_squad_of_both_versions(write, format):
    two = squad_json(
        asked("a", ("the sea", 8), ("sea", 12), is_impossible=False),
        asked("b", is_impossible=True, plausible_answers=[{"text": "Ada", "answer_start": 0}]),
    )
    table = read_file(write("dev.json", two), format)
    assert list(table.columns) == ["id", "title", "context", "question", "answers", "is_impossible"]
    assert table.columns["answers"] == [
        {"text": ["the sea", "sea"], "answer_start": [8, 12]},
        {"text": [], "answer_start": []},
    ]
    assert table.columns["is_impossible"] == [False, True]
    assert table[0]["title"] == "Sea" and "(id 'b')" in table.where(1)
    one = read_file(write("dev.json", squad_json(asked("a", ("the sea", 8), ("sea", 12)))), format)
    assert one[0] == table[0]


def test_squads_rows_from_another_format_are_checked_alike(write):
    row = {"id": "a", "context": "The sea.", "question": "What?"}
    answers = {"text": ["sea"], "answer_start": [4]}
    lines = read_file(write("a.jsonl", json.dumps(row | {"answers": answers, "source": "x"})))
    whole = {"title": "", "answers": answers, "is_impossible": False}
    assert checked_squad(lines)[0] == row | whole
    answers["answer_start"] = [3]
    lines = read_file(write("a.jsonl", json.dumps(row | {"answers": answers})))
    with pytest.raises(DataError, match="a.jsonl:1: expected the answer 'sea' at 3, found ' se'"):
        checked_squad(lines)
    row["context"] = ["The", "sea."]
    lines = read_file(write("a.jsonl", json.dumps(row | {"answers": answers})))
    with pytest.raises(DataError, match="a.jsonl:1: expected a text 'context', found list"):
        checked_squad(lines)


def test_squad_without_answers_can_be_predicted_alone(write):
    question = {"id": "a", "question": "What?"}
    table = read_file(write("test.json", squad_json(question)))
    assert list(table.columns) == ["id", "title", "context", "question"]
    with pytest.raises(DataError, match="neither trained on nor evaluated"):
        table.require("answers")


GOOD = asked("good", ("sea", 12))
BAD_QUESTIONS = {
    "elsewhere": (asked("bad", ("sea", 22)), r"'sea' at 22, found 'ea '; the nearest is at 21"),
    "negative": (asked("bad", ("calm", -5)), "'calm' at -5, found ''; the nearest is at 29"),
    "true": (asked("bad", ("d", True)), "whole number as answer_start, found True"),
    "nowhere": (asked("bad", ("lake", 3)), "'lake' at 3, .* does not hold it at all"),
    "empty answer": (asked("bad", ("", 3)), "expected an answer's text, found ''"),
    "start as text": (asked("bad", ("sea", "12")), "whole number as answer_start, found '12'"),
    "no start": (asked("bad", ("sea", None)), "whole number as answer_start, found None"),
    "impossible": (asked("bad", ("sea", 12), is_impossible=True), "is_impossible true with 1"),
    "possible": (asked("bad", is_impossible=False), "is_impossible false with none"),
    "no answers": ({"id": "bad", "question": "What?"}, "expected answers as the other questions"),
    "list": (asked("bad") | {"answers": {"text": "sea"}}, "expected a list of objects 'answers'"),
    "id twice": (asked("good", ("sea", 12)), r"the id is also that of .*qas\[0\] \(id 'good'\)"),
    "no id": (asked(None, ("sea", 12)), "expected a text 'id', found nothing"),
    "no question": (asked("bad", ("sea", 12), question=3), "text 'question', found int"),
    "no object": ("What?", "expected an object, found str"),
}


@pytest.mark.parametrize("case", BAD_QUESTIONS)
def test_a_bad_question_is_reported_with_its_id(write, case):
    bad, message = BAD_QUESTIONS[case]
    path = write("dev.json", squad_json(GOOD, bad))
    place = r"dev.json data\[0\].paragraphs\[0\].qas\[1\]"
    id = rf" \(id '{bad['id']}'\)" if isinstance(bad, dict) and bad["id"] else ""
    with pytest.raises(DataError, match=f"{place}{id}.*: .*{message}"):
        read_file(path)
    with pytest.warns(DataWarning, match="skipped 1 of 2 rows"):
        table = read_file(path, on_bad_row="skip")
    assert table.columns["id"] == ["good"] and len(table.skipped) == 1


def test_squad_of_another_form_is_an_error(write):
    for content in ('{"data": 3}', "[1]", "{", '{"data": NaN}', '{"data": 1, "data": 2}'):
        with pytest.raises(DataError, match="dev.json.*expected (SQuAD's )?JSON"):
            read_file(write("dev.json", content), "squad")
    articles = {"data": [{"title": "x"}, {"paragraphs": [{"context": "a", "qas": [1]}]}]}
    with pytest.raises(DataError, match=r"dev.json data\[0\]: .*list 'paragraphs', found nothing"):
        read_file(write("dev.json", json.dumps(articles)))


SWAG = ",video-id,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3"


def test_swag_and_codah_take_one_form(write):
    row = '0,v,"Ann sat down, tired. She",{},She,gold,sleeps.,sings.,"runs, fast.",flies.'
    row = row.format('"Ann sat down, tired."')
    table = read_file(write("a.csv", f"{SWAG},label\n{row},2\n"), "swag")
    choices = ["She sleeps.", "She sings.", "She runs, fast.", "She flies."]
    assert table[0] == {"context": "Ann sat down, tired.", "choices": choices, "label": 2}
    test = read_file(write("a.csv", f"{SWAG}\n{row}\n"), "swag")
    assert "label" not in test.columns
    with pytest.raises(DataError, match="neither trained on nor evaluated"):
        test.require("choices", "label")
    codah = read_file(write("a.tsv", 'o\tAnn sat. She\tran.\t"sang.\tflew.\tslept.\t3\n'), "codah")
    choices = ["ran.", '"sang.', "flew.", "slept."]
    assert codah[0] == {"context": "Ann sat. She", "choices": choices, "label": 3}
    with pytest.raises(DataError, match="a.csv: expected the columns 'sent1'"):
        read_file(write("a.csv", "text\na\n"), "swag")


def test_a_choice_that_there_is_not_is_reported_with_its_line(write):
    path = write("a.tsv", "o\tA\tb\tc\td\te\t3\no\tA\tb\tc\td\te\t4\n")
    with pytest.raises(DataError, match="a.tsv:2: expected a label from 0 to 3, found '4'"):
        read_file(path, "codah")
    with pytest.warns(DataWarning, match="skipped 1 of 2 rows"):
        assert read_file(path, "codah", on_bad_row="skip").columns["label"] == [3]
