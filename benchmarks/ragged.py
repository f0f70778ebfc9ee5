"""Ragged text in, labels out: jbert's pipeline, transformers' pipeline and a fixed-length jit.

    python benchmarks/ragged.py                         # a small model, minutes on two cores
    python benchmarks/ragged.py --model bert-base-uncased --dtype bfloat16

Every contestant classifies the same texts, of lengths as in SST-2 and in SQuAD, with a model of the
same size and random weights; they take turns, and a figure is the median over the rounds. Without
torch and transformers (the extra `parity`) only the JAX ones run. transformers pads to the longest
text of a batch, at the batch size that was its fastest, and once more to the fixed length.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import jbert
from jbert.models import presets

CORPUS = Path(__file__).parents[1] / "tests" / "tokenizer" / "corpus.txt"
# Name: texts, mean and longest length in tokens, special ones included.
LENGTHS = {"sst2": (1024, 25, 128), "squad": (256, 170, 384)}
TORCH_BATCHES = (1, 8, 32)
FIXED_BATCH = 32


def texts_of(tokenizer: jbert.Tokenizer, kind: str, count: int) -> list[str]:
    """Texts whose lengths in tokens spread as those of a data set."""
    _, mean, longest = LENGTHS[kind]
    rng = np.random.default_rng(0)
    words = [w for w in tokenizer.get_vocab() if w.isascii() and w.isalpha() and len(w) > 1]
    lengths = rng.gamma(4.0, (mean - 2) / 4.0, count).round().clip(1, longest - 2).astype(int)
    return [" ".join(rng.choice(words, length)) for length in lengths]


def fixed_length(bert: jbert.Bert, length: int) -> Callable[[list[str]], list[dict]]:
    """What one writes first: everything padded to one length, one compiled batch size."""
    step = jax.jit(lambda params, inputs: bert.module.apply({"params": params}, **inputs).logits)

    def run(texts: list[str]) -> list[dict]:
        tokens = bert.tokenizer(texts, max_length=length, padding="max_length")
        rows = -len(texts) % FIXED_BATCH
        tokens = {name: np.pad(value, ((0, rows), (0, 0))) for name, value in tokens.items()}
        batches = [
            step(bert.params, {n: v[at : at + FIXED_BATCH] for n, v in tokens.items()})
            for at in range(0, len(texts), FIXED_BATCH)
        ]
        logits = np.concatenate([np.asarray(x, np.float32) for x in batches])[: len(texts)]
        shares = np.asarray(jax.nn.softmax(logits))
        return [{"label": int(s.argmax()), "score": float(s.max())} for s in shares]

    return run


def torch_pipelines(bert: jbert.Bert, length: int, sample: list[str], dtype: str) -> dict:
    """transformers' pipeline with the same weights, padded to the longest and to `length`."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as directory:
        jbert.export(bert, Path(directory) / "model", format="safetensors")
        pipe = transformers.pipeline(
            "text-classification", model=f"{directory}/model", device=device,
            dtype=getattr(torch, dtype),
        )  # fmt: skip
    pipe.tokenizer.model_max_length = length

    def run(batch_size: int, **options):
        return lambda texts: pipe(texts, batch_size=batch_size, truncation=True, **options)

    times = {size: seconds(run(size), sample) for size in TORCH_BATCHES}
    best = min(times, key=times.__getitem__)
    return {
        f"torch, longest in batches of {best}": run(best),
        f"torch, padded to {length}": run(best, padding="max_length", max_length=length),
    }


def seconds(run: Callable, texts: list[str]) -> float:
    start = time.perf_counter()
    answers = run(texts)
    assert len(answers) == len(texts)
    return time.perf_counter() - start


def compare(bert: jbert.Bert, kind: str, count: int, rounds: int, dtype: str) -> dict:
    length = LENGTHS[kind][2]
    texts = texts_of(bert.tokenizer, kind, count)
    pipe = jbert.pipeline("text-classification", bert)
    contestants = {"jbert": pipe, f"jit, padded to {length}": fixed_length(bert, length)}
    try:
        contestants |= torch_pipelines(bert, length, texts[:64], dtype)
    except ImportError as error:
        print(f"without PyTorch: {error}")
    first = {name: seconds(run, texts) for name, run in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            times[name].append(seconds(run, texts))
    found = {"texts": count, "compiled": len(pipe.runner.compilations),
             "buckets": len(pipe.runner.buckets.shapes())}  # fmt: skip
    print(f"\n{kind}: {count} texts, {found['compiled']} programs of {found['buckets']} buckets")
    for name, taken in times.items():
        median = statistics.median(taken)
        ratio = statistics.median(
            other / own for other, own in zip(taken, times["jbert"], strict=True)
        )
        found[name] = {"seconds": taken, "first": first[name], "times_jbert": ratio}
        print(f"  {name:<34}{median:8.3f} s{count / median:10.1f} texts/s{ratio:7.2f} x jbert's "
              f"time{first[name]:8.2f} s first")  # fmt: skip
    return found


def retraces(bert: jbert.Bert, batches: int) -> dict:
    """Many ragged calls: how many programs were compiled, and how often the same one again."""
    pipe = jbert.pipeline("text-classification", bert)
    texts = texts_of(bert.tokenizer, "sst2", 512)
    rng = np.random.default_rng(0)
    for _ in range(batches):
        pipe([texts[i] for i in rng.integers(0, len(texts), rng.integers(1, 6))])
    counts = pipe.runner.compilations
    found = {"batches": batches, "compiled": len(counts), "again": sum(counts.values()) -
             len(counts), "buckets": len(pipe.runner.buckets.shapes())}  # fmt: skip
    print(f"\n{batches} ragged calls: {found['compiled']} programs of {found['buckets']} buckets, "
          f"{found['again']} compiled again")  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bert-mini", choices=sorted(presets()))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the texts, for a quick look")
    parser.add_argument(
        "--batches", type=int, default=1000, help="ragged calls to look for retraces"
    )
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    args = parser.parse_args()
    os.environ.setdefault("JBERT_NO_COMPILE_CACHE", "1")
    lines = CORPUS.read_text(encoding="utf-8").splitlines()
    tokenizer = jbert.Tokenizer.train(lines, vocab_size=2000, min_frequency=1)
    config = presets()[args.model].config
    bert = jbert.from_config(config, "sequence_classification", dtype=args.dtype,
                             tokenizer=tokenizer)  # fmt: skip
    print(f"{args.model}, {args.dtype}, jax {jax.__version__} on {jax.devices()[0].device_kind}")
    found = {"model": args.model, "dtype": args.dtype, "jax": jax.__version__,
             "device": jax.devices()[0].device_kind, "load": os.getloadavg()}  # fmt: skip
    for kind, (count, *_) in LENGTHS.items():
        count = max(8, int(count * args.share))
        found[kind] = compare(bert, kind, count, args.rounds, args.dtype)
    found["retraces"] = retraces(bert, args.batches)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
