"""One writer for a directory at a time; a lock that ends with its process, however that ends."""

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path


class LockedError(OSError):
    """Another process, or another object of this one, writes the directory."""


class Lock:
    """Held from its making until `release`; says in the file who holds it.

    The file stays: to delete it would let in one who locks the deleted and one who locks the new.
    """

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(self._descriptor)
            os.close(self._descriptor)
            raise LockedError(
                f"{path.parent} is being written by {owner}; wait until it ends or stop it, "
                "or choose another directory"
            ) from None
        except OSError:
            # Network file systems may have no locks; all is as before, but for one writer only.
            pass
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }
        # On a full disk it is held all the same, without a name.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(owner).encode(), 0)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
