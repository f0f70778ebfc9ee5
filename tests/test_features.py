"""Batches of features, what identifies them, and the cache that keeps them."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from feature_tables import VOCAB, questions, tokenizer

from jbert.data import cache, tokenise
from jbert.data.features import Features, make_buckets
from jbert.data.processors import Classification, MaskedLM, QuestionAnswering
from jbert.data.table import Table
from jbert.tokenizer import Tokenizer

TEXTS = ["The wind came.", "a", "", "She brought letters, tea, two newspapers, and oranges."]


def table(texts=TEXTS, labels=("no", "yes", "no", "yes"), **more) -> Table:
    return Table({"text": list(texts), "label": list(labels), **more}, "train.csv")


def features(cache=False, of=None, tok=None, **settings) -> Features:
    settings = {"labels": ("no", "yes"), **settings}
    return Classification(**settings).process(of or table(), tok or tokenizer(), cache)


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one
    )


# -- batches ----------------------------------------------------------------------------------


def test_a_batch_is_what_the_tokenizer_makes():
    found = features()
    rows = np.array([3, 0, 0, 2])
    batch = found.batch(rows, 64, 0)
    expected = tokenizer()([TEXTS[row] for row in rows], padding="max_length", max_length=64)
    assert equal({k: v for k, v in batch.items() if k != "labels"}, expected)
    assert batch["labels"].tolist() == [1, 0, 0, 0] and batch["labels"].dtype == np.int32
    assert found.lengths.tolist() == tokenizer()(TEXTS)["attention_mask"].sum(axis=1).tolist()
    assert len(found) == 4 and found.labelled


def test_no_token_types_where_the_model_has_none():
    batch = features(tok=tokenizer(token_type_ids=False), pair="pair",
                     of=table(pair=TEXTS)).batch(np.arange(4), 64, 0)  # fmt: skip
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_a_batch_of_no_rows_and_of_rows_that_do_not_fit():
    found = features()
    batch = found.batch(np.array([], np.int64), 32, 0)
    assert batch["input_ids"].shape == (0, 32) and batch["labels"].shape == (0,)
    longest = int(found.lengths.max())
    found.batch(np.arange(4), longest, 0)
    with pytest.raises(ValueError, match=f"row 3 has {longest} tokens, which do not fit"):
        found.batch(np.array([0, 3]), longest - 1, 0)


def test_buckets():
    assert make_buckets(100) == (32, 64, 100)
    assert make_buckets(512) == (32, 64, 128, 256, 384, 512)
    assert make_buckets(20) == (20,)
    assert make_buckets(64, (64,)) == (64,)
    assert make_buckets(64, (16, 8, 99)) == (8, 16, 64)
    found = features(buckets=(3, 8), max_length=40)
    lengths = found.lengths
    assert lengths[1] == 3 and lengths[0] <= 8 < lengths[3]
    assert [found.length(np.array(rows)) for rows in ([1], [1, 0], [0, 3, 1])] == [3, 8, 40]
    assert features(buckets=(40,), max_length=40).length(np.array([1])) == 40
    with pytest.raises(ValueError, match="buckets is 0"):
        Classification(buckets=(0,))
    with pytest.raises(ValueError, match="max_length is 4; a row of a pair takes at least 5"):
        Classification(max_length=4)


def test_many_chunks_make_what_one_makes(monkeypatch):
    texts = [f"{text} {i}" for i in range(9) for text in TEXTS]
    whole = features(of=table(texts, ["no"] * 36))
    monkeypatch.setattr(tokenise, "CHUNK", 5)
    parts = features(of=table(texts, ["no"] * 36))
    rows = np.arange(36)
    assert equal(whole.batch(rows, 64, 0), parts.batch(rows, 64, 0))


# -- fingerprints -----------------------------------------------------------------------------


def test_the_fingerprint_changes_with_contents_settings_and_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text(VOCAB.read_text(encoding="utf-8") + "zebra\n", "utf-8")
    prints = [
        found.fingerprint
        for found in (
            features(),
            features(of=table(["The wind went.", *TEXTS[1:]])),
            features(of=table(labels=("yes", "yes", "no", "yes"))),
            features(labels=("yes", "no")),
            features(max_length=20),
            features(max_length=20, buckets=(8, 20)),
            features(tok=tokenizer(lowercase=False)),
            features(tok=tokenizer(token_type_ids=False)),
            features(tok=Tokenizer.from_vocab(tmp_path / "vocab.txt")),
        )
    ]
    assert len(set(prints)) == len(prints)
    again = features(of=table(), tok=Tokenizer.from_vocab(VOCAB))
    assert again.fingerprint == prints[0]


def test_class_numbers_are_told_apart_by_their_names():
    def numbered(*names):
        made = Table({"text": ["a", "b"], "label": [0, 1]}, label_names={"label": names})
        return features(of=made)

    one, other = numbered("no", "yes"), numbered("yes", "no")
    assert one.fingerprint != other.fingerprint
    assert one.targets["labels"].tolist() == [0, 1] and other.targets["labels"].tolist() == [1, 0]


SCRIPT = """
import sys
import numpy as np
from feature_tables import tokenizer
from test_features import features
found = features()
batch = found.batch(np.arange(4), 64, 0)
print(found.fingerprint, batch["input_ids"].sum())
"""


def test_another_process_makes_the_same():
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "7"},
    ).stdout.split()  # fmt: skip
    found = features()
    ids = found.batch(np.arange(4), 64, 0)["input_ids"]
    assert printed == [found.fingerprint, str(ids.sum())]


# -- the cache --------------------------------------------------------------------------------


@pytest.fixture
def no_tokenising(monkeypatch):
    """Whatever is not in the cache fails."""

    def refuse(*args, **options):
        raise AssertionError("tokenised again")

    return lambda: monkeypatch.setattr(tokenise, "encode", refuse)


def test_the_second_time_features_come_from_the_cache(tmp_path, no_tokenising):
    processor = QuestionAnswering(max_length=48, max_question_length=8)
    first = processor.process(questions(), tokenizer(), tmp_path)
    plain = processor.process(questions(), tokenizer(), cache=False)
    no_tokenising()
    again = dataclasses.replace(processor, n_best=3, null_threshold=1.0, buckets=(48,)).process(
        questions(), tokenizer(), tmp_path
    )
    rows = np.arange(len(first))
    for other in (plain, again):
        assert equal(first.batch(rows, 48, 0), other.batch(rows, 48, 0))
        assert np.array_equal(first.notes["spans"], other.notes["spans"])
        assert np.array_equal(first.owners, other.owners) and first.facts == other.facts
    assert first.fingerprint == plain.fingerprint
    with pytest.raises(AssertionError, match="tokenised again"):
        dataclasses.replace(processor, doc_stride=3).process(questions(), tokenizer(), tmp_path)


def test_the_cached_arrays_are_mapped_not_read(tmp_path):
    found = features(tmp_path)
    ids = found.tokens["input_ids"]
    assert isinstance(ids.base, np.memmap) and not ids.flags.writeable
    assert type(ids) is np.ndarray


def test_what_was_cut_off_is_said_again_when_it_comes_from_the_cache(tmp_path, caplog):
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "jbert"):
            features(tmp_path, max_length=8)
        assert "train.csv: 1 of 4 rows have more than 8 tokens and were cut off" in caplog.text
        assert "the first train.csv[3]" in caplog.text


def damage(file: Path, kind: str) -> None:
    data = bytearray(file.read_bytes())
    if kind == "gone":
        file.unlink()
        return
    if kind == "flipped":
        data[-1] ^= 1
    elif kind == "cut":
        data = data[: len(data) // 2]
    else:
        data = bytearray()
    file.write_bytes(data)


def small(directory: Path) -> dict:
    arrays = {"offsets": np.arange(3), "tokens.input_ids": np.arange(5, dtype=np.int32)}
    found, _ = cache.cached(directory, "key", lambda: (arrays, {"fact": 1}))
    # Copies, because the tests cut the files that these are mapped from.
    return {name: array.copy() for name, array in found.items()}


@pytest.mark.parametrize("kind", ["flipped", "cut", "empty", "gone"])
@pytest.mark.parametrize("name", ["offsets.npy", "tokens.input_ids.npy", cache.CONTENTS])
def test_a_damaged_entry_is_made_anew(tmp_path, no_tokenising, kind, name):
    expected = small(tmp_path)
    file = tmp_path / "key" / name
    whole = file.read_bytes()
    if name == cache.CONTENTS and kind == "flipped":
        file.write_bytes(whole.replace(b'"fact": 1', b'"fact": 2'))
    else:
        damage(file, kind)
    if name == cache.CONTENTS and kind == "gone":
        found = small(tmp_path)
    else:
        with pytest.warns(cache.CacheWarning, match="key cannot be used and is made anew"):
            found = small(tmp_path)
    assert equal(found, expected) and file.read_bytes() == whole
    assert equal(small(tmp_path), expected)


@pytest.mark.parametrize("text", ["[]", "3", '{"contents": 1}', '{"contents": {}, "digest": ""}'])
def test_contents_of_another_form_are_made_anew(tmp_path, text):
    expected = small(tmp_path)
    (tmp_path / "key" / cache.CONTENTS).write_text(text)
    with pytest.warns(cache.CacheWarning, match="made anew"):
        assert equal(small(tmp_path), expected)


def test_arrays_without_values_are_kept(tmp_path):
    for _ in range(2):
        arrays, _ = cache.cached(tmp_path, "key", lambda: ({"none": np.zeros((0, 2))}, {}))
        assert arrays["none"].shape == (0, 2)


def test_where_nothing_can_be_written_features_are_made_without(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with pytest.warns(cache.CacheWarning, match="cannot be kept, so the next run tokenises again"):
        found = features(blocked / "below")
    assert equal(found.batch(np.arange(4), 64, 0), features().batch(np.arange(4), 64, 0))

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    with pytest.warns(cache.CacheWarning, match="No space left"):
        features(tmp_path / "full")
    assert not list((tmp_path / "full").glob("[!.]*"))


def test_of_many_at_once_one_makes_the_entry_and_all_get_it(tmp_path, monkeypatch):
    expected, found, calls = features(), [], []
    write = cache._write
    monkeypatch.setattr(cache, "_write", lambda *args: calls.append(1) or write(*args))
    # Threads hold locks of their own, as processes do; the barrier makes them start together.
    barrier = threading.Barrier(6)

    def work():
        barrier.wait()
        found.append(features(tmp_path))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = np.arange(4)
    assert len(found) == 6
    for one in found:
        assert equal(one.batch(rows, 64, 0), expected.batch(rows, 64, 0))
    assert calls == [1]


def test_the_users_own_cache_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    features(cache=True)
    assert cache.default_directory() == tmp_path / "jbert" / "features"
    (entry,) = cache.default_directory().glob("[!.]*")
    assert json.loads((entry / cache.CONTENTS).read_text())["contents"]["facts"]["notices"] == []


# -- masked batches ---------------------------------------------------------------------------


def masked(**settings):
    lines = Table({"text": [f"the wind came from the north {i}" for i in range(30)]})
    return MaskedLM(by_line=True, **settings).process(lines, tokenizer(), cache=False)


@pytest.mark.parametrize("strategy", ["token", "whole_word", "span"])
def test_masks_follow_seed_epoch_and_row_alone(strategy):
    source = masked(rate=0.3, strategy=strategy)
    rows = np.arange(30)
    batch = source.batch(rows, 32, 0)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert all(x.dtype == np.int32 and x.shape == (30, 32) for x in batch.values())
    alone = source.batch(np.array([17, 4]), 64, 0)
    assert np.array_equal(alone["input_ids"][:, :32], batch["input_ids"][[17, 4]])
    assert equal(masked(rate=0.3, strategy=strategy).batch(rows, 32, 0), batch)
    for other in (
        source.batch(rows, 32, 1),
        masked(rate=0.3, strategy=strategy, seed=1).batch(rows, 32, 0),
    ):
        assert not np.array_equal(other["labels"], batch["labels"])


def test_masks_leave_special_tokens_alone_and_labels_restore_the_text():
    source = masked(rate=0.3)
    rows = np.arange(30)
    whole, batch = source.features.batch(rows, 32, 0), source.batch(rows, 32, 0)
    hidden = batch["labels"] != -100
    assert hidden.any(axis=1).all() and not hidden.all()
    assert np.array_equal(np.where(hidden, batch["labels"], batch["input_ids"]), whole["input_ids"])
    special = np.isin(whole["input_ids"], [0, 2, 3])
    assert special[:, 0].all() and not (hidden & special).any()
    assert (batch["input_ids"] == tokenizer().mask_token_id).sum() > hidden.sum() / 2


def test_the_rate_and_the_strategy_are_those_of_the_settings():
    rows = np.arange(30)
    low, high = (masked(rate=rate).batch(rows, 32, 0)["labels"] != -100 for rate in (0.15, 0.5))
    real = masked().features.lengths.sum() - 60
    assert abs(low.sum() / real - 0.15) < 0.05 and abs(high.sum() / real - 0.5) < 0.05
    whole = masked(rate=0.5, strategy="whole_word")
    ids, hidden = whole.features.batch(rows, 32, 0)["input_ids"], whole.batch(rows, 32, 0)
    names = np.array(tokenizer().convert_ids_to_tokens(range(len(tokenizer()))))[ids]
    inner = np.char.startswith(names, "##")
    chosen = hidden["labels"] != -100
    assert (chosen & inner).any() and np.array_equal(
        chosen[:, 1:][inner[:, 1:]], chosen[:, :-1][inner[:, 1:]]
    )
    spans = masked(rate=0.5, strategy="span").batch(rows, 32, 0)["labels"] != -100
    assert (np.diff(spans, axis=1) != 0).sum() < (np.diff(high, axis=1) != 0).sum()


def test_unknown_words_are_hidden_like_others():
    lines = Table({"text": ["\U0001f5fc \U0001f5fc \U0001f5fc"]})
    source = MaskedLM(by_line=True, rate=0.9).process(lines, tokenizer(), cache=False)
    assert (source.batch(np.arange(1), 32, 0)["labels"] == tokenizer().unk_token_id).sum() == 3


def test_masked_fingerprints():
    sources = [masked(), masked(seed=1), masked(rate=0.2), masked(strategy="span")]
    assert len({source.fingerprint for source in sources}) == 4
    assert len({source.features.fingerprint for source in sources}) == 1
    assert len(sources[0]) == 30 and sources[0].length(np.arange(30)) == 32
    assert sources[0].lengths.shape == (30,)
