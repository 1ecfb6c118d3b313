"""Write docs/scale.md's rates from a finished batch: ``python docs/scale.py RESULTS``.

RESULTS is what ``neurovision batch FOLDER --out RESULTS --workers 1`` wrote. What is assumed, not measured, stands in the
constants below and in the page.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from neurovision.errors import DataError
from neurovision.evaluation.report import table
from neurovision.files import write

PAGE = Path(__file__).with_name("scale.md")
MILLION = 1_000_000
CORE_PRICE, GPU_PRICE = 0.04, 2.5  # an hour
GPU_MS = 3.0  # of the networks, a slice
STAGES = ("read", "prepare", "networks", "vote", "measure", "write")
DICOM_BYTES = 520_000  # of a slice
LINK, DISK = 125_000_000, 500_000_000  # bytes a second
ARCHIVE = 50.0  # images a second


def rates(rows: list[dict[str, Any]], run: dict[str, Any], written: int) -> str:
    """The page's block.

    Args:
        rows: Of the table, by column.
        run: The line of ``runs.jsonl``.
        written: Bytes of table and masks.

    Raises:
        DataError: No row was analyzed.
    """
    done = [r for r in rows if r["status"] == "ok"]
    if not done:
        raise DataError("The batch holds no analyzed scan; run one over scans that can be read.")
    slices = sum(r["slices"] for r in done)

    def mean(column: str) -> float:
        return sum(r[column] for r in done) / slices

    core, stages = mean("cpu_ms"), {s: mean(f"{s}_ms") for s in STAGES}
    rest = max(core - stages["networks"], 0.001)
    hours = core * MILLION / 3.6e6
    fed, gpu = rest * MILLION / 3.6e6, GPU_MS * MILLION / 3.6e6
    costs = [
        ("CPU only", f"{hours:.0f}", "0", f"{hours * CORE_PRICE:.2f}", *(f"{hours / n:.1f}" for n in (16, 64))),
        (
            f"one GPU fed by {rest / GPU_MS:.0f} cores", f"{fed:.0f}", f"{gpu:.1f}",
            f"{fed * CORE_PRICE + gpu * GPU_PRICE:.2f}", *(f"{max(fed / n, gpu):.1f}" for n in (16, 64)),
        ),
    ]  # fmt: skip
    size = mean("bytes")
    limits = [
        ("network of 1 Gbit/s, DICOM slices of 0.52 MB", LINK / DICOM_BYTES),
        ("disk of 500 MB/s, the same slices", DISK / DICOM_BYTES),
        (f"the same disk, files as small as these ({size / 1000:.0f} kB)", DISK / size),
        ("archive that hands out 50 images/s", ARCHIVE),
        ("one core's reading and decoding", 1000 / max(stages["read"], 0.001)),
    ]
    total = sum(stages.values())
    return "\n".join([
        f"Measured on {run['finished'][:10]} by {run['workers']} local worker{'s' * (run['workers'] > 1)} over {slices} "
        f"slices, on {run['machine']}, weights `{done[0]['weights']}`: {core:.0f} core-ms a slice, {run['peak_mb']:.0f} MB "
        f"of memory, first scan after {run['started']:.0f} s. Core-ms are processor time, so that they hold where other "
        "programs slow the clock. Ray's speed was not measured; its rows and masks are equal.",
        "",
        "Where a slice's time goes, ms:",
        "",
        table(STAGES, [[f"{v:.1f} ({v / total:.0%})" for v in stages.values()]]),
        f"A million slices, from these rates; a core costs {CORE_PRICE:g} an hour and a GPU {GPU_PRICE:g} (assumed), and "
        f"the networks take {GPU_MS:g} ms a slice on a GPU (assumed, not measured):",
        "",
        table(("", "core-hours", "GPU-hours", "cost", "hours on 16 cores", "hours on 64 cores"), costs),
        f"Written: {written / slices * MILLION / 1e9:.1f} GB a million slices, table and masks. The most that each part of "
        "the way can pass on, and the cores that it keeps busy:",
        "",
        table(
            ("limit", "slices/s", "cores kept busy"),
            [(what, f"{rate:.0f}", f"{rate * core / 1000:.0f}") for what, rate in limits],
        ),
    ])  # fmt: skip


def render(text: str, block: str) -> str:
    """The page with its block made anew.

    Raises:
        ValueError: The block's marks are not there once.
    """
    found, count = re.subn(r"(<!-- rates -->\n).*?(<!-- /rates -->)", lambda m: m[1] + block + m[2], text, flags=re.S)
    if count != 1:
        raise ValueError(f"The page holds the block rates {count} times instead of once.")
    return found


def main() -> None:
    """Read a batch's results and write the page."""
    from pyarrow import parquet

    results = Path(sys.argv[1])
    rows = parquet.read_table(results / "findings").to_pylist()
    run = json.loads((results / "runs.jsonl").read_text().splitlines()[-1])
    written = sum(f.stat().st_size for part in ("findings", "masks") for f in (results / part).rglob("*") if f.is_file())
    write(PAGE, render(PAGE.read_text(), rates(rows, run, written)))


if __name__ == "__main__":
    main()
