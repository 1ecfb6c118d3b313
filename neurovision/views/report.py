"""The report of one scan for programs: JSON and CSV. ``views.pdf`` writes it for people."""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurovision import __version__
from neurovision.classes import COUNTS, Classes
from neurovision.ensemble.calibration import OTHER
from neurovision.ensemble.results import Lesion, Region, Result, VolumeFindings
from neurovision.errors import DataError
from neurovision.files import write

if TYPE_CHECKING:
    pass

MAX_NOTES = 3000  # characters: what two pages hold
MAX_LINES = 45
ONLY_TYPE = "the only type that these weights know"
REGION_COLUMNS = (
    "region", "region_type", "region_area_px", "region_area_mm2", "region_voxels", "region_volume_ml", "region_first_slice",
    "region_last_slice", "region_longest_px", "region_longest_mm", "region_perpendicular_px", "region_perpendicular_mm",
    "region_side", "region_row", "region_column",
)  # fmt: skip

_HEADINGS = {"tumor": "Tumor detected", "borderline": "Borderline", "no tumor": "No tumor detected"}


def disclaimer(classes: Classes) -> str:
    """What stands on every report and page."""
    count = len(classes.tumors)
    known = f"{COUNTS[count]} tumor types" if count > 1 else f"one class of tumors ({classes.tumors[0].title})"
    return (
        f"Research tool, not a medical device: not for diagnosis or treatment. It knows {known} and may miss or"
        " invent findings."
    )


def verdict_words(result: Result) -> str:
    """The verdict as a heading."""
    if result.verdict is None:
        return "Not a brain MRI" if result.status == "rejected" else "Cannot be read"
    return _HEADINGS[result.verdict.state]


def sequence_words(result: Result) -> str:
    """The sequence, by the file and by the picture; empty where neither tells."""
    header, seen = result.source.sequence, None if result.sequence == OTHER else result.sequence
    if header and seen:
        return f"{header}, as the file says and the picture looks" if header == seen else (
            f"{header} by the file, but the picture looks like {seen}"
        )
    return f"{header}, as the file says" if header else f"{seen}, as the picture looks" if seen else ""


def size_words(volume: VolumeFindings) -> str:
    """What is marked in all: milliliters, of one slice square millimeters, in pixels where no spacing is known."""
    pixels = sum(s.area_px for s in volume.slices)
    if not pixels:
        return ""
    if len(volume.slices) == 1:
        area = volume.slices[0].area_mm2
        return f"{pixels} px" if area is None else f"{area:.0f} mm²"
    milliliters = [v for v in volume.volumes_ml.values() if v is not None]
    return f"{sum(milliliters):.1f} ml" if milliliters else f"{pixels} voxels"


def report_json(result: Result, notes: str = "") -> dict[str, Any]:
    """The result with what a report adds: when, by which version, the reader's notes and the disclaimer.

    Raises:
        DataError: Notes of more than MAX_NOTES characters or MAX_LINES lines.
    """
    return {
        "report": {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "neurovision": __version__,
            "verdict": verdict_words(result),
            "notes": checked_notes(notes),
            "disclaimer": disclaimer(result.classes),
        },
        **result.to_json(),
    }


def write_json(result: Result, path: Path, notes: str = "") -> None:
    """Write :func:`report_json`."""
    write(path, json.dumps(report_json(result, notes), indent=2, ensure_ascii=False) + "\n")


def region_sizes(region: Region) -> tuple[float, float, float]:
    """Area, longest and perpendicular diameter; in millimeters where they are known, else in pixels."""
    if region.area_mm2 is None or region.longest_diameter_mm is None or region.perpendicular_diameter_mm is None:
        return float(region.area_px), region.longest_diameter_px, region.perpendicular_diameter_px
    return region.area_mm2, region.longest_diameter_mm, region.perpendicular_diameter_mm


def csv_rows(result: Result) -> list[dict[str, Any]]:
    """One row a region or lesion, each with the scan's own columns; a scan without any is one row."""
    shared = result.row()
    tumors: Sequence[Region | Lesion] = result.tumors
    numbered = list(enumerate(tumors, 1))
    return [{**shared, **_tumor_row(i, t)} for i, t in numbered] or [{**shared, **dict.fromkeys(REGION_COLUMNS)}]


def _tumor_row(number: int, tumor: Region | Lesion) -> dict[str, Any]:
    row: dict[str, Any] = {
        **dict.fromkeys(REGION_COLUMNS),
        "region": number,
        "region_type": tumor.type,
        "region_longest_px": round(tumor.longest_diameter_px, 2),
        "region_longest_mm": _rounded(tumor.longest_diameter_mm),
        "region_perpendicular_px": round(tumor.perpendicular_diameter_px, 2),
        "region_perpendicular_mm": _rounded(tumor.perpendicular_diameter_mm),
        "region_side": tumor.side,
        "region_row": round(tumor.centroid[-2], 2),
        "region_column": round(tumor.centroid[-1], 2),
    }
    if isinstance(tumor, Region):
        return row | {"region_area_px": tumor.area_px, "region_area_mm2": _rounded(tumor.area_mm2)}
    return row | {
        "region_voxels": tumor.voxels,
        "region_volume_ml": _rounded(tumor.volume_ml, 3),
        "region_first_slice": tumor.first_slice + 1,
        "region_last_slice": tumor.last_slice + 1,
    }


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows of equal keys; text is quoted, and text that a spreadsheet would run as a formula starts with '."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        # Quoted, since ; starts a cell in many countries.
        writer = csv.DictWriter(stream, list(rows[0]), quoting=csv.QUOTE_NONNUMERIC)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: _harmless(v) for k, v in row.items()})


def _harmless(value: Any) -> Any:
    """Text that no spreadsheet takes for a formula; nothing for what is unknown."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@") else value


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(float(value), digits)


def checked_notes(notes: str) -> str:
    """The reader's notes without blank ends.

    Raises:
        DataError: More than MAX_NOTES characters or MAX_LINES lines.
    """
    notes = notes.strip()
    lines = notes.count("\n") + 1
    if len(notes) > MAX_NOTES or lines > MAX_LINES:
        raise DataError(
            f"A report's notes have at most {MAX_NOTES} characters and {MAX_LINES} lines;"
            f" received {len(notes)} and {lines}, shorten them."
        )
    return notes
