"""From the logits of first and last tokens to spans of text."""

import dataclasses

import numpy as np

# What transformers puts in place of the logits of tokens that cannot be in an answer.
NEVER = -10000.0


@dataclasses.dataclass
class Window:
    """One window over a context: its logits and, for each token, what of the context it is.

    context: whether a token is of the context.
    spans:   (start, end) of each token in characters.
    words:   the word each token is part of; only answers that are aligned with words need it.
    """

    start_logits: np.ndarray
    end_logits: np.ndarray
    context: np.ndarray
    spans: np.ndarray
    words: np.ndarray | None = None


def probabilities(logits: np.ndarray, context: np.ndarray) -> np.ndarray:
    """Of each token of the context, and of [CLS] in place 0, which stands for "no answer"."""
    allowed = context.copy()
    allowed[0] = True
    masked = np.where(allowed, logits, NEVER).astype(np.float32)
    shifted = np.exp(masked - masked.max())
    return shifted / shifted.sum()


def best_spans(
    start: np.ndarray, end: np.ndarray, context: np.ndarray, count: int, longest: int
) -> list[tuple[int, int, float]]:
    """The `count` most probable spans of at most `longest` tokens, as (first, last, probability).

    Only the band of spans that are short enough is ever computed: length × longest of them.
    """
    places = np.flatnonzero(context)
    if not len(places):
        return []
    longest = min(longest, len(places))
    # The context is one run of tokens, so that the k-th end after a start is k places on.
    starts, ends = start[places], np.pad(end[places], (0, longest - 1), constant_values=-1)
    band = np.lib.stride_tricks.sliding_window_view(ends, longest)
    scores = np.where(band < 0, -1, starts[:, None] * band).ravel()
    count = min(count, int((scores >= 0).sum()))
    found = np.argpartition(-scores, count - 1)[:count]
    found = found[np.argsort(-scores[found], kind="stable")]
    first, length = np.divmod(found, longest)
    return [
        (int(places[a]), int(places[a + more]), float(scores[at]))
        for a, more, at in zip(first, length, found, strict=True)
    ]


def characters(window: Window, first: int, last: int, align: bool) -> tuple[int, int]:
    """Where a span of tokens is in the text, widened to whole words if asked."""
    if not align or window.words is None:
        return int(window.spans[first, 0]), int(window.spans[last, 1])
    words = window.words
    same = lambda place: window.context & (words == words[place])  # noqa: E731
    return (
        int(window.spans[same(first), 0].min()),
        int(window.spans[same(last), 1].max()),
    )


def answers(
    text: str, windows: list[Window], top_k: int, longest: int, align: bool
) -> tuple[list[dict], float]:
    """The best answers over all windows, and the least probability of "no answer" in any.

    As in transformers' postprocess: probabilities are of a window's tokens, answers that read the
    same are one with the sum of their scores, and from each window come 2 top_k + 10 spans (top_k
    if they are not aligned with words).
    """
    count = 2 * top_k + 10 if align else top_k
    found: dict[str, dict] = {}
    null = 1.0
    for window in windows:
        start = probabilities(window.start_logits, window.context)
        end = probabilities(window.end_logits, window.context)
        null = min(null, float(start[0] * end[0]))
        for first, last, score in best_spans(start, end, window.context, count, longest):
            begin, stop = characters(window, first, last, align)
            answer = text[begin:stop]
            known = found.setdefault(
                answer.lower(), {"score": 0.0, "start": begin, "end": stop, "answer": answer}
            )
            known["score"] += score
    return sorted(found.values(), key=lambda answer: answer["score"], reverse=True), null


def n_best(text: str, windows: list[Window], count: int, longest: int) -> tuple[list[dict], float]:
    """The `count` best answers over all windows by the sum of their two logits, and the least such
    sum of "no answer" in any window.

    Logits, unlike probabilities, compare between windows: this is how SQuAD predictions are made.
    """
    null = min(float(window.start_logits[0] + window.end_logits[0]) for window in windows)
    found: dict[tuple[int, int], dict] = {}
    for window in windows:
        # Products of exponentials rank as sums do; in float64 no candidate's vanishes.
        start, end = (
            np.exp(np.asarray(logits, np.float64) - logits.max())
            for logits in (window.start_logits, window.end_logits)
        )
        for first, last, _ in best_spans(start, end, window.context, count, longest):
            score = float(window.start_logits[first] + window.end_logits[last])
            place = characters(window, first, last, align=False)
            if place not in found or found[place]["score"] < score:
                answer = {"answer": text[slice(*place)], "start": place[0], "end": place[1]}
                found[place] = {**answer, "score": score}
    ranked = sorted(found.values(), key=lambda answer: answer["score"], reverse=True)
    return ranked[:count], null
