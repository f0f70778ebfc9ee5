"""Whether anything else is using this machine, from the counters of /proc/stat."""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
# Other processes may use this share of the machine while it counts as idle, or as undisturbed.
IDLE, UNDISTURBED = 0.05, 0.10
# user, nice, system, irq, softirq, steal: all but idle and iowait; guests are part of user.
BUSY = (0, 1, 2, 5, 6, 7)


def busy_seconds() -> float | None:
    """CPU seconds spent since boot, by anybody; None where the system does not count them."""
    try:
        first = STAT.read_text().splitlines()[0].split()[1:]
    except OSError:
        return None
    return sum(int(first[place]) for place in BUSY) / os.sysconf("SC_CLK_TCK")


def share(before: float | None, after: float | None, own: float, wall: float) -> float:
    """What others used of the machine's cores in `wall` seconds; 0 where nobody counts."""
    if before is None or after is None:
        return 0.0
    return max(0.0, (after - before - own) / (wall * (os.cpu_count() or 1)))


def wait(patience: float, look: float = 0.4) -> tuple[float, bool]:
    """Waits until the machine is idle, `patience` seconds at most: seconds waited, and whether."""
    start = time.perf_counter()
    while True:
        before, began = busy_seconds(), time.perf_counter()
        if before is None:
            return 0.0, True
        time.sleep(look)
        now = time.perf_counter()
        if share(before, busy_seconds(), 0.0, now - began) <= IDLE:
            return began - start, True
        if now - start > patience:
            return now - start, False
