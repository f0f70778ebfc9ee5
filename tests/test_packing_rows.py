"""Every sequence in one row, whole; rows as full as they go; and the arrays of a packed batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jbert.data.packing import build_rows, pack, pack_stream

CAPACITY = 32
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=120)
MOST = st.none() | st.integers(1, 4)
SEED = st.none() | st.integers(-(2**63), 2**63)


def filled(packing, lengths):
    """The tokens in each row."""
    lengths = np.asarray(lengths, np.int64)
    return [int(lengths[row].sum()) for row in np.split(packing.sequences, packing.starts[1:-1])]


def best_fit(lengths, capacity):
    """One sequence after the other, longest first, each where it leaves the least room."""
    room = []
    for length in sorted(lengths, reverse=True):
        enough = [left for left in room if left >= length]
        if enough:
            room.remove(min(enough))
        room.append(min(enough, default=capacity) - length)
    return sorted(capacity - left for left in room)


@settings(deadline=None)
@given(LENGTHS, MOST, SEED)
def test_every_sequence_once_in_rows_that_hold_it(lengths, most, seed):
    packing = pack(np.array(lengths, int), CAPACITY, max_sequences=most, seed=seed)
    assert sorted(packing.sequences.tolist()) == list(range(len(lengths)))
    if not lengths:
        assert len(packing) == 0
        return
    assert packing.starts[0] == 0 and packing.starts[-1] == len(lengths)
    counts = np.diff(packing.starts)
    assert counts.min() >= 1 and (most is None or counts.max() <= most)
    assert max(filled(packing, lengths)) <= CAPACITY
    for row in np.split(packing.sequences, packing.starts[1:-1]):
        assert (np.diff(row) > 0).all()


@settings(deadline=None)
@given(LENGTHS.filter(len), SEED)
def test_rows_are_those_of_best_fit(lengths, seed):
    packing = pack(np.array(lengths), CAPACITY, seed=seed)
    assert sorted(filled(packing, lengths)) == best_fit(lengths, CAPACITY)


def test_many_rows_are_those_of_best_fit():
    for seed in range(5):
        lengths = np.random.default_rng(seed).integers(1 + seed, CAPACITY + 1, 800)
        assert sorted(filled(pack(lengths, CAPACITY), lengths)) == best_fit(lengths, CAPACITY)


@settings(deadline=None)
@given(LENGTHS.filter(len), MOST, st.integers(0, 9))
def test_epochs_mix_sequences_but_not_lengths(lengths, most, epoch):
    lengths = np.array(lengths)

    def rows(epoch):
        packing = pack(lengths, CAPACITY, max_sequences=most, seed=3, epoch=epoch)
        return sorted(sorted(lengths[r]) for r in np.split(packing.sequences, packing.starts[1:-1]))

    assert rows(epoch) == rows(epoch + 1)


def test_seed_and_epoch_decide_the_order():
    lengths = np.random.default_rng(0).integers(1, CAPACITY, 500)
    found = {
        key: pack(lengths, CAPACITY, seed=key[0], epoch=key[1]).sequences.tolist()
        for key in ((0, 0), (0, 1), (1, 0))
    }
    assert len(set(map(tuple, found.values()))) == 3
    assert found[0, 0] == pack(lengths, CAPACITY, seed=0).sequences.tolist()
    # Rows come in random order, not those with the longest sequences first.
    for seed, mixed in ((0, True), (None, False)):
        packing = pack(lengths, CAPACITY, seed=seed)
        longest = np.maximum.reduceat(lengths[packing.sequences], packing.starts[:-1])
        half = len(packing) // 2
        assert (longest[:half].mean() - longest[half:].mean() < 2) == mixed


def test_known_rows():
    packing = pack(np.array([5, 9, 1, 10, 5, 4]), 10)
    assert [row.tolist() for row in np.split(packing.sequences, packing.starts[1:-1])] == [
        [3], [1, 2], [0, 4], [5]
    ]  # fmt: skip
    packing = pack(np.array([1, 1, 1, 1, 1, 5]), 10, max_sequences=3)
    assert [row.tolist() for row in np.split(packing.sequences, packing.starts[1:-1])] == [
        [0, 1, 5], [2, 3, 4]
    ]  # fmt: skip


def test_select_gives_the_sequences_of_rows_in_the_order_asked_for():
    packing = pack(np.array([5, 9, 1, 10, 5, 4]), 10)
    sequences, place = packing.select(np.array([2, 0, 1]))
    assert sequences.tolist() == [0, 4, 3, 1, 2]
    assert place.tolist() == [0, 0, 1, 2, 2]
    sequences, place = packing.select(np.array([], int))
    assert len(sequences) == len(place) == 0


def test_wikipedia_like_lengths_fill_the_rows():
    rng = np.random.default_rng(0)
    lengths = np.where(rng.random(30000) < 0.23, 512, rng.gamma(1.3, 140, 30000).clip(4, 512))
    lengths = lengths.astype(int)
    assert 0.4 < lengths.mean() / 512 < 0.55
    assert lengths.sum() / len(pack(lengths, 512, seed=0)) / 512 > 0.99
    rows = sum(len(packing) for packing in pack_stream([lengths], 512, window=4096))
    assert lengths.sum() / rows / 512 > 0.99


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, CAPACITY), max_size=30), max_size=6), st.integers(1, 40))
def test_stream_packs_windows_and_loses_nothing(parts, window):
    parts = [np.array(part, int) for part in parts]
    lengths = np.concatenate([np.zeros(0, int), *parts])
    packings = list(pack_stream(parts, CAPACITY, window=window, seed=5))
    assert len(packings) == -(-len(lengths) // window)
    for number, packing in enumerate(packings):
        here = range(number * window, min((number + 1) * window, len(lengths)))
        assert sorted(packing.sequences.tolist()) == list(here)
        assert max(filled(packing, lengths)) <= CAPACITY
    # How the stream was cut into arrays does not matter.
    again = pack_stream([lengths], CAPACITY, window=window, seed=5)
    for one, other in zip(packings, again, strict=True):
        np.testing.assert_array_equal(one.sequences, other.sequences)
        np.testing.assert_array_equal(one.starts, other.starts)


def test_windows_of_a_stream_are_shuffled_apart():
    first, second = pack_stream([np.full(60, CAPACITY // 2)], CAPACITY, window=30)
    assert (first.sequences + 30).tolist() != second.sequences.tolist()


@settings(deadline=None)
@given(LENGTHS.filter(len), SEED, st.integers(0, 5))
def test_rows_hold_what_the_sequences_held(lengths, seed, extra):
    lengths = np.array(lengths)
    rng = np.random.default_rng(0)
    ids = rng.integers(10, 99, (len(lengths), lengths.max() + extra)).astype(np.int32)
    arrays = {"input_ids": ids, "labels": ids + 100, "token_type_ids": (ids % 2).astype(np.int8)}
    packing = pack(lengths, CAPACITY, seed=seed)
    wanted = rng.permutation(len(packing))[: rng.integers(0, len(packing) + 1)]
    sequences, place = packing.select(wanted)
    shape = len(wanted), CAPACITY + extra
    chosen = {name: values[sequences] for name, values in arrays.items()}
    rows = build_rows(chosen, lengths[sequences], place, shape, {"input_ids": 7, "labels": -100})
    assert rows.keys() == {*arrays, "segment_ids", "position_ids"}
    assert all(values.shape == shape for values in rows.values())
    assert rows["token_type_ids"].dtype == np.int8
    for row, number in enumerate(wanted):
        at = 0
        members = packing.sequences[packing.starts[number] : packing.starts[number + 1]]
        for segment, sequence in enumerate(members, 1):
            here = (row, slice(at, at + lengths[sequence]))
            for name, values in arrays.items():
                expected = values[sequence, : lengths[sequence]]
                np.testing.assert_array_equal(rows[name][here], expected)
            assert (rows["segment_ids"][here] == segment).all()
            assert rows["position_ids"][here].tolist() == list(range(lengths[sequence]))
            at += lengths[sequence]
        fillers = {"input_ids": 7, "labels": -100, "segment_ids": 0, "position_ids": 0,
                   "token_type_ids": 0}  # fmt: skip
        for name, filler in fillers.items():
            assert (rows[name][row, at:] == filler).all()


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ([3, 11, 12], {}, r"sequence 1 has 11 tokens; expected 1 to 10.*\(2 such"),
        ([3, 0], {}, "sequence 1 has 0 tokens"),
        ([-1], {}, "sequence 0 has -1 tokens"),
        ([1.5], {}, "lengths is float64"),
        ([[1]], {}, "lengths is int64"),
        ([1], {"capacity": 0}, "capacity is 0"),
        ([1], {"max_sequences": 0}, "max_sequences is 0"),
    ],
)
def test_bad_lengths(lengths, options, message):
    with pytest.raises(ValueError, match=message):
        pack(np.array(lengths), **{"capacity": 10, **options})


def test_bad_rows_and_windows():
    ids = np.zeros((2, 4), np.int32)
    with pytest.raises(ValueError, match="must ascend"):
        build_rows({"input_ids": ids}, np.array([4, 4]), np.array([1, 0]), (2, 8))
    with pytest.raises(ValueError, match="fill 1 rows with up to 8 tokens.*1 rows of 7"):
        build_rows({"input_ids": ids}, np.array([4, 4]), np.array([0, 0]), (1, 7))
    with pytest.raises(ValueError, match="fill 3 rows"):
        build_rows({"input_ids": ids}, np.array([4, 4]), np.array([0, 2]), (2, 8))
    with pytest.raises(ValueError, match="window is 0"):
        next(pack_stream([np.ones(3, int)], 8, window=0))
