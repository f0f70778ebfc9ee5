"""tokenizer.json files and directories, read and written."""

import json
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
def vocab(tmp_path):
    return write(tmp_path / "vocab.txt", TOKENS)


@pytest.fixture
def tok(vocab):
    return Tokenizer.from_vocab(vocab)


def write(path, tokens):
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


@pytest.fixture
def saved(tok, tmp_path):
    tok.save(tmp_path / "saved")
    return tmp_path / "saved"


def rewrite(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_tokenizer_json_alone(saved):
    tok = Tokenizer.from_file(saved / "tokenizer.json")
    assert tok.tokenize("UNwant\u00e9d [MASK]") == ["un", "##want", "##ed", "[MASK]"]
    cased = Tokenizer.from_file(saved / "tokenizer.json", lowercase=False, model_max_length=9)
    assert cased.tokenize("UNwanted unwanted") == ["[UNK]", "un", "##want", "##ed"]
    assert (cased.options.lowercase, cased.model_max_length) == (False, 9)
    with pytest.raises(ValueError, match="already fixes wordpieces_prefix"):
        Tokenizer.from_file(saved / "tokenizer.json", wordpieces_prefix="~")


def test_settings_left_in_a_tokenizer_json_are_dropped(saved):
    path = saved / "tokenizer.json"
    tok = Tokenizer.from_file(path)
    tok.backend.enable_truncation(2)
    tok.backend.enable_padding(length=64)
    tok.backend.save(str(path))
    assert Tokenizer.from_file(path)("a b c low")["input_ids"].shape == (1, 6)


@pytest.mark.parametrize(
    "processor", [None, {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}]
)
def test_older_spellings_of_the_same_file(saved, processor):
    def change(content):
        content["post_processor"] = processor
        del content["model"]["type"]

    tok = Tokenizer.from_file(rewrite(saved / "tokenizer.json", change))
    assert tok("a", "b")["input_ids"].tolist() == [[1, 15, 2, 16, 2]]


def _gpt2(content):
    content["model"] = {"type": "BPE", "vocab": {"a": 0}, "merges": []}


def _unigram(content):
    content["model"] = {"type": "Unigram", "vocab": [["a", 0.0]]}


def _roberta(content):
    content["post_processor"] = {"type": "RobertaProcessing", "sep": ["[SEP]", 2]}
    content["post_processor"] |= {
        "cls": ["[CLS]", 1],
        "trim_offsets": True,
        "add_prefix_space": True,
    }


def _reversed_pair(content):
    content["post_processor"]["pair"].reverse()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_gpt2, "expected a WordPiece tokenizer.json, found BPE model"),
        (_unigram, "found Unigram model"),
        (lambda content: content.pop("model"), "found no model"),
        (_roberta, "RobertaProcessing does not lay out a pair as"),
        (_reversed_pair, "TemplateProcessing does not lay out a pair as"),
        (lambda content: content["model"].update(vocab={}), "the vocabulary is empty"),
        (
            lambda content: content["model"]["vocab"].update(x=3),
            "'want' and 'x' have the same id 3",
        ),
        (lambda content: content["model"]["vocab"].update(x=30), "no token has id 18"),
        (lambda content: content["model"]["vocab"].pop("c"), None),
        (lambda content: content["added_tokens"][0].update(id=5), "has id 5, but"),
        (lambda content: content.update(normalizer={"type": "Nonsense"}), "cannot? be read|can be"),
    ],
)
def test_tokenizer_json_refusals(saved, change, message):
    path = rewrite(saved / "tokenizer.json", change)
    if message is None:
        assert len(Tokenizer.from_file(path)) == 17
        return
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [("{", "not JSON"), ("[1]", "found list")])
def test_files_that_are_not_json(saved, content, message):
    (saved / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_file(saved / "tokenizer.json")


def test_another_normalizer_runs_as_it_is(saved):
    path = rewrite(saved / "tokenizer.json", lambda c: c.update(normalizer={"type": "NFKC"}))
    tok = Tokenizer.from_file(path)
    assert tok.tokenize("ａ A") == ["a", "[UNK]"]
    with pytest.raises(ValueError, match="its normalizer is NFKC, which lowercase cannot change"):
        Tokenizer.from_file(path, lowercase=True)
    tok.save(saved)
    assert Tokenizer.from_pretrained(saved).tokenize("ａ A") == ["a", "[UNK]"]


def test_special_tokens_must_be_in_the_vocabulary(saved):
    with pytest.raises(ValueError, match=r"no '<mask>' \(mask_token\)"):
        Tokenizer.from_file(saved / "tokenizer.json", mask_token="<mask>")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lowercase": False, "strip_accents": True, "tokenize_chinese_chars": False},
        {"clean_text": False, "wordpieces_prefix": "~"},
        {"do_basic_tokenize": False},
        {"never_split": ("low",), "token_type_ids": False, "model_max_length": 77},
        {"pad_token": "low", "mask_token": "a", "clean_up_tokenization_spaces": True},
    ],
)
def test_save_and_load(vocab, tmp_path, options):
    tok = Tokenizer.from_vocab(vocab, **options)
    tok.add_tokens(["low tide"])
    tok.save(tmp_path / "out")
    again = Tokenizer.from_pretrained(tmp_path / "out")
    assert again.options == tok.options
    assert again.get_vocab() == tok.get_vocab()
    texts = [*CORPUS, "Low tide, low a b [MASK]\x00 á 中c unwant"]
    for name, value in tok(texts, return_offsets=True).items():
        assert np.array_equal(value, again(texts, return_offsets=True)[name]), name
    again.save(tmp_path / "twice")
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "twice" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"lowercase": False}, "BertTokenizer"),
        ({"token_type_ids": False}, "DistilBertTokenizer"),
        ({"clean_text": False}, "PreTrainedTokenizerFast"),
        ({"wordpieces_prefix": "~"}, "PreTrainedTokenizerFast"),
        ({"do_basic_tokenize": False}, "PreTrainedTokenizerFast"),
    ],
)
def test_what_other_readers_find(vocab, tmp_path, options, kind):
    Tokenizer.from_vocab(vocab, mask_token="a", **options).save(tmp_path / "out")
    assert (tmp_path / "out" / "vocab.txt").read_text() == vocab.read_text()
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == kind
    assert config["do_lower_case"] is options.get("lowercase", True)
    typed = options.get("token_type_ids", True)
    assert ("token_type_ids" in config["model_input_names"]) is typed
    names = json.loads((tmp_path / "out" / "special_tokens_map.json").read_text())
    assert names["mask_token"] == config["mask_token"] == "a"


