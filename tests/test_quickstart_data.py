"""The generated reviews: the same everywhere, balanced, with nothing of one split in another."""

import collections
import re

import pytest

from jbert.data.quickstart import AWFUL, LABELS, SIZES, SUBJECTS, SUPERB, quickstart_splits

FINGERPRINTS = {
    "train": "0dbc9ce37cc3daacb4e64f4e983bcdf8968979dfe3ddb76a7380748bc7e69df3",
    "validation": "762d39734db6f276caee4a6f383a911df93e630b389d8f52afe6159f994a6dfb",
    "test": "bc617a18eaa1d6a6e98e761ecf2f95198cd6cd9d153c7437ee728bdb3d802e9c",
}


@pytest.fixture(scope="module")
def splits():
    return quickstart_splits()


def texts(table):
    return table.columns["text"]


def rows(splits):
    return [pair for table in splits.values() for pair in zip(*table.columns.values(), strict=True)]


def words(table):
    return {word for text in texts(table) for word in re.findall(r"\w+", text.lower())}


def adjectives(label):
    """What counts as good or bad of any kind of thing."""
    kinds = [kind for subject in SUBJECTS for kind in subject.kinds]
    lists = [SUPERB if label == "positive" else AWFUL]
    lists += [kind.good if label == "positive" else kind.bad for kind in kinds]
    return {word.strip() for text in lists for word in text.split(",")}


def test_the_same_on_every_machine(splits):
    assert {split: table.fingerprint for split, table in splits.items()} == FINGERPRINTS


def test_sizes_and_balance(splits):
    assert {split: len(table) for split, table in splits.items()} == SIZES
    for split, table in splits.items():
        counts = collections.Counter(table.columns["label"])
        assert counts == dict.fromkeys(LABELS, SIZES[split] // 3)


def test_no_sentence_is_there_twice(splits):
    found = [text.lower() for text, _ in rows(splits)]
    assert len(set(found)) == len(found) == sum(SIZES.values())


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_held_out_is_made_of_words_that_were_seen(splits, split):
    assert words(splits[split]) <= words(splits["train"])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_no_clause_of_what_is_held_out_was_seen(splits, split):
    seen = " ".join(texts(splits["train"])).lower()
    simple = [text for text in texts(splits[split]) if re.fullmatch(r"The \w+ was \w+\.", text)]
    assert len(simple) > 10
    assert not [text for text in simple if text.lower().rstrip(".") in seen]


def test_sentences_look_like_sentences(splits):
    for text, _ in rows(splits):
        assert re.fullmatch(r"[A-Z][A-Za-zé ,.?]*[a-z][.?]", text), text
        assert "  " not in text and " ," not in text
        assert 2 <= len(text.split()) <= 40


LABELLED = [
    (r"The [a-z ]+ was ADJ\.", False),
    (r"The [a-z ]+ was (?:not|not at all|anything but|far from|never|by no means|hardly) ADJ\.",
     True),
    (r".+ would be ADJ, (?:and I was right|and that was true|and so it turned out)\.", False),
    (r".+ would be ADJ, (?:but|and) (?:I was wrong|that was not so|it was not true)\.", True),
]  # fmt: skip


@pytest.mark.parametrize("label", ["positive", "negative"])
@pytest.mark.parametrize("pattern, opposite", LABELLED)
def test_the_label_follows_from_the_grammar(splits, label, pattern, opposite):
    """Told from the sentences alone; words that are good of one thing and bad of another aside."""
    other = "negative" if label == "positive" else "positive"
    certain = adjectives(label) - adjectives(other)
    one = re.compile(pattern.replace("ADJ", "(" + "|".join(sorted(certain)) + ")"))
    found = {verdict for text, verdict in rows(splits) if one.fullmatch(text)}
    assert found == {other if opposite else label}


def test_facts_and_questions_are_neutral(splits):
    doubts = ("Some say", "I wonder whether", "Can anybody tell me", "I cannot tell whether")
    found = {verdict for text, verdict in rows(splits) if text.startswith(doubts)}
    found |= {verdict for text, verdict in rows(splits) if " neither " in text}
    assert found == {"neutral"}
