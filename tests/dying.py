"""Saves models until it is killed: at a moment that the test chooses, or at a step of the swap.

Reads lines of JSON, {"directory", "first", "after": seconds} or {"directory", "first", "step": n},
forks a process for each, and answers with the number of the last model that was saved entirely.
The processes are forks of one that has imported everything and started nothing.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import disk
import jax
import orbax.checkpoint  # noqa: F401

import jbert
from jbert import atomic

jax.config.update("jax_platforms", "cpu")


def model(seed: int) -> jbert.Bert:
    # Large enough that writing it takes a while.
    return disk.bert("bert", seed=seed, vocab_size=20000, hidden_size=64)


class Dying:
    """The os module, with an end before or after the n-th renaming."""

    def __init__(self, step: int):
        self.step = step

    def __getattr__(self, name: str):
        return getattr(os, name)

    def rename(self, *paths):
        self._count()
        os.rename(*paths)
        self._count()

    def _count(self) -> None:
        if self.step == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.step -= 1


def save_for_ever(job: dict, told: int) -> None:
    seed = job["first"]
    models = {seed + i: model(seed + i) for i in range(2 if "step" in job else 5)}
    os.write(told, b".")  # begun
    for seed, bert in models.items():
        if "step" in job and seed > job["first"]:
            atomic.os = Dying(job["step"])
        jbert.save(bert, Path(job["directory"]))
        os.write(told, b".")
    while True:
        time.sleep(1)


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        heard, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(heard)
            save_for_ever(job, told)
        os.close(told)
        os.read(heard, 1)
        if "after" in job:
            time.sleep(job["after"])
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        saved = 0
        while part := os.read(heard, 100):
            saved += len(part)
        os.close(heard)
        print(json.dumps(job["first"] + saved - 1), flush=True)


if __name__ == "__main__":
    main()
