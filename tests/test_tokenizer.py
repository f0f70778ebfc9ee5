"""The tokenizer's call and methods: what they return and what they refuse."""

import copy
import logging
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from jbert.tokenizer import Tokenizer

FIXTURES = Path(__file__).parent / "tokenizer"
CORPUS = (FIXTURES / "corpus.txt").read_text(encoding="utf-8").splitlines()
# The vocabulary of the original BERT's own test, and a few letters.
TINY = FIXTURES / "vocab-tiny.txt"
TOKENS = TINY.read_text().split()


@pytest.fixture
def tok():
    return Tokenizer.from_vocab(TINY)


def ids(*tokens):
    return [TOKENS.index(token) for token in tokens]


def write(path, tokens):
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


# What a call returns


def test_the_original_example(tok):
    assert tok.tokenize("UNwant\u00e9d,running") == "un ##want ##ed , runn ##ing".split()
    assert tok.encode("UNwant\u00e9d,running", add_special_tokens=False) == [7, 4, 5, 10, 8, 9]


def test_batch_is_padded_int32_arrays_ready_for_a_model(tok):
    batch = tok(["low, low", "lowest"])
    assert list(batch) == ["input_ids", "token_type_ids", "attention_mask"]
    assert all(value.dtype == np.int32 and value.shape == (2, 5) for value in batch.values())
    rows = [
        ids("[CLS]", "low", ",", "low", "[SEP]"),
        ids("[CLS]", "lowest", "[SEP]", *["[PAD]"] * 2),
    ]
    assert batch["input_ids"].tolist() == rows
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert not batch["token_type_ids"].any()


def test_one_text_is_a_batch_of_one(tok):
    assert tok("low")["input_ids"].shape == tok(["low"])["input_ids"].shape == (1, 3)


def test_pairs_and_their_other_spellings(tok):
    expected = ids("[CLS]", "a", "b", "[SEP]", "c", "[SEP]")
    first = tok(["a b", "a"], ["c", "b"])
    assert first["input_ids"][0].tolist() == expected
    assert first["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]
    for same in (
        tok(["a b", "a"], text_pair=["c", "b"]),
        tok([("a b", "c"), ["a", "b"]]),
        tok(np.array(["a b", "a"]), np.array(["c", "b"]), return_tensors="np"),
    ):
        assert all(np.array_equal(same[name], first[name]) for name in first)
    assert tok("a b", "c")["input_ids"].tolist() == [expected]


def test_distilbert_has_no_token_types():
    tok = Tokenizer.from_vocab(TINY, token_type_ids=False)
    assert list(tok("a", "b")) == ["input_ids", "attention_mask"]


def test_optional_arrays_come_only_when_asked(tok):
    plain = tok("a b", "c")
    for option, name in {
        "return_offsets": "offset_mapping",
        "return_offsets_mapping": "offset_mapping",
        "return_special_tokens_mask": "special_tokens_mask",
        "return_word_ids": "word_ids",
        "return_sequence_ids": "sequence_ids",
        "return_overflowing_tokens": "overflow_to_sample_mapping",
    }.items():
        batch = tok("a b", "c", **{option: True})
        assert batch.keys() - plain.keys() == {name}, option
        assert batch[name].dtype == np.int32
        assert all(np.array_equal(plain[other], batch[other]) for other in plain)


def test_offsets_words_and_sequences(tok):
    batch = tok(
        ["UNwant\u00e9d, a", "b"],
        ["low", "c"],
        return_offsets=True,
        return_word_ids=True,
        return_sequence_ids=True,
        return_special_tokens_mask=True,
    )
    spans = [(0, 0), (0, 2), (2, 6), (6, 8), (8, 9), (10, 11), (0, 0), (0, 3), (0, 0)]
    assert batch["offset_mapping"][0].tolist() == [list(span) for span in spans]
    assert batch["word_ids"][0].tolist() == [-1, 0, 0, 0, 1, 2, -1, 0, -1]
    assert batch["sequence_ids"][0].tolist() == [-1, 0, 0, 0, 0, 0, -1, 1, -1]
    assert batch["special_tokens_mask"][1].tolist() == [1, 0, 1, 0, 1, 1, 1, 1, 1]
    assert batch["sequence_ids"][1].tolist() == [-1, 0, -1, 1, -1, -1, -1, -1, -1]


def test_words_given(tok):
    batch = tok([["UNwanted", "a"], ["b"]], is_split_into_words=True, return_word_ids=True)
    assert batch["word_ids"].tolist() == [[-1, 0, 0, 0, 1, -1], [-1, 0, -1, -1, -1, -1]]
    assert tok(["a", "b"], is_split_into_words=True)["input_ids"].shape == (1, 4)
    assert tok(["a", "b"], is_split_into_words=False)["input_ids"].shape == (2, 3)


def test_without_special_tokens(tok):
    assert tok("a b", "c", add_special_tokens=False)["input_ids"].tolist() == [ids("a", "b", "c")]


@pytest.mark.parametrize("text", ["", " \t", "\x00", "\u200b\u00ad", "\u0301", "\ufffd"])
def test_text_without_tokens_still_makes_a_row(tok, text):
    assert tok(text)["input_ids"].tolist() == [ids("[CLS]", "[SEP]")]
    assert tok([text, "a"], ["b", text])["input_ids"].shape == (2, 4)


@pytest.mark.parametrize("text", ["🙂", "👍🏽", "a" * 300, "low" + "ed" * 49])
def test_what_no_piece_spells_is_unknown(tok, text):
    assert tok.tokenize(text) == ["[UNK]"]
    assert len(tok.tokenize("want" + "ed" * 48)) == 49


def test_lone_surrogates_become_replacement_characters(tok, caplog):
    with caplog.at_level(logging.WARNING):
        batch = tok(["a", "\ud800b \udfff"], return_offsets=True)
    assert batch["input_ids"][1].tolist() == ids("[CLS]", "b", "[SEP]")
    assert batch["offset_mapping"][1, 1].tolist() == [1, 2]
    assert "2 lone surrogates became U+FFFD, first in texts[1]" in caplog.text
    caplog.clear()
    assert tok([["b", "\ud800a"]], is_split_into_words=True)["input_ids"].shape == (1, 4)
    assert "1 lone surrogate" in caplog.text
    caplog.clear()
    tok("a 🙂")
    assert not caplog.text


# Bad texts


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([None], "texts is None, expected str or a list of str"),
        ([b"a"], r"texts is bytes \(decode it to str first\)"),
        ([3], "texts is int"),
        ([{"a": 1}], "texts is dict"),
        ([iter(["a"])], "texts is list_iterator"),
        ([["a", None]], r"texts\[1\] is None, expected str"),
        ([["a", b"b"]], r"texts\[1\] is bytes"),
        ([["a", 1.5]], r"texts\[1\] is float"),
        ([["a", ["b", "c"]]], r"texts\[1\] is list"),
        ([[["a", "b", "c"]]], r"texts\[0\] is list"),
        ([[("a", 3)]], r"pairs\[0\] is int"),
        ([["a"], [None]], r"pairs\[0\] is None"),
        (["a", 3], "pairs is int"),
    ],
)
def test_texts_of_a_wrong_type_are_named(tok, args, message):
    with pytest.raises(TypeError, match=message):
        tok(*args)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a b", "texts is str, expected a list of words"),
        ([["a"], "b"], r"texts\[1\] is str, expected a list of words"),
        ([["a"], ["b", None]], r"texts\[1\]\[1\] is None"),
        (["a", b"b"], r"texts\[1\] is bytes"),
    ],
)
def test_words_of_a_wrong_type_are_named(tok, texts, message):
    with pytest.raises(TypeError, match=message):
        tok(texts, is_split_into_words=True)


