"""Random numbers as a function of seed, epoch, row and counter."""

import numpy as np
from scipy import stats

from jbert.data import draws

ROWS, COUNTERS = np.arange(300), np.arange(200)


def test_numbers_are_fixed_for_ever():
    # Another number here is another order of everyone's data: a resumed run would not continue.
    key = draws.row_keys(np.array([7]), 3, -1)
    assert key.tolist() == [0x52F7778B33FBA5D8]
    assert draws.bits(key, np.array([0, 5]), "choose").tolist() == [
        0x15D021D49915F564,
        0x3B81AF6F7F1A4303,
    ]


def test_uniform_in_rows_counters_and_purposes():
    keys = draws.row_keys(ROWS, 0, 0)
    numbers = draws.uniform(keys[:, None], COUNTERS, "a")
    assert numbers.shape == (300, 200) and 0 <= numbers.min() and numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-4
    others = [
        draws.uniform(keys[:, None], COUNTERS, "b"),
        draws.uniform(draws.row_keys(ROWS, 0, 1)[:, None], COUNTERS, "a"),
        draws.uniform(draws.row_keys(ROWS, 1, 0)[:, None], COUNTERS, "a"),
        draws.uniform(draws.row_keys(ROWS + 300, 0, 0)[:, None], COUNTERS, "a"),
        np.roll(numbers, 1, axis=0),
        np.roll(numbers, 1, axis=1),
    ]
    for other in others:
        # For independent numbers the correlation's deviation is 1 / sqrt(60000) = 0.004.
        assert abs(np.corrcoef(numbers.ravel(), other.ravel())[0, 1]) < 0.02


def test_below_is_every_integer_equally_often():
    keys = draws.row_keys(ROWS)
    found = draws.below(np.array([1, 7]), keys[:, None, None], COUNTERS[:, None], "a")
    assert (found[..., 0] == 0).all()
    assert stats.chisquare(np.bincount(found[..., 1].ravel(), minlength=7)).pvalue > 1e-4


def test_heads_of_any_number_of_tosses():
    keys = draws.row_keys(np.arange(4000))
    for tosses in (0, 1, 5, 63, 64, 65, 128, 200):
        found = draws.heads(np.full(4000, tosses), keys, "a")
        assert found.min() >= 0 and found.max() <= tosses
        deviation = np.sqrt(tosses / 4)
        assert abs(found.mean() - tosses / 2) <= 4 * deviation / np.sqrt(4000)
        if tosses:
            np.testing.assert_allclose(found.std(), deviation, rtol=0.06)
    mixed = draws.heads(np.array([0, 64, 3]), keys[:3], "a")
    alone = [draws.heads(np.array([n]), keys[i : i + 1], "a")[0] for i, n in enumerate((0, 64, 3))]
    assert mixed.tolist() == alone
