"""Pairs of texts for next-sentence prediction: from where, how long, and how many are random."""

import numpy as np
import pytest
from corpora import CLS, LENGTH, SEP, corpus_of, epoch_of, make, originals, tokenizer

from jbert.data.sentence_pairs import draw_pairs, plan_pairs
from jbert.data.table import DataError, DataWarning


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("vocab"))


@pytest.fixture(scope="module")
def stories(tok):
    """Longer documents, of shorter sentences."""
    rng = np.random.default_rng(0)
    return corpus_of(tok, [rng.integers(1, 6, 50).tolist() for _ in range(20)])


@pytest.mark.parametrize("duplicates", [1, 3])
def test_pairs_go_through_every_document_once_a_pass(stories, duplicates):
    plan = plan_pairs(stories, 29, seed=0, duplicates=duplicates)
    used = np.zeros(len(stories.tokens), int)
    for first, middle, end, random in zip(
        plan.first, plan.middle, plan.end, plan.random, strict=True
    ):
        assert first < middle and (random or middle < end)
        used[first : middle if random else end] += 1
    assert (used == duplicates).all()
    passes = {tuple(plan.middle[i::1][:5]) for i in np.flatnonzero(plan.first == 0)}
    assert len(passes) == duplicates
    borders = stories.sentences[stories.documents]
    assert (plan.first >= borders[plan.document]).all()
    assert (plan.end <= borders[plan.document + 1]).all()
    bounds = set(stories.sentences.tolist())
    assert bounds >= {*plan.first.tolist(), *plan.middle.tolist(), *plan.end.tolist()}


def test_pairs_of_the_batches(stories):
    source = make(stories, "pretraining", duplicates=3)
    batch = epoch_of(source)
    assert batch.keys() == {"input_ids", "attention_mask", "token_type_ids", "labels",
                            "next_sentence_label"}  # fmt: skip
    assert batch["next_sentence_label"].dtype == np.int32
    borders = stories.sentences[stories.documents]
    document = np.repeat(np.arange(len(borders) - 1), np.diff(borders))
    cut_front = cut_back = adjacent = 0
    for row, ids in enumerate(originals(batch)):
        ids = ids[batch["attention_mask"][row] == 1]
        seps = np.flatnonzero(ids == SEP)
        assert ids[0] == CLS and len(seps) == 2 and seps[1] == len(ids) - 1
        a, b = ids[1 : seps[0]] - 5, ids[seps[0] + 1 : -1] - 5
        assert len(a) and len(b) and (np.diff(a) == 1).all() and (np.diff(b) == 1).all()
        types = batch["token_type_ids"][row]
        assert types[: seps[0] + 1].sum() == 0 and types[seps[0] + 1 : len(ids)].all()
        assert types[len(ids) :].sum() == 0
        start, middle = source.plan.first[row], source.plan.middle[row]
        cut_front += a[0] > start
        cut_back += a[-1] < middle - 1
        random = batch["next_sentence_label"][row]
        assert (document[a[0]] != document[b[0]]) == bool(random)
        assert random or b[0] >= middle
        adjacent += not random and b[0] == middle and a[-1] == middle - 1
    assert cut_front > 20 and cut_back > 20 and adjacent > 60
    np.testing.assert_array_equal(batch["next_sentence_label"], source.plan.random)
    lengths = batch["attention_mask"].sum(1)
    assert lengths.max() == LENGTH
    # The random texts are others in another epoch, the pairs' first texts are not.
    later = epoch_of(source, 1)
    np.testing.assert_array_equal(later["next_sentence_label"], batch["next_sentence_label"])
    drawn = batch["next_sentence_label"] == 1
    assert (originals(later)[drawn] != originals(batch)[drawn]).any(1).mean() > 0.95


def test_half_of_the_pairs_are_random(stories):
    plan = plan_pairs(stories, 29, seed=0, duplicates=20)
    several = plan.middle < plan.end
    share = plan.random[several].mean()
    assert several.sum() > 1000 and abs(share - 0.5) < 4 * 0.5 / np.sqrt(several.sum())
    assert plan.random[~several].all()


def test_random_texts_are_sentences_up_to_the_wanted_length(stories):
    plan = plan_pairs(stories, 29, seed=0)
    rows = np.arange(len(plan))
    first, second, random = draw_pairs(stories, plan, rows, 10**6, 0, 0)
    np.testing.assert_array_equal(first.starts, plan.first)
    np.testing.assert_array_equal(first.starts + first.lengths, plan.middle)
    bounds, borders = stories.sentences, stories.sentences[stories.documents]
    begin, end = (x[random == 1] for x in (second.starts, second.starts + second.lengths))
    wanted = (plan.target - first.lengths)[random == 1]
    assert np.isin(begin, bounds).all() and np.isin(end, bounds).all()
    before = bounds[np.searchsorted(bounds, end) - 1]
    assert (before - begin < np.maximum(wanted, 1)).all()
    assert ((end - begin >= wanted) | np.isin(end, borders)).all()
    assert len(set(begin.tolist())) > 0.7 * len(begin)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_short_pairs(tok, share):
    corpus = corpus_of(tok, [[1] * 40] * 90)
    plan = plan_pairs(corpus, 29, seed=1, short_share=share)
    targets = {document: set() for document in range(90)}
    for document, target in zip(plan.document.tolist(), plan.target.tolist(), strict=True):
        targets[document].add(target)
    assert all(len(found) == 1 for found in targets.values())
    found = np.array([targets[document].pop() for document in targets])
    assert found.min() >= 2 and found.max() <= 29
    assert abs((found < 29).mean() - share) <= (0.1 if 0 < share < 1 else 0.05)
    assert (plan.end - plan.first <= plan.target).all()
    if share == 1.0:
        assert len(set(found)) > 15


def test_documents_of_one_sentence(tok):
    with pytest.warns(DataWarning, match="of the sentence pairs are random ones"):
        source = make(corpus_of(tok, [[5]] * 20 + [[5, 6]]), "pretraining")
    batch = epoch_of(source)
    assert batch["next_sentence_label"].mean() > 0.9
    with pytest.raises(DataError, match="each of the 3 documents has a single sentence"):
        make(corpus_of(tok, [[5]] * 3), "pretraining")
    with pytest.raises(DataError, match="the corpus is one document of 3 sentences"):
        make(corpus_of(tok, [[5, 6, 7]]), "pretraining")
