"""One of two `jax.distributed` processes that write and read checkpoints together.

Arguments: the coordinator's address, the number of this process, and the directory, in which there
is step 1, written by one process, and a damaged step 2. Prints what it saw as a line of JSON.
"""

import json
import sys
import warnings

import jax
import numpy as np
from checkpoint_states import State, placed, state, target

from jbert.training import checkpoints as module
from jbert.training.checkpoints import Checkpoints


def on_all(step: int) -> State:
    return placed(state(step), jax.device_count())


def equal(actual: State, step: int) -> bool:
    expected = on_all(step)
    return all(
        np.array_equal(found.data, wanted.data)
        for name, leaf in actual.items()
        for found, wanted in zip(
            leaf.addressable_shards, expected[name].addressable_shards, strict=True
        )
    )


def error_of(call, *arguments) -> str:
    try:
        call(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    address, process, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, num_processes=2, process_id=process)
    seen, everywhere = {}, target(state(0), jax.device_count())
    with Checkpoints(directory) as checkpoints:
        seen["locked"] = error_of(Checkpoints, directory)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = checkpoints.latest()
        seen["warnings"] = len([w for w in caught if "2.damaged" in str(w.message)])
        seen["latest"] = found.step
        seen["restored"] = equal(checkpoints.restore(1, everywhere), 1)
        checkpoints.save(2, on_all(2), {"by": 2}, metric=1.0)
        checkpoints.save(3, on_all(3), {"by": 2}, metric=0.0)
        checkpoints.wait()
        seen["steps"] = checkpoints.steps()
        seen["again"] = equal(checkpoints.restore(3, everywhere), 3)

        describe = module.describe
        module.describe = lambda *arguments: open("/dev/full", "w").write("x" * 10000)
        checkpoints.save(4, on_all(4), {})
        seen["full"] = error_of(checkpoints.wait)
        module.describe = describe
        seen["order"] = error_of(checkpoints.save, 3, on_all(3), {})
        checkpoints.save(4, on_all(4), {"by": 2})
    print("\n" + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
