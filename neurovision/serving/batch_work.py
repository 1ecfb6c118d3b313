"""One partition of a batch: its scans are read, analyzed and written by one worker, whichever engine runs it.

Masks first get their final folder in one step, then the partition's Parquet file its final name: a partition is done
when that file is there, and never half done.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from neurovision import __version__
from neurovision.classes import Classes
from neurovision.errors import ArchiveAway, BatchError, NeurovisionError, PacsError, ScanError
from neurovision.files import replacing, sync_folder
from neurovision.machine import peak_mb
from neurovision.scan.names import free_stem, stem_of
from neurovision.serving.batch_sources import Unit
from neurovision.serving.pacs import NO_FAULT, Pacs, Server
from neurovision.views.files import write_mask

if TYPE_CHECKING:
    import pyarrow

    from neurovision.ensemble.pipeline import Analyzer
    from neurovision.ensemble.results import Result
    from neurovision.scan.study import Study

log = logging.getLogger(__name__)

FINDINGS, MASKS, WORK = "findings", "masks", ".work"  # folders of a batch's results
STARTS = 3  # how often a scan is begun before the processes that died over it are blamed on it
STAGES = ("prepare", "networks", "vote", "measure")
# Differ between two runs over the same scans; every other column is the same whichever engine made it.
VARYING = ("engine", "milliseconds", "cpu_ms", "read_ms", *(f"{s}_ms" for s in STAGES), "write_ms")


@dataclass(frozen=True)
class Partition:
    """Units that become one Parquet file and one folder of masks.

    Attributes:
        number: Its number in the results.
        units: What it holds, sorted by name.
    """

    number: int
    units: tuple[Unit, ...]

    @property
    def name(self) -> str:
        """Of its file and its folder."""
        return f"part-{self.number:05d}"


@dataclass(frozen=True)
class Job:
    """What every worker of a run needs to know; credentials are not in it.

    Attributes:
        out: Folder of the results, which every worker sees under this path.
        engine: ``"local"`` or ``"ray"``, for the table.
        run: Tells this run from a later one over the same folder.
        load: Makes the analyzer, once a worker.
        masks: Write masks.
        hashed: Names of sources are digests: leave everything out that leads back to a file.
        root: Folder of the scans, "" for an archive.
        archive: ``(url, user, certificates, insecure)`` of an archive, or None; its password is looked up by each
            worker as :meth:`Server.from_environment` does.
    """

    out: str
    engine: str
    run: str
    load: Callable[[], Analyzer]
    masks: bool = True
    hashed: bool = False
    root: str = ""
    archive: tuple[str, str | None, Path | None, bool] | None = None


@dataclass(frozen=True)
class Done:
    """What a worker reports of a finished partition.

    Attributes:
        number: Which one.
        scans: Rows that it wrote.
        slices: Slices that were analyzed.
        counts: Rows by status.
        peak_mb: Memory that the worker has held at most so far, in MB.
        error: The sentence that ended the run, or "".
    """

    number: int
    scans: int = 0
    slices: int = 0
    counts: tuple[tuple[str, int], ...] = ()
    peak_mb: float = 0.0
    error: str = ""


@lru_cache(maxsize=1)
def schema(classes: Classes) -> pyarrow.Schema:
    """Columns of the table, with the probability of each tumor class; every one but the first three may be null.

    Raises:
        BatchError: PyArrow is not installed.
    """
    pa = arrow()
    text, number, real = pa.string(), pa.int32(), pa.float64()
    columns = {
        "source": text, "stack": number, "status": text, "reason": text, "verdict": text, "tumor_probability": real,
        "threshold": real, "tumor_type": text, **{f"p_{key}": real for key in classes.keys},
        "tumor_area_px": pa.int64(), "tumor_area_mm2": real, "tumor_volume_ml": real, "regions": number,
        "longest_diameter_px": real, "longest_diameter_mm": real, "laterality": text, "disagreement": real,
        "largest_slice": number, "slices": number, "height": number, "width": number, "spacing_slice_mm": real,
        "spacing_row_mm": real, "spacing_column_mm": real, "format": text, "sequence": text, "sha256": text,
        "bytes": pa.int64(), "mask": text, "warnings": text, "weights": text, "version": text, "device": text,
        "engine": text, "milliseconds": real, "cpu_ms": real, "read_ms": real, "prepare_ms": real, "networks_ms": real,
        "vote_ms": real, "measure_ms": real, "write_ms": real,
    }  # fmt: skip
    needed = ("source", "stack", "status")
    return pa.schema([pa.field(name, kind, nullable=name not in needed) for name, kind in columns.items()])


def arrow() -> Any:
    """PyArrow with its Parquet module.

    Raises:
        BatchError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise BatchError("A batch writes Parquet, which needs PyArrow; run pip install 'neurovision[batch]'.") from e
    return pyarrow


