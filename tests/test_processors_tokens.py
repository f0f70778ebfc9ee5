"""Tags of words: which tokens carry them, and predictions read back as one tag a word."""

import numpy as np
import pytest
from feature_tables import STORY, counts, one_hot, run, sentences, tokenizer, tokens

from jbert.data.processors import TokenClassification
from jbert.data.table import DataError, Table


def shown(processor, features, row) -> list[tuple[str, str]]:
    labels = features.tokens_of("labels", row)
    names = ["-" if label < 0 else processor.labels[label] for label in labels]
    return list(zip(tokens(features, row), names, strict=True))


def test_the_first_piece_carries_the_tag_or_all_do():
    table = sentences()
    first = TokenClassification().fit(table)
    assert first.labels == ("B-FOOD", "B-LOC", "B-PER", "I-FOOD", "O")
    pieces = shown(first, run(first, table), 2)
    by_word = [tokenizer().tokenize(word) for word in table[2]["tokens"]]
    expected, spread = [("[CLS]", "-")], [("[CLS]", "-")]
    for word, tag in zip(by_word, table[2]["tags"], strict=True):
        expected += [(word[0], tag), *((piece, "-") for piece in word[1:])]
        inside = tag.replace("B-", "I-")
        spread += [(word[0], tag), *((piece, inside) for piece in word[1:])]
    assert len(expected) > 5
    assert pieces == [*expected, ("[SEP]", "-")]
    every = TokenClassification(pieces="all").fit(table)
    assert shown(every, run(every, table), 2) == [*spread, ("[SEP]", "-")]
    # There is no I-PER to continue B-PER with.
    keepers = shown(every, run(every, table), 0)
    assert keepers[2][0].startswith("##") and keepers[2][1] == "B-PER"


def test_labels_are_padded_with_what_losses_ignore():
    processor = TokenClassification().fit(sentences())
    features = run(processor, sentences())
    batch = features.batch(np.array([1, 2]), 32, 0)
    assert batch["labels"].dtype == np.int32 and batch["labels"].shape == (2, 32)
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    row = features.tokens_of("labels", 2)
    assert batch["labels"][1, : len(row)].tolist() == row.tolist()
    assert (row >= 0).sum() == 3


def test_equal_sentences_keep_their_own_tags():
    columns = {"tokens": [["in", "Paris"]] * 2, "tags": [["O", "B-LOC"], ["B-LOC", "O"]]}
    table = Table(columns)
    processor = TokenClassification().fit(table)
    features = run(processor, table)
    for row in range(2):
        assert features.tokens_of("labels", row).tolist()[1] == processor.labels.index(
            columns["tags"][row][0]
        )
    assert processor.references(table) == columns["tags"]


def long() -> Table:
    words = STORY.replace(".", " .").split() * 2
    tags = ["O" if len(word) < 5 else f"B-{word[0].upper()}" for word in words]
    return sentences(
        tokens=[words, ["Paris"], words[::-1]], tags=[tags, ["B-P"], ["O"] * len(words)]
    )


@pytest.mark.parametrize("pieces", ["first", "all"])
@pytest.mark.parametrize("stride", [None, 0, 5, 11])
def test_every_word_of_a_long_sentence_is_labelled_and_read_back(pieces, stride):
    table = long()
    processor = TokenClassification(max_length=14, pieces=pieces, stride=stride).fit(table)
    features = run(processor, table)
    assert features.lengths.max() == 14 and len(features) > 10 and not counts(features)
    logits = [
        one_hot(np.pad(features.tokens_of("labels", row), (0, 3), constant_values=-100), 99)
        for row in range(len(features))
    ]
    found = processor.decode(table, features, {"logits": logits})
    assert [one["tags"] for one in found] == table.columns["tags"] == processor.references(table)


