"""What a machine has, and a worker's share of it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from pathlib import Path

import psutil
from filelock import BaseFileLock, FileLock
from platformdirs import user_runtime_path


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def accelerator() -> str | None:
    """The name of the GPU that Keras' backend computes on; None where it computes on the processor."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        found = jax.devices()[0]
        return None if found.platform == "cpu" else str(found.device_kind)
    if keras.backend.backend() == "torch":
        import torch

        return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(devices[0]).get("device_name", "GPU")) if devices else None


def room_for_workers(megabytes: int) -> int:
    """One process a processor, but no more of that size than half of the free memory has room for."""
    return max(1, min(cores(), psutil.virtual_memory().available // 1024**2 // 2 // megabytes))


def peak_mb() -> float:
    """Memory that this process has held at most, in MB; what it holds now where the system does not say."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1024**2
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024


def tree_mb(root: int) -> float:
    """Resident memory of a process and its descendants in MB; pages that they share count more than once."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (psutil.Process(root), *psutil.Process(root).children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                total += process.memory_info().rss
    return total / 1024**2


_claims: list[BaseFileLock] = []  # held until the process ends


def claim_cores(count: int) -> None:
    """Keep this process, threads to come included, to ``count`` processors that no other worker here has.

    Workers that share all processors wait for each other. Without enough processors, or where the system cannot do
    this, nothing changes.
    """
    os.environ["OMP_NUM_THREADS"] = str(count)
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # several workers may share a GPU
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    for first in range(0, len(allowed) - count + 1, count):
        try:
            lock = FileLock(user_runtime_path("neurovision", ensure_exists=True) / f"core-{allowed[first]}")
            lock.acquire(blocking=False)
        except OSError:  # another worker has it (Timeout is one), or there is no folder
            continue
        _claims.append(lock)
        for thread in psutil.Process().threads():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, allowed[first : first + count])
        return
