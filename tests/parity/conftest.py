"""Keeps a run that did not ask for parity from importing torch, which it may not have.

Nothing here skips: with `-m parity` and no torch, collecting these tests is an error.
"""


def pytest_ignore_collect(collection_path, config):
    if collection_path.name.startswith("test_") and "parity" not in config.getoption("markexpr"):
        return True
    return None
