"""Reads every file of a directory under a memory limit; prints {file: [outcome, message, s]}.

    python read_limited.py DIRECTORY MEGABYTES

The limit is on address space above what the interpreter and its libraries take.
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from jbert.formats import open_weights

SECONDS = 30


def read_all(path: Path) -> str:
    with open_weights(path) as weights:
        for tensor in weights.values():
            array = tensor.read()
            assert array.shape == tensor.shape and array.dtype == tensor.dtype
            array.tobytes()
        return f"{len(weights)} tensors"


def stop(*_: object) -> None:
    raise TimeoutError(f"over {SECONDS} s")


def main() -> None:
    directory, megabytes = Path(sys.argv[1]), int(sys.argv[2])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * (1 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, stop)
    os.chdir(directory)
    outcomes = {}
    for path in sorted(directory.iterdir()):
        started = time.process_time()
        signal.alarm(SECONDS)
        try:
            outcome = ["read", read_all(path)]
        except BaseException as error:  # noqa: BLE001 - the kind of error is what is tested
            outcome = [type(error).__name__, str(error)[:2000]]
        signal.alarm(0)
        outcomes[path.name] = [*outcome, round(time.process_time() - started, 3)]
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
