"""Batches of any size: every scan of a source becomes a row of one Parquet table, and a mask.

::

    source --list--> units --> partitions --> workers --> findings/part-00007.parquet, masks/part-00007/
                                              local: processes of this machine
                                              ray:   actors of a cluster

An interrupted run resumes: what a finished partition of the same folder holds is not done again.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import re
import secrets
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from neurovision import __version__
from neurovision.ensemble.weights import load_manifest
from neurovision.errors import BatchError, NeurovisionError
from neurovision.files import PART, replacing, write
from neurovision.machine import claim_cores, cores, processor, room_for_workers
from neurovision.serving.batch_options import Options, Totals
from neurovision.serving.batch_sources import Listing, Unit, hashed
from neurovision.serving.batch_work import (
    FINDINGS,
    MASKS,
    STARTS,
    WORK,
    Done,
    Job,
    Partition,
    Worker,
    arrow,
)
from neurovision.views.report import write_csv

if TYPE_CHECKING:
    from neurovision.ensemble.pipeline import Analyzer

SETTINGS, KEY, RUNS, SKIPPED = "batch.json", "sources.key", "runs.jsonl", "skipped.csv"
MOST_FILES = 1024  # of one partition, so that little is lost when a worker dies
WORKER_MB = 1500  # memory that a local worker is allowed for: networks, trees and a volume on its way
DEATHS = 4  # of workers that end before they are ready

Tell = Callable[[int], None]
Reports = Generator[Done, None, None]


def run(listing: Listing, out: Path, options: Options, quiet: bool = False) -> Totals:
    """Do what is missing of a source.

    Args:
        listing: The source.
        out: Folder of the results; made if need be.
        options: How.
        quiet: Show no progress.

    Raises:
        BatchError: The folder cannot be written, belongs to other settings or is in use; a worker cannot work.
        WeightsError: The weights cannot be used.
        PacsError: The archive cannot be reached.
    """
    from tqdm import tqdm

    arrow()
    load = options.load or partial(_load, options.weights, options.networks)
    digest = load_manifest(options.weights).digest[:12] if options.load is None else load().manifest.digest[:12]
    with _owned(out) as token:
        _settle(out, {"version": __version__, "weights": digest, "masks": options.masks, "anonymized": options.anonymize})
        if options.anonymize:
            listing = hashed(listing, _key(out))
        done, last = finished(out)
        todo = [u for u in listing.units if u.source not in done]
        totals = Totals(len(listing.units), len(listing.units) - len(todo), skipped=len(listing.skipped))
        server = listing.server
        archive = None if server is None else (server.url, server.user, server.ca, server.insecure)
        job = Job(str(out.absolute()), options.engine, token, load, options.masks, options.anonymize, listing.root, archive)
        partitions = split(todo, options.partition, last + 1)
        start = time.perf_counter()
        with tqdm(total=len(listing.units), initial=totals.before, unit="scan", disable=quiet or None) as bar:

            def tell(units: int) -> None:
                totals.started = totals.started or time.perf_counter() - start
                bar.update(units)

            engine = _ray if options.engine == "ray" else run_local
            if partitions:
                with closing(engine(job, partitions, options, totals, tell)) as reports:
                    for report in reports:
                        if report.error:
                            raise BatchError(report.error)
                        totals.add(report)
                        seconds = time.perf_counter() - start
                        bar.set_postfix_str(f"{totals.slices / seconds:.1f} slices/s, {totals.counts['unread']} unread")
        totals.seconds = time.perf_counter() - start
        _close(out, listing, totals, options)
    return totals


def _load(weights: Path | None, networks: str) -> Analyzer:
    from neurovision.ensemble.pipeline import Analyzer

    return Analyzer.load(weights, networks)


def _ray(job: Job, partitions: Sequence[Partition], options: Options, totals: Totals, tell: Tell) -> Reports:
    from neurovision.serving.ray_batch import run_ray

    return run_ray(job, partitions, options, totals, tell)


def split(units: Sequence[Unit], size: int, first: int = 0) -> list[Partition]:
    """Cut sorted units into partitions of at most ``size`` units and, unless one alone has more, MOST_FILES files."""
    found: list[list[Unit]] = []
    files = 0
    for unit in units:
        if not found or len(found[-1]) >= size or files + len(unit.files) > MOST_FILES:
            found.append([])
            files = 0
        found[-1].append(unit)
        files += len(unit.files)
    return [Partition(first + k, tuple(part)) for k, part in enumerate(found)]


def finished(out: Path) -> tuple[set[str], int]:
    """Names of the sources that finished partitions hold, and the highest number among these, -1 without any.

    Raises:
        BatchError: A partition cannot be read.
    """
    pa = arrow()
    names: set[str] = set()
    last = -1
    for file in sorted((out / FINDINGS).glob("part-*.parquet")):
        try:
            names |= set(pa.parquet.read_table(file, columns=["source"])["source"].to_pylist())
        except (OSError, pa.ArrowException) as e:
            raise BatchError(f"{file.name} is damaged; delete it, and its scans are done again.") from e
        last = max(last, int(re.sub(r"\D", "", file.stem)))
    return names, last


@contextmanager
def _owned(out: Path) -> Iterator[str]:
    """Make the folder of results, hold it against other runs, and clear what a killed run left half done.

    Yields:
        This run's token, which workers look for before they write.
    """
    work = out / WORK
    try:
        for folder in (out / FINDINGS, work / "begun"):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(work / "lock", timeout=0):  # let go when the process ends, however it ends
            token = secrets.token_hex(8)
            write(work / "run", token)
            for left in (*work.glob("part-*"), work / "fetched", *(out / FINDINGS).glob(f"{PART}*")):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
            for masks in (out / MASKS).glob("part-*"):
                if not (out / FINDINGS / f"{masks.name}.parquet").is_file():
                    shutil.rmtree(masks)
            (out / MASKS).mkdir(exist_ok=True)
            yield token
    except Timeout as e:
        raise BatchError("Another run works on this folder of results; wait for it or name another folder.") from e
    except OSError as e:
        raise BatchError(
            f"The folder of results cannot be written ({e.strerror or type(e).__name__}); free some space or name another."
        ) from e


def _settle(out: Path, settings: dict[str, Any]) -> None:
    """Note what all rows of a folder have in common, or refuse where they would differ from what is there."""
    path = out / SETTINGS
    if not path.is_file():
        write(path, json.dumps(settings, indent=1))
        return
    try:
        before = json.loads(path.read_text())
    except ValueError:
        before = None
    if before != settings:
        raise BatchError(
            "This folder holds the results of other weights or settings "
            f"({path.name} says which); name another folder, or use the same."
        )


def _key(out: Path) -> bytes:
    """The secret that turns names into digests: whoever has it and the scans can lead back."""
    path = out / KEY
    if not path.is_file():
        with replacing(path) as part:
            part.touch(mode=0o600)
            part.write_text(secrets.token_hex(32))
    return path.read_bytes()


def _close(out: Path, listing: Listing, totals: Totals, options: Options) -> None:
    """Write the list of what was passed over, and one line about this run."""
    pa = arrow()
    rows = [{"source": s.source, "status": "skipped", "reason": s.reason} for s in listing.skipped]
    for file in sorted((out / FINDINGS).glob("part-*.parquet")):
        rows_read = pa.parquet.read_table(file, columns=["source", "status", "reason"]).to_pylist()
        rows += [r for r in rows_read if r["status"] != "ok"]
    with replacing(out / SKIPPED) as part:
        write_csv(rows or [{"source": "", "status": "", "reason": "nothing was passed over"}], part)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {
        "finished": now, "version": __version__, "engine": options.engine, "machine": processor(), "cores": cores(),
        **{k: round(v, 2) if isinstance(v, float) else v for k, v in vars(totals).items()},
    }  # fmt: skip
    with (out / RUNS).open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    shutil.rmtree(out / WORK / "begun", ignore_errors=True)


@dataclass
class _Hand:
    """A worker's process, and what it has in hand."""

    process: Any
    line: Connection
    partition: Partition | None = None
    reported: int = 0
    ready: bool = False


