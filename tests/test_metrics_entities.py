"""Entity scores against seqeval, in every scheme, on tags no annotator would write."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import scheme as seqeval_scheme
from seqeval.metrics import sequence_labeling

from jbert import metrics
from jbert.metrics import MetricError

STRICT = {
    "iob1": seqeval_scheme.IOB1,
    "iob2": seqeval_scheme.IOB2,
    "bioes": seqeval_scheme.IOBES,
    "bilou": seqeval_scheme.BILOU,
}
LETTERS = {"iob1": "BI", "iob2": "BI", "bioes": "BIES", "bilou": "BILU", "default": "BIESUL.XO"}
TYPES = ["-A", "-B", "-A-B", "", "-", "A", "-A-", "-_"]


def tags(scheme):
    prefixed = st.tuples(st.sampled_from(LETTERS[scheme]), st.sampled_from(TYPES)).map("".join)
    return st.one_of(st.just("O"), prefixed, prefixed)


@st.composite
def sentence_pairs(draw, scheme):
    """Gold and predicted tags, the latter often copies, so that entities do agree."""
    gold, predicted = [], []
    for length in draw(st.lists(st.integers(0, 7), min_size=1, max_size=5)):
        row = [draw(tags(scheme)) for _ in range(length)]
        gold.append(row)
        predicted.append([draw(st.one_of(st.just(tag), tags(scheme))) for tag in row])
    return predicted, gold


def check_against_seqeval(found, expected, scheme):
    mode = {"mode": "strict", "scheme": STRICT[scheme]} if scheme in STRICT else {}
    scores = metrics.entity_scores(found, expected, scheme)
    measures = {
        "precision": sequence_labeling.precision_score,
        "recall": sequence_labeling.recall_score,
        "f1": sequence_labeling.f1_score,
    }
    for name, measure in measures.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for average in ("micro", "macro", "weighted"):
                wanted = measure(expected, found, average=average, **mode)
                # The mean over no types at all is NaN there.
                assert scores[average][name] == np.nan_to_num(wanted), (name, average)
            wanted = measure(expected, found, average=None, **mode)
        assert [row[name] for row in scores["types"].values()] == list(wanted), name
    return scores


@pytest.mark.parametrize("scheme", ["default", *STRICT])
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_scores_are_seqeval_s_to_the_last_digit(scheme, data):
    check_against_seqeval(*data.draw(sentence_pairs(scheme)), scheme)


@pytest.mark.parametrize("scheme", ["default", *STRICT])
def test_many_random_sentences(scheme):
    rng = np.random.default_rng(0)
    pool = ["O"] + [f"{letter}-{name}" for letter in LETTERS[scheme][:4] for name in "ABCDEFGHIJKL"]
    gold = [rng.choice(pool, length).tolist() for length in rng.integers(0, 40, 200)]
    found = [[t if rng.random() < 0.8 else rng.choice(pool).item() for t in row] for row in gold]
    scores = check_against_seqeval(found, gold, scheme)
    assert len(scores["types"]) == 12 and 0 < scores["micro"]["f1"] < 1


# Counted by hand: sentence, then the entities of each scheme that takes it.
CASES = [
    ("B-PER I-PER O B-LOC", {"default": "PER:0:2 LOC:3:4", "iob2": "PER:0:2 LOC:3:4"}),
    ("I-PER I-PER", {"default": "PER:0:2", "iob2": "", "iob1": "PER:0:2"}),
    ("B-PER I-LOC", {"default": "PER:0:1 LOC:1:2", "iob2": "PER:0:1", "iob1": "LOC:1:2"}),
    ("I-PER B-PER", {"iob1": "PER:0:1 PER:1:2", "iob2": "PER:1:2"}),
    ("I-PER I-LOC", {"iob1": "PER:0:1 LOC:1:2", "iob2": ""}),
    # seqeval's IOB1 has no start for a B- that separates nothing, and no end for B-x before B-y.
    ("O B-PER", {"iob1": "", "default": "PER:1:2"}),
    ("I-PER B-PER B-LOC", {"iob1": "PER:0:1", "iob2": "PER:1:2 LOC:2:3"}),
    ("B-PER E-PER S-LOC", {"bioes": "PER:0:2 LOC:2:3", "default": "PER:0:2 LOC:2:3"}),
    ("B-PER I-PER O E-PER", {"bioes": "", "default": "PER:0:2 PER:3:4"}),
    ("S-PER I-PER", {"bioes": "PER:0:1", "default": "PER:0:1 PER:1:2"}),
    ("B-PER L-PER U-LOC", {"bilou": "PER:0:2 LOC:2:3"}),
    ("B-PER L-LOC", {"bilou": ""}),
    ("B-New-York I-New-York", {"default": "New-York:0:2", "iob2": "New-York:0:2"}),
    # Without a prefix the first letter passes for one.
    ("PER PER LOC", {"default": "ER:0:2 OC:2:3"}),
    ("B I", {"default": "_:0:2", "iob2": "_:0:2"}),
    ("", {"default": "", "iob1": "", "iob2": "", "bioes": "", "bilou": ""}),
]


@pytest.mark.parametrize(
    ("sentence", "scheme", "entities"),
    [(words, scheme, wanted) for words, each in CASES for scheme, wanted in each.items()],
)
def test_entities_counted_by_hand(sentence, scheme, entities):
    (found,) = metrics.find_entities([sentence.split()], scheme)
    assert [f"{name}:{start}:{end}" for name, start, end in found] == entities.split()


def test_positions_count_within_each_sentence():
    found = metrics.find_entities([["O", "B-A"], [], ["B-A", "I-A"]])
    assert found == [[("A", 1, 2)], [], [("A", 0, 2)]]


def test_without_entities_all_is_zero():
    for scheme in metrics.entities.SCHEMES:
        for sentences in ([["O", "O"]], [[]]):
            scores = metrics.entity_metrics(sentences, sentences, scheme)
            assert {scores[name] for name in ("f1", "macro_f1", "precision", "recall")} == {0.0}


def test_flat_metrics_and_table():
    gold, found = [["B-A", "I-A", "O", "B-B"]], [["B-A", "I-A", "B-C", "O"]]
    flat = metrics.entity_metrics(found, gold)
    assert flat == {
        "precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.5,
        "macro_precision": 1 / 3, "macro_recall": 1 / 3, "macro_f1": 1 / 3,
    }  # fmt: skip
    assert {type(value) for value in flat.values()} == {float}
    assert flat["accuracy"] == sequence_labeling.accuracy_score(gold, found)
    table = metrics.entity_table(found, gold)
    assert table["header"] == ["type", "precision", "recall", "f1", "support"]
    names = ["A", "B", "C", "micro average", "macro average", "weighted average"]
    assert [row[0] for row in table["rows"]] == names
    assert table["rows"][:4] == [
        ["A", 1.0, 1.0, 1.0, 1], ["B", 0.0, 0.0, 0.0, 1], ["C", 0.0, 0.0, 0.0, 0],
        ["micro average", 0.5, 0.5, 0.5, 2],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "expected", "scheme", "message"),
    [
        ([], [], "default", "no sentences"),
        ([["O"]], [["O"], ["O"]], "default", "1 sentences of predictions and 2 of labels"),
        ([["O"], ["O"]], [["O"], ["O", "O"]], "iob2", "sentence 1 has 1 predicted tags and 2"),
        (["O"], ["O"], "default", r"predictions\[0\] is 'O'; expected a list"),
        ([[1]], [["O"]], "default", r"predictions\[0\]\[0\] is 1; expected a tag"),
        ([["O"]], [[""]], "iob2", r"labels\[0\]\[0\] is ''; expected a tag"),
        ([["O", "S-A"]], [["O", "O"]], "iob2", "sentence 0, token 1 has the tag 'S-A'"),
        ([["O"]], [["PER"]], "bioes", "begins with one of B, I, E, S, O"),
        ([["O"]], [["O"]], "conll", "scheme is 'conll'; expected one of"),
    ],
)
def test_what_cannot_be_scored(found, expected, scheme, message):
    with pytest.raises(MetricError, match=message):
        metrics.entity_scores(found, expected, scheme)
