"""Where a call's time goes on a CPU: XLA's own profile of jbert's side of a workload.

    python -m benchmarks.profile CELL [--match TEXT] [--calls 8] [--tiny]

Matrix products are told apart from everything else, by what they are for. Operations that run side
by side take the cores from each other, and each is counted for as long as it took: the shares are
of their sum.
"""

import argparse
import collections
import dataclasses
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.cells import CELLS
from benchmarks.sides.with_jbert import JbertSide
from benchmarks.workloads import Workload
from jbert.plan.hlo import part_of, scopes_of

_MODULE = re.compile(r"^HloModule ([\w.\-<>]+)")
_PRODUCT = re.compile(r"dot_general|->[a-z]+$|/transpose$")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cell", choices=CELLS)
    parser.add_argument("--match", default="")
    parser.add_argument("--calls", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="models of two layers, for a try")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        # Before JAX starts, which reads it once.
        dump = f"--xla_dump_to={directory} --xla_dump_hlo_as_text"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {dump}"
        if jax.default_backend() != "cpu":
            parser.error("products are known by their names on a CPU alone: JAX_PLATFORMS=cpu")
        for work in CELLS[arguments.cell].make(False):
            if arguments.match in work.name:
                work = dataclasses.replace(work, tiny=arguments.tiny)
                tell(work, profile(work, arguments.calls, Path(directory)), arguments.calls)


def profile(work: Workload, calls: int, dumped: Path) -> dict[tuple[str, bool], float]:
    """Seconds by what they are for, and whether in a product."""
    call = JbertSide().build(work)
    for number in range(3):
        call.wait(call.start(number))
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for number in range(calls):
                call.wait(call.start(number))
        (trace,) = Path(directory).rglob("*.xplane.pb")
        events = list(operations(jax.profiler.ProfileData.from_file(str(trace))))
    scopes = read_scopes(dumped)
    rest = "other" if work.kind in ("encode", "ragged") else "optimizer"
    found: dict[tuple[str, bool], float] = collections.defaultdict(float)
    for module, name, seconds in events:
        scope = scopes.get((module, name), "")
        part = part_of(scope)
        found[rest if part == "other" else part, is_product(name, scope)] += seconds
    return found


def operations(data: Any) -> Iterator[tuple[str, str, float]]:
    """The program and the name of each operation that ran, and its seconds."""
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                facts = dict(event.stats)
                if "hlo_op" in facts:
                    yield facts["hlo_module"], facts["hlo_op"], event.duration_ns / 1e9


def read_scopes(dumped: Path) -> dict[tuple[str, str], str]:
    """What each operation of each program was traced in."""
    found = {}
    for path in dumped.glob("*after_optimizations.txt"):
        text = path.read_text(encoding="utf-8")
        if named := _MODULE.match(text):
            found |= {(named[1], name): scope for name, scope in scopes_of(text).items()}
    return found


def is_product(name: str, scope: str) -> bool:
    return name.startswith("dot") or ("ynn" in name and _PRODUCT.search(scope) is not None)


def tell(work: Workload, found: dict[tuple[str, bool], float], calls: int) -> None:
    whole = sum(found.values())
    print(f"\n{work.name}: {whole / calls * 1000:.0f} ms of operations a call")
    print("| | products | everything else |\n|---|---|---|")
    parts = sorted({part for part, _ in found}, key=lambda p: -found[p, True] - found[p, False])
    for part in parts:
        cells = (f"{found[part, product] / whole:.1%}" for product in (True, False))
        print(f"| {part} | {' | '.join(cells)} |")
    products = sum(seconds for (_, product), seconds in found.items() if product)
    print(f"| all | {products / whole:.1%} | {1 - products / whole:.1%} |")


if __name__ == "__main__":
    main()
