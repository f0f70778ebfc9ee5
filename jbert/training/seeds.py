"""One configuration with several seeds: the runs one after the other, their mean and spread."""

import dataclasses
import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jbert.atomic import replacing
from jbert.card import keep_readme
from jbert.metrics import greater_is_better
from jbert.processes import together
from jbert.training import replaced
from jbert.training.attempt import attempt
from jbert.training.directory import METRICS, MODEL, PREDICTIONS, RunDirectory, write_whole
from jbert.training.recipes import Figures
from jbert.training.report import write_report

SEEDS = "seeds.json"
Combine = Callable[[list[float]], float]


def run_seeds(
    config: Any, run: Callable[[Any], tuple[dict[str, Figures], str]]
) -> dict[str, Figures]:
    """`run` for each of `config.seeds`, each in a directory of its own; gives the mean figures.

    run: gives figures by split, and the name of the figure that decides which model is the best,
         on the first split. The directory itself then holds that one.
    """
    directory = RunDirectory(config)
    with directory.prepare(config), attempt(directory.path):
        return _run_seeds(config, run, directory.path)


def _run_seeds(config: Any, run: Any, directory: Path) -> dict[str, Figures]:
    each: dict[int, dict[str, Figures]] = {}
    metric = ""
    for seed in config.seeds:
        path = directory / f"seed-{seed}"
        each[seed], metric = run(
            dataclasses.replace(config, seed=seed, seeds=(), output_dir=str(path))
        )
        if jax.process_index() == 0:
            replaced.forget(directory)
    with together():
        if jax.process_index() == 0:
            _gather(directory, each, metric)
    return _over(each, statistics.fmean)


def _gather(directory: Path, each: dict[int, dict[str, Figures]], metric: str) -> None:
    spread = _over(each, lambda values: statistics.stdev(values) if len(values) > 1 else 0.0)
    found = {"mean": _over(each, statistics.fmean), "standard_deviation": spread, "seeds": each}
    write_whole(directory / SEEDS, json.dumps(found, indent=2) + "\n")
    first = next(iter(next(iter(each.values()))), None)
    sign = 1 if greater_is_better(metric) else -1
    # Without labels to judge by, one is as good as the other.
    best = max(each, key=lambda seed: sign * each[seed][first][metric] if first else 0)
    source = directory / f"seed-{best}"
    with replacing(directory / MODEL) as staging:
        shutil.copytree(source / MODEL, staging, dirs_exist_ok=True)
        keep_readme(directory / MODEL, staging)
    for name in (METRICS, PREDICTIONS):
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    shown = {
        str(seed): {f"{split} {name}": value for split, values in figures.items()
                    for name, value in values.items()}
        for seed, figures in each.items()
    }  # fmt: skip
    write_report(directory, {"seeds": shown, "summary": {"best seed": best}})


def _over(each: dict[int, dict[str, Figures]], combine: Combine) -> dict[str, Figures]:
    """One figure of all seeds, for each split and name."""
    first = next(iter(each.values()))
    return {
        split: {
            name: combine([figures[split][name] for figures in each.values()]) for name in names
        }
        for split, names in first.items()
    }
