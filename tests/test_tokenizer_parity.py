"""Token ids, offsets and masks against transformers' BERT tokenizers."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from jbert.tokenizer import Tokenizer
from jbert.vocabulary import read_vocab

pytestmark = pytest.mark.parity

FIXTURES = Path(__file__).parent / "tokenizer"
CORPUS = (FIXTURES / "corpus.txt").read_text(encoding="utf-8").splitlines()
HARD = [
    "",
    " ",
    " \t\n\r\x0b\x0c\x1c\x85\xa0\u2003\u3000 ",
    "\x00",
    "a\x00b\x01c\x7fd\x9fe",
    "UNwant\u00e9d,running",
    "e\u0301\u0300\u0327 cafe\u0301 Zalgo h\u0335\u0310\u0353e\u0321\u0334 \u0301alone",
    "\u1e9e \u00df \u0130stanbul d\u0131\u015f \u01c5 \ufb01 \ufb03 \u212b \u2126 \u00c5 A\u030a",
    "zero\u200bwidth\u200cjoin\u200ders\u2060word\ufeffjoiner so\u00adft hy\u00adphen",
    "\u202eright to left\u202c \u2066isolate\u2069 \u061c\u200e\u200f",
    "👍🏽👩‍👩‍👧‍👦🏳️‍🌈🇫🇷🇩🇪1️⃣❤️☀︎ 🙂🙂🙂",
    "中国a東京b서울cМоскваdالقاهرةeไทยfहिन्दीg",
    "灯塔看守人, 2024年11月。「ひらがな」カタカナｶﾀｶﾅ㍿①Ⅳ",
    "\U00020000\U0002a6df\U0002f800 𝒜𝔟𝕔 𐍈 𒀀",
    "한글 한글 각",
    "नमस्ते क्षत्रिय ๑๒๓ กำลัง",
    "don't can't it's we've they're I'm o'clock 'quoted' “curly” ‘single’ «guillemets»",
    "$3.50 €3,20 50% #7 @home x=y+z a/b c\\d e_f g^h ~i `j` {k} [l] <m> | n & o * p",
    "[CLS] [SEP] [MASK] [PAD] [UNK] [cls] [mask] [MASK][MASK]x[MASK]. [ MASK ] [MASK",
    "before[SEP]after [UNK]known\u200b[MASK]\u0301",
    "## ##a a##b #",
    "x" * 99 + " " + "x" * 100 + " " + "x" * 101 + " " + "é" * 100 + " " + "中" * 101,
    "word" * 500,
    "\ufffd\ufffe\uffff \ue000 \U000f0000 \U0010ffff",
    "\u0085\u2028\u2029next",
    "ΑΣ ΟΔΟΣ σς Ǆ ǆ",
    "http://example.org/?q=a&b=%20#top user@example.org C:\\temp",
    *CORPUS,
]
OPTIONS = {
    "uncased": ("uncased", {}),
    "cased": ("cased", {"lowercase": False}),
    "no-chinese": ("uncased", {"tokenize_chinese_chars": False}),
    "cased-no-chinese": ("cased", {"lowercase": False, "tokenize_chinese_chars": False}),
    "keep-accents": ("uncased", {"strip_accents": False}),
    "cased-strip": ("cased", {"lowercase": False, "strip_accents": True}),
}


def build(name, vocab=None, **more):
    """Our tokenizer and the reference, over one vocabulary and the same options."""
    from transformers import BertTokenizer

    vocab_name, options = OPTIONS[name]
    path = vocab or FIXTURES / f"vocab-{vocab_name}.txt"
    theirs = {"do_lower_case" if k == "lowercase" else k: v for k, v in options.items()}
    ours = Tokenizer.from_vocab(path, **options, **more)
    return ours, BertTokenizer(vocab=read_vocab(path), **theirs, **more)


@pytest.fixture(params=OPTIONS)
def both(request):
    return build(request.param)


def assert_same(both, texts, pairs=None, **options):
    """Every array and index that both can return, over one batch."""
    ours, theirs = both
    arrays = ours(
        texts,
        pairs,
        return_offsets=True,
        return_special_tokens_mask=True,
        return_word_ids=True,
        return_sequence_ids=True,
        **options,
    )
    reference = theirs(
        texts,
        pairs,
        **({"padding": True} | options),
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    rows = range(len(reference["input_ids"]))
    expected = {name: reference[name] for name in reference}
    expected["word_ids"] = [reference.word_ids(row) for row in rows]
    expected["sequence_ids"] = [reference.sequence_ids(row) for row in rows]
    for name in ("word_ids", "sequence_ids"):
        expected[name] = [[-1 if i is None else i for i in row] for row in expected[name]]
    assert arrays.keys() == expected.keys()
    for name, value in arrays.items():
        wanted = np.asarray(expected[name], np.int32).reshape(value.shape)
        assert value.dtype == np.int32
        if not np.array_equal(value, wanted):
            row = int((value != wanted).reshape(len(value), -1).any(axis=1).argmax())
            pytest.fail(f"{name} differs in row {row}: {texts[row] if row < len(texts) else ''!r}")
    # Without offsets and words the library takes another path.
    quick = ours(texts, pairs, **options)
    assert all(np.array_equal(quick[name], arrays[name]) for name in quick)
    return arrays


def test_hard_corpus(both):
    assert_same(both, HARD)
    for text in HARD:
        assert_same(both, [text])


def test_hard_pairs(both):
    assert_same(both, HARD, HARD[::-1])
    assert_same(both, HARD, HARD[::-1], add_special_tokens=False)


def check_random_unicode(pair_of_tokenizers, examples):
    """One string an example: drawn as lists, nine in ten would be repeats."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    nasty = (
        "aZé\u0301\u200b\u200d\ufe0f\u00ad\ufffd\x00\t\n 中あ한👍🏽#'-.[]_½²ßİıΣς\u2028\u3000\xa0"
    )
    character = st.characters(exclude_categories=["Cs"])
    text = st.one_of(
        st.text(character, max_size=40),
        st.text(st.sampled_from(nasty), max_size=40),
        st.lists(
            st.sampled_from(["[MASK]", "[SEP]", "##a", "the", "\u0301", " ", "lighthouse", "。"]),
            max_size=12,
        ).map("".join),
        st.lists(st.one_of(st.text(character, max_size=6), st.sampled_from(CORPUS[0].split())))
        .map(" ".join)
        .filter(lambda value: len(value) < 400),
    )

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(text)
    def check(value):
        assert_same(pair_of_tokenizers, [value])

    check()


