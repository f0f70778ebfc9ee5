"""Exact match and F1 as the official SQuAD scripts, v1.1 and v2.0, compute them.

Predictions and references go by question id: the text that is predicted, and the texts of the
answers, of which there are none where a v2.0 question has no answer. The results are percentages
under the scripts' own names.
"""

import collections
import math
import re
import string
from collections.abc import Collection, Mapping, Sequence
from numbers import Real

from jbert.metrics.checks import MetricError

# ASCII alone: the scripts keep typographic quotes and dashes.
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")

References = Mapping[str, Sequence[str]]


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and articles, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def squad_v1(predictions: Mapping[str, str], references: References) -> dict[str, float]:
    """`exact_match` and `f1`; a question without a prediction counts as wrong."""
    _check(predictions, references)
    exact = overlap = 0.0
    for question, answers in references.items():
        if not answers:
            raise MetricError(
                f"question {question!r} has no answer, as only SQuAD 2.0 has; score with squad_v2"
            )
        if question in predictions:
            found = normalize_answer(predictions[question])
            expected = [normalize_answer(answer) for answer in answers]
            exact += found in expected
            # Unlike v2.0, two texts without words have no overlap.
            overlap += max(_overlap(found.split(), gold.split()) for gold in expected)
    total = len(references)
    return {"exact_match": 100.0 * exact / total, "f1": 100.0 * overlap / total}


def squad_v2(
    predictions: Mapping[str, str],
    references: References,
    no_answer_scores: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> dict[str, float]:
    """`exact`, `f1` and `total`, over all questions and those with and without an answer.

    no_answer_scores: the probability (or a score) that the question has no answer. One above
    `threshold` overrules the prediction; the best thresholds are looked for too, and reported with
    the scores they give: `best_exact`, `best_exact_thresh`, `best_f1`, `best_f1_thresh`.
    Every question needs a prediction, "" for no answer: without one the official script stops.
    """
    _check(predictions, references)
    _check_complete(predictions, references, "predictions")
    answerable = {question: bool(answers) for question, answers in references.items()}
    exact, overlap = {}, {}
    for question, answers in references.items():
        exact[question], overlap[question] = _scores(predictions[question], answers)
    scored = [exact, overlap]
    if no_answer_scores is not None:
        _check_scores(no_answer_scores, references, threshold)
        scored = [
            {
                question: float(not answerable[question])
                if no_answer_scores[question] > threshold
                else score
                for question, score in scores.items()
            }
            for scores in scored
        ]
    metrics = _means(scored, references)
    for prefix, kind in (("HasAns", True), ("NoAns", False)):
        questions = [question for question, has in answerable.items() if has == kind]
        if questions:
            part = _means(scored, questions)
            metrics |= {f"{prefix}_{name}": value for name, value in part.items()}
    if no_answer_scores is not None:
        for name, scores in (("exact", exact), ("f1", overlap)):
            best, at = _best_threshold(predictions, scores, no_answer_scores, answerable)
            metrics |= {f"best_{name}": best, f"best_{name}_thresh": at}
    return metrics


def _scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    found = normalize_answer(prediction)
    # An answer that is nothing but articles and punctuation is no answer; if none is left, the
    # right prediction is nothing.
    expected = [gold for gold in map(normalize_answer, answers) if gold] or [""]
    overlap = max(_overlap(found.split(), gold.split()) for gold in expected)
    exact = float(found in expected)
    # Two texts without words share none, and yet agree.
    return exact, max(exact, overlap)


def _overlap(found: list[str], expected: list[str]) -> float:
    """F1 of two bags of words."""
    shared = sum((collections.Counter(found) & collections.Counter(expected)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(found), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def _means(scored: list[dict[str, float]], questions: Collection[str]) -> dict[str, float]:
    total = len(questions)
    exact, overlap = (sum(scores[question] for question in questions) for scores in scored)
    return {"exact": 100.0 * exact / total, "f1": 100.0 * overlap / total, "total": float(total)}


def _best_threshold(
    predictions: Mapping[str, str],
    scores: Mapping[str, float],
    no_answer_scores: Mapping[str, float],
    answerable: Mapping[str, bool],
) -> tuple[float, float]:
    """The best score that any threshold gives, and the first threshold that gives it.

    First no question is answered, then one more after the other, in the order of their scores and,
    where those are equal, in the order they were given in.
    """
    best = current = float(sum(not has for has in answerable.values()))
    threshold = 0.0
    for question in sorted(no_answer_scores, key=lambda name: no_answer_scores[name]):
        if question not in scores:
            continue
        if answerable[question]:
            current += scores[question]
        elif predictions[question]:
            current -= 1
        if current > best:
            best, threshold = current, float(no_answer_scores[question])
    return 100.0 * best / len(scores), threshold


def _check(predictions: Mapping[str, str], references: References) -> None:
    if not references:
        raise MetricError("there are no questions to score; expected at least one")
    for question, answers in references.items():
        if isinstance(answers, str) or not all(isinstance(answer, str) for answer in answers):
            raise MetricError(f"references[{question!r}] is {answers!r}; expected a list of texts")
        found = predictions.get(question, "")
        if not isinstance(found, str):
            raise MetricError(f"predictions[{question!r}] is {found!r}; expected a text")


def _check_complete(given: Mapping[str, object], references: References, name: str) -> None:
    missing = [question for question in references if question not in given]
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise MetricError(
            f"{name} lacks {len(missing)} of {len(references)} questions ({shown}); expected one "
            'each, for SQuAD 2.0 "" where there is no answer'
        )


def _check_scores(
    no_answer_scores: Mapping[str, float], references: References, threshold: float
) -> None:
    _check_complete(no_answer_scores, references, "no_answer_scores")
    for question, score in no_answer_scores.items():
        if not isinstance(score, Real) or math.isnan(score):
            raise MetricError(f"no_answer_scores[{question!r}] is {score!r}; expected a number")
    if math.isnan(threshold):
        raise MetricError("threshold is NaN; expected a number")
