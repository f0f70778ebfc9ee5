"""The generator behind dropout."""

import logging

import jax

from jbert import backend

logger = logging.getLogger("jbert")

ANYWHERE = "threefry2x32"


def choose_prng(stored: str | None, devices: int) -> str:
    """The one that a checkpoint says, where it runs; otherwise the fastest that is right here.

    rbg is a TPU's own, philox the fastest on one CPU or GPU. On several of these only threefry
    compiles, and it draws the same masks on any number of devices.
    """
    if stored is not None and (stored == ANYWHERE or _runs(stored, devices)):
        return stored
    candidate = "rbg" if backend.current() == "tpu" else "philox4x32"
    chosen = candidate if stored is None and _runs(candidate, devices) else ANYWHERE
    if stored is not None:
        logger.warning(
            "the checkpoint drew dropout by %s, which does not run on these devices: from here on "
            "it is drawn by %s, and is not what it would have been", stored, chosen,
        )  # fmt: skip
    return chosen


def _runs(name: str, devices: int) -> bool:
    return _exists(name) and not (name == "philox4x32" and devices > 1)


def _exists(name: str) -> bool:
    try:
        jax.eval_shape(lambda: jax.random.key(0, impl=name))
    except ValueError:  # an older jax does not have it
        return False
    return True
