"""jbert beside its peers, in the same run.

    python -m benchmarks all --peers --env torch=PYTHON --env flax=PYTHON --env keras=PYTHON
    python -m benchmarks B D --peers --environments peers.json
    python -m benchmarks B --before CHECKOUT           # this checkout against another one
    python -m benchmarks S1 S3                         # how cost grows: plots and checks
    python -m benchmarks table --into docs/speed_avx512.md  # what was measured, as Markdown

Every workload is written to --out as soon as it is there, and not measured again unless --again
is given: the same command goes on where it was stopped.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from benchmarks import contenders, results
from benchmarks.cells import CELLS
from benchmarks.rounds import Plan, measure
from benchmarks.scaling.run import SCALES, run_scale
from benchmarks.workloads import Workload
from jbert.backend import host_cpu

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    names = ["all", "table", *CELLS, *SCALES]
    parser.add_argument("what", nargs="+", choices=names, metavar="WHAT", help=", ".join(names))
    parser.add_argument("--peers", action="store_true", help="jbert's peers too")
    parser.add_argument("--only", nargs="+", choices=list(contenders.CONTENDERS), metavar="NAME",
                        help="contenders: " + ", ".join(contenders.CONTENDERS))  # fmt: skip
    parser.add_argument("--before", type=Path, help="another checkout of jbert, as a contender")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--environments", type=Path, help="a JSON file of the same")
    parser.add_argument("--match", default="", help="only workloads with this in their names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a turn takes, about")
    parser.add_argument("--patience", type=float, default=300.0,
                        help="seconds to wait for an idle machine, for each workload")  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="a new process for every turn; "
                        "always so on a TPU, which one process at a time can hold")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="models of two layers, for a try")
    parser.add_argument("--again", action="store_true", help="also what is measured already")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--into", type=Path, help="the document that `table` goes into")
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}; expected at least 1")
    for given in args.env:
        if "=" not in given:
            parser.error(f"--env {given}; expected NAME=PYTHON")
    return args


def device(python: str) -> tuple[str, str]:
    """The kind of JAX's device and its name, asked of another process: it must not be held here."""
    program = "import jax; print(jax.default_backend(), jax.devices()[0].device_kind, sep='\\n')"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python} has no jax that works: {done.stderr.strip()[-300:]}")
    kind, name = done.stdout.strip().splitlines()[-2:]
    return kind, name


def machine(kind: str, name: str) -> str:
    if kind != "cpu":
        return f"{name}, {os.cpu_count()} CPU cores"
    said = host_cpu()
    model = said.get("model name") or platform.processor() or platform.machine()
    flags = said.get("flags", "").split()
    # Two processors of one name differ most in these.
    has = ", ".join(name for name in INSTRUCTIONS if name in flags)
    return f"{model}, {os.cpu_count()} CPU cores" + (f" with {has}" if has else "")


def chosen_workloads(args: argparse.Namespace, kind: str) -> list[tuple[str, Workload]]:
    wanted = list(CELLS) if "all" in args.what else [cell for cell in CELLS if cell in args.what]
    found = []
    for cell in wanted:
        for work in CELLS[cell].make(kind != "cpu"):
            if args.match in work.name:
                found.append((cell, dataclasses.replace(work, tiny=args.tiny)))
    return found


def compare(args: argparse.Namespace) -> None:
    given = dict(one.split("=", 1) for one in args.env)
    found = contenders.environments(given, args.environments)
    asked = args.only or (list(contenders.CONTENDERS) if args.peers else ["jbert"])
    if args.before and not (args.before / "jbert" / "__init__.py").is_file():
        raise SystemExit(f"--before {args.before}: expected a checkout, with jbert/__init__.py")
    before = args.before and args.before.absolute()
    present, missing = contenders.taking_part(asked, found, before)
    for why in missing:
        print(f"left out: {why}")
    kind, name = device(found["jbert"])
    plan = Plan(args.rounds, args.seconds, args.patience, args.fresh or kind == "tpu")
    works = chosen_workloads(args, kind)
    commands = {one: contenders.command(one, found, before) for one in present}
    for number, (cell, work) in enumerate(works, 1):
        path = results.path_of(args.out, cell, work)
        print(f"{cell} {number}/{len(works)} {work.name}", flush=True)
        if not args.again and results.finished(path, work, present, args.rounds):
            print("  measured already")
            continue
        measured = measure(work, commands, plan, lambda line: print(line, flush=True))
        stored = {"workload": dataclasses.asdict(work), "machine": machine(kind, name),
                  "disturbed": measured.pop("disturbed"), "contenders": measured}  # fmt: skip
        results.write(path, stored)
        for line in results.summary(stored):
            print(f"  {line}", flush=True)


def main() -> int:
    args = parse()
    if args.into:
        results.around(args.into)  # before hours of measuring, not after them
    if "all" in args.what or set(args.what) & set(CELLS):
        compare(args)
    held = [run_scale(name, args.out, args.tiny) for name in SCALES
            if "all" in args.what or name in args.what]  # fmt: skip
    if "table" in args.what or args.into:
        text = results.table(args.out)
        if args.into:
            results.put_into(args.into, text)
        else:
            print(text)
    return 0 if all(held) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (contenders.EnvironmentsError, results.DocumentError, OSError,
            json.JSONDecodeError) as error:  # fmt: skip
        sys.exit(str(error))
