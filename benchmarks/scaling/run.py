"""Runs a scale test in a process of its own, and keeps its curves, checks and plot."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import idle
from benchmarks.contenders import ROOT

# Name: where it is, and what it is called there.
SCALES = {
    "S1": ("timed", "length"), "S2": ("timed", "batch"), "S3": ("timed", "depth"),
    "S4": ("counted", "programs"), "S5": ("counted", "vocabulary"), "S6": ("timed", "padding"),
    "S7": ("counted", "accumulation"), "S8": ("counted", "devices"), "S9": ("timed", "host"),
}  # fmt: skip
EIGHT = "--xla_force_host_platform_device_count=8"


def run_scale(name: str, out: Path, tiny: bool) -> bool:
    """Whether all that was judged holds. XLA's flags are read once a process: hence another."""
    flags = os.environ.get("XLA_FLAGS", "")
    environment = {**os.environ, "XLA_FLAGS": f"{flags} {EIGHT}" if name == "S8" else flags}
    command = [sys.executable, "-m", "benchmarks.scaling", name, "--out", str(out.absolute())]
    done = subprocess.run(command + ["--tiny"] * tiny, cwd=ROOT, env=environment)
    return done.returncode == 0


def make(name: str, tiny: bool) -> Any:
    import importlib

    from benchmarks.scaling.steps import sizes

    module, function = SCALES[name]
    return getattr(importlib.import_module(f"benchmarks.scaling.{module}"), function)(sizes(tiny))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(SCALES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    _, quiet = idle.wait(10.0)
    scale = make(args.name, args.tiny)
    _, still_quiet = idle.wait(0.0)
    judged = quiet and still_quiet
    place = args.out / "scaling"
    place.mkdir(parents=True, exist_ok=True)
    stem = place / (args.name + ("-tiny" if args.tiny else ""))
    plain = {**dataclasses.asdict(scale), "idle": judged}
    stem.with_suffix(".json").write_text(json.dumps(plain, indent=1, default=list) + "\n")
    print(scale.title)
    for check in scale.checks:
        verdict = "holds" if check.holds() else "FAILS"
        if check.timed and not judged:
            verdict = "not judged, the machine was busy"
        print(f"  {check}: {verdict}", flush=True)
    print(f"  {_plot(scale, stem.with_suffix('.png'))}")
    return int(any(not c.holds() for c in scale.checks if judged or not c.timed))


def _plot(scale: Any, path: Path) -> str:
    try:
        import matplotlib
    except ImportError:
        return "no plot: pip install 'jbert[bench]'"
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for curve in scale.curves:
        axes.plot(list(curve.x), list(curve.y), marker="o", markersize=3, label=curve.name)
    axes.set(title=scale.title, xlabel=scale.x, ylabel=scale.y, ylim=(0, None))
    if scale.logarithmic:
        axes.set_xscale("log", base=2)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    return str(path)
