"""Joining the other processes of a run, before anything else touches a device."""

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from jbert.training.config import ClusterConfig, RunError

logger = logging.getLogger("jbert")

ADDRESS = "JAX_COORDINATOR_ADDRESS"
# Seconds by which we are to be done with waiting before JAX is.
GRACE = 30


def join(cluster: ClusterConfig) -> None:
    """Connect to the other processes, if there are to be any; the first of all to call."""
    address = cluster.coordinator_address or os.environ.get(ADDRESS)
    if not (cluster.distributed or address) or jax.distributed.is_initialized():
        return
    host, port = _split(address) if address else ("", 0)
    if host and cluster.process_id:
        _wait_for(host, port, cluster.timeout)
    options: dict[str, Any] = {}
    if address:
        options["coordinator_address"] = address
    try:
        with _patience(cluster):
            jax.distributed.initialize(
                num_processes=cluster.num_processes,
                process_id=cluster.process_id,
                initialization_timeout=cluster.timeout + GRACE,
                heartbeat_timeout_seconds=cluster.heartbeat,
                **options,
            )
    except ValueError as error:
        raise RunError(
            f"the processes of the run are not known ({error}); expected a cluster that JAX "
            "recognises, or --cluster.coordinator_address HOST:PORT --cluster.num_processes N "
            "--cluster.process_id I in each of them"
        ) from error
    except RuntimeError as error:
        raise RunError(f"{_absent(cluster)} ({error})") from error
    if jax.process_index() != 0:
        # One voice is enough; errors are every process's own.
        logging.getLogger("jbert").setLevel(logging.WARNING)
    logger.info("%d processes, %d devices", jax.process_count(), jax.device_count())


@contextlib.contextmanager
def _patience(cluster: ClusterConfig) -> Iterator[None]:
    """End the process with a message where JAX, which waits in C++, would abort it with a stack."""

    def give_up() -> None:
        print(f"RunError: {_absent(cluster)}", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(cluster.timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _absent(cluster: ClusterConfig) -> str:
    count = cluster.num_processes or "expected"
    return (
        f"not all of the {count} processes have joined within {cluster.timeout} s; expected each "
        "to be started with the same address of process 0, and with a process_id of its own"
    )


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise RunError(
            f"cluster.coordinator_address is {address!r}; expected host:port, such as 10.0.0.2:8476"
        )
    return host.strip("[]"), int(port)


def _wait_for(host: str, port: int, timeout: int) -> None:
    """Until process 0 listens: JAX itself would abort the process, with a C++ stack trace."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise RunError(
                    f"process 0 does not answer at {host}:{port} after {timeout} s ({error}); "
                    "check that it is running, the address, and that no firewall is between"
                ) from error
            time.sleep(0.5)
