"""Phases of a run, gathered predictions, and documents held out: all of them without a model."""

import numpy as np
import pytest
from corpora import corpus_of, epoch_of, make, tokenizer

from jbert.data.batches import TrainingOrder
from jbert.data.gathered import Gathered, projected_share
from jbert.data.held_out import hold_out
from jbert.data.phases import PhasedOrder
from jbert.data.pretraining import Masking
from jbert.data.table import DataError
from jbert.losses import IGNORE


class Numbers:
    """Rows that are their own number."""

    def __init__(self, count: int, length: int):
        self.count, self.width, self.fingerprint = count, length, f"{count} of {length}"
        self.lengths = np.full(count, length, np.int32)

    def __len__(self) -> int:
        return self.count

    def length(self, rows: np.ndarray) -> int:
        return self.width

    def batch(self, rows: np.ndarray, length: int, epoch: int) -> dict[str, np.ndarray]:
        return {"rows": np.asarray(rows)}


def phased(steps=(5, 6), sizes=(4, 2), seed=0) -> PhasedOrder:
    pairs = zip((Numbers(10, 8), Numbers(7, 32)), sizes, strict=True)
    orders = [TrainingOrder(source, size, seed, False) for source, size in pairs]
    return PhasedOrder(orders, steps)


def test_every_batch_is_one_of_its_phase():
    order = phased()
    found = [order.batch(number) for number in range(11)]
    assert [batch.length for batch in found] == [8] * 5 + [32] * 6
    assert [batch.size for batch in found] == [4] * 5 + [2] * 6
    assert [len(order.source_at(number)) for number in (0, 4, 5, 10)] == [10, 10, 7, 7]
    # In any order, and by any process, the same.
    again = phased()
    for number in (7, 0, 10, 4, 5):
        np.testing.assert_array_equal(again.batch(number).rows, found[number].rows)
    with pytest.raises(IndexError, match="batch 11 of 11"):
        order.batch(11)


def test_each_phase_shows_its_rows_once_an_epoch_and_no_epoch_comes_twice():
    order = phased()
    epochs = [order.batch(number).epoch for number in range(11)]
    assert epochs == [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3]
    first = [order.batch(number).examples() for number in range(3)]
    assert sorted(np.concatenate(first)) == list(range(10))
    other = [order.batch(number).examples() for number in range(5, 9)]
    assert sorted(np.concatenate(other)) == list(range(7))


def test_what_is_told_of_a_run_goes_over_all_phases():
    order = phased()
    assert order.total(3.0) == 11 and order.batch_sizes == (4, 2)
    assert order.epochs(3) == 1 and order.epochs(5) == 5 / 3
    np.testing.assert_allclose(order.epochs(11), 5 / 3 + 6 / 4)
    # A batch of the second phase has twice as many tokens as one of the first.
    assert [order.work(count) for count in (0, 5, 6, 11)] == [0, 5, 7, 17]
    assert (order.length_at(4), order.length_at(5)) == (8, 32)
    assert order.describe() == "5 of 4 × 8 tokens, then 6 of 2 × 32 tokens"


@pytest.mark.parametrize(
    "other", [{"steps": (5, 7)}, {"sizes": (4, 3)}, {"seed": 1}, {"steps": (4, 7)}]
)
def test_another_order_is_not_gone_on_with(other):
    order = phased()
    order.check_position(order.position(7))
    with pytest.raises(DataError, match="phases is"):
        phased(**other).check_position(order.position(7))
    with pytest.raises(DataError, match="phases is"):
        order.check_position(order.orders[0].position(7))


# -- gathered predictions -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 15, rng.integers(2, 6)).tolist() for _ in range(60)]
    return corpus_of(tokenizer(tmp_path_factory.mktemp("vocab")), documents)


@pytest.mark.parametrize(
    "options",
    [{}, {"pack": False}, {"task": "pretraining"}, {"masking": Masking(strategy="span", rate=0.4)}],
    ids=str,
)
def test_gathered_predictions_are_those_of_the_rows(corpus, options):
    source = make(corpus, **options)
    gathered = Gathered(source)
    assert len(gathered) == len(source) and gathered.fingerprint == source.fingerprint
    for epoch in (0, 2):
        whole = epoch_of(source, epoch)
        gathered.max_length = source.max_length  # for epoch_of
        found = epoch_of(gathered, epoch)
        assert found["labels"].shape == found["logits_at"].shape == (len(source), gathered.width)
        labels = np.full_like(whole["labels"], IGNORE)
        row, place = np.nonzero(found["labels"] != IGNORE)
        labels[row, found["logits_at"][row, place]] = found["labels"][row, place]
        np.testing.assert_array_equal(labels, whole["labels"])
        assert len(row) == (whole["labels"] != IGNORE).sum()
        for name in whole.keys() - {"labels"}:
            np.testing.assert_array_equal(found[name], whole[name])
    assert projected_share(gathered) == gathered.width / source.max_length < 0.5
    assert projected_share(source) == 1


def test_rows_without_a_prediction_have_a_place_for_one(corpus):
    found = Gathered(make(corpus, masking=Masking(rate=0.0))).batch(np.arange(2), 64, 0)
    assert (found["labels"] == IGNORE).all() and found["logits_at"].shape == (2, 1)


# -- documents held out ---------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["masked_lm", "pretraining"])
def test_no_token_of_a_document_that_is_held_out_is_learned_from(corpus, task):
    parts = hold_out(corpus, 0.2)
    assert [len(part.begins) for part in parts] == [48, 12]
    tokens = []
    for part in parts:
        documents = zip(corpus.sentences[part.begins], corpus.sentences[part.ends], strict=True)
        mine = {5 + place for begin, end in documents for place in range(begin, end)}
        for epoch in range(3):
            batch = epoch_of(make(part, task=task, masking=Masking(rate=0.0)), epoch)
            seen = set(batch["input_ids"].ravel().tolist()) - set(range(5))
            assert seen <= mine
            assert task == "pretraining" or seen == mine
        tokens.append(mine)
    assert not tokens[0] & tokens[1] and len(tokens[0] | tokens[1]) == len(corpus.tokens)
    assert len({part.fingerprint for part in (corpus, *parts)}) == 3
    # From all over the corpus, and the same ones every time.
    assert parts[1].chosen.min() < 20 and parts[1].chosen.max() > 40
    np.testing.assert_array_equal(hold_out(corpus, 0.2)[1].chosen, parts[1].chosen)


def test_something_is_left_on_both_sides(corpus):
    assert len(hold_out(corpus, 0.001)[1].begins) == 1
    assert len(hold_out(corpus, 0.999)[0].begins) == 1
    with pytest.raises(DataError, match="the share to hold out is 1"):
        hold_out(corpus, 1)
    assert [len(part.begins) for part in hold_out(corpus, 0.001, least=2)] == [58, 2]
    with pytest.raises(DataError, match="too few to hold 1 of them"):
        hold_out(corpus_of(corpus.tokenizer, [[3, 4]]), 0.5)
