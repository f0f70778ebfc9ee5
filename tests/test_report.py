"""The report of a run: complete in one file, drawn within its frames, no markup but its own."""

import json
import math
import re
import xml.etree.ElementTree as xml
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jbert.training import axes, charts, report
from jbert.training.history import Series, read_history
from jbert.training.report_tables import ReportError

CONFIG = {
    "task": "sst2",
    "model": "bert-base-uncased",
    "seed": 7,
    "optimizer": {"name": "adamw", "learning_rate": 3e-5, "freeze": []},
    "evaluation": {"metric": "f1"},
}
VOID = {"meta", "br", "input", "link"}


class Page(HTMLParser):
    """What a browser would show, and whether every element is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.attributes = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join("|".join(self.words).split())


def run(directory, lines, config=CONFIG, extras=None):
    """Writes a run's files and its report; returns the report's text, checked as a page."""
    directory.mkdir(exist_ok=True)
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    if lines is not None:
        text = "".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines)
        (directory / "metrics.jsonl").write_text(text)
    path = report.write_report(directory, extras)
    assert path == directory / "report.html"
    assert not [p.name for p in directory.iterdir() if p.name.startswith(".")]
    text = path.read_text()
    check_drawings(text)
    return text


def check_drawings(text):
    """Every SVG is well-formed, with all of its points finite and inside the frame."""
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        root = xml.fromstring(svg)
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        for path in root.iter("path"):
            for x, y in re.findall(r"[ML](\S+) ([^\sMLHVh]+)", path.attrib["d"]):
                assert 0 <= float(x) <= width and 0 <= float(y) <= height, path.attrib
            assert not re.search("nan|inf", path.attrib["d"])
    for place in re.findall(r'style="(?:top|left):([^%]*)%"', text):
        assert -0.01 <= float(place) <= 100.01
    for data in re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL):
        json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def train(steps, **figures):
    return [
        {"step": s, "split": "train", "loss": 2 * math.exp(-s / 50) + 0.1} | figures for s in steps
    ]


def test_a_whole_run(tmp_path):
    lines = train(
        range(1, 201), learning_rate=1e-5, examples_per_second=900.5, grad_norm=1.5, mfu=0.4
    )
    for step, f1 in ((100, 0.7), (200, 0.6)):
        lines.append({"step": step, "split": "validation", "loss": 0.5, "accuracy": 0.9, "f1": f1})
    extras = {
        "summary": {"time": 3725, "devices": "8 × TPU v5e"},
        "confusion": {"labels": ["no", "yes"], "matrix": np.array([[90, 10], [0, 123456]])},
        "per_label": {"header": ["label", "f1"], "rows": [["no", 0.25], ["yes", 0.75]]},
        "entities": {"header": ["type", "f1"], "rows": [["PER", 0.5]]},
        "seeds": {0: {"f1": 0.5}, 1: {"f1": 0.6}, 2: {"f1": 0.7}},
    }
    text = run(tmp_path / "sst2 run", lines, extras=extras)
    page = Page(text)
    assert page.tags.count("svg") == page.tags.count("figure") == 7
    for words in (
        "sst2 run", "Task|sst2", "Model|bert-base-uncased", "Best F1|0.7|validation, step 100",
        "Final loss|", "Time|1 h 02 min", "Devices|8 × TPU v5e", "202 log lines.",
        "Learning rate", "Throughput, examples/s", "Gradient norm", "Model FLOPs utilisation",
        "validation|f1|0.7|100|0.6|200", "validation|loss|0.5|100|0.5|200",
        "no|90|10|", "123k", "PER|0.5", "f1|0.6 ± 0.1|0.5|0.7|0.5|0.6|0.7",
        "optimizer|name|adamw|learning_rate|3e-05", "Faint: as logged.",
    ):  # fmt: skip
        assert words in page.text, words
    assert "yes → yes: 123,456 (100.0%)" in text


def test_the_page_needs_nothing_but_itself(tmp_path):
    text = run(tmp_path / "run", train(range(50)))
    assert "http" not in text and "//" not in text and "@import" not in text
    assert not {"link", "img", "iframe", "object"} & set(Page(text).tags)
    assert not re.search(r"\bsrc=|\bhref=|url\(|fetch\(|XMLHttp|import\(", text)
    assert "prefers-color-scheme:dark" in text


def test_texts_are_not_markup(tmp_path):
    evil = "<script>alert('x')</script>&\"'</style>"
    config = {evil: {evil: evil}, "task": evil, "model": {"name": evil}}
    odd = evil + "\x00" * 400
    lines = [{"step": s, "split": odd, evil: s, "accuracy": 0.5, "loss": 1} for s in (1, 2)]
    lines.append({"step": 3, "split": odd, "loss": math.nan})
    extras = {
        "summary": {evil: evil, "time": evil},
        "confusion": {"labels": [evil, "b"], "matrix": [[1, 2], [3, 4]]},
        "per_label": {"header": [evil], "rows": [[evil]]},
        "seeds": {evil: {evil: 1}},
        evil: {"header": ["x"], "rows": []},
    }
    plain = Page(run(tmp_path / "plain", lines[:1]))
    page = Page(run(tmp_path / "<b>run", lines, config, extras))
    charts = page.tags.count("figure")
    assert charts == 3 and page.tags.count("script") == charts + 1
    assert page.tags.count("style") == plain.tags.count("style") == 1
    assert "b" in page.tags and not [tag for tag in page.tags if tag not in KNOWN]
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("alert('x')") >= 8
    assert "<b>run" in page.words


KNOWN = set(
    "html head meta title style body main h1 h2 p div span b small figure figcaption ul li i svg "
    "path script table thead tbody tr th td details summary".split()
)


def test_later_lines_win_and_half_a_line_at_the_end_is_no_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = [{"step": s, "split": "train", "loss": 100.0 + s} for s in (1, 2, 3, 4)]
    again = [{"step": s, "split": "train", "loss": float(s)} for s in (3, 4, 5)]
    path.write_text("".join(json.dumps(x) + "\n" for x in first + again) + '{"step": 6, "spl')
    history = read_history(path)
    series = history.series["train", "loss"]
    assert series.steps.tolist() == [1, 2, 3, 4, 5]
    assert series.values.tolist() == [101, 102, 3, 4, 5]
    assert (history.lines, history.unreadable) == (7, 0)


def test_lines_that_cannot_be_read_are_counted_and_named(tmp_path):
    bad = ['{"step": 6, "sp{"step": 7}\n', "[1]\n", '{"step": "x", "split": "train"}\n', "\n"]
    bad += [
        '{"step": 1e999, "split": "train"}\n',
        '{"step": true, "split": "a"}\n',
        '{"step": 1}\n',
        "[" * 100_000 + "\n",
    ]
    text = run(tmp_path / "run", [*train([1, 2]), *bad, *train([3])])
    assert "3 log lines; 7 could not be read, the first in line 3 of metrics.jsonl." in text
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b'\xff\xfe{"step"\n\x00\n')
    assert "2 could not be read" in report.write_report(tmp_path / "run").read_text()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (None, "Nothing has been logged yet"),
        ([], "Nothing has been logged yet"),
        (train([5]), "One value so far, at step 5."),
        ([{"step": 1, "split": "train", "loss": math.nan}], "No value to draw."),
        ([{"step": 1, "split": "train", "loss": None}], "No value to draw."),
        ([{"step": 1, "split": "train", "note": "text", "nested": {}}], "1 log line."),
    ],
)
def test_little_or_nothing_to_draw(tmp_path, lines, words):
    assert words in run(tmp_path / "run", lines)


def test_values_that_are_not_finite_are_gaps_and_named(tmp_path):
    lines = train(range(1, 11))
    lines[3]["loss"], lines[4]["loss"], lines[8]["loss"] = math.nan, math.inf, -math.inf
    lines.append({"step": 1e12, "split": "validation", "loss": 10**400, "accuracy": 0.5})
    text = run(tmp_path / "run", lines[:10])
    assert "train: 3 values are not finite, the first at step 4." in text
    (line,) = re.findall(r'<path class="s0" d="([^"]*)"', text)
    assert line.count("M") == 3
    assert "validation: 1 value is not finite, at step 1e12." in run(tmp_path / "run", lines)


@pytest.mark.parametrize("config", [None, "{broken", [], [1, {"a": []}], "text", {}, 3])
def test_any_configuration(tmp_path, config):
    directory = tmp_path / "run"
    directory.mkdir()
    if config == "{broken":
        (directory / "config.json").write_text(config)
    text = run(directory, train([1, 2]), None if config == "{broken" else config)
    said = {None: "has no config.json", "{broken": "config.json could not be read"}
    if config in (None, "{broken"):
        assert said[config] in text


def test_odd_characters_and_large_values_are_shown(tmp_path):
    config = {"text": "x" * 5000, "half": "\ud800", "zero": "a\x00b", "big": 10**400}
    config |= {"many": {str(i): i for i in range(2000)}, "none": None, "flag": True}
    text = run(tmp_path / "run", [], config, {"summary": {"count": 10**400, "n": 109484547}})
    page = Page(text)
    assert "(5,000 characters)" in page.text and "The first 500 of 2,006 values." in page.text
    assert "a\ufffdb" in page.text and "109,484,547" in page.text


def test_a_long_log_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    loss = (3 + rng.normal(size=60_000)).round(5).tolist()
    path = tmp_path / "metrics.jsonl"
    line = '{{"step":{},"split":"train","loss":{},"learning_rate":1e-5,"grad_norm":{}}}\n'
    path.write_text("".join(line.format(i, x, i % 97) for i, x in enumerate(loss)))
    text = run(tmp_path, None)
    assert len(text.encode()) < 300_000
    assert "60,000 log lines" in text
    lines = [
        {"step": step, "split": f"split {n % 20}"} | {f"figure {i}": i * step for i in range(100)}
        for n, step in enumerate(range(0, 10_000, 10))
    ]
    text = run(tmp_path / "wide", lines)
    assert len(text.encode()) < 2_000_000
    assert "40 more figures are in metrics.jsonl" in text
    assert "8 more splits are in metrics.jsonl" in text
    assert text.count("<figure") == 60 and text.count("<li>") == 60 * 12


def test_thinning_keeps_the_extremes():
    values = np.sin(np.arange(100_000) / 3000)
    values[[77, 50_123]] = 9.0, -9.0
    thinned = charts.thin(Series(np.arange(100_000.0), values), 400)
    assert len(thinned.steps) <= 400
    assert {9.0, -9.0, values[0], values[-1]} <= set(thinned.values)
    assert (np.diff(thinned.steps) > 0).all()


def test_smoothing_is_a_mean_around_each_step():
    steps = np.arange(500.0)
    line = charts.smooth(Series(steps, 2 * steps + 1))
    inner = slice(20, -20)
    np.testing.assert_allclose(line.values[inner], 2 * line.steps[inner] + 1)
    noise = np.random.default_rng(0).normal(size=100_000)
    assert charts.smooth(Series(np.arange(100_000.0), noise)).values.std() < 0.05


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.0, 3e-5, ["0", "1e-5", "2e-5", "3e-5"]),
        (0.0, 24_500.0, ["0", "5k", "10k", "15k", "20k"]),
        (0.0, 2.6e6, ["0", "1M", "2M"]),
        (-1.0, 1.0, ["-1.0", "-0.5", "0", "0.5", "1.0"]),
        (0.8412, 0.8427, ["0.8415", "0.8420", "0.8425"]),
        (1e20, 3e20, ["1.0e20", "1.5e20", "2.0e20", "2.5e20", "3.0e20"]),
    ],
)
def test_ticks_are_round_and_told_apart(low, high, labels):
    ticks = axes.round_ticks(low, high, 5)
    assert axes.tick_labels(axes.Axis(low, high, ticks)) == labels


# As they come from a log, see history.LARGEST.
VALUES = st.one_of(
    st.just(0.0),
    st.floats(1e-300, 1e300),
    st.floats(-1e300, -1e-300),
    st.floats(0.5, 2.0, width=32),
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(VALUES, min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
)
def test_any_values_have_an_axis(values, from_zero, may_be_log):
    axis = axes.value_axis(np.array(values), from_zero, may_be_log)
    assert len(axis.ticks) <= 12
    assert len(set(axes.tick_labels(axis))) == len(axis.ticks)
    line = charts.Line("x", Series(np.arange(len(values), dtype=float), np.array(values)), 0)
    check_drawings(charts.line_chart("t", [line], 800, from_zero, may_be_log))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (75, "1 min 15 s"), (3725, "1 h 02 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds, text):
    assert axes.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"), (1e-7, "1e-7"), (12, "12"), (1234.5, "1,234"), (2.5e13, "2.5e13"),
        (math.nan, "NaN"), (-math.inf, "−∞"), (109484547, "109,484,547"), (-0.5, "-0.5"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert axes.short(value) == text


def test_many_labels_become_a_list_of_confusions(tmp_path):
    matrix = [[0] * 61 for _ in range(61)]
    matrix[5][7], matrix[5][5] = 30, 70
    labels = [f"label {i}" for i in range(61)]
    text = run(tmp_path / "run", [], extras={"confusion": {"labels": labels, "matrix": matrix}})
    assert "label 5|label 7|30|0.3" in Page(text).text
    text = run(
        tmp_path / "run",
        [],
        extras={"confusion": {"labels": labels[:60], "matrix": [r[:60] for r in matrix[:60]]}},
    )
    assert text.count("label 5 → ") == 60


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"confusion": {"labels": ["a"], "matrix": [[1, 2]]}}, r"1 labels and 1 rows of \[2\]"),
        ({"confusion": {"labels": ["a"], "matrix": [[-1]]}}, "holds -1"),
        ({"confusion": [[1]]}, "confusion is a list; expected labels and a matrix"),
        ({"per_label": {"header": ["a"], "rows": [[1, 2]]}}, "row 0 has 2 cells; expected 1"),
        ({"pre_label": 3}, "pre_label is a int; expected a header and rows"),
        ({"seeds": [0.5]}, "seeds is a list"),
        ({"summary": "text"}, "summary is a str"),
    ],
)
def test_extras_of_another_shape(tmp_path, extras, message):
    (tmp_path / "report.html").write_text("before")
    with pytest.raises(ReportError, match=message):
        report.write_report(tmp_path, extras)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "before"


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    run(tmp_path / "run", train([1]))
    before = (tmp_path / "run" / "report.html").read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        report.write_report(tmp_path / "run", {"summary": {"new": 1}})
    assert (tmp_path / "run" / "report.html").read_text() == before
    assert not list((tmp_path / "run").glob(".*"))


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no directory"):
        report.write_report(tmp_path / "nothing")
