"""Random numbers that are a function of where they are used: (seed, epoch, row) and a counter.

A draw depends on nothing else: neither on the rows beside it, nor on the process that makes it, nor
on the draws before it. That is what makes a resumed epoch, another number of workers and another
batch size give the same data. The mixing function is SplitMix64's.
"""

import zlib

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def row_keys(rows: np.ndarray, *context: int) -> np.ndarray:
    """One key a row number in a context, such as (seed, epoch), with uint64 values."""
    keys = np.array(rows, np.int64, ndmin=1).astype(np.uint64)
    for word in context:
        keys = _mix(keys * GOLDEN + np.full(1, int(word) & (2**64 - 1), np.uint64))
    return _mix(keys + GOLDEN)


def bits(keys: np.ndarray, counters: np.ndarray, purpose: str) -> np.ndarray:
    """64 random bits for each key and counter, broadcast; draws for two purposes are unrelated."""
    stream = _mix(np.atleast_1d(keys) ^ np.uint64(zlib.crc32(purpose.encode())))
    return _mix(stream + (np.atleast_1d(counters).astype(np.uint64) + np.uint64(1)) * GOLDEN)


def uniform(keys: np.ndarray, counters: np.ndarray, purpose: str) -> np.ndarray:
    """Numbers in [0, 1)."""
    return (bits(keys, counters, purpose) >> np.uint64(11)) * 2.0**-53


def below(limits: np.ndarray, keys: np.ndarray, counters: np.ndarray, purpose: str) -> np.ndarray:
    """Integers from 0 to `limits` - 1; for limits below 2**40 the bias is less than 2**-24."""
    limits = np.asarray(limits).astype(np.uint64)
    return (bits(keys, counters, purpose) % limits).astype(np.int64)


def heads(tosses: np.ndarray, keys: np.ndarray, purpose: str) -> np.ndarray:
    """How many of so many tosses of a coin come up heads, for each key."""
    words = np.arange(-(-int(tosses.max(initial=0)) // 64))
    used = np.clip(tosses[:, None] - 64 * words, 0, 64).astype(np.uint64)
    mask = ~(~np.uint64(0) << used)  # numpy's shift by 64 leaves nothing, unlike C's
    return np.bitwise_count(bits(keys[:, None], words, purpose) & mask).sum(1, dtype=np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """Overwrites and returns its argument, which is always a new array here."""
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(x, np.uint64(27), out=shifted)
    x ^= shifted
    x *= np.uint64(0x94D049BB133111EB)
    np.right_shift(x, np.uint64(31), out=shifted)
    x ^= shifted
    return x
