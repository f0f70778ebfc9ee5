"""Memory that one step frees, kept for the next one."""

import ctypes
import os
import sys

import jax

# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """For a process that is to train, before it computes anything; False where it has no effect.

    A step on a CPU takes its temporary memory in one piece. glibc maps such a piece anew each time
    and the kernel clears its pages one by one. What is freed on the heap stays instead; of the
    threads only the one that runs the program has a heap without limits, so that is where steps are
    run, instead of in one of JAX's own.
    """
    if not sys.platform.startswith("linux") or any(n.startswith("MALLOC_") for n in os.environ):
        return False  # of those who set glibc's own variables we know less than they do
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, -1))
