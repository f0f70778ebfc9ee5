"""Text files to a memory-mapped corpus: what is in it, what is refused, what survives damage."""

import gzip
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jbert.data import corpus as corpus_module
from jbert.data import token_file
from jbert.data.corpus import open_corpus
from jbert.data.table import DataError, DataWarning
from jbert.tokenizer import Tokenizer

VOCAB = Path(__file__).parent / "tokenizer" / "vocab-uncased.txt"
TEXT = """the sea lay flat as a table.
she rowed over once a week.

nobody reads it.

\t
he wrote every evening
in a small grey notebook.
"""
DOCUMENTS = [
    ["the sea lay flat as a table.", "she rowed over once a week."],
    ["nobody reads it."],
    ["he wrote every evening", "in a small grey notebook."],
]


@pytest.fixture(scope="module")
def tok():
    return Tokenizer.from_vocab(VOCAB)


@pytest.fixture
def build(tmp_path, tok):
    def run(*contents, tokenizer=tok, **options):
        paths = []
        for number, content in enumerate(contents):
            path = tmp_path / f"{number}.txt"
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            paths.append(path)
        return open_corpus(paths, tokenizer, tmp_path / "cache", **options)

    return run


def entry(tmp_path):
    (directory,) = (tmp_path / "cache").iterdir()
    return directory


def ids(tok, text):
    return tok.encode(text, add_special_tokens=False)


def contents(corpus):
    """The ids of every sentence of every document."""
    return [
        [
            corpus.tokens[corpus.sentences[s] : corpus.sentences[s + 1]].tolist()
            for s in range(corpus.documents[d], corpus.documents[d + 1])
        ]
        for d in range(len(corpus.documents) - 1)
    ]


def test_sentences_and_documents(build, tok):
    corpus = build(TEXT)
    assert contents(corpus) == [[ids(tok, line) for line in lines] for lines in DOCUMENTS]
    assert corpus.tokens.dtype == np.uint16
    assert corpus.sentences[-1] == len(corpus.tokens)
    assert repr(corpus) == f"Corpus({len(corpus.tokens)} tokens, 5 sentences, 3 documents)"


@pytest.mark.parametrize("batch", [1, 40, 2**21])
def test_however_it_is_cut_into_batches(build, tok, monkeypatch, batch):
    monkeypatch.setattr(token_file, "BATCH", batch)
    assert contents(build(TEXT, TEXT)) == 2 * [[ids(tok, x) for x in lines] for lines in DOCUMENTS]


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: gzip.compress(text.encode()),
        lambda text: ("\n\n \n" + text.rstrip("\n")).encode(),
    ],
    ids=["crlf", "byte order mark", "gzip", "no last line end"],
)
def test_spellings_of_the_same_text(build, tok, spell):
    expected = [[ids(tok, line) for line in lines] for lines in DOCUMENTS]
    assert contents(build(spell(TEXT))) == expected


def test_files_join_and_each_begins_a_document(build, tok, tmp_path):
    corpus = build("one table", "two oranges\n\nthree", "four")
    expected = [[ids(tok, x)] for x in ("one table", "two oranges", "three", "four")]
    assert contents(corpus) == expected
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [corpus.fingerprint]


def test_a_directory_is_its_text_files(tmp_path, tok):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "b.txt.gz").write_bytes(gzip.compress(b"two"))
    (tmp_path / "text" / "a.txt").write_text("one")
    (tmp_path / "text" / "notes.md").write_text("no")
    corpus = open_corpus(tmp_path / "text", tok, tmp_path / "cache")
    assert contents(corpus) == [[ids(tok, "one")], [ids(tok, "two")]]


def test_a_line_longer_than_the_tokenizer_gets_at_once(build, tok, monkeypatch):
    line = "the lighthouse, and 12 oranges, couldn't " * 50
    expected = ids(tok, line)
    monkeypatch.setattr(token_file, "LONGEST", 64)
    assert contents(build(line + "\nnext")) == [[expected, ids(tok, "next")]]
    # Where there is no space, a word is cut rather than the text lost.
    for text in ("x" * 1000, "x" * 1000 + " y", "y " + "x" * 1000):
        found = list(itertools.islice(token_file.pieces(text), 50))
        assert "".join(found) == text and max(map(len, found)) == 64 and min(map(len, found)) > 0


def test_lines_without_tokens_are_no_sentences(build, tok):
    corpus = build("one\n\u200b\u200d\n\n\u200b\n\ntwo\n")
    assert contents(corpus) == [[ids(tok, "one")], [ids(tok, "two")]]


def test_large_vocabularies_get_wider_ids(build, tok):
    large = Tokenizer.from_vocab(VOCAB)
    large.add_tokens([f"new{i}" for i in range(70000)])
    corpus = build("new69999 the", tokenizer=large)
    assert corpus.tokens.dtype == np.uint32
    assert corpus.tokens[0] == len(large) - 1 > 2**16


def test_opened_again_it_is_not_tokenised_again(build, tmp_path, tok, monkeypatch):
    first = build(TEXT)
    monkeypatch.setattr(corpus_module, "write_tokens", None)
    again = build(TEXT)
    assert contents(again) == contents(first) and again.fingerprint == first.fingerprint
    # The same text elsewhere is the same corpus.
    (tmp_path / "elsewhere.txt").write_text(TEXT)
    moved = open_corpus(tmp_path / "elsewhere.txt", tok, tmp_path / "cache")
    assert moved.fingerprint == first.fingerprint


