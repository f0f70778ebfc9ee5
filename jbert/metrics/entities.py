"""Entity precision, recall and F1 of tag sequences, counted as seqeval counts them.

An entity is right where its span and type are. Which tags make an entity depends on the scheme:
`default` reads any mixture of prefixes as the script of CoNLL-2000, `conlleval`, did (an `I-` with
nothing before it begins an entity); the strict ones take well-formed entities alone.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jbert.metrics.checks import MetricError, divide

Tags = Sequence[str]
Entity = tuple[str, int, int]


class Token(NamedTuple):
    prefix: str
    type: str


class Scheme(NamedTuple):
    """Which prefixes there are, and what two neighbours mean: begins, goes on, is complete."""

    prefixes: str
    begins: Callable[[Token, Token], bool]
    continues: Callable[[Token, Token], bool]
    complete: Callable[[Token, Token], bool]


def _same_type_follows(before: str, now: str) -> Callable[[Token, Token], bool]:
    def continues(last: Token, token: Token) -> bool:
        return last.prefix in before and token.prefix in now and last.type == token.type

    return continues


def _iob1_begins(last: Token, token: Token) -> bool:
    # B- separates neighbours of one type; anywhere else it begins nothing, and an I- after it does.
    if token.prefix == "B":
        return last.prefix in "IB" and last.type == token.type
    return token.prefix == "I" and (last.prefix in "OB" or last.type != token.type)


def _iob1_complete(last: Token, token: Token) -> bool:
    # seqeval.scheme.IOB1 has no pattern for B-x, B-y, so that the first is lost.
    return not (last.prefix == token.prefix == "B" and last.type != token.type)


def _chunks(begin: str, inside: str, end: str, single: str) -> Scheme:
    return Scheme(
        prefixes=begin + inside + end + single + "O",
        begins=lambda last, token: token.prefix in begin + single,
        continues=_same_type_follows(begin + inside, inside + end),
        complete=lambda last, token: last.prefix in end + single,
    )


_INSIDE = _same_type_follows("BI", "I")
SCHEMES: dict[str, Scheme | None] = {
    "default": None,
    "iob1": Scheme("IOB", _iob1_begins, _INSIDE, _iob1_complete),
    "iob2": Scheme("IOB", lambda last, token: token.prefix == "B", _INSIDE, lambda *_: True),
    "bioes": _chunks("B", "I", "E", "S"),
    "bilou": _chunks("B", "I", "L", "U"),
}


def find_entities(sentences: Sequence[Tags], scheme: str = "default") -> list[list[Entity]]:
    """Each sentence's entities: type, first token, and the one after the last."""
    rules = _scheme(scheme)
    _check(sentences, "sentences")
    if rules is None:
        return _split(_default(sentences), [len(tags) for tags in sentences])
    return [list(_strict(tags, rules, row)) for row, tags in enumerate(sentences)]


def entity_scores(
    predictions: Sequence[Tags], labels: Sequence[Tags], scheme: str = "default"
) -> dict[str, dict[str, Any]]:
    """`micro`, `macro` and `weighted` averages, and under `types` each type's own.

    Each has precision, recall, f1 and support, the number of entities among the labels. Types count
    that occur on either side. Without any entity all is 0.0.
    """
    _check_pair(predictions, labels)
    found, expected = (_by_type(tags, scheme) for tags in (predictions, labels))
    types = sorted(found.keys() | expected.keys())
    nothing: set[Any] = set()
    pairs = [(found.get(name, nothing), expected.get(name, nothing)) for name in types]
    counts = np.array([(len(a & b), len(a), len(b)) for a, b in pairs], np.int64).reshape(-1, 3)
    each = np.array([_measures(*row) for row in counts.tolist()]).reshape(-1, 3)
    support = counts[:, 2]
    total = int(support.sum())
    return {
        "micro": _named(_measures(*counts.sum(0).tolist()), total),
        "macro": _named(_average(each, np.ones_like(support)), total),
        "weighted": _named(_average(each, support), total),
        "types": {
            name: _named(row, int(size))
            for name, row, size in zip(types, each, support, strict=True)
        },
    }


def entity_metrics(
    predictions: Sequence[Tags], labels: Sequence[Tags], scheme: str = "default"
) -> dict[str, float]:
    """One flat dict: precision, recall, f1 over all entities, the macro ones, token accuracy."""
    scores = entity_scores(predictions, labels, scheme)
    names = ("precision", "recall", "f1")
    metrics = {name: scores["micro"][name] for name in names}
    metrics |= {f"macro_{name}": scores["macro"][name] for name in names}
    pairs = [
        (a, b)
        for row, expected in zip(predictions, labels, strict=True)
        for a, b in zip(row, expected, strict=True)
    ]
    return metrics | {"accuracy": divide(sum(a == b for a, b in pairs), len(pairs))}


def entity_table(
    predictions: Sequence[Tags], labels: Sequence[Tags], scheme: str = "default"
) -> dict[str, Any]:
    """The same scores as rows, in the shape that the run's report shows."""
    scores = entity_scores(predictions, labels, scheme)
    averages = {f"{name} average": scores[name] for name in ("micro", "macro", "weighted")}
    header = ["type", "precision", "recall", "f1", "support"]
    rows = [
        [name, *(row[column] for column in header[1:])]
        for name, row in (*scores["types"].items(), *averages.items())
    ]
    return {"header": header, "rows": rows}


