"""SQuAD exact match and F1: by hand, and against a scorer written from the scripts' rules."""

import math

import pytest
import squad_scorer
from hypothesis import given, settings
from hypothesis import strategies as st

from jbert.metrics import MetricError, squad_v1, squad_v2
from jbert.metrics.squad import normalize_answer

WORDS = ["the", "The", "a", "an", "cat", "Cat", "dog", "1,000", "“cat”", "the-cat", "—", "¿qué?",
         ".", "", " ", "a.", "_a", "ß", "İ", "\u00a0", "\u2028dog", "x_the"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)
FREE = st.one_of(TEXTS, st.text("aAnthe .,!’\n\té-_", max_size=12))


@st.composite
def question_sets(draw, answers):
    """References, a prediction for each that is often right, and no-answer scores with ties."""
    count = draw(st.integers(1, 8))
    references = {f"q{i}": draw(st.lists(FREE, min_size=answers, max_size=3)) for i in range(count)}
    predictions = {
        question: draw(st.one_of(FREE, st.sampled_from([*golds, ""])))
        for question, golds in references.items()
    }
    scores = {q: draw(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0, -3.5, 7.0])) for q in references}
    return predictions, references, scores


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    assert found == pytest.approx(wanted, abs=1e-10)


@settings(deadline=None, max_examples=300)
@given(FREE)
def test_normalisation(text):
    assert normalize_answer(text).split(" ") == (squad_scorer.words(text) or [""])


@settings(deadline=None, max_examples=300)
@given(question_sets(answers=1), st.data())
def test_version_1_against_the_rules(questions, data):
    predictions, references, _ = questions
    for missing in data.draw(st.sets(st.sampled_from(sorted(references)))):
        del predictions[missing]
    assert_same(squad_v1(predictions, references), squad_scorer.version_1(predictions, references))


@settings(deadline=None, max_examples=300)
@given(question_sets(answers=0), st.sampled_from([1.0, 0.5, 0.0, -5.0, 0.3]))
def test_version_2_against_the_rules(questions, threshold):
    predictions, references, scores = questions
    assert_same(squad_v2(predictions, references), squad_scorer.version_2(predictions, references))
    found = squad_v2(predictions, references, scores, threshold)
    wanted = squad_scorer.version_2(predictions, references, scores, threshold)
    # Which of two equal sums of thirds is the greater depends, in floats, on rounding.
    del found["best_f1_thresh"], wanted["best_f1_thresh"]
    assert_same(found, wanted)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat's\tA-frame.", "cats aframe"),
        ("an apple a day", "apple day"),
        ("theatre Ann", "theatre ann"),
        ("“The cat”—the dog…", "“ cat”— dog…"),
        ("“the”", "“ ”"),
        ("U.S.A.", "usa"),
        ("The a an !?", ""),
        ("snake_the", "snakethe"),
        ("", ""),
    ],
)
def test_normal_forms_by_hand(text, normal):
    assert normalize_answer(text) == normal


GOLD_1 = {"right": ["the Cat", "dog"], "half": ["black cat"], "wrong": ["dog"], "missing": ["cat"]}
SAID_1 = {"right": "Cat!", "half": "cat", "wrong": "cat", "elsewhere": "cat"}


def test_version_1_by_hand():
    # Exact: 1 of 4. F1: 1, 2/3 (precision 1, recall 1/2), 0, and 0 for the missing one.
    scores = squad_v1(SAID_1, GOLD_1)
    assert scores == {"exact_match": 25.0, "f1": pytest.approx(100 * (1 + 2 / 3) / 4)}
    assert {type(value) for value in scores.values()} == {float}


def test_version_1_counts_repeated_words_as_often_as_they_occur():
    # 2 of "cat" are shared: precision 2/3, recall 2/2.
    assert squad_v1({"q": "cat cat cat"}, {"q": ["cat cat"]})["f1"] == pytest.approx(80.0)


def test_texts_without_words():
    # Both are nothing: v1.1 finds them equal but without overlap, v2.0 finds them to agree.
    assert squad_v1({"q": "the"}, {"q": ["a."]}) == {"exact_match": 100.0, "f1": 0.0}
    both = squad_v2({"q": "the"}, {"q": ["a."]})
    assert (both["exact"], both["f1"]) == (100.0, 100.0)
    # v2.0 drops the gold answer that is nothing as long as another is left.
    assert squad_v2({"q": ""}, {"q": ["the", "cat"]})["exact"] == 0.0
    assert squad_v1({"q": ""}, {"q": ["the", "cat"]})["exact_match"] == 100.0


