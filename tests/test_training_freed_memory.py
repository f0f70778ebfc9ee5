"""Memory between steps: counted in page faults, of a process of its own."""

import os
import subprocess
import sys

import pytest

from jbert.training.freed_memory import keep_freed_memory

PROGRAM = """
import resource, statistics, sys
import jax, jax.numpy as jnp
from jbert.training.freed_memory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
step = jax.jit(lambda x: jnp.outer(x, x) @ x)
x = jnp.arange(4096.0)
given = []
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    given.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, statistics.median(given[20:]))
"""


def faults(way):
    """How many pages a step is given, and whether what one freed was to be kept."""
    # Compiled as users' programs are, and not as cheaply as other tests'.
    other = ("MALLOC_", "XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environ = {name: x for name, x in os.environ.items() if not name.startswith(other)}
    command = [sys.executable, "-c", PROGRAM, way]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=True, timeout=300
    )
    kept, count = done.stdout.split()
    return float(count), kept


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is meant")
def test_a_step_takes_over_the_memory_of_the_one_before():
    pages = 4096 * 4096 * 4 // 4096
    assert faults("leave")[0] >= pages
    count, kept = faults("keep")
    assert kept == "True"
    # Of the median step: now and then one finds the free memory in pieces, and gets another.
    assert count < pages / 100


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_"])
def test_what_the_user_told_glibc_stands(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    assert keep_freed_memory() is False
