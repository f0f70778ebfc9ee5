"""Padding, truncation and overflow."""

from pathlib import Path

import pytest

from jbert.tokenizer import Tokenizer

FIXTURES = Path(__file__).parent / "tokenizer"
# The vocabulary of the original BERT's own test, and a few letters.
TINY = FIXTURES / "vocab-tiny.txt"
TOKENS = TINY.read_text().split()


@pytest.fixture
def tok():
    return Tokenizer.from_vocab(TINY)


def ids(*tokens):
    return [TOKENS.index(token) for token in tokens]


def test_padding_choices(tok):
    texts = ["a b c", "a"]
    widths = [
        ({"padding": True}, 5),
        ({"padding": "longest"}, 5),
        ({"padding": "max_length", "max_length": 9}, 9),
        ({"padding": "max_length"}, 512),
        ({"pad_to_multiple_of": 4}, 8),
        ({"pad_to": (4, 6, 16)}, 6),
        ({"pad_to": [16, 5]}, 5),
    ]
    for options, width in widths:
        batch = tok(texts, **options)
        assert batch["input_ids"].shape == (2, width), options
        assert batch["attention_mask"].sum() == 8
    for padding in (False, "do_not_pad"):
        assert tok(["a", "b"], padding=padding)["input_ids"].shape == (2, 3)
        with pytest.raises(ValueError, match="rows 0 and 1 have 5 and 3 tokens"):
            tok(texts, padding=padding)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "long"}, "padding is 'long', expected one of True, False"),
        ({"padding": 1}, "padding is 1"),
        ({"pad_to": ()}, "pad_to is ()"),
        ({"pad_to": 8}, "pad_to is 8"),
        ({"pad_to": (8, 0)}, r"pad_to\[1\] is 0"),
        ({"pad_to": (8,), "padding": "max_length"}, "give one of them"),
        ({"pad_to": (8,), "pad_to_multiple_of": 8}, "give one of them"),
        ({"pad_to": (3, 4)}, "row 1 has 5 tokens and the widest bucket of pad_to is 4"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"pad_to_multiple_of": 8, "padding": False}, "no effect"),
        ({"pad_to_multiple_of": 8, "max_length": 12}, "12 tokens, which is not a multiple"),
        (
            {"padding": "max_length", "max_length": 4, "truncation": False},
            "row 1 has 5 tokens, which padding='max_length' cannot make 4",
        ),
    ],
)
def test_padding_refusals(tok, options, message):
    with pytest.raises(ValueError, match=message.replace("()", r"\(\)")):
        tok(["a", "a b c"], **options)


def rows(batch):
    return batch["input_ids"].tolist()


def test_truncation_of_one_text(tok):
    text, cut = "a b c low", [ids("[CLS]", "a", "b", "[SEP]")]
    for truncation in (None, True, "longest_first", "only_first"):
        assert rows(tok(text, max_length=4, truncation=truncation)) == cut
    for truncation in (False, "do_not_truncate"):
        assert tok(text, max_length=4, truncation=truncation)["input_ids"].shape == (1, 6)
    assert tok(text)["input_ids"].shape == (1, 6)
    tok.model_max_length = 4
    assert rows(tok(text, truncation=True)) == cut
    assert tok(text)["input_ids"].shape == (1, 6)


def test_truncation_of_pairs(tok):
    def cut(length, strategy, first="a a a a a", second="b b"):
        row = tok(first, second, max_length=length, truncation=strategy)["input_ids"][0]
        return tok.convert_ids_to_tokens(row, skip_special_tokens=True)

    assert cut(8, "longest_first") == list("aaabb")
    assert cut(6, "longest_first") == list("aab")
    assert cut(6, "longest_first", "a a", "b b b b b") == list("abb")
    assert cut(8, "only_first") == list("aaabb")
    assert cut(9, "only_second") == list("aaaaab")
    assert cut(5, "longest_first", "", "b b b") == list("bb")


def test_overflow_covers_every_token_with_the_stride_shared(tok):
    words = ["a", "b", "c", "low", "lowest", "want"]
    options = {"max_length": 6, "return_overflowing_tokens": True}
    for stride, starts in ((0, [0, 4]), (1, [0, 3]), (2, [0, 2]), (3, [0, 1, 2])):
        batch = tok(["a", " ".join(words)], stride=stride, **options)
        assert batch["overflow_to_sample_mapping"].tolist() == [0] + [1] * len(starts)
        for row, start in zip(rows(batch)[1:], starts, strict=True):
            assert tok.convert_ids_to_tokens(row, True) == words[start : start + 4]
    batch = tok(
        ["a", "b"],
        ["c", "a b c a b"],
        max_length=7,
        truncation="only_second",
        stride=1,
        return_overflowing_tokens=True,
    )
    assert [tok.convert_ids_to_tokens(row, True) for row in rows(batch)] == [
        *(["a", "c"], ["b", "a", "b", "c"], ["b", "c", "a", "b"]),
    ]


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (["a"], {"max_length": 1}, "max_length is 1, but the special tokens alone take 2"),
        (["a", "b"], {"max_length": 2}, "the special tokens alone take 3"),
        (["a"], {"max_length": 0}, "max_length is 0, expected a positive"),
        (["a"], {"max_length": True}, "max_length is True"),
        (["a"], {"max_length": 8.0}, "max_length is 8.0"),
        (["a"], {"truncation": "middle"}, "truncation is 'middle'"),
        (["a"], {"truncation": "only_second"}, "needs pairs"),
        ([["a", "b"], ["a", "a b c"]], {"max_length": 4}, r"texts\[0\]: .* delete a whole segment"),
        ([["", "a b"], ["a", "b"]], {"max_length": 4}, r"texts\[1\]: .* delete a whole segment"),
        (
            [["a", "a b c a"], ["b", "c"]],
            {"max_length": 6, "truncation": "only_second"},
            r"texts\[1\]: truncation='only_second' cannot .* 4 and 1 tokens for 3 places",
        ),
        (
            [["a", "a"], ["b", "b b b"]],
            {"max_length": 4, "truncation": "only_first"},
            r"texts\[0\]: truncation='only_first' cannot",
        ),
    ],
)
def test_truncation_refusals(tok, args, options, message):
    with pytest.raises(ValueError, match=message):
        tok(*args, **options)


def test_stride_must_be_below_the_window(tok):
    def call(stride, **options):
        return tok("a b c", max_length=4, stride=stride, return_overflowing_tokens=True, **options)

    assert len(call(1)["input_ids"]) == 2
    for stride in (-1, 2, 9):
        with pytest.raises(ValueError, match=f"stride is {stride}"):
            call(stride)
        with pytest.raises(ValueError, match=f"stride is {stride}"):
            call(stride, padding="max_length")
    with pytest.raises(ValueError, match=r"texts\[1\]: stride is 2, but the window is 1 tokens"):
        tok(
            ["a", "a b c"],
            ["b", "a b c"],
            max_length=7,
            truncation="only_second",
            stride=2,
            return_overflowing_tokens=True,
        )