def test_empty_and_unequal_lists(tok):
    with pytest.raises(ValueError, match="texts is empty"):
        tok([])
    with pytest.raises(ValueError, match="pairs is empty"):
        tok(["a"], [])
    with pytest.raises(ValueError, match="2 texts but 1 pairs"):
        tok(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="return_tensors is 'pt'"):
        tok("a", return_tensors="pt")
    with pytest.raises(TypeError, match="return_length"):
        tok("a", return_length=True)


# Ids and tokens


def test_decode(tok):
    row = tok.encode("Low, [MASK] running 🙂")
    assert tok.decode(row) == "[CLS] low, [MASK] running [UNK] [SEP]"
    assert tok.decode(np.array(row), skip_special_tokens=True) == "low, running"
    assert tok.batch_decode([row[:2], []]) == ["[CLS] low", ""]
    assert tok.decode(ids("low")[0]) == "low"
    assert tok.convert_tokens_to_string(["un", "##want", "##ed", ","]) == "unwanted,"


def test_clean_up(tmp_path):
    path = write(tmp_path / "vocab.txt", [*TOKENS, "'", "s"])
    for clean in (False, True):
        tok = Tokenizer.from_vocab(path, clean_up_tokenization_spaces=clean)
        row = tok.convert_tokens_to_ids(["a", "'", "s", "b", "'", "s"])
        expected = "a's b's" if clean else "a ' s b ' s"
        assert tok.decode(row) == expected
        assert tok.decode(row, clean_up_tokenization_spaces=not clean) != expected


def test_ids_outside_the_vocabulary(tok):
    for call in (tok.decode, tok.convert_ids_to_tokens):
        with pytest.raises(ValueError, match="id -100 at position 1 is outside the vocabulary"):
            call([1, -100])
        with pytest.raises(ValueError, match="id 18 at position 0"):
            call(18)
        with pytest.raises(TypeError, match="expected integer ids"):
            call([1.0])
        with pytest.raises(ValueError, match="use batch_decode"):
            call([[1, 2]])


