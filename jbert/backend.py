"""Which kind of device the computation being traced is for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_lowering_for: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "jbert_lowering_for", default=None
)


def current() -> str:
    """ "cpu", "gpu" or "tpu": the default backend, unless `lowering_for` says otherwise."""
    return _lowering_for.get() or jax.default_backend()


@contextlib.contextmanager
def lowering_for(platform: str) -> Iterator[None]:
    """Trace for a platform this process has no device of, as ahead-of-time compilation does."""
    token = _lowering_for.set(platform)
    try:
        yield
    finally:
        _lowering_for.reset(token)
