"""One of two `jax.distributed` processes that load, save and export one model together.

Arguments: the coordinator's address, the number of this process, and a directory, in which there is
a model saved by one process, `one`, and another `published`. Prints what it saw as a line of JSON.
"""

import json
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import disk
import jax
import numpy as np

import jbert
from jbert import stored
from jbert.loaded import Bert
from jbert.trees import flatten


def error_of(call, *arguments, **options) -> str:
    try:
        call(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def model() -> Bert:
    return disk.bert("bert", "masked_lm", num_attention_heads=8, intermediate_size=64)


def equal(params, expected) -> bool:
    expected = flatten(expected)
    return all(
        np.array_equal(shard.data, np.asarray(expected[path])[shard.index])
        for path, leaf in flatten(params).items()
        for shard in leaf.addressable_shards
    )


# jbert.save is the function.
saving: Any = sys.modules["jbert.save"]


def main() -> None:
    address, process, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, num_processes=2, process_id=process)
    mesh, seen = jbert.make_mesh(fsdp=4), {}
    expected = model()
    both = {"mesh": mesh, "rules": "fsdp"}

    for name in ("one", "published"):
        loaded = jbert.load(directory / name, "masked_lm", **both)
        seen[name] = equal(loaded.params, expected.params)
    word = loaded.params["encoder"]["embeddings"]["word"]["embedding"]
    seen["spread"] = not word.is_fully_addressable and word.sharding.mesh.size == 4
    # Each for itself, one after the other: nobody waits for somebody who does not come.
    if process == 0:
        mine = jbert.load(directory / "one")
        seen["alone"] = equal(mine.params, expected.params)
    jbert.load(directory / "one", **both)
    if process == 1:
        mine = jbert.load(directory / "one")
        seen["alone"] = equal(mine.params, expected.params)

    jbert.save(loaded, directory / "two")
    again = jbert.load(directory / "two", **both)
    seen["again"] = equal(again.params, expected.params)
    scanned = jbert.load(directory / "two", scan_layers=True, **both)
    seen["scanned"] = equal(scanned.params, jbert.stack_layers(expected.params))
    jbert.save(scanned, directory / "scanned")
    jbert.export(scanned, directory / "exported")
    # The same on both, and whole on each.
    jbert.save(mine, directory / "mine")

    seen["foreign"] = error_of(jbert.save, loaded, directory / "foreign")
    seen["exists"] = error_of(jbert.export, loaded, directory / "foreign")
    describe = saving._describe
    saving._describe = lambda *arguments: open("/dev/full", "w").write("x" * 10000)
    seen["full"] = error_of(jbert.save, loaded, directory / "two")
    saving._describe = describe
    start = time.monotonic()
    if process == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    seen["shards"] = error_of(jbert.save, loaded, directory / "two")
    if process == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    seen["waited"] = time.monotonic() - start
    # Only one of them sees a damaged file.
    if process == 1:
        read = stored.read_info
        stored.read_info = lambda path: {**(read(path) or {}), "files": {"config.json": "0"}}
    seen["damaged"] = error_of(jbert.load, directory / "two", **both)
    print("\n" + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
