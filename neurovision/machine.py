"""What a machine has, and a worker's share of it."""

from __future__ import annotations

import os
import platform
import re
import tempfile
from pathlib import Path
from typing import Any


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name."""
    try:
        told = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        told = None
    return told[1] if told else platform.processor() or platform.machine()


def room_for_workers(megabytes: int) -> int:
    """One process a processor, but no more of that size than half of the free memory has room for."""
    try:
        told = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    except OSError:
        told = None
    room = int(told[1]) // 1024 // 2 // megabytes if told else 1
    return max(1, min(cores(), room))


def peak_mb() -> float:
    """Memory that this process has held at most, in MB; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


_claims: list[Any] = []  # open files whose locks end with the process


def claim_cores(count: int) -> None:
    """Keep this process, threads to come included, to ``count`` processors that no other worker here has.

    Workers that share all processors wait for each other. Without enough processors, or where the system cannot do
    this, nothing changes.
    """
    os.environ["OMP_NUM_THREADS"] = str(count)
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # several workers may share a GPU
    if not hasattr(os, "sched_setaffinity"):
        return
    import fcntl

    allowed = sorted(os.sched_getaffinity(0))
    for first in range(0, len(allowed) - count + 1, count):
        path = Path(tempfile.gettempdir()) / f"neurovision-{os.getuid()}-core-{allowed[first]}"
        stream = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(stream)
            continue
        _claims.append(stream)
        for thread in Path("/proc/self/task").iterdir() if Path("/proc/self/task").is_dir() else ():
            os.sched_setaffinity(int(thread.name), allowed[first : first + count])
        return
