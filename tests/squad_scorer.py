"""SQuAD's two scorers, written from the description of their rules for the tests to compare with.

Slow and literal where the library is not: words one by one, every threshold tried in full.
"""

import string
from fractions import Fraction


def words(text):
    """The words that count: lower case, no ASCII punctuation, no articles."""
    kept = [letter for letter in text.lower() if letter not in string.punctuation]
    # An article is one between word boundaries; typographic marks are boundaries too.
    result, word = [], ""
    for letter in [*kept, " "]:
        if letter.isalnum() or letter == "_":
            word += letter
        else:
            result.append(" " if word in ("a", "an", "the") else word)
            result.append(letter)
            word = ""
    return "".join(result).split()


def overlap(found, gold):
    left = list(gold)
    shared = 0
    for word in found:
        if word in left:
            left.remove(word)
            shared += 1
    return Fraction(2 * shared, len(found) + len(gold)) if shared else Fraction(0)


def version_1(predictions, references):
    exact = total = Fraction(0)
    for question, answers in references.items():
        if question in predictions:
            found = words(predictions[question])
            exact += max(int(found == words(gold)) for gold in answers)
            total += max(overlap(found, words(gold)) for gold in answers)
    return {
        "exact_match": float(100 * exact / len(references)),
        "f1": float(100 * total / len(references)),
    }


def question_scores(prediction, answers):
    golds = [gold for gold in map(words, answers) if gold] or [[]]
    found = words(prediction)
    exact = max(int(found == gold) for gold in golds)
    if not found:
        return Fraction(exact), Fraction(exact)
    return Fraction(exact), max(overlap(found, gold) for gold in golds)


def mean(values):
    return float(100 * sum(values) / len(values))


def version_2(predictions, references, no_answer=None, threshold=1.0):
    raw = {q: question_scores(predictions[q], answers) for q, answers in references.items()}
    final = dict(raw)
    for question, score in (no_answer or {}).items():
        if question in final and score > threshold:
            final[question] = (Fraction(not references[question]),) * 2
    result = {}
    for prefix, wanted in (("", None), ("HasAns_", True), ("NoAns_", False)):
        kept = [q for q in references if wanted is None or bool(references[q]) == wanted]
        if kept:
            result[prefix + "exact"] = mean([final[q][0] for q in kept])
            result[prefix + "f1"] = mean([final[q][1] for q in kept])
            result[prefix + "total"] = len(kept)
    if no_answer is not None:
        for place, name in enumerate(("exact", "f1")):
            best, at = best_threshold(predictions, references, raw, no_answer, place)
            result[f"best_{name}"], result[f"best_{name}_thresh"] = best, at
    return result


def best_threshold(predictions, references, raw, no_answer, place):
    """Answer the first n questions by no-answer score, for every n; the rest have no answer."""
    order = [q for q in sorted(no_answer, key=no_answer.get) if q in raw]
    best, at = None, 0.0
    for answered in range(len(order) + 1):
        score = Fraction(0)
        for rank, question in enumerate(order):
            # In the search, a question without an answer is right unless there is any text.
            right = not references[question] and not predictions[question]
            if rank >= answered:
                score += not references[question]
            else:
                score += raw[question][place] if references[question] else right
        if best is None or score > best:
            best, at = score, no_answer[order[answered - 1]] if answered else 0.0
    return float(100 * best / len(raw)), at
