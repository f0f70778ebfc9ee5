"""Which kind of device there is, and which the computation being traced is for."""

import contextlib
import contextvars
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

_lowering_for: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar(
    "jbert_lowering_for", default=None
)


def current() -> str:
    """ "cpu", "gpu" or "tpu": the default backend, unless `lowering_for` says otherwise."""
    instead = _lowering_for.get()
    return instead[0] if instead else jax.default_backend()


def kind() -> str:
    """What its devices call themselves, such as "TPU v3"; "" where nobody has said."""
    instead = _lowering_for.get()
    return instead[1] if instead else jax.devices()[0].device_kind


def as_multiplied(x: jax.Array) -> jax.Array:
    """x in the dtype that products of it are fastest in. They are summed in float32 either way, and
    no product of two numbers of bfloat16 is rounded by either."""
    if x.dtype != jnp.bfloat16 or current() != "cpu":
        return x
    # Before jax 0.8 XLA has no such product of a transposed kernel on a CPU, as tied words are.
    if jax.__version_info__ >= (0, 8) and _cpu_multiplies_bfloat16():
        return x
    return x.astype(jnp.float32)


@functools.cache
def _cpu_multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for that which XLA was measured to gain by."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(host_cpu().get("flags", "").split())


def host_cpu() -> dict[str, str]:
    """What Linux says of this machine's first processor; nothing elsewhere."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in told.split("\n\n")[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


@contextlib.contextmanager
def lowering_for(platform: str, kind: str = "") -> Iterator[None]:
    """Trace for a platform this process has no device of, as ahead-of-time compilation does."""
    token = _lowering_for.set((platform, kind))
    try:
        yield
    finally:
        _lowering_for.reset(token)


class DeviceError(OSError):
    """JAX has not the devices that it is to compute on."""


# What JAX calls its platforms, and the extra of jbert that brings each.
_EXTRAS = {"cuda": "gpu", "gpu": "gpu", "tpu": "tpu"}


def check_devices() -> None:
    """JAX starts on its devices. Where it cannot it says so many frames down, if it says why."""
    try:
        jax.default_backend()
    # Of a platform that nothing installed knows it only asserts that there is one.
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = " ".join(str(error).split()).rstrip(".") or f"nothing that knows {asked} is there"
        extra = _EXTRAS.get(asked.split(",")[0])
        raise DeviceError(
            f"JAX cannot start{f' with JAX_PLATFORMS={asked}' if asked else ''}: {reason}; to "
            "compute on the CPU run: export JAX_PLATFORMS=cpu"
            + (f", to use the {extra.upper()} run: pip install 'jbert[{extra}]'" if extra else "")
        ) from None
