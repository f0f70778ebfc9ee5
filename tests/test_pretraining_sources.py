"""Batches of pretraining: what is in their rows, and that seed, epoch and rows decide it all."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from corpora import (
    CLS,
    LENGTH,
    MASK,
    PAD,
    PREFIXES,
    SEP,
    SPECIAL,
    UNK,
    corpus_of,
    epoch_of,
    make,
    originals,
    tokenizer,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from jbert.data.blocks import cut_blocks
from jbert.data.corpus import open_corpus
from jbert.data.pretraining import ELECTRA, Masking, pretraining_source
from jbert.tokenizer import Tokenizer

every_task = pytest.mark.parametrize(
    "options",
    [
        {"task": "masked_lm"},
        {"task": "masked_lm", "pack": False},
        {"task": "masked_lm", "masking": Masking(strategy="whole_word", rate=0.4)},
        {"task": "masked_lm", "masking": Masking(strategy="span", rate=0.4)},
        {"task": "masked_lm", "max_sequences": 2},
        {"task": "replaced_token_detection"},
        {"task": "pretraining", "duplicates": 2},
    ],
    ids=str,
)


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("vocab"))


@pytest.fixture(scope="module")
def corpus(tok):
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 15, rng.integers(2, 6)).tolist() for _ in range(120)]
    documents[7][1] = 90
    return corpus_of(tok, documents)


def sequences(batch):
    """(ids before masking, ids, labels) of every sequence."""
    segments = batch["segment_ids"] if "segment_ids" in batch else batch["attention_mask"]
    found = []
    for row, ids in enumerate(originals(batch)):
        for segment in range(1, segments[row].max() + 1):
            here = segments[row] == segment
            columns = ids, batch["input_ids"][row], batch["labels"][row]
            found.append(tuple(tuple(column[here].tolist()) for column in columns))
    return found


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=8), max_size=8),
       st.integers(1, 30))  # fmt: skip
def test_blocks_are_whole_sentences_as_full_as_they_go(documents, room):
    corpus = corpus_of(None, documents)
    if not documents:
        return
    starts, lengths = cut_blocks(corpus, room)
    assert lengths.min() >= 1 and lengths.max() <= room
    np.testing.assert_array_equal(starts[1:], (starts + lengths)[:-1])
    assert starts[0] == 0 and starts[-1] + lengths[-1] == len(corpus.tokens)
    bounds = set(corpus.sentences.tolist())
    borders = corpus.sentences[corpus.documents].tolist()
    for start, end in zip(starts, starts + lengths, strict=True):
        last = next(border for border in borders if border > start)
        assert end <= last
        if end not in bounds:
            assert end - start == room and not bounds & set(range(start + 1, end))
        elif end < last:
            following = next(b for b in sorted(bounds) if b > end)
            assert following - start > room


def test_unpacked_rows(corpus, tok):
    source = make(corpus, pack=False)
    batch = epoch_of(source)
    assert batch.keys() == {"input_ids", "segment_ids", "token_type_ids", "labels"}
    assert all(value.shape == (len(source), LENGTH) for value in batch.values())
    assert all(value.dtype == np.int32 for value in batch.values())
    assert (batch["token_type_ids"] == 0).all()
    assert (batch["input_ids"][batch["segment_ids"] == 0] == PAD).all()
    tokens = []
    for ids, masked, labels in sequences(batch):
        assert ids[0] == masked[0] == CLS and ids[-1] == masked[-1] == SEP
        assert labels[0] == labels[-1] == -100
        tokens += ids[1:-1]
    assert tokens == corpus.tokens.tolist()
    assert source.length(np.arange(3)) == LENGTH and source.lengths.shape == (len(source),)


@pytest.mark.parametrize("strategy", ["token", "whole_word", "span"])
def test_packed_holds_the_same_sequences_with_the_same_masks(corpus, strategy):
    masking = Masking(strategy=strategy)
    for epoch in (0, 3):
        packed = epoch_of(make(corpus, masking=masking), epoch)
        alone = epoch_of(make(corpus, masking=masking, pack=False), epoch)
        assert packed.keys() == {"input_ids", "segment_ids", "position_ids", "token_type_ids",
                                 "labels"}  # fmt: skip
        assert sorted(sequences(packed)) == sorted(sequences(alone))
    assert len(make(corpus)) < 0.7 * len(make(corpus, pack=False))


def test_positions_restart_and_padding_is_empty(corpus):
    batch = epoch_of(make(corpus))
    starts = originals(batch) == CLS
    assert (batch["position_ids"][starts] == 0).all()
    steps = np.diff(batch["position_ids"], axis=1)
    same = batch["segment_ids"][:, 1:] == batch["segment_ids"][:, :-1]
    real = batch["segment_ids"] > 0
    assert (steps[same & real[:, 1:]] == 1).all()
    assert (batch["segment_ids"].max(1) == starts.sum(1)).all()
    for name, filler in (("input_ids", PAD), ("labels", -100), ("position_ids", 0)):
        assert (batch[name][~real] == filler).all()
    assert real.mean() > 0.9


@every_task
def test_a_row_is_the_same_in_every_batch(corpus, options):
    source = make(corpus, **options)
    whole = epoch_of(source, 2, size=len(source))
    rows = np.random.default_rng(0).permutation(len(source))[:9]
    source.batch(rows, LENGTH, 0)  # other epochs in between change nothing
    source.batch(rows, LENGTH, 1)
    part = make(corpus, **options).batch(rows, LENGTH, 2)
    again = source.batch(rows, LENGTH, 2)
    assert part.keys() == again.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(part[name], whole[name][rows])
        np.testing.assert_array_equal(again[name], whole[name][rows])


@every_task
def test_epochs_and_seeds_are_masked_anew(corpus, options):
    source = make(corpus, **options)
    batches = [epoch_of(source), epoch_of(source, 1), epoch_of(make(corpus, seed=1, **options))]
    found = [{labels for *_, labels in sequences(batch)} for batch in batches]
    assert len(batches[0]["labels"]) == len(batches[1]["labels"])
    for other in found[1:]:
        # Some are so short that chance repeats what was masked.
        assert len(found[0] & other) < 0.2 * len(found[0])


@every_task
def test_predictions_are_at_most_what_the_source_says(corpus, options):
    source = make(corpus, **options)
    most = max(int((epoch_of(source, e)["labels"] >= 0).sum(1).max()) for e in range(3))
    assert most <= source.max_predictions
    if "masking" not in options:  # where words of several tokens may not fit
        assert most == source.max_predictions
    few = make(corpus, **{**options, "masking": Masking(max_predictions=1)})
    one_a_row = options["task"] == "pretraining" or options.get("pack") is False
    assert (few.max_predictions == 1) == one_a_row


PROGRAM = """
import hashlib, sys, numpy as np
from jbert.data.corpus import open_corpus
from jbert.data.pretraining import pretraining_source
from jbert.tokenizer import Tokenizer
corpus = open_corpus(sys.argv[1], Tokenizer.from_vocab(sys.argv[2]), sys.argv[3])
for task in ("masked_lm", "pretraining", "replaced_token_detection"):
    source = pretraining_source(task, corpus, 24, seed=5)
    batch = source.batch(np.array([3, 0, 2]), 24, 7)
    digest = hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch)))
    print(task, len(source), source.fingerprint, digest.hexdigest())
