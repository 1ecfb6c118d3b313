"""The partitions of a batch on Ray: a pool of actors, each with its models loaded, on one machine or on many."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neurovision.errors import BatchError, NeurovisionError
from neurovision.machine import claim_cores, cores
from neurovision.serving.batch_options import Options, Totals
from neurovision.serving.batch_work import Done, Job, Partition, Worker

log = logging.getLogger(__name__)

STARTS = 3  # tries to start Ray here: a busy machine may exceed Ray's own 30 s at the first
OBJECT_STORE = 128 * 1024**2  # bytes; partitions are lists of names and reports are numbers


def start(address: str | None = None, cpus: float | None = None) -> Any:
    """Ray, connected to a cluster, or to one that is started on this machine without dashboard or usage statistics.

    Raises:
        BatchError: Ray is not installed, or the cluster cannot be reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as e:
        raise BatchError("Ray is not installed; run pip install 'neurovision[ray]', or leave --engine ray out.") from e
    if ray.is_initialized():
        return ray
    given: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "address": address or "local"}
    if address is None:
        here = str(Path(__file__).parents[2])  # for a checkout that is not installed
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        given |= {"num_cpus": max(1, int(cpus or cores())), "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    for attempt in range(STARTS if address is None else 1):
        try:
            ray.init(**given)
            return ray
        except Exception as e:  # noqa: BLE001 - a start that takes over 30 s raises Exception itself
            log.warning("Ray did not start (attempt %d, %s)", attempt + 1, type(e).__name__)
            ray.shutdown()
    raise BatchError("The Ray cluster cannot be reached or started; check --address, and that it runs the same version.")


class Actor:
    """What Ray Data calls for each partition; the models are loaded when it is made."""

    def __init__(self, job: Job, threads: int) -> None:
        claim_cores(threads)
        self._error, self._worker = "", None
        try:
            self._worker = Worker(job)
        except NeurovisionError as e:
            self._error = str(e)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Run one partition and report."""
        partition: Partition = row["item"]
        try:
            done = self._worker.run(partition) if self._worker else Done(partition.number, error=self._error)
        except NeurovisionError as e:
            done = Done(partition.number, error=str(e))
        return {"done": asdict(done)}


def run_ray(
    job: Job, partitions: Sequence[Partition], options: Options, totals: Totals, tell: Callable[[int], None]
) -> Generator[Done, None, None]:
    """Run partitions on Ray Data's pool of actors; an actor that dies is replaced, and its partition begun anew.

    Args:
        job: For every actor; its folders lie on storage that all machines share.
        partitions: What to do.
        options: Cluster, number and size of the actors.
        totals: Told the number of actors.
        tell: Called with how many units are done.

    Yields:
        Finished partitions, in any order.

    Raises:
        BatchError: The cluster is not there or has too little room, or ends the run.
    """
    there_before = _running()
    wanted = (options.workers or 1) * options.cpus
    ray = start(options.address, max(wanted, cores()) if options.workers else None)
    try:
        room = int(ray.cluster_resources().get("CPU", 0) / options.cpus + 1e-9)
        if options.gpus:
            room = min(room, int(ray.cluster_resources().get("GPU", 0) / options.gpus + 1e-9))
        count = min(options.workers or room, len(partitions))
        if count < 1 or count > room:
            raise BatchError(f"The Ray cluster has room for {room} such workers; ask for fewer or smaller ones.")
        totals.workers = count
        yield from _stream(ray, job, partitions, options, count, tell)
    except ray.exceptions.RayError as e:
        raise BatchError(f"Ray ended the run ({type(e).__name__}); the same command resumes it.") from e
    finally:
        if not there_before:
            ray.shutdown()


def _running() -> bool:
    import sys

    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _stream(
    ray: Any, job: Job, partitions: Sequence[Partition], options: Options, count: int, tell: Callable[[int], None]
) -> Iterator[Done]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    reports = ray.data.from_items(list(partitions), override_num_blocks=len(partitions)).map(
        Actor,
        fn_constructor_kwargs={"job": job, "threads": max(1, int(options.cpus))},
        compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
        num_cpus=options.cpus,
        num_gpus=options.gpus or None,
    )
    units = {p.number: len(p.units) for p in partitions}
    for row in reports.iter_rows():
        values = row["done"]
        done = Done(**{**values, "counts": tuple((str(s), int(n)) for s, n in values["counts"])})
        tell(units.get(done.number, 0))
        yield done