GOLD_2 = {"a": ["black cat"], "b": ["dog"], "c": [], "d": []}
SAID_2 = {"a": "cat", "b": "dog", "c": "", "d": "bird"}


def test_version_2_by_hand():
    third = pytest.approx(100 * (2 / 3 + 1) / 2)
    assert squad_v2(SAID_2, GOLD_2) == {
        "exact": 50.0, "f1": pytest.approx(100 * (2 / 3 + 1 + 1) / 4), "total": 4,
        "HasAns_exact": 50.0, "HasAns_f1": third, "HasAns_total": 2,
        "NoAns_exact": 50.0, "NoAns_f1": 50.0, "NoAns_total": 2,
    }  # fmt: skip


def test_thresholds_by_hand():
    scores = {"a": 0.4, "b": 0.1, "c": 0.6, "d": 0.8}
    # Above 0.5 is no answer: c and d become right.
    cut = squad_v2(SAID_2, GOLD_2, scores, threshold=0.5)
    assert (cut["exact"], cut["NoAns_exact"], cut["HasAns_exact"]) == (75.0, 100.0, 50.0)
    # Answering b alone gives 3 exact; a after it adds 2/3 of F1, c nothing, d loses.
    assert (cut["best_exact"], cut["best_exact_thresh"]) == (75.0, 0.1)
    assert (cut["best_f1"], cut["best_f1_thresh"]) == (pytest.approx(100 * (3 + 2 / 3) / 4), 0.4)
    # Exactly at the threshold the prediction stands.
    assert squad_v2(SAID_2, GOLD_2, scores, threshold=0.8)["NoAns_exact"] == 50.0
    # Nothing beats answering none of these, and that is threshold 0.
    none = squad_v2({"c": "x", "d": "y"}, {"c": [], "d": []}, {"c": 0.2, "d": 0.3})
    assert (none["best_exact"], none["best_exact_thresh"]) == (100.0, 0.0)
    assert not [name for name in none if name.startswith("HasAns")]


def test_a_word_that_normalises_to_nothing_is_still_an_answer_to_the_search():
    # The script's search asks whether there is any text, its score whether there are words.
    scores = squad_v2({"q": "the"}, {"q": []}, {"q": 0.0})
    assert (scores["exact"], scores["best_exact"], scores["best_exact_thresh"]) == (100, 100, 0)
    both = squad_v2({"a": "cat", "q": "the"}, {"a": ["cat"], "q": []}, {"q": 0.1, "a": 0.2})
    assert (both["exact"], both["best_exact"], both["best_exact_thresh"]) == (100, 50, 0.0)


def test_scores_of_other_questions_do_not_count():
    scores = {"a": 0.4, "b": 0.1, "c": 0.6, "d": 0.8}
    more = squad_v2(SAID_2 | {"z": "?"}, GOLD_2, scores | {"z": -1.0})
    assert more == squad_v2(SAID_2, GOLD_2, scores)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: squad_v1({}, {}), "no questions"),
        (lambda: squad_v2({}, {}), "no questions"),
        (lambda: squad_v1({"q": "x"}, {"q": []}), "'q' has no answer.*squad_v2"),
        (lambda: squad_v1({"q": "x"}, {"q": "x"}), "expected a list of texts"),
        (lambda: squad_v2({"q": "x"}, {"q": [1]}), "expected a list of texts"),
        (lambda: squad_v1({"q": None}, {"q": ["x"]}), r"predictions\['q'\] is None"),
        (lambda: squad_v2({"a": "x"}, GOLD_2), "predictions lacks 3 of 4.*'b', 'c', 'd'"),
        (lambda: squad_v2(SAID_2, GOLD_2, {"a": 0.1}), "no_answer_scores lacks 3"),
        (
            lambda: squad_v2({"q": "x"}, {"q": ["x"]}, {"q": math.nan}),
            r"no_answer_scores\['q'\] is nan",
        ),
        (lambda: squad_v2({"q": "x"}, {"q": ["x"]}, {"q": None}), "is None; expected a number"),
        (lambda: squad_v2({"q": "x"}, {"q": ["x"]}, {"q": 0.0}, math.nan), "threshold is NaN"),
    ],
)
def test_what_cannot_be_scored(call, message):
    with pytest.raises(MetricError, match=message):
        call()
