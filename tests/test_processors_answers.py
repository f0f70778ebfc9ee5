"""Answers in contexts: which tokens they are, and predictions read back as text."""

import itertools

import numpy as np
import pytest
from feature_tables import STORY, answer, counts, questions, run, tokenizer, tokens

from jbert.data.processors import QuestionAnswering
from jbert.data.table import DataError, Table

SMALL = {"max_length": 24, "max_question_length": 8, "doc_stride": 6}


def spans(features) -> list[tuple[int, int]]:
    columns = features.targets["start_positions"], features.targets["end_positions"]
    return [(int(a), int(b)) for a, b in zip(*columns, strict=True)]


def answer_tokens(features, row) -> str:
    start, end = spans(features)[row]
    return tokenizer().convert_tokens_to_string(tokens(features, row)[start : end + 1])


def one(context: str, text: str, start: int) -> Table:
    answers = [{"text": [text], "answer_start": [start]}]
    return Table({"question": ["Who?"], "context": [context], "answers": answers}, "one.json")


def test_answers_are_found_among_the_tokens():
    features = run(QuestionAnswering(max_length=96), questions())
    assert features.owners.tolist() == [0, 1, 2]
    assert answer_tokens(features, 0) == "the lighthouse keeper"
    assert answer_tokens(features, 1) == "bread"
    assert spans(features)[2] == (0, 0)
    batch = features.batch(np.arange(3), 96, 0)
    assert batch["start_positions"].tolist() == [start for start, _ in spans(features)]
    assert batch["end_positions"].dtype == np.int32


def test_windows_cover_the_context_and_those_without_the_answer_point_at_cls():
    features = run(QuestionAnswering(**SMALL), questions())
    table = questions()
    for row in range(3):
        rows = np.flatnonzero(features.owners == row)
        assert len(rows) > 2
        text = tokenizer()(STORY, return_offsets=True, add_special_tokens=False)
        covered = set()
        for window in rows:
            piece = tokens(features, window)
            assert len(piece) <= 24 and piece[0] == "[CLS]" and piece[-1] == "[SEP]"
            at = features.tokens_of("spans", window)
            covered |= {tuple(span) for span in at[at[:, 0] >= 0].tolist()}
        assert covered == {tuple(span) for span in text["offset_mapping"][0].tolist()}
        wanted = (table[row]["answers"]["text"] or [""])[0].lower()
        found = [answer_tokens(features, window) for window in rows if spans(features)[window][0]]
        assert found == [wanted] * len(found) and bool(found) == bool(wanted)
        assert any(spans(features)[window] == (0, 0) for window in rows)


@pytest.mark.parametrize(
    ("context", "text", "expected"),
    [
        ("He wrote, in Paris.", " wrote", "wrote"),
        ("He wrote, in Paris.", "wrote, ", "wrote,"),
        ("He wrote  in  Paris.", "  in  ", "in"),
        # The border of the answer is inside a word piece.
        ("unhappily he wrote", "happ", None),
        ("he wrote", "rot", "wrote"),
        # Nothing is left of the first character.
        ("in \u200bParis", "\u200bParis", "paris"),
        ("in Paris\u200b now", "Paris\u200b", "paris"),
        # One character makes several tokens.
        ("서울 in Paris", "서울", None),
        ("crème brûlée", "brûlée", "brulee"),
        ("灯塔 Paris", "塔", None),
        ("He wrote", "He wrote", "he wrote"),
        ("She brought tea.", ".", "."),
    ],
)
def test_every_token_that_holds_some_of_the_answer_is_in_it(context, text, expected):
    start = context.index(text)
    features = run(QuestionAnswering(), one(context, text, start))
    ((first, last),) = spans(features)
    at = features.tokens_of("spans", 0)
    inside = [
        place
        for place, (begin, end) in enumerate(at.tolist())
        if begin >= 0 and begin < start + len(text) and end > start
    ]
    assert inside == list(range(first, last + 1)) and inside
    if expected is not None:
        assert answer_tokens(features, 0) == expected


def test_a_window_has_an_answer_just_if_it_holds_all_its_tokens():
    at = tokenizer()(STORY, return_offsets=True, add_special_tokens=False)["offset_mapping"][0]
    places = [(int(at[i, 0]), int(at[i + 1, 1])) for i in range(len(at) - 1)]
    answers = [{"text": [STORY[a:b]], "answer_start": [a]} for a, b in places]
    columns = {"question": ["Who?"] * len(places), "context": [STORY] * len(places)}
    features = run(QuestionAnswering(**SMALL), Table(columns | {"answers": answers}))
    for row, owner in enumerate(features.owners.tolist()):
        spans_here = features.tokens_of("spans", row).tolist()
        both = [at[owner].tolist() in spans_here, at[owner + 1].tolist() in spans_here]
        first, last = spans(features)[row]
        if all(both):
            assert [spans_here[first], spans_here[last]] == at[owner : owner + 2].tolist()
        else:
            assert (first, last) == (0, 0)


def test_an_answer_longer_than_any_window_is_counted():
    table = one(STORY, STORY[4:150], 4)
    features = run(QuestionAnswering(**SMALL), table)
    assert set(spans(features)) == {(0, 0)}
    assert counts(features) == {
        "have an answer that is too long for any row, and count as without answer": 1
    }


