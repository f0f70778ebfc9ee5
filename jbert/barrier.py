"""Where threads of several `jax.distributed` processes wait for each other, but not for ever."""

import itertools
import time
from collections.abc import Mapping
from typing import Any

import jax

# Seconds between two looks at what the others have said.
SOONEST, LATEST = 0.01, 1.0
# Every process makes its barriers in the same order.
_NUMBERS = itertools.count()


class Barrier:
    """For one piece of work, in which every process meets the others at the same keys.

    Whoever fails says so, instead of never coming; that is an OSError for those who wait.
    client: jax' client of the coordination service. Collectives must not be in threads.
    """

    def __init__(self, client: Any):
        number = next(_NUMBERS)
        self._client, self._place = client, f"jbert/barrier/{number}/"
        if jax.process_index() == 0 and number > 1:
            # All have met in the one before, so nobody looks at the one before that.
            client.key_value_delete(f"jbert/barrier/{number - 2}/")

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Return when every process is here."""
        end, pause = time.monotonic() + timeout_ms / 1000, SOONEST
        self._say(f"reached/{key.replace('/', '-')}", "")
        while True:
            said = dict(self._client.key_value_dir_get(self._place))
            self._raise_failures(said)
            here = [name for name in said if f"/reached/{key.replace('/', '-')}/" in name]
            if len(here) == jax.process_count():
                return
            if time.monotonic() > end:
                raise TimeoutError(f"{len(here)} of {jax.process_count()} processes came to {key}")
            time.sleep(pause)
            pause = min(2 * pause, LATEST)

    def fail(self, error: BaseException) -> None:
        """Tell the others that this process will not come."""
        self._say("failed", str(error))

    def _say(self, what: str, text: str) -> None:
        name = f"{self._place}{what}/{jax.process_index()}"
        self._client.key_value_set(name, text, allow_overwrite=True)

    def _raise_failures(self, said: Mapping[str, str]) -> None:
        for name, text in said.items():
            if name.startswith(f"{self._place}failed/"):
                raise OSError(f"process {name.rpartition('/')[2]}: {text}")
