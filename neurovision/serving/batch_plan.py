"""What an archive costs: the measured rates of finished batches, carried over to a million slices."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurovision.errors import BatchError
from neurovision.serving.batch import RUNS
from neurovision.serving.batch_work import FINDINGS, MASKS, STAGES, arrow

MILLION = 1_000_000
BLOCK = re.compile(r"(<!-- measured -->\n).*?(<!-- /measured -->)", re.S)
DICOM_BYTES = 2 * 512 * 512  # one uncompressed slice of 512 x 512 pixels of 16 bits
MACHINES = (16, 64)  # cores, for the table


@dataclass(frozen=True)
class Assumed:
    """What was not measured. Every one is an option of the command.

    Attributes:
        core_hour: Price of one core for one hour.
        gpu_hour: Price of one GPU for one hour.
        gpu_ms: Milliseconds of the networks for one slice on a GPU.
        network: Gigabits a second between the storage and one machine.
        disk: Megabytes a second that one disk reads.
        pacs: Images a second that an archive hands out over DICOMweb.
    """

    core_hour: float = 0.04
    gpu_hour: float = 2.5
    gpu_ms: float = 3.0
    network: float = 1.0
    disk: float = 500.0
    pacs: float = 50.0


@dataclass(frozen=True)
class Measured:
    """One finished batch.

    Attributes:
        run: Its line in ``runs.jsonl``.
        core_ms: Processor time of one slice in milliseconds, all threads together.
        stages: The same by stage; it is shared out as the stages' wall times are.
        bytes_in: Bytes read for one slice.
        bytes_out: Bytes written for one slice, table and mask.
    """

    run: dict[str, Any]
    core_ms: float
    stages: dict[str, float]
    bytes_in: float
    bytes_out: float


def measure(out: Path) -> Measured:
    """Read what a batch took.

    Raises:
        BatchError: The folder holds no finished batch with slices.
    """
    pa = arrow()
    names = ("read", *STAGES, "write")
    columns = ["slices", "bytes", "cpu_ms", *(f"{n}_ms" for n in names)]
    try:
        lines = [json.loads(line) for line in (out / RUNS).read_text().splitlines()]
        rows = [r for f in sorted((out / FINDINGS).glob("part-*.parquet")) for r in _rows(pa, f, columns) if r["slices"]]
    except (OSError, ValueError) as e:
        raise BatchError(f"{out.name} holds no finished batch; run 'neurovision batch' to its end.") from e
    slices = sum(r["slices"] for r in rows)
    whole = [line for line in lines if line["slices"]]
    if not slices or not whole:
        raise BatchError(f"{out.name} holds no analyzed slice; run 'neurovision batch' over some scans.")
    wall = {n: sum(r[f"{n}_ms"] for r in rows) for n in names}
    core = sum(r["cpu_ms"] for r in rows) / slices
    written = sum(f.stat().st_size for d in (FINDINGS, MASKS) for f in (out / d).rglob("*") if f.is_file())
    stages = {n: core * v / sum(wall.values()) for n, v in wall.items()}
    return Measured(whole[-1], core, stages, sum(r["bytes"] for r in rows) / slices, written / slices)


def _rows(pa: Any, file: Path, columns: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pa.parquet.read_table(file, columns=columns).to_pylist()
    return found


def plan(runs: Sequence[Measured], assumed: Assumed) -> str:
    """The tables, in Markdown; costs and limits follow the run with the least processor time a slice.

    Args:
        runs: At least one.
        assumed: What was not measured.
    """
    best = min(runs, key=lambda m: m.core_ms)
    rest = best.core_ms - best.stages["networks"]
    gpu_hours, rest_hours = assumed.gpu_ms * MILLION / 3.6e6, rest * MILLION / 3.6e6
    hours = best.core_ms * MILLION / 3.6e6
    feeding = rest / assumed.gpu_ms
    parts = [
        "Measured:",
        _table(
            ["engine", "workers", "processor", "scans", "slices", "seconds", "slices/s", "core-ms a slice",
             "first scan after s", "peak MB a worker"],
            [
                [m.run["engine"], m.run["workers"], m.run["machine"], m.run["scans"], m.run["slices"],
                 f"{m.run['seconds']:.0f}", f"{m.run['slices'] / m.run['seconds']:.2f}", f"{m.core_ms:.0f}",
                 f"{m.run['started']:.0f}", f"{m.run['peak_mb']:.0f}"]
                for m in runs
            ],
        ),
        f"Where the {best.core_ms:.0f} core-ms of a slice go:",
        _table(list(best.stages), [[f"{v:.1f} ({v / best.core_ms:.0%})" for v in best.stages.values()]]),
        f"A million slices, from these rates; a core costs {assumed.core_hour:g} an hour and a GPU {assumed.gpu_hour:g}"
        f" (assumed), and the networks take {assumed.gpu_ms:g} ms a slice on a GPU (assumed, not measured):",
        _table(
            ["", "core-hours", "GPU-hours", "cost", *(f"hours on {n} cores" for n in MACHINES)],
            [
                ["CPU only", f"{hours:.0f}", "0", f"{hours * assumed.core_hour:.2f}",
                 *(f"{hours / n:.1f}" for n in MACHINES)],
                [f"one GPU fed by {feeding:.0f} cores", f"{rest_hours:.0f}", f"{gpu_hours:.1f}",
                 f"{rest_hours * assumed.core_hour + gpu_hours * assumed.gpu_hour:.2f}",
                 *(f"{max(rest_hours / n, gpu_hours):.1f}" for n in MACHINES)],
            ],
        ),
        f"Written: {best.bytes_out * MILLION / 1e9:.1f} GB a million slices, table and masks. The most that each part of"
        " the way can pass on, and the cores that it keeps busy:",
        _table(
            ["limit", "slices/s", "cores kept busy"],
            [
                _limit(f"network of {assumed.network:g} Gbit/s, DICOM slices of {DICOM_BYTES / 1e6:.2f} MB",
                       assumed.network * 1e9 / 8 / DICOM_BYTES, best),
                _limit(f"disk of {assumed.disk:g} MB/s, the same slices", assumed.disk * 1e6 / DICOM_BYTES, best),
                _limit(f"the same disk, files as small as these ({best.bytes_in / 1e3:.0f} kB)",
                       assumed.disk * 1e6 / best.bytes_in, best),
                _limit(f"archive that hands out {assumed.pacs:g} images/s", assumed.pacs, best),
                _limit("one core's reading and decoding", 1e3 / best.stages["read"], best),
            ],
        ),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _limit(name: str, rate: float, measured: Measured) -> list[str]:
    return [name, f"{rate:.0f}", f"{rate * measured.core_ms / 1e3:.0f}"]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_into(path: Path, text: str) -> None:
    """Replace what stands between ``<!-- measured -->`` and ``<!-- /measured -->`` in a document.

    Raises:
        BatchError: It has no such marks.
    """
    from neurovision.files import write

    before = path.read_text(encoding="utf-8")
    if not BLOCK.search(before):
        raise BatchError(f"{path.name} has no marks <!-- measured --> and <!-- /measured -->; add them.")
    write(path, BLOCK.sub(lambda m: f"{m[1]}{text}{m[2]}", before))
