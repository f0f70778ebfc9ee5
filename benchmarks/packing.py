"""Speed and fill of packing, speed of masking, and of whole pretraining batches.

    python benchmarks/packing.py                 # a million sequences, seconds on one core
    python benchmarks/packing.py --out found.json

Lengths are made up in the shape that Krell et al. (2107.02027) published for Wikipedia cut into
sequences of at most 512 tokens, where half of the positions are padding: 23 % of the sequences are
full, the rest falls off towards long ones (a gamma distribution). Every figure is the best of the
rounds, on one core: what else runs on a machine can only make it worse.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jbert.data import draws
from jbert.data.corpus import Corpus
from jbert.data.masking import STRATEGIES, mask_tokens
from jbert.data.packing import pack, pack_stream
from jbert.data.pretraining import pretraining_source
from jbert.tokenizer import Tokenizer

CAPACITY = 512
VOCABULARY = Path(__file__).parents[1] / "tests" / "tokenizer" / "vocab-uncased.txt"


def wikipedia_like(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    short = rng.gamma(1.3, 140.0, count).clip(4, CAPACITY)
    return np.where(rng.random(count) < 0.23, CAPACITY, short).astype(np.int64)


def seconds(run: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def packing(lengths: np.ndarray, rounds: int) -> dict:
    ways: dict[str, Callable[[], int]] = {
        "in order": lambda: len(pack(lengths, CAPACITY)),
        "shuffled": lambda: len(pack(lengths, CAPACITY, seed=0)),
        "shuffled, at most 8 a row": lambda: len(pack(lengths, CAPACITY, seed=0, max_sequences=8)),
        "stream, windows of 65536": lambda: sum(
            map(len, pack_stream([lengths], CAPACITY, window=2**16))
        ),
    }
    print(f"\n{len(lengths):,} sequences, alone they fill {lengths.mean() / CAPACITY:.1%} of rows")
    found: dict = {"alone": lengths.mean() / CAPACITY}
    for name, run in ways.items():
        speed = len(lengths) / seconds(run, rounds)
        fill = lengths.sum() / CAPACITY / run()
        found[name] = {"sequences_per_second": speed, "fill": fill}
        print(f"  {name:<28}{speed / 1e6:8.2f} M sequences/s{fill:10.3%} filled")
    return found


def masking(rounds: int) -> dict:
    rng = np.random.default_rng(0)
    shape = 256, CAPACITY
    ids = rng.integers(1000, 30000, shape).astype(np.int32)
    special = np.zeros(shape, np.bool_)
    special[:, [0, -1]] = True
    starts, keys = rng.random(shape) < 0.8, draws.row_keys(np.arange(shape[0]), 0, 0)
    print(f"\nmasking {shape[0]} rows of {shape[1]}")
    found = {}
    for strategy in STRATEGIES:
        run = lambda strategy=strategy: mask_tokens(  # noqa: E731
            ids, special, keys, mask_id=103, vocab_size=30522, special_ids=range(5),
            strategy=strategy, word_starts=starts,
        )  # fmt: skip
        found[strategy] = ids.size / seconds(run, rounds)
        print(f"  {strategy:<28}{found[strategy] / 1e6:8.2f} M tokens/s")
    return found


def batches(lengths: np.ndarray, rounds: int) -> dict:
    """Whole batches of 64 rows, from a corpus whose documents have these lengths."""
    tokenizer = Tokenizer.from_vocab(VOCABULARY)
    rng = np.random.default_rng(0)
    sizes = np.minimum(lengths[:20000], CAPACITY - 2)
    # Each document is three sentences, for pairs to be made of.
    cuts = np.repeat(np.cumsum(sizes) - sizes, 3) + (sizes[:, None] * [0, 1, 2] // 3).ravel()
    corpus = Corpus(
        tokens=rng.integers(5, len(tokenizer), sizes.sum()).astype(np.uint16),
        sentences=np.append(cuts, sizes.sum()),
        documents=np.arange(0, 3 * len(sizes) + 1, 3),
        tokenizer=tokenizer,
        skipped=(),
        fingerprint="",
    )
    print("\nbatches of 64 rows")
    found = {}
    for name, task, pack_rows in (
        ("packed blocks", "masked_lm", True),
        ("blocks, one a row", "masked_lm", False),
        ("sentence pairs", "pretraining", False),
    ):
        source = pretraining_source(task, corpus, CAPACITY, pack=pack_rows)
        rows = np.random.default_rng(0).permutation(len(source))[: 64 * rounds].reshape(rounds, 64)
        real, times = [], []
        for chosen in rows:
            start = time.perf_counter()
            batch = source.batch(chosen, CAPACITY, 0)
            times.append(time.perf_counter() - start)
            mask = batch["segment_ids"] if pack_rows else batch["attention_mask"]
            real.append(np.count_nonzero(mask))
        speed, fill = sum(real) / sum(times), sum(real) / (rows.size * CAPACITY)
        found[name] = {"tokens_per_second": speed, "fill": fill}
        print(f"  {name:<28}{speed / 1e6:8.2f} M tokens/s{fill:10.1%} filled")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    lengths = wikipedia_like(args.sequences)
    found = {
        "numpy": np.__version__,
        "sequences": args.sequences,
        "packing": packing(lengths, args.rounds),
        "masking": masking(args.rounds),
        "batches": batches(lengths, args.rounds),
    }
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
