"""Options, vocab.txt files and training."""

from pathlib import Path

import pytest

from jbert.tokenizer import Tokenizer

FIXTURES = Path(__file__).parent / "tokenizer"
CORPUS = (FIXTURES / "corpus.txt").read_text(encoding="utf-8").splitlines()
# The vocabulary of the original BERT's own test, and a few letters.
TINY = FIXTURES / "vocab-tiny.txt"
TOKENS = TINY.read_text().split()


@pytest.fixture
def vocab(tmp_path):
    return write(tmp_path / "vocab.txt", TOKENS)


def write(path, tokens):
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("options", "text", "tokens"),
    [
        ({"lowercase": True}, "Á a", "a a"),
        ({"lowercase": False}, "A a", "[UNK] a"),
        ({"lowercase": True, "strip_accents": False}, "á a", "[UNK] a"),
        ({"lowercase": True, "strip_accents": True}, "á a", "a a"),
        ({"lowercase": False, "strip_accents": True}, "á Á", "a [UNK]"),
        ({"tokenize_chinese_chars": True}, "a中b", "a [UNK] b"),
        ({"tokenize_chinese_chars": False}, "a中b", "[UNK]"),
        ({"clean_text": True}, "l\x00ow", "low"),
        ({"clean_text": False}, "l\x00ow", "[UNK]"),
        ({"do_basic_tokenize": True}, "A,b\x1cc", "a , [UNK]"),
        ({"do_basic_tokenize": False}, "A a,b b\x1cc", "[UNK] [UNK] b c"),
        ({"wordpieces_prefix": "~"}, "unwant", "[UNK]"),
    ],
)
def test_options(vocab, options, text, tokens):
    assert Tokenizer.from_vocab(vocab, **options).tokenize(text) == tokens.split()


def test_never_split(tmp_path):
    path = write(tmp_path / "vocab.txt", [*TOKENS, "U.S.", "##U.S."])
    text = "a U.S. b, u.s. (U.S.) aU.S."
    kept = Tokenizer.from_vocab(path, never_split=("U.S.",)).tokenize(text)
    assert kept.count("U.S.") == 2
    assert "U.S." not in Tokenizer.from_vocab(path).tokenize(text)
    with pytest.raises(ValueError, match="never_split token 'U.K.' is not in the vocabulary"):
        Tokenizer.from_vocab(path, never_split=("U.K.",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowercase": "False"}, "lowercase must be bool, got 'False'"),
        ({"strip_accents": 1}, "strip_accents must be True, False or None"),
        ({"never_split": "low"}, "never_split must be a collection of str"),
        ({"never_split": [1]}, "never_split must be a collection of str"),
        ({"mask_token": None}, "mask_token must be str"),
        ({"model_max_length": True}, "model_max_length must be int"),
        ({"do_lower_case": True}, "do_lower_case"),
    ],
)
def test_options_of_a_wrong_type(vocab, options, message):
    with pytest.raises(TypeError, match=message):
        Tokenizer.from_vocab(vocab, **options)


def test_options_of_a_wrong_value(vocab):
    with pytest.raises(ValueError, match="wordpieces_prefix must not be empty"):
        Tokenizer.from_vocab(vocab, wordpieces_prefix="")
    with pytest.raises(ValueError, match="model_max_length is 2"):
        Tokenizer.from_vocab(vocab, model_max_length=2)


def test_vocabulary_files_that_work(tmp_path):
    expected = Tokenizer.from_vocab(write(tmp_path / "plain.txt", TOKENS)).get_vocab()
    text = "\n".join(TOKENS)
    for name, content in {
        "bom": b"\xef\xbb\xbf" + text.encode(),
        "crlf": text.replace("\n", "\r\n").encode(),
        "blank end": (text + "\n\n\n").encode(),
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert Tokenizer.from_vocab(path).get_vocab() == expected, name
    odd = Tokenizer.from_vocab(write(tmp_path / "odd.txt", [*TOKENS, "\u2028", "\x85"]))
    assert odd.convert_tokens_to_ids(["\u2028", "\x85"]) == [18, 19]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n".join([*TOKENS, "low"]), "'low' is on line 12 and again on line 19"),
        ("\n".join([*TOKENS[:3], "", *TOKENS[3:]]), "line 4 is blank"),
        ("", "the vocabulary is empty"),
        ("\n\n", "the vocabulary is empty"),
        ("\n".join(TOKENS[1:]), r"no '\[UNK\]' \(unk_token\)"),
        ("\n".join(token for token in TOKENS if token != "[CLS]"), r"no '\[CLS\]' \(cls_token\)"),
        (
            "\n".join(token for token in TOKENS if token != "[MASK]"),
            r"no '\[MASK\]' \(mask_token\)",
        ),
        ("\n".join([*TOKENS, "café"]).encode("latin-1"), "not UTF-8 .byte 0xe9 at position"),
    ],
)
def test_vocabulary_files_that_do_not(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_vocab(path)
    assert str(path) in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        Tokenizer.from_vocab(tmp_path / "vocab.txt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
    with pytest.raises(FileNotFoundError, match="neither tokenizer.json nor vocab.txt"):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a file: use Tokenizer.from_vocab"):
        Tokenizer.from_pretrained(write(tmp_path / "vocab.txt", TOKENS))


def test_training_is_repeatable_and_reads_iterators():
    first = Tokenizer.train(CORPUS, vocab_size=700)
    again = Tokenizer.train(iter(CORPUS), vocab_size=700)
    assert first.get_vocab() == again.get_vocab()
    assert len(first) == 700
    assert first.convert_ids_to_tokens(range(5)) == "[PAD] [UNK] [CLS] [SEP] [MASK]".split()
    assert first.unk_token_id not in first(CORPUS)["input_ids"]
    assert len(first.tokenize("lighthouse keeper")) < len("lighthousekeeper") / 2


def test_training_options():
    tok = Tokenizer.train(CORPUS, 900, lowercase=False, mask_token="<m>", never_split=["R2-D2"])
    assert "P" in tok.get_vocab() and tok.mask_token_id == 4
    assert tok.tokenize("R2-D2 <m>") == ["R2-D2", "<m>"]
    rare = Tokenizer.train(["abcd"] * 3 + ["wxyz"], 100, min_frequency=2).get_vocab()
    assert "abcd" in rare and "wxyz" not in rare
    assert "wxyz" in Tokenizer.train(["abcd"] * 3 + ["wxyz"], 100, min_frequency=1).get_vocab()


@pytest.mark.parametrize(
    ("texts", "size", "error", "message"),
    [
        ("a text", 100, TypeError, "texts is one str"),
        (["a", None], 100, TypeError, r"texts\[1\] is NoneType"),
        ([], 100, ValueError, "no word to train"),
        ([" "], 100, ValueError, "no word to train"),
        (["a b c d"], 6, ValueError, "vocab_size is 6, .* make 9"),
    ],
)
def test_training_refusals(texts, size, error, message):
    with pytest.raises(error, match=message):
        Tokenizer.train(texts, size)


def test_training_takes_lone_surrogates():
    assert len(Tokenizer.train(["a\ud800b"] * 3, 100)) > 5