def run_local(
    job: Job, partitions: Sequence[Partition], options: Options, totals: Totals, tell: Tell
) -> Reports:
    """Run partitions in processes of this machine; one that dies is replaced, and its partition begun anew.

    Args:
        job: For every worker.
        partitions: What to do.
        options: For the number of workers.
        totals: Told the number of workers.
        tell: Called with how many units are done; negative where a worker's death undoes them.

    Yields:
        Finished partitions, in any order.

    Raises:
        BatchError: Workers end before they are ready, or over the same partition again and again.
    """
    count = min(options.workers or room_for_workers(WORKER_MB), len(partitions))
    totals.workers = count
    threads = max(1, cores() // count)
    todo, deaths = list(reversed(partitions)), 0
    lost: Counter[int] = Counter()
    hands = [_hire(job, threads) for _ in range(count)]
    try:
        while todo or any(h.partition for h in hands):
            lines = {h.line: h for h in hands}
            for line in wait(list(lines)):
                hand = lines[line]  # type: ignore[index]
                try:
                    message = hand.line.recv()
                except (EOFError, ConnectionResetError):
                    message = None
                if message is None:
                    hand.process.join()
                    deaths = 0 if hand.ready else deaths + 1
                    if hand.partition is not None:
                        todo.append(hand.partition)
                        tell(-hand.reported)
                        lost[hand.partition.number] += 1
                    if deaths >= DEATHS or _hopeless(hand.partition, lost):
                        raise BatchError(
                            f"Workers keep ending (exit code {hand.process.exitcode}), over no scan in particular; "
                            "they may need more memory, so try fewer --workers."
                        )
                    hands[hands.index(hand)] = _hire(job, threads)
                    continue
                if message == "scan":
                    hand.reported += 1
                    tell(1)
                    continue
                if isinstance(message, Done):
                    hand.partition, hand.reported = None, 0
                    yield message
                hand.ready = True
                if todo:
                    hand.partition = todo.pop()
                    with suppress(BrokenPipeError):  # it died just now: the next round notices
                        hand.line.send(hand.partition)
    finally:
        for hand in hands:
            hand.line.close()
            hand.process.terminate()
            hand.process.join()


def _hopeless(partition: Partition | None, lost: Counter[int]) -> bool:
    """Whether a partition has cost more workers than its scans can be blamed for."""
    return partition is not None and lost[partition.number] > STARTS * len(partition.units) + DEATHS


def _hire(job: Job, threads: int) -> _Hand:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, job, threads), daemon=True, name="neurovision-batch")
    process.start()
    there.close()  # so that its end is noticed here
    return _Hand(process, here)


def _work(line: Connection, job: Job, threads: int) -> None:
    """A worker's life: partitions come in, slices and reports go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    claim_cores(threads)
    try:
        worker = Worker(job)
        line.send("ready")
        while True:
            line.send(worker.run(line.recv(), lambda: line.send("scan")))
    except NeurovisionError as e:
        line.send(Done(-1, error=str(e)))
    except (EOFError, BrokenPipeError):
        return


def _end_with_parent() -> None:
    """End this process at once when its parent is gone: nobody counts what it would still write."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def describe(totals: Totals, out: Path) -> str:
    """A run in a few lines."""
    done = totals.scans, totals.slices, totals.seconds
    rate = f": {totals.slices / totals.seconds:.2f} slices/s, {totals.workers} workers" if totals.slices else ""
    before = f", {totals.before} of {totals.listed} units done before" if totals.before else ""
    states = ", ".join(f"{count} {status}" for status, count in totals.counts.items())
    return (
        f"{done[0]} scans ({states}), {done[1]} slices in {done[2]:.0f} s{rate}{before}.\n"
        f"Table: {out / FINDINGS}. Not analyzed: {out / SKIPPED} ({totals.skipped} files are no scans)."
    )