def test_a_changed_limit_is_saved(tok, tmp_path):
    tok.model_max_length = 99
    tok.save(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).model_max_length == 99
    assert Tokenizer.from_pretrained(tmp_path, model_max_length=50).model_max_length == 50


def test_directory_with_vocabulary_and_configuration(vocab):
    folder = vocab.parent
    assert Tokenizer.from_pretrained(folder).tokenize("A") == ["a"]
    assert Tokenizer.from_pretrained(folder, lowercase=False).tokenize("A") == ["[UNK]"]
    config = {
        "do_lower_case": False,
        "model_max_length": int(1e30),
        "tokenizer_class": "BertTokenizerFast",
        "never_split": ["low", "not there"],
        "strip_accents": None,
        "mask_token": {"__type": "AddedToken", "content": "a", "lstrip": False},
        "something_else": 1,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text('{"model_type": "bert", "max_position_embeddings": 64}')
    (folder / "special_tokens_map.json").write_text('{"pad_token": "b", "mask_token": "c"}')
    tok = Tokenizer.from_pretrained(folder)
    assert tok.tokenize("A") == ["[UNK]"]
    assert (tok.model_max_length, tok.mask_token, tok.pad_token) == (64, "a", "b")
    assert tok.options.never_split == ("low",)
    assert Tokenizer.from_pretrained(folder, lowercase=True).tokenize("A") == ["a"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"model_type": "distilbert"}),
        ("tokenizer_config.json", {"tokenizer_class": "DistilBertTokenizer"}),
        ("tokenizer_config.json", {"model_input_names": ["input_ids", "attention_mask"]}),
    ],
)
def test_directories_without_token_types(vocab, name, content):
    assert "token_type_ids" in Tokenizer.from_pretrained(vocab.parent)("a")
    (vocab.parent / name).write_text(json.dumps(content))
    assert "token_type_ids" not in Tokenizer.from_pretrained(vocab.parent)("a")
    assert "token_type_ids" in Tokenizer.from_pretrained(vocab.parent, token_type_ids=True)("a")