def _average(each: np.ndarray, weights: np.ndarray) -> list[float]:
    if not weights.any():
        return [0.0] * each.shape[1]
    # Column by column as seqeval does: over an axis numpy adds in another order.
    return [float(np.average(column, weights=weights)) for column in each.T.copy()]


def _named(measures: Iterable[float], support: int) -> dict[str, Any]:
    precision, recall, f1 = (float(value) for value in measures)
    return {"precision": precision, "recall": recall, "f1": f1, "support": support}


def _measures(right: int, found: int, expected: int) -> tuple[float, float, float]:
    precision, recall = divide(right, found), divide(right, expected)
    # In seqeval's own order of operations: the last digit depends on it.
    return precision, recall, divide(2.0 * precision * recall, precision + recall)


def _by_type(sentences: Sequence[Tags], scheme: str) -> dict[str, set[tuple[int, int, int]]]:
    spans: dict[str, set[tuple[int, int, int]]] = {}
    for row, entities in enumerate(find_entities(sentences, scheme)):
        for name, start, end in entities:
            spans.setdefault(name, set()).add((row, start, end))
    return spans


def _default(sentences: Sequence[Tags]) -> list[Entity]:
    """Entities of all sentences end to end, one place apart.

    Mirrors seqeval.metrics.sequence_labeling.get_entities: the type of a tag is what follows its
    first letter and hyphen, and `_` where nothing does; of `.` as of `O`, nothing begins.
    """
    last, entities, start = Token("O", "_"), [], 0
    tags = [tag for sentence in sentences for tag in (*sentence, "O")]
    for place, tag in enumerate((*tags, "O")):
        token = Token(tag[0], tag[1:].split("-", maxsplit=1)[-1] or "_")
        changed = last.type != token.type
        if (
            last.prefix in "ES"
            or (last.prefix in "BI" and token.prefix in "BSO")
            or (last.prefix not in "O." and changed)
        ):
            entities.append((last.type, start, place))
        if (
            token.prefix in "BS"
            or (last.prefix in "ESO" and token.prefix in "EI")
            or (token.prefix not in "O." and changed)
        ):
            start = place
        last = token
    return entities


def _split(entities: list[Entity], lengths: list[int]) -> list[list[Entity]]:
    starts = np.cumsum([0, *(length + 1 for length in lengths)])
    rows: list[list[Entity]] = [[] for _ in lengths]
    for name, start, end in entities:
        row = int(np.searchsorted(starts, start, side="right")) - 1
        rows[row].append((name, start - int(starts[row]), end - int(starts[row])))
    return rows


def _strict(tags: Tags, rules: Scheme, row: int) -> Iterable[Entity]:
    outside = Token("O", "_")
    tokens = [outside, *(_token(tag, rules, row, i) for i, tag in enumerate(tags)), outside]
    place = 1
    while place < len(tokens):
        start = place
        place += 1
        if rules.begins(tokens[start - 1], tokens[start]):
            while rules.continues(tokens[place - 1], tokens[place]):
                place += 1
            if rules.complete(tokens[place - 1], tokens[place]):
                yield tokens[start].type, start - 1, place - 1


def _token(tag: str, rules: Scheme, row: int, place: int) -> Token:
    if tag[0] not in rules.prefixes:
        raise MetricError(
            f"sentence {row}, token {place} has the tag {tag!r}; in this scheme a tag begins with "
            f"one of {', '.join(rules.prefixes)}. scheme='default' takes any"
        )
    return Token(tag[0], tag[1:].strip("-") or "_")


def _scheme(name: str) -> Scheme | None:
    if name not in SCHEMES:
        raise MetricError(f"scheme is {name!r}; expected one of {list(SCHEMES)}")
    return SCHEMES[name]


def _check_pair(predictions: Sequence[Tags], labels: Sequence[Tags]) -> None:
    _check(predictions, "predictions")
    _check(labels, "labels")
    if len(predictions) != len(labels):
        raise MetricError(
            f"there are {len(predictions)} sentences of predictions and {len(labels)} of labels; "
            "expected as many"
        )
    for row, (found, expected) in enumerate(zip(predictions, labels, strict=True)):
        if len(found) != len(expected):
            raise MetricError(
                f"sentence {row} has {len(found)} predicted tags and {len(expected)} labels; "
                "expected one tag a word. Drop the positions that are not labelled from both"
            )
    if not len(labels):
        raise MetricError("there are no sentences to score; expected at least one")


def _check(sentences: Sequence[Tags], name: str) -> None:
    for row, tags in enumerate(sentences):
        if isinstance(tags, str) or not isinstance(tags, Sequence):
            raise MetricError(
                f"{name}[{row}] is {tags!r}; expected a list of tags for each sentence"
            )
        for place, tag in enumerate(tags):
            if not isinstance(tag, str) or not tag:
                raise MetricError(f"{name}[{row}][{place}] is {tag!r}; expected a tag such as 'O'")
