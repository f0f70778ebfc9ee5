"""token-classification: aggregation against an implementation of its own, and long texts."""

import itertools
import logging

import numpy as np
import pytest
from pipeline_models import close, model, pipe, ragged, tokenizer

from jbert.pipelines import PipelineError
from jbert.pipelines.entities import aggregate, known_prefixes, split_label, without_overlaps

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.fixture(scope="module")
def tag():
    return pipe("token-classification", model("bert", "token_classification", labels=LABELS))


def scores_of(bert, text):
    """(token, start, end, probabilities) of each token, from the model with no padding."""
    tokens = tokenizer()([text], return_offsets=True)
    spans = tokens.pop("offset_mapping")[0]
    logits = np.asarray(bert(**tokens).logits[0], np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    names = tokenizer().convert_ids_to_tokens(tokens["input_ids"][0])
    rows = list(zip(names, spans.tolist(), shares, strict=True))[1:-1]
    return [(name, start, end, share) for name, (start, end), share in rows]


def reference(rows, strategy, labels):
    """Entities by the definition: words, then maximal runs."""
    if strategy == "simple":
        words = [[row] for row in rows]
    else:
        words = []
        for row in rows:
            words.append([]) if not row[0].startswith("##") else None
            words[-1].append(row)
    chosen = []
    for word in words:
        table = np.stack([row[3] for row in word])
        share = {
            "simple": table[0], "first": table[0], "average": table.mean(0),
            "max": table[np.unravel_index(table.argmax(), table.shape)[0]],
        }[strategy]  # fmt: skip
        text = tokenizer().convert_tokens_to_string([row[0] for row in word])
        if strategy == "simple":
            text = word[0][0]
        chosen.append((labels[share.argmax()], share.max(), text, word[0][1], word[-1][2]))
    runs = []
    for label, score, text, start, end in chosen:
        kind = label.split("-")[-1]
        if runs and runs[-1]["kind"] == kind and not label.startswith("B-"):
            runs[-1]["parts"].append((score, text, end))
        else:
            runs.append({"kind": kind, "start": start, "parts": [(score, text, end)]})
    return [
        {
            "entity_group": run["kind"],
            "score": float(np.mean([part[0] for part in run["parts"]])),
            "word": tokenizer().convert_tokens_to_string([part[1] for part in run["parts"]]),
            "start": run["start"],
            "end": run["parts"][-1][2],
        }
        for run in runs
        if run["kind"] != "O"
    ]


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_aggregation_is_that_of_the_definition(tag, strategy):
    texts = ["The lighthouse keeper wrote unhappily", *ragged(4, 10)]
    found = tag(texts, aggregation_strategy=strategy)
    for text, entities in zip(texts, found, strict=True):
        close(entities, reference(scores_of(tag.bert, text), strategy, LABELS))
    assert any(found)


def test_strategies_differ(tag):
    text = "The lighthouse keeper wrote unhappily, and the postwoman laughed"
    answers = [
        str(tag(text, aggregation_strategy=s, ignore_labels=[]))
        for s in ("none", "simple", "first", "average", "max")
    ]
    assert len(set(answers)) == 5


def test_tokens_without_aggregation(tag):
    text = "The KEEPER wrote"
    rows = scores_of(tag.bert, text)
    found = tag(text, ignore_labels=[])
    for index, (row, entity) in enumerate(zip(rows, found, strict=True), 1):
        label = LABELS[row[3].argmax()]
        close(entity, {
            "entity": label, "score": float(row[3].max()), "index": index,
            "word": row[0], "start": row[1], "end": row[2],
        })  # fmt: skip
    kept = tag(text, ignore_labels=[found[0]["entity"]])
    assert [e for e in found if e["entity"] != found[0]["entity"]] == kept


def entities(labels, names):
    """Groups over one-letter words with these labels."""
    ids = {name: i for i, name in enumerate(names)}
    tokens = [
        {"word": "w", "scores": np.eye(len(names))[ids[label]], "start": 2 * i, "end": 2 * i + 1,
         "index": i, "is_subword": False}
        for i, label in enumerate(labels)
    ]  # fmt: skip
    found = aggregate(tokens, "simple", dict(enumerate(names)), " ".join)
    return [(e["entity_group"], e["start"] // 2, e["end"] // 2) for e in found
            if e["entity_group"] != "O"]  # fmt: skip


def test_iob1_iob2_and_bilou():
    iob = ("O", "B-X", "I-X", "I-Y", "B-Y")
    assert entities(["I-X", "I-X", "B-X", "O", "I-X"], iob) == [("X", 0, 1), ("X", 2, 2),
                                                               ("X", 4, 4)]  # fmt: skip
    assert entities(["B-X", "I-X", "B-X", "I-Y"], iob) == [("X", 0, 1), ("X", 2, 2), ("Y", 3, 3)]
    for begin, last, unit in (("B", "L", "U"), ("B", "E", "S")):
        names = ("O", *(f"{mark}-X" for mark in (begin, "I", last, unit)))
        marks = [begin, "I", last, begin, last, unit, unit, "I"]
        assert entities([f"{mark}-X" for mark in marks], names) == [
            ("X", 0, 2), ("X", 3, 4), ("X", 5, 5), ("X", 6, 6), ("X", 7, 7)
        ]  # fmt: skip
        # Broken off: what comes next is an entity of its own all the same.
        assert entities([f"{begin}-X", f"{unit}-X"], names) == [("X", 0, 0), ("X", 1, 1)]
    unmarked = entities(["NOUN", "NOUN", "E-MAIL"], ("NOUN", "E-MAIL"))
    assert unmarked == [("NOUN", 0, 1), ("E-MAIL", 2, 2)]


def test_prefixes_are_those_of_the_label_set():
    assert split_label("L-PER", known_prefixes(["O", "L-PER", "U-PER"])) == ("L", "PER")
    assert split_label("L-PER", known_prefixes(["O", "L-PER", "NOUN"])) == ("I", "L-PER")


def test_long_texts_are_read_in_windows_that_overlap(tag, caplog):
    text = " ".join(ragged(12, 12, seed=5))
    with pytest.raises(ValueError, match="aggregation_strategy"):
        tag(text, stride=4)
    found = tag(text, stride=8, aggregation_strategy="first", ignore_labels=[])
    assert found[-1]["end"] == len(text)
    assert found == sorted(found, key=lambda e: e["start"])
    for one, other in itertools.pairwise(found):
        assert one["end"] <= other["start"]
    for entity in found:
        told = text[entity["start"] : entity["end"]].lower()
        assert told.replace(" ", "") == entity["word"].replace(" ", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    first = tag(["a", text], aggregation_strategy="first", ignore_labels=[])[1]
    assert first[-1]["end"] < len(text)
    assert "inputs[1]" in caplog.text and "stride" in caplog.text
    with pytest.raises(PipelineError, match="stride"):
        tag(text, stride=30, aggregation_strategy="first")


def test_of_overlapping_entities_the_longer_and_then_the_surer_stays():
    make = lambda start, end, score: {"start": start, "end": end, "score": score}  # noqa: E731
    assert without_overlaps([make(5, 9, 0.2), make(0, 4, 0.1), make(6, 9, 0.9)]) == [
        make(0, 4, 0.1), make(5, 9, 0.2)
    ]  # fmt: skip
    assert without_overlaps([make(0, 4, 0.1), make(2, 6, 0.9)]) == [make(2, 6, 0.9)]
    assert without_overlaps([]) == []


def test_words_given_apart_count_in_the_joined_text(tag):
    words = ["The", "light house", "keeper"]
    found = tag(words, is_split_into_words=True, ignore_labels=[])
    joined = " ".join(words)
    close(found, tag(joined, ignore_labels=[]))
    assert tag([words, ["a"]], is_split_into_words=True, delimiter="", ignore_labels=[])[0][-1][
        "end"
    ] == len("".join(words))
    with pytest.raises(PipelineError, match="list of words"):
        tag(["a b", ["a"]], is_split_into_words=True)
    with pytest.raises(PipelineError, match="expected a text"):
        tag([["a", "b"]])
    with pytest.raises(PipelineError, match="word 1 is None"):
        tag([["a", None]], is_split_into_words=True)