class Worker:
    """Runs partitions one after the other; the analyzer is loaded once.

    Raises:
        NeurovisionError: The analyzer cannot be loaded.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.out = job, Path(job.out)
        self.analyzer = job.load()

    def run(self, partition: Partition, tell: Callable[[], None] = lambda: None) -> Done:
        """Analyze a partition and write it.

        Args:
            partition: What to do.
            tell: Called when a unit is done.

        Raises:
            OutputError: The results cannot be written.
            BatchError: The scans' folder or archive has gone away, or another run has
                taken the folder over.
        """
        work = self.out / WORK / f"{partition.name}-{os.getpid()}"
        rows: list[dict[str, Any]] = []
        used: set[str] = set()
        try:
            self._check_run()
            work.mkdir()
            for unit in partition.units:
                rows += self._unit(unit, partition, work, used)
                tell()
            self._check_run()
            self._publish(partition, work, rows)
        except OSError as e:
            raise BatchError(
                f"The folder of results cannot be written ({e.strerror or type(e).__name__}); put that right and run the "
                "same command again, which resumes this run."
            ) from e
        finally:
            shutil.rmtree(work, ignore_errors=True)
        counts = [(s, sum(r["status"] == s for r in rows)) for s in ("ok", "rejected", "unread")]
        slices = sum(r["slices"] or 0 for r in rows)
        return Done(partition.number, len(rows), slices, tuple(counts), peak_mb())

    def _publish(self, partition: Partition, work: Path, rows: list[dict[str, Any]]) -> None:
        pa = arrow()
        if self.job.masks:
            folder = self.out / MASKS / partition.name
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that died right here
            sync_folder(work)
            work.rename(folder)
            sync_folder(folder.parent)
        with replacing(self.out / FINDINGS / f"{partition.name}.parquet") as part:
            pa.parquet.write_table(pa.Table.from_pylist(rows, schema=schema(self.analyzer.manifest.classes)), part)

    def _check_run(self) -> None:
        """Refuse to write into a folder that a later run has taken over while this worker was cut off."""
        if (self.out / WORK / "run").read_text() != self.job.run:
            raise BatchError("Another run has taken this folder of results over; this one ends.")

    def _unit(self, unit: Unit, partition: Partition, work: Path, used: set[str]) -> Iterator[dict[str, Any]]:
        """The rows of one unit: one a scan, or one that says why there is none."""
        name = hashlib.sha256(unit.source.encode()).hexdigest()[:24]
        starts = self.out / WORK / "begun" / name
        begun = int(starts.read_text() or 0) if starts.is_file() else 0
        if begun >= STARTS:
            yield self._unread(unit, 1, f"the worker ended {begun} times while it was at work on it")
            return
        starts.write_text(str(begun + 1))
        fetched = self.out / WORK / "fetched" / name
        try:
            for number, files in enumerate(self._stacks(unit, fetched), 1):
                stem = free_stem(stem_of(Path(unit.source)), used)
                try:
                    row = self._scan(unit, number, files, partition, work, stem)
                except Exception as e:  # noqa: BLE001 - raised again where it is no trouble of this file
                    row = self._trouble(e, unit, number)
                yield row
        except Exception as e:  # noqa: BLE001 - the same
            yield self._trouble(e, unit, 1)
        finally:  # which a process that is killed never reaches
            shutil.rmtree(fetched, ignore_errors=True)
            starts.unlink(missing_ok=True)

    def _stacks(self, unit: Unit, fetched: Path) -> Sequence[tuple[Path, ...]]:
        """Files of each scan of a unit, fetched first where it lies in an archive.

        Raises:
            ScanError: There is no scan in it.
            BatchError: The archive has gone away.
        """
        from neurovision.scan.read import group_scans

        paths = [Path(f) for f in unit.files]
        if unit.series:
            fetched.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                paths = self._pacs.fetch(unit.study, unit.series, fetched)
            except ArchiveAway as e:
                raise BatchError(f"{e} The same command resumes where this one stopped.") from e
            except PacsError as e:
                raise ScanError(str(e)) from e  # of this series only
        stacks = [tuple(paths)] if len(paths) == 1 else group_scans(paths)
        if not stacks:
            raise ScanError("the series holds no image")
        return stacks

    @cached_property
    def _pacs(self) -> Pacs:
        if self.job.archive is None:
            raise BatchError("A series of an archive was asked for without the archive's address.")
        return Pacs(Server.from_environment(*self.job.archive))

    def _scan(
        self, unit: Unit, number: int, files: tuple[Path, ...], partition: Partition, work: Path, stem: str
    ) -> dict[str, Any]:
        from neurovision.ensemble.volume import analyze_study
        from neurovision.scan.read import read_files

        start, cpu = perf_counter(), process_time()
        mask = None
        study = read_files(files, unit.source)
        read, size = perf_counter(), sum(f.stat().st_size for f in files)
        result = analyze_study(self.analyzer, study)
        analyzed = perf_counter()
        if self.job.masks and result.status == "ok":
            path = write_mask(result, study, work, stem)
            mask = f"{MASKS}/{partition.name}/{path.name}"
        end = perf_counter()
        timing = {f"{stage}_ms": round(result.timing_ms.get(stage, 0.0), 2) for stage in STAGES}
        return {
            **_facts(result, study),
            **self._shared(unit, number),
            **timing,
            "sha256": None if self.job.hashed else study.source.sha256,
            "bytes": size,
            "mask": mask,
            "read_ms": round((read - start) * 1e3, 2),
            "write_ms": round((end - analyzed) * 1e3, 2),
            "milliseconds": round((end - start) * 1e3, 2),
            "cpu_ms": round((process_time() - cpu) * 1e3, 2),
        }

    def _shared(self, unit: Unit, number: int) -> dict[str, Any]:
        return {
            "source": unit.source, "stack": number, "version": __version__, "device": self.analyzer.engine.device,
            "weights": self.analyzer.manifest.digest[:12], "engine": self.job.engine,
        }  # fmt: skip

    def _unread(self, unit: Unit, number: int, reason: str) -> dict[str, Any]:
        from neurovision.ensemble.results import Unread

        row = Unread.of(unit.source, reason).row()
        names = schema(self.analyzer.manifest.classes).names
        return {**{name: row.get(name) for name in names}, **self._shared(unit, number)}

    def _trouble(self, error: Exception, unit: Unit, number: int) -> dict[str, Any]:
        """The row of a scan that failed, whatever it provoked: one file must not end an archive's run.

        Raises:
            Exception: ``error`` itself, where it is not the file's: the disk, the weights, the archive.
            BatchError: The scans' folder has gone away.
        """
        if isinstance(error, ScanError):
            if self.job.root and not Path(self.job.root).is_dir():
                raise BatchError("The scans' folder has gone away; bring it back and run the same command again.") from error
            return self._unread(unit, number, self._sentence(error, unit))
        if isinstance(error, NeurovisionError) or (isinstance(error, OSError) and error.errno in NO_FAULT):
            raise error
        if isinstance(error, MemoryError):
            return self._unread(unit, number, "it needs more memory than this machine has free")
        log.error("a scan failed: %s", type(error).__name__)
        return self._unread(unit, number, f"the program failed on it ({type(error).__name__}); please report this")

    def _sentence(self, error: ScanError, unit: Unit) -> str:
        """What a reader said, without the file's name in front of it, which may hold a person's."""
        text = str(error)
        for name in (*(Path(f).name for f in unit.files), unit.source, Path(unit.source).name):
            text = text.removeprefix(f"{name}: ")
        return text


def _facts(result: Result, study: Study) -> dict[str, Any]:
    """What is said of a scan, in the table's columns; what is unknown is None."""
    names = set(schema(result.classes).names)
    said = {key: value for key, value in result.row().items() if key in names}
    return {**said, "spacing_slice_mm": None if study.spacing is None else study.spacing[0]}