def test_other_text_or_tokenizer_is_another_corpus(build, tok):
    found = {
        build(TEXT).fingerprint,
        build(TEXT.replace("week", "month")).fingerprint,
        build(TEXT, "more").fingerprint,
        build("more", TEXT).fingerprint,
        build(TEXT, tokenizer=Tokenizer.from_vocab(VOCAB, lowercase=False)).fingerprint,
    }
    assert len(found) == 5


@pytest.mark.parametrize("name", ["tokens.bin", "sentences.bin", "documents.bin", "contents.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_corpus_is_made_again(build, tmp_path, name, harm):
    expected = contents(build(TEXT))
    path = entry(tmp_path) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if harm != "remove":
        path.write_bytes(data if harm == "flip" else data[: len(data) // 2])
    with pytest.warns(DataWarning, match="cannot be used and is made again"):
        assert contents(build(TEXT)) == expected
    assert contents(build(TEXT)) == expected


def test_an_interrupted_build_goes_on_behind_the_last_whole_file(build, tmp_path, monkeypatch):
    texts = ["one table", "two", "three"]
    whole = corpus_module.write_tokens
    seen = []

    def failing(path, *args):
        if seen == ["0.txt", "1.txt"]:
            raise KeyboardInterrupt
        seen.append(path.name)
        return whole(path, *args)

    monkeypatch.setattr(corpus_module, "write_tokens", failing)
    with pytest.raises(KeyboardInterrupt):
        build(*texts)
    monkeypatch.setattr(corpus_module, "write_tokens", lambda path, *a: (
        seen.append(path.name), whole(path, *a))[1])  # fmt: skip
    resumed = build(*texts)
    assert seen == ["0.txt", "1.txt", "2.txt"]
    monkeypatch.undo()
    assert entry(tmp_path).name == resumed.fingerprint
    monkeypatch.setattr(corpus_module, "FORMAT", 1000)
    assert contents(build(*texts)) == contents(resumed)


def test_processes_that_start_together_build_once(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT * 200)
    program = (
        "import sys, time; from jbert.data import corpus; from jbert.tokenizer import Tokenizer\n"
        "calls, whole = [], corpus.write_tokens\n"
        "corpus.write_tokens = lambda *a: (calls.append(1), time.sleep(1), whole(*a))[2]\n"
        "found = corpus.open_corpus(sys.argv[1], Tokenizer.from_vocab(sys.argv[2]), sys.argv[3])\n"
        "print(len(calls), found.fingerprint, int(found.tokens.sum()))"
    )
    command = [sys.executable, "-c", program, tmp_path / "a.txt", VOCAB, tmp_path / "cache"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [process.communicate(timeout=120)[0].split() for process in running]
    assert sorted(int(calls) for calls, *_ in found) == [0, 1]
    assert found[0][1:] == found[1][1:]


def test_bad_utf8_is_refused_by_line_or_skipped(build, tok):
    text = b"one table\nbroken \xff here\n\ntwo\n"
    for _ in range(2):
        with pytest.raises(DataError, match=r"0\.txt:2: expected UTF-8, found the byte 0xff.*skip"):
            build(text)
    for _ in range(2):
        with pytest.warns(DataWarning, match=r"skipped 1 of 3 .*0\.txt:2: expected UTF-8"):
            corpus = build(text, on_bad_row="skip")
        assert contents(corpus) == [[ids(tok, "one table")], [ids(tok, "two")]]
    # What was kept with a line skipped does not pass where none may be.
    with pytest.raises(DataError, match=r"0\.txt:2: expected UTF-8"):
        build(text)


def test_what_was_skipped_is_not_forgotten(build, tmp_path):
    text = b"one table\nbroken \xff here\n"
    with pytest.warns(DataWarning, match="skipped 1"):
        build(text, on_bad_row="skip")
    path = entry(tmp_path) / "contents.json"
    path.write_text(path.read_text().replace("0xff", "0xfe"))
    with pytest.warns(DataWarning, match="made again"), pytest.warns(DataWarning, match="0xff"):
        build(text, on_bad_row="skip")


def test_an_empty_file_among_others_is_warned_of(build, tok):
    with pytest.warns(DataWarning, match=r"1\.txt is empty"):
        corpus = build("one", "", "two")
    assert contents(corpus) == [[ids(tok, "one")], [ids(tok, "two")]]


@pytest.mark.parametrize("content", ["\n \n\r\n", "\u200b\n"])
def test_no_text_at_all(build, content):
    for _ in range(2):
        with pytest.raises(DataError, match="no token in 1 files; expected text"):
            build(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("utf-16"), "UTF-16"),
        (gzip.compress(TEXT.encode() * 50)[:-20], "whole gzip file"),
        (b"one\0two\n", r"0\.txt:1: expected text, found a NUL byte"),
    ],
)
def test_what_is_not_text(build, tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        build(content)
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_bad_paths_and_options(tmp_path, tok, build):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.txt"):
        open_corpus(tmp_path / "none.txt", tok, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected \*\.txt"):
        open_corpus(tmp_path / "empty", tok, tmp_path)
    with pytest.raises(DataError, match="found none"):
        open_corpus([], tok, tmp_path)
    with pytest.raises(ValueError, match="on_bad_row is 'drop'"):
        build(TEXT, on_bad_row="drop")
