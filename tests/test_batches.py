"""Which rows make up which batch, and the thread that reads ahead."""

import threading
import time

import numpy as np
import pytest

from jbert.data.batches import WINDOW, EvaluationOrder, TrainingOrder, prefetch
from jbert.data.table import DataError

THREAD = "jbert-prefetch"


class Numbers:
    """A source whose rows are their own numbers, of any lengths from 1 to 32."""

    fingerprint = "numbers"

    def __init__(self, count):
        self.lengths = np.random.default_rng(count).integers(1, 33, count).astype(np.int32)

    def __len__(self):
        return len(self.lengths)

    def length(self, rows):
        return int(self.lengths[rows].max())

    def batch(self, rows, length, epoch):
        return {
            "input_ids": np.tile(rows[:, None], (1, length)),
            "epoch": np.full(len(rows), epoch),
        }


def order(count=53, size=8, seed=0, grouped=True):
    return TrainingOrder(Numbers(count), size, seed, grouped)


def epoch_rows(order, epoch):
    """All rows that an epoch shows, in its order."""
    count = order.batches_per_epoch()
    return np.concatenate([order.batch(epoch * count + i).examples() for i in range(count)])


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(("count", "size"), [(53, 8), (48, 8), (1, 1), (1, 8), (5, 8), (1000, 2)])
def test_an_epoch_shows_every_row_once(count, size, grouped):
    made = order(count, size, grouped=grouped)
    assert made.batches_per_epoch() == -(-count // size)
    for epoch in range(3):
        assert sorted(epoch_rows(made, epoch)) == list(range(count))


@pytest.mark.parametrize("grouped", [True, False])
def test_the_order_follows_from_the_seed_and_the_epoch(grouped):
    one, same, other = (
        order(grouped=grouped),
        order(grouped=grouped),
        order(seed=1, grouped=grouped),
    )
    for epoch in range(2):
        np.testing.assert_array_equal(epoch_rows(one, epoch), epoch_rows(same, epoch))
        assert (epoch_rows(one, epoch) != epoch_rows(other, epoch)).any()
    assert (epoch_rows(one, 0) != epoch_rows(one, 1)).any()
    assert (epoch_rows(one, 0) != np.arange(53)).any()


@pytest.mark.parametrize("grouped", [True, False])
def test_any_batch_can_be_made_again_from_its_number(grouped):
    sequence = [order(grouped=grouped).batch(number) for number in range(21)]
    for start in (0, 1, 6, 7, 8, 20):
        rest = order(grouped=grouped)
        for number in range(start, 21):
            again, first = rest.batch(number), sequence[number]
            np.testing.assert_array_equal(again.rows, first.rows)
            assert (again.count, again.length, again.epoch) == (
                first.count, first.length, first.epoch
            )  # fmt: skip
    backwards = order(grouped=grouped)
    for number in reversed(range(21)):
        np.testing.assert_array_equal(backwards.batch(number).rows, sequence[number].rows)


def test_the_uneven_batch_is_filled_with_rows_that_weigh_nothing():
    made = order(53, 8, grouped=False)
    last = made.batch(6)
    assert (last.size, last.count) == (8, 5)
    read = last.read(made.source, np.arange(8))
    np.testing.assert_array_equal(read["weights"], [1, 1, 1, 1, 1, 0, 0, 0])
    assert read["weights"].dtype == np.float32
    np.testing.assert_array_equal(read["input_ids"][:, 0], last.rows)
    assert set(last.rows[5:]) <= set(last.examples())
    assert read["input_ids"].shape[1] == made.source.lengths[last.examples()].max()
    assert all(made.batch(number).count == 8 for number in range(6))


def test_a_batch_is_read_in_parts():
    made = order(53, 8)
    short = next(n for n in range(7) if made.batch(n).count < 8)
    batch = made.batch(7 + short)
    whole = batch.read(made.source, np.arange(8))
    for parts in (2, 4):
        read = [batch.read(made.source, places) for places in np.split(np.arange(8), parts)]
        for name, values in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in read]), values)
    assert set(whole["epoch"]) == {1}


