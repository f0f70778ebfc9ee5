"""question-answering, against brute force over every span of every window."""

import re

import numpy as np
import pytest
from pipeline_models import CONTEXT, close, model, pipe, tokenizer

from jbert.pipelines import PipelineError
from jbert.pipelines.spans import Window, answers, best_spans

QUESTION = "what did he write about?"


@pytest.fixture(scope="module")
def ask():
    return pipe("question-answering", model("bert", "question_answering"))


def softmax(values):
    e = np.exp(np.asarray(values, np.float64) - max(values))
    return e / e.sum()


def brute_force(bert, question, context, *, size=32, stride, longest=15, top_k=1, align=True):
    """The answers by the definition, and the probability of none: one window at a time, every
    span of it by itself."""
    tok = tokenizer()
    asked = tok.encode(question, add_special_tokens=False)
    words = [m.span() for m in re.finditer(r"\w+|[^\w\s]", context)]
    pieces = []
    for begin, end in words:
        ids = tok([context[begin:end]], add_special_tokens=False, return_offsets=True)
        for token, (a, b) in zip(ids["input_ids"][0], ids["offset_mapping"][0], strict=True):
            pieces.append((int(token), begin + int(a), begin + int(b), (begin, end)))
    room = size - len(asked) - 3
    totals, nothing = {}, 1.0
    at = 0
    while True:
        part = pieces[at : at + room]
        row = [tok.cls_token_id, *asked, tok.sep_token_id, *(p[0] for p in part), tok.sep_token_id]
        types = [0] * (len(asked) + 2) + [1] * (len(part) + 1)
        output = bert(np.array([row], np.int32), token_type_ids=np.array([types], np.int32))
        lead = len(asked) + 2
        chosen = [0, *range(lead, lead + len(part))]
        start = softmax(np.asarray(output.start_logits)[0, chosen])
        end = softmax(np.asarray(output.end_logits)[0, chosen])
        nothing = min(nothing, start[0] * end[0])
        spans = []
        for i in range(len(part)):
            for j in range(i, min(len(part), i + longest)):
                begin, stop = part[i][1], part[j][2]
                if align:
                    inside = [p for p in part if p[3] in (part[i][3], part[j][3])]
                    begin, stop = inside[0][1], inside[-1][2]
                spans.append((start[i + 1] * end[j + 1], begin, stop))
        spans.sort(key=lambda span: -span[0])
        for score, begin, stop in spans[: 2 * top_k + 10 if align else top_k]:
            key = context[begin:stop].lower()
            known = totals.setdefault(
                key, {"score": 0.0, "start": begin, "end": stop, "answer": context[begin:stop]}
            )
            known["score"] += float(score)
        if at + room >= len(pieces):
            break
        at += room - stride
    return sorted(totals.values(), key=lambda a: -a["score"])[:top_k], nothing


@pytest.mark.parametrize("stride, longest, top_k, align", [
    (4, 15, 1, True), (10, 3, 5, True), (0, 15, 3, False), (7, 1, 8, True),
])  # fmt: skip
def test_answers_are_those_of_brute_force(ask, stride, longest, top_k, align):
    expected, _ = brute_force(
        ask.bert, QUESTION, CONTEXT, stride=stride, longest=longest, top_k=top_k, align=align
    )
    found = ask(
        question=QUESTION, context=CONTEXT, doc_stride=stride, max_answer_len=longest, top_k=top_k,
        align_to_words=align,
    )  # fmt: skip
    found = [found] if top_k == 1 else found
    assert len(found) == top_k
    close(found, expected)
    for answer in found:
        assert CONTEXT[answer["start"] : answer["end"]] == answer["answer"]


def test_no_answer_wins_by_the_threshold(ask):
    (best,), nothing = brute_force(ask.bert, QUESTION, CONTEXT, stride=4)
    call = {"question": QUESTION, "context": CONTEXT, "doc_stride": 4}
    empty = {"score": float(nothing), "start": 0, "end": 0, "answer": ""}
    margin = nothing - best["score"]
    call["handle_impossible_answer"] = True
    close(ask(**call, null_threshold=margin - 1e-3), empty)
    close(ask(**call, null_threshold=margin + 1e-3), best)
    three = ask(**call, top_k=3, null_threshold=margin + 1e-3)
    assert len(three) == 3 and three[0]["answer"]
    assert ask(question=QUESTION, context=CONTEXT, doc_stride=4)["answer"]


