"""Features beside those of transformers' tokenizer and the recipes that its documentation gives."""

import unicodedata

import numpy as np
import pytest
import transformers
from feature_tables import STORY, VOCAB, answer, one_hot, tokenizer

from jbert.data.processors import QuestionAnswering, TokenClassification
from jbert.data.table import Table

pytestmark = pytest.mark.parity

CORPUS = (VOCAB.parent / "corpus.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def theirs():
    return transformers.BertTokenizerFast(vocab=str(VOCAB), do_lower_case=True)


def questions(seed: int) -> Table:
    """Questions on the corpus, whose answers are any runs of words; one in five has none."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list] = {"question": [], "context": [], "answers": []}
    for _ in range(60):
        lines = rng.choice(CORPUS, rng.integers(1, 6))
        context = " ".join([STORY, *lines][rng.integers(2) :])
        words = context.split()
        first = int(rng.integers(len(words)))
        text = " ".join(words[first : first + int(rng.integers(1, 5))])
        found = answer(text, context) if rng.random() < 0.8 else {"text": [], "answer_start": []}
        columns["question"].append(" ".join(rng.choice(CORPUS).split()[:5]))
        columns["context"].append(context)
        columns["answers"].append(found)
    return Table(columns)


def squad_recipe(theirs, table: Table, max_length: int, stride: int):
    """(owner, ids, token types, start, end) of each window, as run_qa prepares training data.

    With one correction: the recipe's search for the first token runs on into the padding where the
    answer begins in a window's last token.
    """
    encoded = theirs(
        table.columns["question"], table.columns["context"], truncation="only_second",
        max_length=max_length, stride=stride, return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )  # fmt: skip
    for window, owner in enumerate(encoded["overflow_to_sample_mapping"]):
        offsets = encoded["offset_mapping"][window]
        context = [i for i, s in enumerate(encoded.sequence_ids(window)) if s == 1]
        answers, start, end = table.columns["answers"][owner], 0, 0
        if answers["text"]:
            begin = answers["answer_start"][0]
            stop = begin + len(answers["text"][0])
            if offsets[context[0]][0] <= begin and offsets[context[-1]][1] >= stop:
                start = max(i for i in context if offsets[i][0] <= begin)
                end = min(i for i in context if offsets[i][1] >= stop)
        ids, types = encoded["input_ids"][window], encoded["token_type_ids"][window]
        yield owner, ids, types, start, end


def regular(text: str) -> bool:
    """Whether the recipe is right about an answer: it stops short of tokens that share a character,
    as those of a Korean syllable do, and runs on where the last character is an accent, of which no
    token is left.
    """
    hangul = any("가" <= letter <= "힣" for letter in text)
    return not hangul and unicodedata.category(text[-1]) != "Mn"


@pytest.mark.parametrize(("max_length", "stride"), [(384, 128), (96, 32), (64, 10), (64, 0)])
def test_squad_windows_and_positions(theirs, max_length, stride):
    table = questions(max_length + stride)
    processor = QuestionAnswering(
        max_length=max_length, doc_stride=stride, max_question_length=max_length - stride - 5
    )
    features = processor.process(table, tokenizer(), cache=False)
    expected = list(squad_recipe(theirs, table, max_length, stride))
    assert len(features) == len(expected)
    answered = 0
    for row, (owner, ids, types, start, end) in enumerate(expected):
        assert features.owners[row] == owner
        assert features.tokens_of("input_ids", row).tolist() == ids
        assert features.tokens_of("token_type_ids", row).tolist() == types
        if all(map(regular, table.columns["answers"][owner]["text"])):
            found = features.targets["start_positions"][row], features.targets["end_positions"][row]
            assert found == (start, end), row
            answered += start > 0
    assert answered > 20


@pytest.mark.parametrize("pieces", ["first", "all"])
def test_labels_of_words(theirs, pieces):
    words = [line.split() for line in CORPUS if line.strip()]
    rng = np.random.default_rng(0)
    names = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    tags = [[names[i] for i in rng.integers(0, 5, len(some))] for some in words]
    table = Table(
        {"tokens": words, "tags": tags}
    )  # fmt: skip
    processor = TokenClassification(pieces=pieces, truncate=True, max_length=40, labels=names)
    features = processor.process(table, tokenizer(), cache=False)
    encoded = theirs(words, is_split_into_words=True, truncation=True, max_length=40)
    for row, some in enumerate(tags):
        expected, last = [], None
        for word in encoded.word_ids(row):
            if word is None:
                expected.append(-100)
            elif word != last:
                expected.append(names.index(some[word]))
            else:
                inside = names.index(some[word].replace("B-", "I-"))
                expected.append(inside if pieces == "all" else -100)
            last = word
        assert features.tokens_of("input_ids", row).tolist() == encoded["input_ids"][row]
        assert features.tokens_of("labels", row).tolist() == expected
    logits = [one_hot(features.tokens_of("labels", row), 9) for row in range(len(words))]
    for row, found in enumerate(processor.decode(table, features, {"logits": logits})):
        kept = 1 + max(word for word in encoded.word_ids(row) if word is not None)
        assert found["tags"] == tags[row][:kept] + ["O"] * (len(tags[row]) - kept)