def test_converters(tok):
    assert tok.convert_tokens_to_ids("low") == 11
    assert tok.convert_tokens_to_ids(["low", "high"]) == [11, tok.unk_token_id]
    assert tok.convert_ids_to_tokens(11) == "low"
    assert tok.convert_ids_to_tokens([1, 11, 2]) == ["[CLS]", "low", "[SEP]"]
    assert tok.convert_ids_to_tokens([1, 11, 2], skip_special_tokens=True) == ["low"]
    assert tok.tokenize("a", "b", add_special_tokens=True) == "[CLS] a [SEP] b [SEP]".split()
    assert (tok.vocab_size, len(tok), tok.get_vocab()["low"]) == (18, 18, 11)


def test_special_token_names_and_ids():
    tok = Tokenizer.from_vocab(TINY, pad_token="low", mask_token="a", unk_token="b")
    names = "pad_token", "unk_token", "cls_token", "sep_token", "mask_token"
    assert [getattr(tok, name) for name in names] == ["low", "b", "[CLS]", "[SEP]", "a"]
    assert [getattr(tok, f"{name}_id") for name in names] == [11, 16, 1, 2, 15]
    assert tok.all_special_ids == [11, 16, 1, 2, 15]
    assert tok(["xyz", "c c"])["input_ids"].tolist() == [[1, 16, 2, 11], [1, 17, 17, 2]]


def test_builders(tok):
    assert tok.build_inputs_with_special_tokens([3]) == [1, 3, 2]
    assert tok.build_inputs_with_special_tokens([3], [4, 5]) == [1, 3, 2, 4, 5, 2]
    assert tok.create_token_type_ids_from_sequences([3]) == [0, 0, 0]
    assert tok.create_token_type_ids_from_sequences([3], [4, 5]) == [0, 0, 0, 1, 1, 1]
    assert tok.get_special_tokens_mask([3]) == [1, 0, 1]
    assert tok.get_special_tokens_mask([3], [4, 5]) == [1, 0, 1, 0, 0, 1]
    assert tok.get_special_tokens_mask([1, 3, 14, 2], already_has_special_tokens=True) == [
        1,
        0,
        1,
        1,
    ]
    with pytest.raises(ValueError, match="one list"):
        tok.get_special_tokens_mask([1], [2], already_has_special_tokens=True)
    assert (tok.num_special_tokens_to_add(), tok.num_special_tokens_to_add(pair=True)) == (2, 3)


def test_added_tokens(tok):
    assert tok.add_tokens(["low tide", "a"]) == 2
    assert tok.add_tokens(["low tide", "a"]) == 0
    assert tok.add_tokens("<e>", special_tokens=True) == 1
    assert (len(tok), tok.vocab_size) == (20, 18)
    assert tok.tokenize("A Low Tide<e>b") == ["a", "low tide", "<e>", "b"]
    assert tok.decode([15, 18, 19], skip_special_tokens=True) == "a low tide"
    with pytest.raises(TypeError, match=r"tokens\[1\] is int"):
        tok.add_tokens(["x", 3])
    with pytest.raises(ValueError, match=r"tokens\[0\] is empty"):
        tok.add_tokens([""])


def test_check_model(tok, caplog):
    tok.check_model(18)
    with caplog.at_level(logging.INFO):
        tok.check_model(20)
    assert "18 tokens, the model 20 embeddings" in caplog.text
    tok.add_tokens(["tide"])
    with pytest.raises(ValueError, match=r"19 tokens and the model 18 .* 'tide' \(id 18\)"):
        tok.check_model(18)


# Living with other code


def test_pickle_and_deepcopy(tok):
    tok.add_tokens(["tide"])
    for twin in (pickle.loads(pickle.dumps(tok)), copy.deepcopy(tok)):
        assert twin.encode("a tide [MASK]") == tok.encode("a tide [MASK]")
        assert twin.options == tok.options
        twin.add_tokens(["more"])
        assert len(twin) == len(tok) + 1
    assert repr(tok).startswith("Tokenizer(19 tokens, TokenizerOptions(lowercase=True")


def test_threads_share_one_tokenizer():
    tok = Tokenizer.from_vocab(FIXTURES / "vocab-uncased.txt")
    expected = {length: tok(CORPUS, max_length=length)["input_ids"] for length in (16, 24, 40)}
    wrong = []

    def work(length):
        for _ in range(20):
            if not np.array_equal(tok(CORPUS, max_length=length)["input_ids"], expected[length]):
                wrong.append(length)

    threads = [threading.Thread(target=work, args=(length,)) for length in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_hundred_thousand_characters():
    tok = Tokenizer.from_vocab(FIXTURES / "vocab-uncased.txt")
    text = " ".join(CORPUS * 30)[:100_000]
    batch = tok(
        text, max_length=128, stride=32, return_overflowing_tokens=True, return_offsets=True
    )
    assert batch["offset_mapping"].max() == len(text.rstrip())
    assert tok("a" * 100_000)["input_ids"].tolist() == [
        [tok.cls_token_id, tok.unk_token_id, tok.sep_token_id]
    ]