def test_configuration_wins_over_tokenizer_json(saved):
    path = saved / "tokenizer_config.json"
    rewrite(path, lambda config: config.update(do_lower_case=False))
    assert Tokenizer.from_pretrained(saved).tokenize("A") == ["[UNK]"]
    rewrite(path, lambda config: config.pop("do_lower_case"))
    assert Tokenizer.from_pretrained(saved).tokenize("A") == ["a"]


def test_directory_of_another_tokenizer(saved):
    path = saved / "tokenizer_config.json"
    rewrite(path, lambda config: config.update(tokenizer_class="BertJapaneseTokenizer"))
    with pytest.raises(ValueError, match="tokenizer_class is BertJapaneseTokenizer"):
        Tokenizer.from_pretrained(saved)


def test_added_tokens_beside_a_vocabulary(vocab):
    (vocab.parent / "added_tokens.json").write_text('{"tide": 18, "<e>": 19}')
    names = {"additional_special_tokens": ["<e>", "[X]"]}
    (vocab.parent / "special_tokens_map.json").write_text(json.dumps(names))
    tok = Tokenizer.from_pretrained(vocab.parent)
    assert tok.encode("a TIDE<e>[X]", add_special_tokens=False) == [15, 18, 19, 20]
    assert tok.decode([15, 18, 19, 20], skip_special_tokens=True) == "a tide"
    decoder = {"18": {"content": "ebb"}, "19": {"content": "<f>", "special": True}}
    (vocab.parent / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": decoder})
    )
    (vocab.parent / "special_tokens_map.json").unlink()
    tok = Tokenizer.from_pretrained(vocab.parent)
    assert tok.encode("ebb<f>", add_special_tokens=False) == [18, 19]
    assert tok.decode([15, 18, 19], skip_special_tokens=True) == "a ebb"
    (vocab.parent / "tokenizer_config.json").unlink()
    (vocab.parent / "added_tokens.json").write_text('{"tide": 19}')
    with pytest.raises(ValueError, match="'tide' should have id 19, .* it gets 18"):
        Tokenizer.from_pretrained(vocab.parent)


def test_a_token_that_vocab_txt_cannot_hold(saved, tmp_path):
    path = rewrite(saved / "tokenizer.json", lambda c: c["model"]["vocab"].update({"x\ny": 18}))
    with pytest.raises(ValueError, match="has a line break"):
        Tokenizer.from_file(path).save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_hub_names_go_to_the_hub_module(saved, monkeypatch):
    import jbert.hub

    seen = []

    def fetch(name, **options):
        seen.append((name, options))
        return saved

    monkeypatch.setattr(jbert.hub, "fetch", fetch)
    tok = Tokenizer.from_pretrained("someone/some-bert", revision="abc", local_files_only=True)
    options = {"revision": "abc", "cache_dir": None, "local_files_only": True, "want": "tokenizer"}
    assert seen == [("someone/some-bert", options)]
    assert tok.tokenize("low") == ["low"]
