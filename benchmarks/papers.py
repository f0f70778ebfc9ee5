"""The papers' own comparison: each of jbert's models beside BERT-base, in turns on one machine.

    python -m benchmarks.papers [--rounds 5] [--dtype float32]

One text of 128 tokens, waited for, and full batches of them. The papers measured on other machines:
MobileBERT on a phone (62 against 342 ms), DistilBERT a whole test set on a CPU (410 against 668 s).
"""

import argparse
import math
import sys

import jax

from benchmarks import figures
from benchmarks.__main__ import device, machine
from benchmarks.contenders import command
from benchmarks.rounds import Plan, measure_each
from benchmarks.workloads import MODELS, Workload
from jbert.execution import Execution
from jbert.loaded import abstract_params, build_module
from jbert.models import config_from_dict

BASE = "bert-base"
COMPARED = (BASE, "distilbert", "mobilebert", "convbert")
PAPERS = {"mobilebert": (4.3, 5.5), "distilbert": (1.66, 1.6)}


def parameters(name: str) -> int:
    """Of the encoder, counted without making them."""
    kind, fields = MODELS[name]
    module = build_module(config_from_dict({"model_type": kind, **fields}), None, Execution())
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(module)))


def compare(batch: int, mode: str, dtype: str, plan: Plan) -> dict[str, figures.Ratio]:
    """How many times faster than BERT-base each of the others is."""
    works = {name: Workload(name, "encode", name, batch, 128, dtype, mode) for name in COMPARED}
    own = command("jbert", {"jbert": sys.executable}, None)
    found = measure_each(works, dict.fromkeys(works, own), plan, lambda line: None)
    if not all(turn["quiet"] for name in works for turn in found[name]["turns"]):
        print("the machine was not idle: no figure here is to be quoted", flush=True)
    calls = {name: [turn["calls"] for turn in found[name]["turns"]] for name in works}
    return {name: figures.ratio(calls[name], calls[BASE]) for name in works if name != BASE}


def told(ratio: figures.Ratio) -> str:
    return ratio.why or f"{ratio.median:.2f} ({ratio.lower:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=figures.ROUNDS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--patience", type=float, default=300.0)
    arguments = parser.parse_args()
    plan = Plan(arguments.rounds, patience=arguments.patience)
    one = compare(1, "latency", arguments.dtype, plan)
    many = compare(8, "throughput", arguments.dtype, plan)
    counts = {name: parameters(name) for name in COMPARED}
    print(f"{machine(*device(sys.executable))}, {arguments.dtype}")
    print("BERT-base's time over a model's: the median of the rounds, and their lower quartile\n")
    print("| model | parameters | BERT-base has | 1×128 | 8×128 | paper |")
    print("|---|---|---|---|---|---|")
    for name in one:
        fewer, faster = PAPERS.get(name, (None, None))
        paper = f"{fewer} × the parameters, {faster} × the time" if fewer else "–"
        print(f"| {name} | {counts[name]:,} | {counts[BASE] / counts[name]:.2f} × | "
              f"{told(one[name])} | {told(many[name])} | {paper} |")  # fmt: skip


if __name__ == "__main__":
    main()