"""


def test_other_processes_make_the_same_batches(tmp_path):
    text = "w0 w3 w5 w8 w10\nw13 w15 w18\nw20 w23\n\nw25 w28 w30\nw33 w35\n\nw38\nw40 w43 w45\n"
    (tmp_path / "text.txt").write_text(text * 5)
    words = [f"{PREFIXES[i % 5]}w{i}" for i in range(50)]
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL + words))
    places = tmp_path / "text.txt", tmp_path / "vocab.txt", tmp_path / "cache"
    found = []
    for _ in range(2):
        ran = subprocess.run([sys.executable, "-c", PROGRAM, *places], capture_output=True,
                             text=True, timeout=120)  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        found.append(ran.stdout.split("\n"))
    assert found[0] == found[1]
    corpus = open_corpus(places[0], Tokenizer.from_vocab(places[1]), places[2])
    for line in found[0][:3]:
        task, length, fingerprint, digest = line.split()
        source = pretraining_source(task, corpus, 24, seed=5)
        batch = source.batch(np.array([3, 0, 2]), 24, 7)
        joined = b"".join(batch[name].tobytes() for name in sorted(batch))
        assert (len(source), source.fingerprint) == (int(length), fingerprint)
        assert hashlib.sha256(joined).hexdigest() == digest


def test_whole_words_stay_whole(corpus, tok):
    starts = np.array([not t.startswith("##") for t in tok.convert_ids_to_tokens(range(len(tok)))])
    batch = epoch_of(make(corpus, pack=False, masking=Masking(strategy="whole_word", rate=0.4)))
    ids, chosen = originals(batch), batch["labels"] >= 0
    inside = ~starts[ids[:, 1:]] & (ids[:, 1:] >= 5) & (ids[:, :-1] >= 5)
    assert inside.sum() > 100
    assert (chosen[:, 1:] == chosen[:, :-1])[inside].all()
    batch = epoch_of(make(corpus, pack=False, masking=Masking(rate=0.4)))
    chosen = batch["labels"] >= 0
    assert not (chosen[:, 1:] == chosen[:, :-1])[inside].all()


def test_special_tokens_of_the_text_are_never_masked(tok):
    corpus = corpus_of(tok, [[20, 20], [20, 20]])
    corpus.tokens[::4] = [UNK, SEP, MASK, PAD] * 5
    batch = epoch_of(make(corpus, masking=Masking(rate=1.0, replace=(0.0, 1.0))))
    labels = batch["labels"][batch["labels"] >= 0]
    assert len(labels) == 60 and labels.min() >= 5


def test_random_tokens_are_never_special(corpus):
    source = make(corpus, masking=Masking(rate=1.0, replace=(0.0, 1.0)))
    for epoch in range(4):
        batch = epoch_of(source, epoch)
        assert (batch["input_ids"][batch["labels"] >= 0] >= 5).all()


def test_every_epoch_is_packed_anew_and_two_are_held(corpus):
    source = make(corpus)
    packings = [source.packing(epoch) for epoch in range(4)]
    assert len({tuple(packing.sequences.tolist()) for packing in packings}) == 4
    assert source.packing(3) is packings[3] and source.packing(2) is packings[2]
    assert source.packing(0) is not packings[0]


def test_the_generator_sees_masks_or_the_token_itself(corpus):
    source = make(corpus, "replaced_token_detection")
    batch = epoch_of(source)
    chosen = batch["labels"] >= 0
    masked = batch["input_ids"][chosen] == MASK
    assert (masked | (batch["input_ids"] == batch["labels"])[chosen]).all()
    assert 0.75 < masked.mean() < 0.95 and source.masker.masking.replace == ELECTRA


def test_no_token_types_where_the_tokenizer_has_none(tok, corpus):
    plain = Tokenizer(
        tok.backend, type(tok.options)(**{**vars(tok.options), "token_type_ids": False})
    )
    corpus = corpus_of(plain, [[5, 6], [7, 8]])
    for task in ("masked_lm", "pretraining"):
        assert "token_type_ids" not in epoch_of(make(corpus, task))


def test_fingerprints(corpus, tok):
    other = corpus_of(tok, [[5, 6], [7, 8]])
    sources = [
        make(corpus), make(corpus, seed=1), make(corpus, pack=False), make(corpus, max_length=65),
        make(corpus, max_sequences=2), make(corpus, masking=Masking(rate=0.3)),
        make(corpus, "replaced_token_detection"), make(corpus, "pretraining"),
        make(corpus, "pretraining", duplicates=2), make(corpus, "pretraining", short_share=0.2),
        make(corpus, "pretraining", seed=1),
    ]  # fmt: skip
    assert len({source.fingerprint for source in sources}) == len(sources)
    assert make(corpus).fingerprint == sources[0].fingerprint
    object.__setattr__(other, "fingerprint", "another")
    assert make(other).fingerprint != make(corpus_of(tok, [[5, 6], [7, 8]])).fingerprint


def test_phases_are_sources_over_one_corpus(corpus):
    short, long = make(corpus, max_length=16), make(corpus, max_length=LENGTH)
    for source in (short, long):
        tokens = [t for ids, *_ in sequences(epoch_of(source)) for t in ids[1:-1]]
        assert sorted(tokens) == corpus.tokens.tolist()
        assert epoch_of(source)["input_ids"].shape[1] == source.max_length
    assert len(short) > len(long)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "mlm"}, "task is 'mlm'; expected one of masked_lm, pretraining"),
        ({"task": "pretraining", "pack": True}, "Pass pack=False"),
        ({"max_length": 2}, "max_length is 2; expected at least 3"),
        ({"task": "pretraining", "max_length": 4}, "max_length is 4; expected at least 5"),
        ({"task": "pretraining", "duplicates": 0}, "duplicates is 0"),
        ({"task": "pretraining", "short_share": 2}, "short_share is 2"),
        ({"max_sequences": 0}, "max_sequences is 0"),
    ],
)
def test_bad_options(corpus, options, message):
    with pytest.raises(ValueError, match=message):
        make(corpus, **options)


def test_bad_masking_before_there_is_a_corpus():
    for options in ({"rate": 2}, {"strategy": "words"}, {"max_span": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
            Masking(**options)


def test_a_batch_is_not_shorter_than_its_rows(corpus):
    for options in ({}, {"pack": False}, {"task": "pretraining"}):
        source = make(corpus, **options)
        with pytest.raises(ValueError, match="rows of up to 64 tokens do not fit"):
            source.batch(np.arange(2), LENGTH - 1, 0)
        assert source.batch(np.arange(2), 80, 0)["input_ids"].shape == (2, 80)
