"""Which tokens are masked, what stands there instead, and that it depends on the row alone."""

import numpy as np
import pytest
from scipy import stats

from jbert.data import draws
from jbert.data.masking import STRATEGIES, mask_tokens, most_predictions

MASK, VOCAB, SPECIAL = 4, 1000, (0, 1, 2, 3, 4)
FIRST = len(SPECIAL)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def rows_of(count, length, seed=0):
    """Two texts and padding a row: ids, special, and where words of one to four tokens start."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(FIRST, VOCAB, (count, length)).astype(np.int32)
    ends = rng.integers(length // 2, length + 1, count)
    special = np.arange(length) >= ends[:, None] - 1
    special[:, 0] = True
    special[np.arange(count), rng.integers(1, ends - 1)] = True
    ids[special] = rng.integers(0, FIRST, special.sum())
    return ids, special, rng.random((count, length)) < 0.7


def mask(ids, special, starts=None, *, seed=0, epoch=0, strategy="token", **options):
    keys = draws.row_keys(np.arange(len(ids)), seed, epoch)
    options = {"mask_id": MASK, "vocab_size": VOCAB, "special_ids": SPECIAL, **options}
    starts = None if strategy == "token" else starts
    return mask_tokens(ids, special, keys, strategy=strategy, word_starts=starts, **options)


def words_of(special, starts):
    """The (begin, end) of every word of a row, one after the other: what the arrays must mean."""
    words = []
    for place in range(len(special)):
        if special[place]:
            continue
        if starts[place] or place == 0 or special[place - 1]:
            words.append([place, place + 1])
        else:
            words[-1][1] += 1
    return words


@every_strategy
def test_labels_are_the_originals_where_something_is_predicted(strategy):
    ids, special, starts = rows_of(200, 64)
    masked, labels = mask(ids, special, starts, strategy=strategy)
    chosen = labels != -100
    assert masked.dtype == labels.dtype == np.int32
    np.testing.assert_array_equal(labels[chosen], ids[chosen])
    np.testing.assert_array_equal(masked[~chosen], ids[~chosen])
    assert not chosen[special].any()
    assert chosen.any(1).all() and not (masked == ids).all(1).all()


@every_strategy
@pytest.mark.parametrize("rate", [0.15, 0.4, 1.0])
@pytest.mark.parametrize("length", [8, 80])
def test_count_is_the_rate_of_each_row_rounded(strategy, rate, length):
    ids, special, _ = rows_of(300, length)
    singles = np.ones_like(special)  # words of one token, so that every count can be met
    _, labels = mask(ids, special, singles, strategy=strategy, rate=rate)
    expected = [max(1, round(int(n) * rate)) for n in (~special).sum(1)]
    np.testing.assert_array_equal((labels != -100).sum(1), expected)
    np.testing.assert_array_equal(most_predictions((~special).sum(1), rate), expected)


@every_strategy
def test_cap_and_rows_without_text(strategy):
    ids, special, starts = rows_of(50, 80)
    special[7] = True
    _, labels = mask(ids, special, starts, strategy=strategy, rate=0.5, max_predictions=3)
    counts = (labels != -100).sum(1)
    assert counts[7] == 0 and counts.max() == 3 and np.delete(counts, 7).min() >= 1
    masked, labels = mask(ids, special, starts, strategy=strategy, rate=0.0)
    np.testing.assert_array_equal(masked, ids)
    assert (labels == -100).all()


def test_nothing_in_nothing():
    for shape in ((0, 8), (3, 0)):
        for strategy in STRATEGIES:
            special = np.zeros(shape, bool)
            masked, labels = mask(np.zeros(shape, np.int32), special, special, strategy=strategy)
            assert masked.shape == labels.shape == shape


@every_strategy
def test_a_row_alone_or_padded_longer_is_masked_alike(strategy):
    ids, special, starts = rows_of(40, 60)
    masked, labels = mask(ids, special, starts, strategy=strategy)
    padded = [np.pad(ids, ((0, 0), (0, 37))), np.pad(special, ((0, 0), (0, 37)),
              constant_values=True), np.pad(starts, ((0, 0), (0, 37)))]  # fmt: skip
    keys = draws.row_keys(np.arange(40), 0, 0)
    order = np.random.default_rng(1).permutation(40)[:23]
    found = mask_tokens(
        padded[0][order], padded[1][order], keys[order], mask_id=MASK, vocab_size=VOCAB,
        special_ids=SPECIAL, strategy=strategy, word_starts=padded[2][order],
    )  # fmt: skip
    np.testing.assert_array_equal(found[0][:, :60], masked[order])
    np.testing.assert_array_equal(found[1][:, :60], labels[order])


@every_strategy
def test_epochs_seeds_and_equal_rows_differ(strategy):
    ids, special, starts = rows_of(1, 300)
    ids, special, starts = (np.repeat(x, 30, axis=0) for x in (ids, special, starts))
    found = [mask(ids, special, starts, strategy=strategy, seed=s, epoch=e)[1]
             for s, e in ((0, 0), (0, 1), (1, 0), (0, 0))]  # fmt: skip
    np.testing.assert_array_equal(found[0], found[3])
    chosen = [labels != -100 for labels in found]
    for other in (chosen[1], chosen[2], np.roll(chosen[0], 1, axis=0)):
        shared = (chosen[0] & other).sum() / other.sum()
        assert shared < 0.25  # 0.15 by chance; the same rows would share all


def test_positions_are_equally_likely():
    length, count = 50, 8000
    ids = np.full((count, length), FIRST, np.int32)
    special = np.zeros(ids.shape, bool)
    _, labels = mask(ids, special, rate=0.2)
    found = (labels != -100).sum(0)
    expected = np.full(length, 0.2 * count)
    # Draws without replacement vary less than independent ones, by (1 - rate).
    statistic = ((found - expected) ** 2 / (expected * (1 - 0.2))).sum()
    assert stats.chi2.sf(statistic, length - 1) > 1e-4
    # Neighbours are masked together as often as chance has it: k(k-1)/(n(n-1)) of the pairs.
    together = ((labels[:, 1:] != -100) & (labels[:, :-1] != -100)).mean()
    assert together == pytest.approx(10 * 9 / (50 * 49), rel=0.05)


@pytest.mark.parametrize("strategy", ["token", "whole_word"])
@pytest.mark.parametrize("replace", [(0.8, 0.1), (0.85, 0.0), (0.0, 1.0), (1.0, 0.0), (0.5, 0.25)])
def test_shares_of_what_stands_there(strategy, replace):
    ids, special, starts = rows_of(2000, 64)
    masked, labels = mask(ids, special, starts, strategy=strategy, replace=replace)
    chosen = labels != -100
    became_mask = masked[chosen] == MASK
    kept = masked[chosen] == labels[chosen]
    found = np.array([became_mask.sum(), (~became_mask & ~kept).sum(), kept.sum()])
    # A random token is the token itself now and then.
    own = replace[1] / (VOCAB - FIRST)
    shares = np.array([replace[0], replace[1] - own, 1 - sum(replace) + own])
    likely = shares > 1e-9
    assert found[~likely].sum() == 0
    if likely.sum() > 1:
        shares = shares[likely] / shares[likely].sum()
        assert stats.chisquare(found[likely], shares * chosen.sum()).pvalue > 1e-4


def test_random_tokens_are_all_but_the_special_ones():
    ids = np.full((2000, 100), 500, np.int32)
    special = np.zeros(ids.shape, bool)
    banned = (0, 1, 5, 6, 7, 30, 499, 999)
    keys = draws.row_keys(np.arange(2000), 0)
    masked, _ = mask_tokens(ids, special, keys, mask_id=0, vocab_size=VOCAB, special_ids=banned,
                            rate=1.0, replace=(0.0, 1.0))  # fmt: skip
    found = np.bincount(masked.ravel(), minlength=VOCAB)
    assert len(found) == VOCAB and found[list(banned)].sum() == 0
    assert stats.chisquare(np.delete(found, banned)).pvalue > 1e-4
    masked, _ = mask_tokens(ids, special, keys, mask_id=0, vocab_size=VOCAB, rate=1.0,
                            replace=(0.0, 1.0))  # fmt: skip
    assert set(banned) < set(masked.ravel().tolist())


@pytest.mark.parametrize("strategy", ["whole_word", "span"])
@pytest.mark.parametrize("rate", [0.15, 0.6])
def test_words_are_never_split(strategy, rate):
    ids, special, starts = rows_of(200, 64)
    _, labels = mask(ids, special, starts, strategy=strategy, rate=rate)
    chosen = labels != -100
    assert (chosen.sum(1) <= most_predictions((~special).sum(1), rate)).all()
    lengths = set()
    for row in range(len(ids)):
        for begin, end in words_of(special[row], starts[row]):
            assert chosen[row, begin:end].all() or not chosen[row, begin:end].any()
            if chosen[row, begin]:
                lengths.add(end - begin)
    assert {1, 2, 3} <= lengths


def test_a_word_longer_than_the_count_stays():
    # One word fills the row: only at a rate of 1 does it fit into what is to be predicted.
    ids, special, starts = rows_of(20, 40)
    starts[:], special[:] = False, False
    for rate in (1.0, 0.5):
        _, labels = mask(ids, special, starts, strategy="whole_word", rate=rate)
        assert (labels != -100).all() == (labels != -100).any() == (rate == 1.0)


def test_spans_are_runs_of_words_of_geometric_length():
    count, length = 4000, 200
    ids = np.full((count, length), FIRST, np.int32)
    special = np.zeros(ids.shape, bool)
    lengths = []
    for longest, p in ((10, 0.2), (3, 0.5), (1, 0.2)):
        _, labels = mask(ids, special, strategy="span", rate=0.05, max_span=longest, span_p=p)
        chosen = labels != -100
        edges = np.diff(np.pad(chosen, ((0, 0), (1, 1))).astype(int), axis=1)
        runs = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
        lengths.append(runs)
        shares = p * (1 - p) ** np.arange(longest)
        mean = (shares / shares.sum() * np.arange(1, longest + 1)).sum()
        # The last span of a row is shortened to the count, others now and then touch.
        assert runs.mean() == pytest.approx(mean, rel=0.2), (longest, p)
    assert lengths[0].mean() > 1.5 * lengths[1].mean() > 1.5 * lengths[2].mean()


def test_a_span_is_replaced_as_one_and_stays_inside_its_text():
    ids, special, starts = rows_of(2000, 64)
    starts[:] = True
    masked, labels = mask(ids, special, starts, strategy="span", replace=(0.5, 0.0), rate=0.3)
    chosen, became = labels != -100, masked == MASK
    pair = chosen[:, 1:] & chosen[:, :-1]
    changes = (became[:, 1:] != became[:, :-1])[pair].mean()
    # By token it would be a half. What is left are spans that touch.
    assert 0 < changes < 0.25
    assert not chosen[special].any()


def test_tokens_of_a_whole_word_are_replaced_one_by_one():
    ids, special, starts = rows_of(2000, 64)
    options = {"strategy": "whole_word", "replace": (0.5, 0.0), "rate": 0.3}
    masked, labels = mask(ids, special, starts, **options)
    inside = (labels[:, 1:] != -100) & ~starts[:, 1:] & ~special[:, :-1]
    changes = ((masked[:, 1:] == MASK) != (masked[:, :-1] == MASK))[inside]
    assert stats.binomtest(int(changes.sum()), changes.size).pvalue > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.5}, "rate is 1.5"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"replace": (0.9, 0.2)}, "sum is at most 1"),
        ({"replace": (-0.1, 0.2)}, "replace is"),
        ({"strategy": "words"}, "strategy is 'words'; expected one of token, whole_word, span"),
        ({"strategy": "whole_word"}, "needs word_starts"),
        ({"strategy": "span", "word_starts": np.ones((2, 3), bool)}, r"expected bool\(2, 8\)"),
        ({"mask_id": VOCAB}, "outside the vocabulary of 1000"),
        ({"special_ids": (-1,)}, "outside the vocabulary"),
        ({"special_ids": range(VOCAB)}, "no random token"),
        ({"max_predictions": 0}, "max_predictions is 0"),
        ({"max_span": 0}, "max_span is 0"),
        ({"span_p": 0}, "span_p is 0"),
    ],
)
def test_bad_options(options, message):
    arrays = np.full((2, 8), FIRST, np.int32), np.zeros((2, 8), bool), draws.row_keys(np.arange(2))
    with pytest.raises(ValueError, match=message):
        mask_tokens(*arrays, **{"mask_id": MASK, "vocab_size": VOCAB, **options})


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, np.zeros(8, np.int32), "input_ids is int32"),
        (0, np.zeros((2, 8), np.float32), "input_ids is float32"),
        (1, np.zeros((2, 8), np.int32), "special is int32"),
        (1, np.zeros((2, 7), bool), "special is bool"),
        (2, np.arange(2), "row_keys is int64"),
        (2, np.zeros(3, np.uint64), "row_keys is uint64"),
    ],
)
def test_bad_arrays(index, value, message):
    arrays = [np.full((2, 8), FIRST, np.int32), np.zeros((2, 8), bool), np.zeros(2, np.uint64)]
    arrays[index] = value
    with pytest.raises(ValueError, match=message):
        mask_tokens(*arrays, mask_id=MASK, vocab_size=VOCAB)
