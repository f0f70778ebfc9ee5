"""From rows of tables to labels of tokens and texts, and from predictions back to answers."""

import dataclasses

import numpy as np
import pytest
from feature_tables import counts, run, tokenizer, tokens

from jbert.data.processors import (
    PROCESSORS,
    Classification,
    MaskedLM,
    MultipleChoice,
    QuestionAnswering,
    TokenClassification,
)
from jbert.data.table import DataError, Table

TEXTS = ["The wind came.", "a", "", "She brought letters, tea, two newspapers, and oranges."]
EMOJI, LONE, LONG = "\U0001f5fc \u200d\U0001f6a2", "a\ud800b", "wind " * 5000


@pytest.mark.parametrize("task", sorted(PROCESSORS))
def test_a_table_without_rows_is_refused(task):
    table = Table({"text": [], "label": []}, "empty.csv")
    with pytest.raises(DataError, match="empty.csv: expected rows, found none"):
        run(PROCESSORS[task](), table)


@pytest.mark.parametrize("task", sorted(PROCESSORS))
def test_a_missing_column_is_named(task):
    table = Table({"txt": ["a"], "contexts": ["b"]}, "train.csv")
    with pytest.raises(DataError, match="train.csv: expected the columns .*found only 'txt'"):
        run(PROCESSORS[task](), table)


# -- classification ---------------------------------------------------------------------------


def texts(labels=None, **more) -> Table:
    columns = {"text": TEXTS, **more}
    if labels is not None:
        columns["label"] = labels
    return Table(columns, "train.csv", places=[2, 3, 4, 6])


@pytest.mark.parametrize(
    ("values", "names", "numbers"),
    [
        (["no", "yes", "no", "maybe"], ("maybe", "no", "yes"), [1, 2, 1, 0]),
        ([10, 9, 2, 10], ("2", "9", "10"), [2, 1, 0, 2]),
        (["10", "9", "2", "10"], ("2", "9", "10"), [2, 1, 0, 2]),
        ([-1, 0, 1, 0], ("-1", "0", "1"), [0, 1, 2, 1]),
        ([True, False, True, True], ("false", "true"), [1, 0, 1, 1]),
        ([1.0, 0.0, 1.0, 0.0], ("0", "1"), [1, 0, 1, 0]),
    ],
)
def test_labels_are_inferred_from_the_training_split(values, names, numbers):
    processor = Classification().fit(texts(values))
    assert processor.labels == names
    assert run(processor, texts(values)).targets["labels"].tolist() == numbers
    assert processor.fit(texts(["other"] * 4)) == processor


def test_class_numbers_have_the_names_the_table_knows():
    table = texts([1, 0, 1, 1])
    table.label_names["label"] = ("entailment", "not_entailment", "never seen")
    processor = Classification().fit(table)
    assert processor.labels == table.label_names["label"]
    assert run(processor, table).targets["labels"].tolist() == [1, 0, 1, 1]
    assert run(processor, texts(["never seen"] * 4)).targets["labels"].tolist() == [2] * 4
    table.columns["label"] = [1, 0, 3, 1]
    with pytest.raises(DataError, match="train.csv:4: 'label' is 3; expected the number of a"):
        run(processor, table)


def test_a_wrong_label_is_named_with_its_place_and_the_nearest():
    processor = Classification(labels=("entailment", "neutral"))
    table = texts(["neutral", "entailment", "entailmnet", "neutral"])
    with pytest.raises(
        DataError,
        match="train.csv:4: 'label' is 'entailmnet', which is none of the labels 'entailment', "
        "'neutral'; nearest to it is 'entailment'",
    ):
        run(processor, table)
    with pytest.raises(DataError, match="train.csv:6: expected a label in 'label', found ''"):
        run(processor, texts(["neutral", "neutral", "neutral", ""]))
    with pytest.raises(DataError, match="train.csv:3: expected a label.*0.5.*'regression'"):
        Classification().fit(texts([1, 0.5, 1, 0]))
    with pytest.raises(DataError, match="train.csv:3"):
        Classification().fit(texts(["a", None, "b", "b"]))
    with pytest.raises(ValueError, match="call fit on the training split first"):
        run(Classification(), texts(["a"] * 4))


@pytest.mark.parametrize("labels", [None, [None] * 4, [""] * 4, [-1] * 4])
def test_a_split_without_labels_can_be_predicted(labels):
    features = run(Classification(labels=("0", "1")), texts(labels))
    assert not features.labelled and "labels" not in features.batch(np.arange(4), 32, 0)
    with pytest.raises(DataError, match="train.csv.*expected"):
        Classification(problem_type="regression").fit(texts(labels))