@pytest.mark.parametrize("name", ["uncased", "cased", "no-chinese"])
def test_random_unicode(name):
    check_random_unicode(build(name), examples=1200)


def test_hundred_thousand_characters(both):
    prose = " ".join(itertools.islice(itertools.cycle(CORPUS), 1200))[:100_000]
    assert len(prose) == 100_000
    assert_same(both, [prose])
    assert_same(both, ["x" * 100_000])
    assert_same(both, ["中" * 100_000])
    assert_same(
        both, [prose], max_length=384, stride=128, return_overflowing_tokens=True, truncation=True
    )


@pytest.mark.parametrize("overflow", [False, True])
@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
def test_truncation(strategy, overflow):
    both = build("uncased")
    first, second = CORPUS[:28], CORPUS[10:]
    shorter = [text[:10] for text in first]
    for length, stride in itertools.product((24, 25, 40, 64), (0, 1, 5)):
        options = {
            "truncation": strategy,
            "max_length": length,
            "stride": stride,
            "return_overflowing_tokens": overflow,
        }
        if strategy != "only_second":
            assert_same(both, first, **options)
        if strategy == "only_first":
            assert_same(both, first, shorter, **options)
        elif strategy == "only_second":
            assert_same(both, shorter, second, **options)
        else:
            assert_same(both, first, second, **options)
            assert_same(both, first, shorter, **options)
            assert_same(both, shorter, second, add_special_tokens=False, **options)


