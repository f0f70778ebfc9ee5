"""Eight CPU devices for every test, and the strictness that the library is written for."""

import atexit
import os
import shutil
import subprocess
import tempfile

import pytest

# What one process has compiled all others take from here: the workers of pytest-xdist, and what
# tests start. Each run compiles everything anew, unless it is given a directory to keep it in.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="jbert-compiled-")
    atexit.register(compiled.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Nearly every program here runs once or a few times: compiling it is what takes time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402 — it reads these variables once

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Marked tests take minutes, or need what the default environment has not; each runs when asked for
# by name. `bash .ci/run` asks for all of them but those that need a network.
OPT_IN = ("parity", "hub", "faults", "notebooks", "tpu_plan")

CHEAP = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def pytest_configure(config):
    """Half of a run would go to XLA's generator of fused loops; its plain one compiles in half the
    time, and sooner still if it does not cut up a program for threads: the workers keep all cores
    busy. What is asked for by name, parity with PyTorch before all, has the one that users have."""
    if not config.getoption("markexpr"):
        os.environ.setdefault("XLA_FLAGS", CHEAP)


def pytest_collection_modifyitems(config, items):
    asked = config.getoption("markexpr")
    left_out = [mark for mark in OPT_IN if mark not in asked]
    kept = [item for item in items if not any(item.get_closest_marker(m) for m in left_out)]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def little_room(tmp_path):
    """A file system of three megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)
