"""Saves checkpoints until it is killed, each time going on from the newest that is there.

Reads lines of JSON, {"directory", "after": seconds}, forks a process for each, and answers with the
last step that it knew to be committed. The processes are forks of one that has imported everything
and started nothing.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import orbax.checkpoint  # noqa: F401
from checkpoint_states import state

from jbert.training.checkpoints import Checkpoints

NUMBERS = 5_000_000  # 26 MB, so that writing them takes a while


def save_for_ever(directory: Path, told: int) -> None:
    with Checkpoints(directory) as checkpoints:
        found = checkpoints.latest()
        step = 0 if found is None else found.step
        while True:
            new = state(step + 1, NUMBERS)
            checkpoints.save(step + 1, new, {"position": step + 1}, metric=-step)
            # It is being written now, and the one before it is committed.
            os.write(told, f"{step}\n".encode())
            step += 1


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    for line in sys.stdin:
        job = json.loads(line)
        heard, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(heard)
            save_for_ever(Path(job["directory"]), told)
        os.close(told)
        text = os.read(heard, 20)
        time.sleep(job["after"])
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while part := os.read(heard, 1000):
            text += part
        os.close(heard)
        print(text.split()[-1].decode(), flush=True)


if __name__ == "__main__":
    main()
