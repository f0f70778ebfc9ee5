"""The TPU compiler, and the devices of a slice that this machine has not got."""

import importlib.util
import os
from typing import Any

from jbert.plan.chips import PlanError, Slice

# The library looks for a TPU's metadata and lets only one process in, neither of which concerns a
# compiler; and says so at length.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # any: it is asked for, and of no consequence here
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def compiler_version() -> str:
    """What compiles: "libtpu 0.0.42". Raises where it is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise PlanError(
            "a plan needs the TPU compiler, libtpu, which is not installed; it needs no TPU: "
            "pip install 'jbert[tpu-plan]' (Linux on x86-64)"
        )
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"libtpu {version('libtpu')}"
    except PackageNotFoundError:  # a nightly build goes under another name
        return f"libtpu {importlib.util.find_spec('libtpu')}"


def devices_of(wanted: Slice) -> list[Any]:
    """The slice's devices, for programs to be compiled for; nothing can run on them."""
    compiler_version()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if wanted.chip.megacore:
        options["chip_config_name"] = "megacore"
    if wanted.shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=wanted.name, **options
        ).devices
    except Exception as error:  # jaxlib's error, of a class that its versions name differently
        raise PlanError(f"this compiler does not know {wanted.name}: {error}") from error
    if len(found) != wanted.devices:
        raise PlanError(
            f"this compiler gives {wanted.name} {len(found)} devices; expected {wanted.devices}"
        )
    return list(found)