def test_batches_of_like_length_hold_less_padding_in_a_random_order():
    def padded(made):
        found = [made.batch(number) for number in range(made.batches_per_epoch())]
        return sum(batch.length * batch.count for batch in found), [b.length for b in found]

    (grouped, lengths), (mixed, _) = padded(order(1000, 8)), padded(order(1000, 8, grouped=False))
    real = Numbers(1000).lengths.sum()
    assert grouped < 1.05 * real < 1.5 * real < mixed
    assert lengths != sorted(lengths) and lengths != sorted(lengths, reverse=True)


def test_rows_are_sorted_within_a_window_alone():
    # Were all rows sorted at once, the rows of a batch would be the same in every epoch.
    made, count = order(2 * 2 * WINDOW, 2), 2 * WINDOW
    epochs = [{tuple(sorted(made.batch(e * count + i).rows)) for i in range(count)} for e in (0, 1)]
    assert len(epochs[0] & epochs[1]) < count / 10


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no example to train on"):
        order(0)


def test_a_position_fits_the_data_it_was_made_with():
    position = order().position(17)
    order().check_position(position)
    for changed, told in (
        (order(54), "rows is 54, was 53"),
        (order(size=4), "batch_size is 4, was 8"),
        (order(seed=3), "seed is 3, was 0"),
        (order(grouped=False), "group_by_length is False, was True"),
    ):
        with pytest.raises(DataError, match=told):
            changed.check_position(position)
    renamed = order()
    renamed.source.fingerprint = "others"
    with pytest.raises(DataError, match="fingerprint is 'others', was 'numbers'"):
        renamed.check_position(position)


@pytest.mark.parametrize(("count", "size"), [(53, 8), (1, 8), (16, 8)])
def test_an_evaluation_sees_every_row_once_the_longest_first(count, size):
    made = EvaluationOrder(Numbers(count), size)
    found = list(made)
    assert len(found) == len(made) == -(-count // size)
    assert {batch.size for batch in found} == {size}
    assert sorted(np.concatenate([batch.examples() for batch in found])) == list(range(count))
    lengths = [batch.length for batch in found]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == Numbers(count).lengths.max()
    again = [batch.rows.tolist() for batch in made]
    assert again == [batch.rows.tolist() for batch in found]


# -- reading ahead ----------------------------------------------------------------------------


def reading():
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


@pytest.mark.parametrize("depth", [1, 2, 50])
def test_items_come_in_order_and_the_thread_ends(depth):
    assert list(prefetch(range(20), lambda x: x * x, depth)) == [x * x for x in range(20)]
    assert not reading()
    assert list(prefetch([], lambda x: x, depth)) == []


def test_a_few_items_are_made_ahead_and_no_more():
    made = []
    items = prefetch(range(100), made.append, 2)
    next(items)
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    # One was taken, two wait, and one more is held by the thread.
    assert made == [0, 1, 2, 3]
    items.close()
    assert not reading()


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_an_error_is_raised_when_its_turn_comes(kind):
    def make(x):
        if x == 3:
            raise kind("row 3")
        return x

    items = prefetch(range(10), make)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(kind, match="row 3"):
        next(items)
    assert not reading()


def test_an_error_of_the_items_themselves_is_raised():
    def items():
        yield 1
        raise ValueError("no more")

    made = prefetch(items(), lambda x: x)
    assert next(made) == 1
    with pytest.raises(ValueError, match="no more"):
        next(made)


def test_closing_early_ends_the_thread_that_waits_for_room():
    made = []
    items = prefetch(range(1000), made.append, 1)
    next(items)
    assert len(reading()) == 1
    items.close()
    assert not reading()
    assert len(made) < 5


def test_closing_before_the_first_item_makes_nothing():
    made = []
    prefetch(range(10), made.append).close()
    assert made == [] and not reading()