def test_spans_of_random_logits():
    rng = np.random.default_rng(0)
    for _ in range(60):
        length, longest, count = rng.integers(1, 30), rng.integers(1, 12), rng.integers(1, 20)
        context = np.zeros(length + 4, bool)
        context[3:-1] = True
        start, end = rng.random((2, length + 4))
        every = [
            (start[i] * end[j], i, j)
            for i in range(3, length + 3)
            for j in range(i, min(i + longest, length + 3))
        ]
        every.sort(reverse=True)
        found = best_spans(start, end, context, count, longest)
        assert len(found) == min(count, len(every))
        assert found == [(i, j, s) for s, i, j in every[:count]]


def test_windows_with_one_answer_add_up_and_none_is_the_least_likely():
    def window(peak, none):
        logits = np.full(6, -5.0)
        logits[peak], logits[0] = 2.0, none
        return Window(
            logits, logits, np.array([0, 0, 1, 1, 1, 0], bool),
            np.array([(0, 0), (0, 0), (0, 1), (2, 3), (4, 5), (0, 0)]),
            np.array([-1, -1, 0, 1, 2, -1]),
        )  # fmt: skip

    one, null_one = answers("a B c", [window(3, -5)], 1, 5, True)
    two, null_two = answers("a B c", [window(3, -5), window(3, 3)], 1, 5, True)
    assert one[0]["answer"] == two[0]["answer"] == "B"
    assert one[0]["score"] < two[0]["score"] < 2 * one[0]["score"]
    assert null_two == null_one < 1e-4


def test_questions_and_contexts_come_in_many_shapes(ask):
    one = ask(question=QUESTION, context=CONTEXT)
    close(ask({"question": QUESTION, "context": CONTEXT}), one)
    close(ask([{"question": QUESTION, "context": CONTEXT}]), [one])
    close(ask(question=[QUESTION], context=[CONTEXT]), [one])
    close(ask(question=[QUESTION, "who?"], context=CONTEXT)[0], one)
    close(list(ask(iter([{"question": QUESTION, "context": CONTEXT}]))), [one])
    for bad in ({"question": [QUESTION], "context": [CONTEXT] * 2},
                {"question": QUESTION, "context": [CONTEXT]}):  # fmt: skip
        with pytest.raises(ValueError, match="question"):
            ask(**bad)
    with pytest.raises(TypeError, match="question="):
        ask()


def test_offsets_count_characters_of_the_text_as_given(ask):
    context = "  Ünïcödé \U0001f642 keeper\u00a0wrote  ZAŻÓŁĆ. "
    for answer in ask(question="who?", context=context, top_k=20):
        assert context[answer["start"] : answer["end"]] == answer["answer"] != ""


def test_long_questions_are_cut_to_max_question_len(ask):
    long = "what did he write about in the evening?"
    most = len(tokenizer().tokenize("what did he"))
    cut = ask(question=long, context=CONTEXT, max_question_len=most, doc_stride=4)
    close(cut, ask(question="what did he", context=CONTEXT, doc_stride=4, max_question_len=20))


@pytest.mark.parametrize("question, context, options, message", [
    (QUESTION, "", {}, "context is empty"),
    (QUESTION, " \n", {}, "context is empty"),
    (QUESTION, "\u200b", {}, "context has no token"),
    ("", CONTEXT, {}, "question is empty"),
    ("why " * 40, CONTEXT, {}, "lower max_question_len"),
    (QUESTION, CONTEXT, {"doc_stride": 25}, "doc_stride is 25"),
    (QUESTION, CONTEXT, {"max_seq_len": 33}, "32 positions"),
])  # fmt: skip
def test_what_cannot_be_asked_is_named(ask, question, context, options, message):
    good = {"question": "who?", "context": CONTEXT}
    with pytest.raises(PipelineError, match=rf"inputs\[[01]\]: .*{message}"):
        ask([good, {"question": question, "context": context}], **options)
    if not options:
        found = ask([good, {"question": question, "context": context}], on_error="return")
        close(found[0], ask(good))


def test_windows_must_move_on(ask):
    with pytest.raises(ValueError, match="move on"):
        ask(question=QUESTION, context=CONTEXT, doc_stride=20, max_seq_len=20)
    with pytest.raises(ValueError, match="max_answer_len"):
        ask(question=QUESTION, context=CONTEXT, max_answer_len=0)