def test_pairs_and_what_is_cut_off():
    labels = ["x", "y", "x", "y"]
    table = texts(labels, pair=["a b", LONG, "b", ""])
    processor = Classification(pair="pair", max_length=9).fit(table)
    features = run(processor, table)
    pairs = tokenizer()(TEXTS, table.columns["pair"], max_length=9, padding="max_length")
    batch = features.batch(np.arange(4), 9, 0)
    for name, expected in pairs.items():
        assert np.array_equal(batch[name], expected), name
    assert counts(features) == {"have more than 9 tokens and were cut off": 3}
    assert tokens(features, 2) == ["[CLS]", "[SEP]", "b", "[SEP]"]


def test_regression():
    processor = Classification(problem_type="regression").fit(texts([1, 0.5, 2, 3]))
    assert processor.labels is None
    features = run(processor, texts([1, 0.5, "2.25", "-3"]))
    assert features.targets["labels"].dtype == np.float32
    assert features.targets["labels"].tolist() == [1, 0.5, 2.25, -3]
    for wrong in ("many", "nan", None, [1]):
        with pytest.raises(DataError, match="train.csv:6: expected a number in 'label', found"):
            run(processor, texts([1, 2, 3, wrong]))
    assert processor.decode(texts(), features, {"logits": np.array([[1.5], [2.0]])}) == [
        {"score": 1.5},
        {"score": 2.0},
    ]


