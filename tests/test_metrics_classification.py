"""Classification, regression and GLUE metrics against scikit-learn and scipy."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from jbert import metrics
from jbert.metrics import MetricError

CLASSES = st.integers(0, 4)
PAIRS = st.lists(st.tuples(CLASSES, CLASSES), min_size=1, max_size=40)
BINARY = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)
# Few values, so that ties are frequent; and any that a regression head may answer.
SCORES = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, width=32))


def columns(pairs):
    return [list(column) for column in zip(*pairs, strict=True)]


@settings(deadline=None)
@given(PAIRS)
def test_classes_score_as_in_scikit_learn(pairs):
    found, expected = columns(pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metrics.accuracy(found, expected) == sklearn_metrics.accuracy_score(expected, found)
        matthews = sklearn_metrics.matthews_corrcoef(expected, found)
        assert metrics.matthews(found, expected) == pytest.approx(matthews, abs=1e-14)
        for average in ("macro", "micro", "weighted"):
            wanted = sklearn_metrics.f1_score(expected, found, average=average, zero_division=0)
            assert metrics.f1(found, expected, average) == pytest.approx(wanted, abs=1e-14)
    matrix = sklearn_metrics.confusion_matrix(expected, found, labels=range(5))
    assert metrics.confusion_matrix(found, expected, 5) == matrix.tolist()
    wanted = sklearn_metrics.precision_recall_fscore_support(
        expected, found, labels=range(5), zero_division=0
    )
    rows = metrics.per_label_table(found, expected, list("abcde"))["rows"]
    assert [row[0] for row in rows] == list("abcde")
    np.testing.assert_allclose([row[1:] for row in rows], np.transpose(wanted), atol=1e-14)


@settings(deadline=None)
@given(BINARY)
def test_binary_f1_is_that_of_class_one(pairs):
    found, expected = columns(pairs)
    wanted = sklearn_metrics.f1_score(expected, found, zero_division=0)
    assert metrics.f1(found, expected) == pytest.approx(wanted, abs=1e-14)


@settings(deadline=None)
@given(st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=40))
def test_correlations_are_those_of_scipy(pairs):
    found, expected = columns(pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rho = stats.spearmanr(found, expected).statistic
        r = stats.pearsonr(found, expected).statistic
    assert metrics.spearman(found, expected) == pytest.approx(np.nan_to_num(rho), abs=1e-12)
    # Where all is rounding, scipy warns that its own answer is not to be trusted.
    spread = min(np.ptp(found) / np.abs(found).max(initial=1e-9), np.ptp(expected))
    if spread > 1e-6 or spread == 0:
        assert metrics.pearson(found, expected) == pytest.approx(np.nan_to_num(r), abs=1e-7)


def test_large_random_sets():
    rng = np.random.default_rng(0)
    found, expected = rng.integers(0, 30, (2, 100_000))
    wanted = sklearn_metrics.matthews_corrcoef(expected, found)
    assert metrics.matthews(found, expected) == pytest.approx(wanted, abs=1e-14)
    scores, gold = rng.normal(size=(2, 100_000))
    gold = np.round(gold + scores, 1)
    assert metrics.pearson(scores, gold) == pytest.approx(
        stats.pearsonr(scores, gold).statistic, abs=1e-14
    )
    assert metrics.spearman(scores, gold) == pytest.approx(
        stats.spearmanr(scores, gold).statistic, abs=1e-14
    )


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_correlation_neither_overflows_nor_underflows(scale):
    found, expected = np.array([1.0, 2.0, 4.0]), np.array([3.0, 1.0, -2.0])
    wanted = metrics.pearson(found, expected)
    assert metrics.pearson(found * scale, expected) == pytest.approx(wanted, abs=1e-15)
    assert metrics.pearson(found, expected / scale) == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize("constant", [[0.1] * 7, [0.0] * 7, [1e300] * 7])
def test_a_constant_correlates_with_nothing(constant):
    varied = [1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0]
    for metric in (metrics.pearson, metrics.spearman):
        assert metric(constant, varied) == metric(varied, constant) == 0.0
    assert metrics.pearson([3.0], [4.0]) == 0.0


def test_one_class_gives_zero_and_not_nan():
    ones, zeros = [1, 1, 1], [0, 0, 0]
    assert metrics.matthews(ones, [0, 1, 1]) == metrics.matthews(ones, ones) == 0.0
    assert metrics.f1(zeros, zeros) == metrics.f1(zeros, ones) == 0.0
    assert metrics.f1(zeros, zeros, "macro") == 1.0


def test_matthews_of_many_examples_does_not_overflow():
    # 4e5 examples: the product of the spreads is beyond 64-bit integers.
    found = np.tile([0, 1, 1, 0], 100_000)
    assert metrics.matthews(found, found) == 1.0
    assert metrics.matthews(1 - found, found) == -1.0


def test_results_are_python_floats():
    found, expected = np.array([0, 1, 1]), np.array([0, 1, 0])
    results = [metrics.accuracy(found, expected), metrics.matthews(found, expected)]
    results += [metrics.f1(found, expected, name) for name in ("binary", "macro", "weighted")]
    results += [metrics.pearson(found, expected), metrics.spearman(found, expected)]
    for task in metrics.GLUE_TASKS:
        results += metrics.glue_metrics(task, found, expected).values()
    assert {type(value) for value in results} == {float}


def test_what_counts_as_a_class_number():
    assert metrics.accuracy(np.array([True, False]), [1.0, 1]) == 0.5
    assert metrics.accuracy(np.array([0, 1], np.uint8), np.array([0, 1], np.int64)) == 1.0


@pytest.mark.parametrize(
    ("found", "expected", "message"),
    [
        ([], [], "no examples"),
        ([1], [], "1 predictions and 0 labels"),
        ([1, 0], [1], "2 predictions and 1 labels"),
        ([0.5], [1], r"predictions\[0\] is 0.5.*argmax"),
        ([[0.2, 0.8]], [1], r"shape \(1, 2\).*argmax"),
        ([0, math.nan], [1, 1], r"predictions\[1\] is nan"),
        ([0, 1], [1, math.inf], r"labels\[1\] is inf"),
        ([0, 1], [1, -100], r"labels\[1\] is -100.*ignore"),
        ([0, 2], [1, 1], r"predictions\[1\] is 2.*below 2"),
        (["a"], [1], "no number"),
        ([[1], [1, 2]], [1, 1], "predictions is no array"),
        ([None], [1], r"predictions\[0\] is nan"),
    ],
)
def test_what_cannot_be_scored(found, expected, message):
    for metric in (metrics.accuracy, metrics.matthews):
        with pytest.raises(MetricError, match=message):
            metric(found, expected, num_labels=2)
    for call in (metrics.f1, lambda *pair: metrics.glue_metrics("sst2", *pair)):
        with pytest.raises(MetricError, match=message):
            call(found, expected)


@pytest.mark.parametrize(
    ("found", "expected", "message"),
    [
        ([], [], "no examples"),
        ([1.0], [1.0, 2.0], "1 predictions and 2 labels"),
        ([1.0, math.nan], [1.0, 2.0], r"predictions\[1\] is nan"),
        ([1.0, 2.0], [-math.inf, 2.0], r"labels\[0\] is -inf"),
        (np.ones((2, 2)), [1.0, 2.0], r"shape \(2, 2\)"),
        (["x", "y"], [1.0, 2.0], "no number"),
    ],
)
def test_what_cannot_be_correlated(found, expected, message):
    for metric in (metrics.pearson, metrics.spearman):
        with pytest.raises(MetricError, match=message):
            metric(found, expected)


def test_glue_names():
    found, expected = [0, 1, 1, 1], [0, 1, 0, 1]
    names = {task: list(metrics.glue_metrics(task, found, expected)) for task in metrics.GLUE_TASKS}
    two = ["accuracy", "f1", "average"]
    special = {"cola": ["matthews_correlation"], "mrpc": two, "qqp": two}
    special["stsb"] = ["pearson", "spearmanr", "average"]
    assert names == {task: special.get(task, ["accuracy"]) for task in names}
    assert {"cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"} <= set(names)
    scores = metrics.glue_metrics("MRPC", found, expected)
    assert scores == {"accuracy": 0.75, "f1": 0.8, "average": pytest.approx(0.775)}
    column = np.array(found, np.float32)[:, None]
    assert metrics.glue_metrics("STS-B", column, expected)["pearson"] == pytest.approx(3**-0.5)
    assert metrics.glue_metrics("mnli-mm", [2], [2]) == {"accuracy": 1.0}


def test_glue_refusals():
    with pytest.raises(MetricError, match="did you mean 'sst2'"):
        metrics.glue_metrics("sst", [0], [0])
    with pytest.raises(MetricError, match=r"no GLUE task .*; expected one of"):
        metrics.glue_metrics("???", [0], [0])
    with pytest.raises(MetricError, match=r"labels\[0\] is 3"):
        metrics.glue_metrics("mnli", [0], [3])
    with pytest.raises(MetricError, match="average is 'mean'"):
        metrics.f1([0], [0], "mean")


def test_tables_have_the_report_s_shape():
    assert metrics.confusion_table([0, 1, 1], [0, 0, 1], ["no", "yes"]) == {
        "labels": ["no", "yes"],
        "matrix": [[1, 1], [0, 1]],
    }
    table = metrics.per_label_table([0, 1, 1], [0, 0, 1], ["no", "yes", "never"])
    assert table["header"] == ["label", "precision", "recall", "f1", "support"]
    assert table["rows"][0] == ["no", 1.0, 0.5, pytest.approx(2 / 3), 2]
    assert table["rows"][2] == ["never", 0.0, 0.0, 0.0, 0]
    for make in (metrics.confusion_table, metrics.per_label_table):
        with pytest.raises(MetricError, match=r"labels\[0\] is 5"):
            make([0], [5], ["no", "yes"])
        with pytest.raises(MetricError, match="names is empty"):
            make([0], [0], [])


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("accuracy", True), ("f1", True), ("validation/macro_f1", True), ("exact_match", True),
        ("HasAns_f1", True), ("best_exact", True), ("matthews_correlation", True),
        ("spearmanr", True), ("average", True), ("loss", False), ("eval_loss", False),
        ("perplexity", False), ("validation.mlm_loss", False),
    ],
)  # fmt: skip
def test_which_way_is_better(name, better):
    assert metrics.greater_is_better(name) is better


@pytest.mark.parametrize("name", ["tokens_per_second", "best_f1_thresh", "total", "", "flossy"])
def test_what_no_checkpoint_is_chosen_by(name):
    with pytest.raises(MetricError, match="is no metric"):
        metrics.greater_is_better(name)


def test_perplexity():
    assert metrics.perplexity(0.0) == 1.0
    assert metrics.perplexity(np.float32(2.0)) == math.exp(2.0)
    assert metrics.perplexity(1e4) == metrics.perplexity(math.inf) == math.inf
    for loss in (math.nan, -0.1):
        with pytest.raises(MetricError, match="mean loss"):
            metrics.perplexity(loss)
