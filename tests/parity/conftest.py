"""Keeps a run that did not ask for parity from importing torch, which it may not have.

Nothing here skips: with `-m parity` and no torch, collecting these tests is an error.
"""

import jax
import pytest


def pytest_ignore_collect(collection_path, config):
    if collection_path.name.startswith("test_") and "parity" not in config.getoption("markexpr"):
        return True
    return None


@pytest.fixture(scope="session", autouse=True)
def quick_compiles():
    """Each of hundreds of models runs once: compiling decides how long that takes."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