def test_long_questions_are_cut_and_counted():
    table = one("He wrote in Paris.", "Paris", 12)
    table.columns["question"] = ["who " * 500]
    features = run(QuestionAnswering(max_question_length=5), table)
    assert tokens(features, 0)[:8] == [
        "[CLS]",
        *tokenizer().tokenize("who " * 9)[:5],
        "[SEP]",
        "he",
    ]
    assert answer_tokens(features, 0) == "paris"
    (what,) = counts(features)
    assert what == "have a question of more than 5 tokens, the rest of which was cut off"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["ship"], "answer_start": [3]}, "expected the answer 'ship' at character 3"),
        ({"text": ["north"], "answer_start": [-6]}, "expected the answer 'north' at character -6"),
        ({"text": ["ship"], "answer_start": ["3"]}, "expected the answer 'ship' at character 3"),
        ({"text": [" "], "answer_start": [3]}, "expected the answer ' ' at character 3"),
        ({"text": ["a", "b"], "answer_start": [3]}, "expected answers as lists 'text' and"),
        ("ship", "expected answers as lists 'text' and 'answer_start'"),
        (None, "expected a value of 'answers', found none"),
    ],
)
def test_wrong_answers_are_named(answers, message):
    some = [answer("bread"), answers, answer("bread")]
    with pytest.raises(DataError, match=f"story.json question 1: {message}"):
        run(QuestionAnswering(), questions(answers=some))


def gold_logits(features) -> dict[str, list[np.ndarray]]:
    """What a model that is sure of the right answer says, padded as batches are."""
    columns = features.targets["start_positions"], features.targets["end_positions"]
    names = ("start_logits", "end_logits")
    return {
        name: [np.where(np.arange(128) == place, 9.0, 0.0) for place in places]
        for name, places in zip(names, columns, strict=True)
    }


@pytest.mark.parametrize("settings", [SMALL, {"max_length": 96}])
def test_right_logits_give_the_right_answers(settings):
    processor = QuestionAnswering(**settings, null_threshold=0.0)
    table = questions()
    features = run(processor, table)
    outputs = gold_logits(features)
    found = processor.decode(table, features, outputs)
    assert [one["answer"] for one in found] == ["The lighthouse keeper", "bread", ""]
    for one in found[:2]:
        assert STORY[one["start"] : one["end"]] == one["answer"]
        assert one["score"] == 18 and one["no_answer_score"] == -18
        assert len(one["n_best"]) == 20 and one["n_best"][0]["answer"] == one["answer"]
    assert found[2]["no_answer_score"] == 18 and found[2]["n_best"][0]["answer"]
    assert QuestionAnswering(**settings).decode(table, features, outputs)[2]["answer"] != ""


def test_answers_have_a_limit_and_come_from_the_context_alone():
    table = one("He wrote in Paris.", "Paris", 12)
    features = run(QuestionAnswering(), table)
    size = int(features.lengths[0])
    start, end = np.zeros(size), np.zeros(size)
    context = np.flatnonzero(features.tokens_of("spans", 0)[:, 0] >= 0)
    start[[1, context[0]]] = 9, 5
    end[[2, context[-2]]] = 9, 5
    found = QuestionAnswering().decode(
        table, features, {"start_logits": [start], "end_logits": [end]}
    )
    assert found[0]["answer"] == "He wrote in Paris"
    short = QuestionAnswering(max_answer_length=1, n_best=2)
    found = short.decode(table, features, {"start_logits": [start], "end_logits": [end]})
    assert found[0]["answer"] in ("He", "Paris") and len(found[0]["n_best"]) == 2


def test_the_best_answers_are_those_of_all_spans_in_all_windows():
    processor = QuestionAnswering(**SMALL, max_answer_length=5, n_best=50)
    table, rng = questions(), np.random.default_rng(0)
    features = run(processor, table)
    logits = {n: rng.normal(size=(len(features), 24)) * 30 for n in ("start_logits", "end_logits")}
    found = processor.decode(table, features, logits)
    for owner, one in enumerate(found):
        scores, null = {}, np.inf
        for row in np.flatnonzero(features.owners == owner):
            starts, ends = (values[row].astype(np.float32) for values in logits.values())
            null = min(null, float(starts[0] + ends[0]))
            at = features.tokens_of("spans", row).tolist()
            for first, last in itertools.product(range(len(at)), range(len(at))):
                if min(at[first][0], at[last][0]) >= 0 and 0 <= last - first < 5:
                    place, score = (at[first][0], at[last][1]), float(starts[first] + ends[last])
                    scores[place] = max(score, scores.get(place, -np.inf))
        expected = sorted(scores.items(), key=lambda item: -item[1])[:50]
        listed = [((a["start"], a["end"]), a["score"]) for a in one["n_best"]]
        assert listed == expected and one["no_answer_score"] == null - expected[0][1]
        assert all(STORY[a["start"] : a["end"]] == a["answer"] for a in one["n_best"])


def test_contexts_without_a_token_and_odd_texts():
    story = "\U0001f5fc a\ud800b " + "wind " * 2000
    columns = {"question": ["", "Who?", "a\ud800?"], "context": ["", " \u200b", story]}
    table = Table(columns, "odd.json")
    processor = QuestionAnswering(max_length=64, max_question_length=16)
    features = run(processor, table)
    assert not features.labelled
    with pytest.raises(DataError, match="odd.json: expected the columns 'answers'"):
        processor.fit(table)
    assert features.owners.tolist()[:3] == [0, 1, 2] and len(features) > 10
    zeros = [np.zeros(64) for _ in range(len(features))]
    found = processor.decode(table, features, {"start_logits": zeros, "end_logits": zeros})
    assert [one["answer"] for one in found[:2]] == ["", ""] and found[2]["answer"]
    assert found[0]["no_answer_score"] > 1000 and found[0]["n_best"] == []
