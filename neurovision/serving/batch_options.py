"""How a batch is run, and what a run did: what its engines share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from neurovision.errors import BatchError
from neurovision.serving.batch_work import Done

if TYPE_CHECKING:
    from neurovision.ensemble.pipeline import Analyzer

ENGINES = ("local", "ray")
PARTITION = 64  # units of one partition; fewer where they are series of many files


@dataclass(frozen=True)
class Options:
    """How a batch is run.

    Attributes:
        engine: One of ENGINES.
        workers: Processes or actors; as many as processors and memory allow by default.
        weights: Weights folder; the project's own by default.
        networks: One of ``ensemble.engine.ENGINES``.
        masks: Write masks.
        anonymize: Replace the names of sources by digests, whose key stays in the folder of results.
        partition: Units of a partition at most.
        address: Ray cluster to join; one is started on this machine by default.
        cpus: Processors of a Ray actor.
        gpus: GPUs of a Ray actor, fractions allowed.
        load: Makes the analyzer; from ``weights`` and ``networks`` by default.

    Raises:
        BatchError: A number or a name out of range.
    """

    engine: str = "local"
    workers: int | None = None
    weights: Path | None = None
    networks: str = "auto"
    masks: bool = True
    anonymize: bool = False
    partition: int = PARTITION
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    load: Callable[[], Analyzer] | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise BatchError(f"A batch's engine is one of {', '.join(ENGINES)}; received {self.engine!r}.")
        if (self.workers is not None and self.workers < 1) or self.partition < 1 or self.cpus <= 0 or self.gpus < 0:
            raise BatchError("A batch has at least one worker, one scan a partition and some processor; change the numbers.")
        if self.engine == "local" and self.address is not None:
            raise BatchError("Only --engine ray joins a cluster; add it or leave --address out.")


@dataclass
class Totals:
    """What a run did.

    Attributes:
        listed: Units of the source.
        before: Units that an earlier run had done.
        scans: Rows written by this run.
        slices: Slices analyzed by this run.
        counts: Rows of this run by status.
        skipped: Files that are no scans.
        seconds: From the first worker's start to the last partition.
        started: Seconds until the first scan was done, loading included.
        workers: Processes or actors.
        peak_mb: Memory of the largest worker.
    """

    listed: int = 0
    before: int = 0
    scans: int = 0
    slices: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"ok": 0, "rejected": 0, "unread": 0})
    skipped: int = 0
    seconds: float = 0.0
    started: float = 0.0
    workers: int = 0
    peak_mb: float = 0.0

    def add(self, done: Done) -> None:
        """Count a finished partition."""
        self.scans += done.scans
        self.slices += done.slices
        self.peak_mb = max(self.peak_mb, done.peak_mb)
        for status, count in done.counts:
            self.counts[status] += count