def test_max_length_alone_truncates():
    ours, theirs = build("uncased")
    reference = theirs(CORPUS[0], max_length=9)["input_ids"]
    assert ours(CORPUS[0], max_length=9)["input_ids"].tolist() == [reference]


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "longest"},
        {"padding": "max_length", "max_length": 200, "truncation": True},
        {"padding": "max_length", "max_length": 300, "truncation": False},
        {"pad_to_multiple_of": 16},
        {"padding": "max_length", "max_length": 208, "truncation": True, "pad_to_multiple_of": 16},
        {"padding": "max_length", "max_length": 301, "truncation": False, "pad_to_multiple_of": 8},
    ],
)
def test_padding(options):
    assert_same(build("uncased"), CORPUS, **options)


def test_words(both):
    words = [text.split(" ") for text in CORPUS] + [[], ["", " ", "a b", "[MASK]", "中国", "don't"]]
    assert_same(both, words, is_split_into_words=True)
    assert_same(both, words, words[::-1], is_split_into_words=True)


def test_decoding(both):
    ours, theirs = both
    rows = [ours.encode(text) for text in [*HARD, *CORPUS]]
    for skip, clean in itertools.product((False, True), (False, True)):
        options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
        assert ours.batch_decode(rows, **options) == theirs.batch_decode(rows, **options)
    for text, row in zip([*HARD, *CORPUS], rows, strict=True):
        tokens = ours.tokenize(text)
        assert tokens == theirs.tokenize(text)
        assert ours.encode(text, add_special_tokens=False) == ours.convert_tokens_to_ids(tokens)
        assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
        for skip in (False, True):
            expected = theirs.convert_ids_to_tokens(row, skip_special_tokens=skip)
            assert ours.convert_ids_to_tokens(row, skip_special_tokens=skip) == expected
        mask = theirs.get_special_tokens_mask(row, already_has_special_tokens=True)
        assert ours.get_special_tokens_mask(row, already_has_special_tokens=True) == mask
    assert ours.get_vocab() == theirs.get_vocab()
    assert (ours.vocab_size, len(ours)) == (theirs.vocab_size, len(theirs))
    assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)


def test_added_tokens(both):
    ours, theirs = both
    for tokens, special in ((["lighthouse keeper", "🙂👍", "the"], False), (["<e1>", "[X]"], True)):
        assert ours.add_tokens(tokens, special_tokens=special) == theirs.add_tokens(
            tokens, special_tokens=special
        )
    assert len(ours) == len(theirs)
    texts = ["The LIGHTHOUSE KEEPER <e1>saw[X] 🙂👍 the lighthouse keeper <E1>", *HARD]
    assert_same(both, texts)
    rows = [ours.encode(text) for text in texts]
    expected = theirs.batch_decode(rows, skip_special_tokens=True)
    assert ours.batch_decode(rows, skip_special_tokens=True) == expected


def test_legacy_builders():
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    ours, _ = build("uncased")
    theirs = BertTokenizerLegacy(str(FIXTURES / "vocab-uncased.txt"))
    for pair in ([7, 8, 9], [5, 6]), ([7, 8], None), ([], []), ([], None):
        assert ours.build_inputs_with_special_tokens(
            *pair
        ) == theirs.build_inputs_with_special_tokens(*pair)
        assert ours.create_token_type_ids_from_sequences(
            *pair
        ) == theirs.create_token_type_ids_from_sequences(*pair)
        assert ours.get_special_tokens_mask(*pair) == theirs.get_special_tokens_mask(*pair)
        assert ours.num_special_tokens_to_add(pair[1] is not None) == 2 + (pair[1] is not None)


def test_legacy_without_basic_tokenization():
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    path = FIXTURES / "vocab-cased.txt"
    ours = Tokenizer.from_vocab(path, do_basic_tokenize=False)
    theirs = BertTokenizerLegacy(str(path), do_basic_tokenize=False)
    for text in HARD:
        assert ours.tokenize(text) == theirs.tokenize(text), text


