"""How many CPU cores there are for this process."""

from __future__ import annotations

import math
import os
from pathlib import Path

# Microseconds of processor time in each period of so many, or "max": cgroup v2, as a container sees its own.
_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Return how many cores this process may use, at least 1: fewer than the machine has where it is bound or limited."""
    return core_limit() or _bound_cores()


def core_limit() -> int | None:
    """Return the cores whose time a container may take by its CPU limit, rounded up; None where it may take all there are.

    Such a container sees all of its machine's cores, and with a thread for each it would stand still for most of every period.
    """
    try:
        time, period = map(int, _LIMIT.read_text("ascii").split())
    except (OSError, ValueError):  # there is no such file, or no limit
        return None
    cores = math.ceil(time / period)
    return cores if cores < _bound_cores() else None


def _bound_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