def test_several_labels_a_text():
    several = Classification(problem_type="multi_label_classification")
    table = texts([["sea"], [], ["sea", "air"], ["land"]])
    processor = several.fit(table)
    features = run(processor, table)
    assert processor.labels == ("air", "land", "sea")
    expected = [[0, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert features.targets["labels"].tolist() == expected
    assert features.batch(np.array([2]), 32, 0)["labels"].dtype == np.float32
    with pytest.raises(DataError, match="train.csv:2: expected a list in 'label', found 'sea'"):
        several.fit(texts(["sea"] * 4))
    logits = np.where(np.array(expected), 3.0, -3.0)
    found = processor.decode(table, features, {"logits": logits})
    assert [one["labels"] for one in found] == [["sea"], [], ["air", "sea"], ["land"]]
    assert found[0]["scores"]["sea"] == pytest.approx(1 / (1 + np.exp(-3)))


def test_predicted_classes():
    processor = Classification(labels=("no", "yes"))
    found = processor.decode(texts(), run(processor, texts()), {"logits": [[0, 1], [2, 0]]})
    assert [one["label"] for one in found] == ["yes", "no"]
    assert found[0]["score"] == found[0]["scores"]["yes"] == pytest.approx(0.7311, abs=1e-4)


def test_any_text_is_taken_and_what_is_not_text_is_not():
    texts = ["", EMOJI, LONE, LONG, "\t\u200b\x00"]
    features = run(Classification(max_length=16), Table({"text": texts}, "odd.csv"))
    assert counts(features) == {
        "have lone surrogates in 'text', which became U+FFFD": 1,
        "have more than 16 tokens and were cut off": 1,
    }
    assert features.lengths.tolist()[3] == 16 and tokens(features, 0) == ["[CLS]", "[SEP]"]
    for wrong in (3, None, ["a"], {"a": "b"}):
        with pytest.raises(DataError, match=r"odd.csv\[1\]: expected"):
            run(Classification(), Table({"text": ["a", wrong]}, "odd.csv"))
    one = run(Classification(), Table({"text": ["a"]}))
    assert one.batch(np.array([0]), 32, 0)["input_ids"].shape == (1, 32)


# -- multiple choice --------------------------------------------------------------------------


def choices(**changes) -> Table:
    columns = {
        "context": ["The wind", "She brought"],
        "choices": [["came.", "wrote.", LONG], ["letters", "", "ships"]],
        "label": [0, "2"],
    }
    return Table(columns | changes, "choices.jsonl", places=[1, 2])


def test_choices_are_pairs_side_by_side():
    features = run(MultipleChoice(max_length=16), choices())
    batch = features.batch(np.array([1, 0]), 16, 0)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 3, 16)
    assert batch["labels"].tolist() == [2, 0]
    for row, place in ((1, 0), (0, 1)):
        context, some = choices()[row]["context"], choices()[row]["choices"]
        pairs = tokenizer()([context] * 3, some, max_length=16, padding="max_length")
        for name, expected in pairs.items():
            assert np.array_equal(batch[name][place], expected), name
    assert features.lengths.tolist()[0] == 16 and len(features) == 2
    assert counts(features) == {"have a choice of more than 16 tokens, which was cut off": 1}
    found = MultipleChoice().decode(choices(), features, {"logits": [[0, 1, 0], [3, 0, 0]]})
    assert [one["choice"] for one in found] == [1, 0]
    assert sum(found[0]["scores"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": [["a", "b"], ["a"]]}, "jsonl:2: expected 2 choices as in the first row"),
        ({"choices": [["a"], ["a"]]}, "jsonl:1: expected two choices or more in 'choices'"),
        ({"choices": [["a", "b"], "ab"]}, "jsonl:2: expected a list in 'choices', found 'ab'"),
        ({"choices": [["a", "b"], ["a", 3]]}, "jsonl:2: expected text in 'choices', found 3"),
        ({"label": [0, 3]}, "jsonl:2: expected the number of a choice in 'label', 0 to 2, found 3"),
        ({"label": ["A", 0]}, "jsonl:1: expected the number of a choice in 'label'"),
        ({"label": [1, None]}, "jsonl:2: expected the number of a choice in 'label'"),
        ({"label": [-1, 0]}, "jsonl:1: expected the number of a choice in 'label'"),
    ],
)
def test_wrong_choices(changes, message):
    with pytest.raises(DataError, match=message):
        run(MultipleChoice(), choices(**changes))


def test_choices_without_labels():
    table = choices()
    del table.columns["label"]
    assert not run(MultipleChoice(), table).labelled
    with pytest.raises(DataError, match="expected the columns 'label'"):
        MultipleChoice().fit(table)
    assert MultipleChoice().fit(choices()) == MultipleChoice()


# -- masked language modelling ----------------------------------------------------------------

LINES = ["", "The wind came.", "", "a b", "She brought letters, tea, and oranges.", "", "b"]


def stream(**settings):
    table = Table({"text": LINES}, "novel.txt")
    return run(MaskedLM(max_length=8, **settings), table).features


@pytest.mark.parametrize(("border", "after"), [("row", [1, 3, 4]), ("blank", [1, 4]), ("none", [])])
def test_running_text_is_cut_into_full_rows_and_nothing_is_lost(border, after):
    features = stream(border=border)
    expected = []
    for row, line in enumerate(LINES):
        expected += tokenizer().tokenize(line) + ["[SEP]"] * (row in after)
    rows = [tokens(features, row) for row in range(len(features))]
    assert all(row[0] == "[CLS]" and row[-1] == "[SEP]" for row in rows)
    assert [len(row) for row in rows[:-1]] == [8] * (len(rows) - 1)
    assert [token for row in rows for token in row[1:-1]] == expected
    assert features.owners[0] == 1 and (np.diff(features.owners) >= 0).all()


def test_line_by_line_nothing_is_lost_either():
    features = stream(by_line=True)
    found: dict[int, list] = {}
    for row, owner in enumerate(features.owners.tolist()):
        found.setdefault(owner, []).extend(tokens(features, row)[1:-1])
    assert found == {i: tokenizer().tokenize(line) for i, line in enumerate(LINES) if line}
    assert features.lengths.max() == 8
    assert counts(features) == {"have no token and are left out": 3}


@pytest.mark.parametrize("by_line", [True, False])
def test_text_without_a_token_is_refused(by_line):
    with pytest.raises(DataError, match="novel: expected texts in 'text', found no token"):
        run(MaskedLM(by_line=by_line), Table({"text": ["", " \u200b"]}, "novel"))


def test_settings_are_checked():
    wrong = [
        (Classification, {"problem_type": "guess"}, "problem_type is 'guess'"),
        (MaskedLM, {"border": "line"}, "border is 'line'"),
        (MaskedLM, {"strategy": "letters"}, "strategy is 'letters'"),
        (MaskedLM, {"rate": 0.0}, "rate is 0.0"),
        (TokenClassification, {"pieces": "last"}, "pieces is 'last'"),
        (TokenClassification, {"stride": 126}, "stride is 126; expected .* less than the 126"),
        (QuestionAnswering, {"max_length": 67}, "room for 0 tokens"),
        (QuestionAnswering, {"doc_stride": 317}, "doc_stride is 317.* room for 317 tokens"),
        (QuestionAnswering, {"n_best": 0}, "n_best is 0"),
    ]
    for processor, settings, message in wrong:
        with pytest.raises(ValueError, match=message):
            processor(**settings)
    assert dataclasses.replace(QuestionAnswering(), doc_stride=316).doc_stride == 316