@pytest.mark.parametrize("lowercase", [False, True])
def test_legacy_never_split(lowercase, tmp_path):
    """Equal between spaces and in the case given; elsewhere the reference is less strict."""
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    path = tmp_path / "vocab.txt"
    kept = ["U.S.", "[left]", "Unaffable"]
    path.write_text("\n".join([*read_vocab(FIXTURES / "vocab-cased.txt"), *kept]), "utf-8")
    ours = Tokenizer.from_vocab(path, lowercase=lowercase, never_split=kept)
    theirs = BertTokenizerLegacy(str(path), do_lower_case=lowercase, never_split=kept)
    texts = [" ".join(kept), "the U.S. [left] keeper Unaffable unaffable", *CORPUS[:10]]
    for text in texts:
        assert ours.tokenize(text) == theirs.tokenize(text), text
    assert set(kept) <= set(ours.tokenize(texts[0]))
    assert not set(kept) & set(Tokenizer.from_vocab(path, lowercase=True).tokenize(texts[0]))


VARIANTS = {
    "BERT": ({}, "BertTokenizer"),
    "cased": ({"lowercase": False, "strip_accents": True}, "BertTokenizer"),
    "no Chinese": ({"tokenize_chinese_chars": False}, "BertTokenizer"),
    "DistilBERT": ({"token_type_ids": False}, "DistilBertTokenizer"),
    "unclean": ({"clean_text": False}, "PreTrainedTokenizerFast"),
    "whitespace": ({"do_basic_tokenize": False}, "PreTrainedTokenizerFast"),
    "no types": (
        {"token_type_ids": False, "clean_text": False},
        "PreTrainedTokenizerFast",
    ),
    "never split": ({"never_split": ("ships", "##able")}, "BertTokenizer"),
    "names": ({"mask_token": "words", "pad_token": "model", "unk_token": "!"}, "BertTokenizer"),
    "limits": ({"model_max_length": 77, "clean_up_tokenization_spaces": True}, "BertTokenizer"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_auto_tokenizer_reads_what_is_saved(variant, tmp_path):
    import json

    from transformers import AutoTokenizer

    options, kind = VARIANTS[variant]
    ours = Tokenizer.from_vocab(FIXTURES / "vocab-uncased.txt", **options)
    ours.add_tokens(["🙂👍"])
    ours.add_tokens(["<e1>"], special_tokens=True)
    ours.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == kind
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["ships <e1> 🙂👍 un##able ships. words model !", *HARD]
    for reader in (ours, Tokenizer.from_pretrained(tmp_path)):
        assert_same((reader, theirs), texts)
        assert_same((reader, theirs), texts, texts[::-1])
        rows = [reader.encode(text) for text in texts]
        for skip in (False, True):
            expected = theirs.batch_decode(rows, skip_special_tokens=skip)
            assert reader.batch_decode(rows, skip_special_tokens=skip) == expected
        assert reader.model_max_length == theirs.model_max_length
        assert reader.mask_token_id == theirs.mask_token_id
        assert reader.get_vocab() == theirs.get_vocab()


@pytest.mark.parametrize("name", OPTIONS)
def test_reads_what_transformers_saves(name, tmp_path):
    _, theirs = build(name)
    theirs.add_tokens(["🙂👍"])
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.from_pretrained(tmp_path)
    assert_same((ours, theirs), ["🙂👍 x", *HARD])
    assert ours.model_max_length == 512


def test_reads_what_the_legacy_tokenizer_saves(tmp_path):
    """vocab.txt and added_tokens_decoder, without a tokenizer.json."""
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    path = FIXTURES / "vocab-cased.txt"
    theirs = BertTokenizerLegacy(str(path), do_lower_case=False, model_max_length=99)
    theirs.add_tokens(["lampkeeper", "🙂👍"])
    theirs.add_tokens(["<e1>"], special_tokens=True)
    theirs.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace("BertTokenizerLegacy", "BertTokenizer"))
    assert not (tmp_path / "tokenizer.json").exists()
    ours = Tokenizer.from_pretrained(tmp_path)
    assert ours.model_max_length == 99
    for text in ("a lampkeeper and <e1> 🙂👍", *CORPUS[:12]):
        assert ours.encode(text) == theirs.encode(text), text
    assert ours.decode(ours.encode("x <e1> y"), skip_special_tokens=True) == "x y"