def test_a_word_in_two_rows_is_read_where_it_has_more_context():
    table = long()
    processor = TokenClassification(max_length=14, stride=6).fit(table)
    features = run(processor, table)
    rows = np.flatnonzero(features.owners == 0)[:2]
    heads = [features.tokens_of("words", row) for row in rows]
    shared = sorted(set(heads[0][heads[0] >= 0]) & set(heads[1][heads[1] >= 0]))
    assert len(shared) > 1
    # The first row says label 1 throughout, the second 2, those that follow 0.
    logits = [np.tile(np.eye(9)[{0: 1, 1: 2}.get(row, 0)], (14, 1)) for row in range(len(features))]
    tags = processor.decode(table, features, {"logits": logits})[0]["tags"]
    around = [np.minimum(np.arange(14), 13 - np.arange(14))[[list(h).index(w) for w in shared]]
              for h in heads]  # fmt: skip
    expected = np.where(around[0] >= around[1], 1, 2)
    assert len(set(expected)) == 2
    assert [tags[word] for word in shared] == [processor.labels[i] for i in expected]


def test_truncated_sentences_are_counted_and_the_rest_is_outside():
    table = long()
    processor = TokenClassification(max_length=14, truncate=True).fit(table)
    features = run(processor, table)
    assert features.owners.tolist() == [0, 1, 2]
    assert counts(features) == {"have more than 14 tokens and were cut off": 2}
    logits = [one_hot(features.tokens_of("labels", row), 99) for row in range(3)]
    tags = processor.decode(table, features, {"logits": logits})[0]["tags"]
    kept = int(features.tokens_of("words", 0).max()) + 1
    assert 0 < kept < 13 and tags[:kept] == table[0]["tags"][:kept]
    assert set(tags[kept:]) == {"O"} and len(tags) == len(table[0]["tokens"])


def test_words_without_a_token_odd_words_and_empty_sentences():
    words = ["\u200b", "Paris", "", "[SEP]", "\U0001f5fc", "a\ud800", "x" * 300, "\t"]
    tags = ["O", "B-A", "O", "B-B", "B-C", "B-D", "B-E", "O"]
    table = Table({"tokens": [words, [], ["a"]], "tags": [tags, [], ["O"]]}, "odd.conll")
    processor = TokenClassification().fit(table)
    features = run(processor, table)
    assert counts(features) == {
        "have lone surrogates in 'tokens', which became U+FFFD": 1,
        "have words of which no token is left; they are read as O": 1,
    }
    logits = [one_hot(features.tokens_of("labels", row), 9) for row in range(3)]
    found = processor.decode(table, features, {"logits": logits})
    assert [one["tags"] for one in found] == [tags, [], ["O"]]
    without = TokenClassification(labels=("A", "B"))
    zeros = [np.zeros((40, 2))] * 3
    assert without.decode(table, features, {"logits": zeros})[0]["tags"] == ["A"] * 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tags": [["O"], ["O"], ["O"] * 3]}, "ner.conll:1: expected a tag for each of the 4"),
        ({"tags": [["O"] * 4, ["B-PRE"], ["O"] * 3]}, "ner.conll:6: 'tags' is 'B-PRE'.*'B-PER'"),
        ({"tags": [["O"] * 4, "O", ["O"] * 3]}, "ner.conll:6: expected a list in 'tags'"),
        ({"tags": [["O"] * 4, [None], ["O"] * 3]}, "ner.conll:6: expected a label in 'tags'"),
        ({"tokens": [["a"] * 4, [3], ["a"] * 3]}, "ner.conll:6: expected text in 'tokens'"),
        ({"tokens": [["a"] * 4, None, ["a"] * 3]}, "ner.conll:6: expected a value of 'tokens'"),
    ],
)
def test_wrong_sentences_are_named(changes, message):
    processor = TokenClassification().fit(sentences())
    with pytest.raises(DataError, match=message):
        run(processor, sentences(**changes))


def test_sentences_without_tags_can_be_predicted():
    table = sentences()
    del table.columns["tags"]
    features = run(TokenClassification(labels=("O",)), table)
    assert not features.labelled and "labels" not in features.batch(np.arange(3), 32, 0)
    with pytest.raises(DataError, match="expected the columns 'tags'"):
        TokenClassification().fit(table)


def test_class_numbers_of_tags_have_the_names_the_table_knows():
    table = sentences(tags=[[1, 0, 0, 2], [0], [0, 1, 1]])
    table.label_names["tags"] = ("O", "B-PER", "B-LOC")
    processor = TokenClassification().fit(table)
    assert processor.labels == ("O", "B-PER", "B-LOC")
    assert processor.references(table)[0] == ["B-PER", "O", "O", "B-LOC"]
