"""The report of one scan: PDF for people, JSON and CSV with the same facts for programs."""

from __future__ import annotations

import csv
import datetime
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from neurovision import __version__
from neurovision.classes import BY_KEY, FIRST_TUMOR, TUMORS
from neurovision.ensemble.findings import Findings, Region
from neurovision.ensemble.volume import VolumeFindings
from neurovision.errors import DataError
from neurovision.files import write
from neurovision.views.overlay import gray_rgb

if TYPE_CHECKING:
    from fpdf import FPDF

DISCLAIMER = (
    "Research tool, not a medical device: not for diagnosis or treatment. It knows three tumor types and may miss or"
    " invent findings."
)
MAX_NOTES = 3000  # characters: what two pages hold
MAX_LINES = 45
MAX_REGIONS = 10  # in the PDF; JSON and CSV list all
PICTURE = 900  # pixels of a picture's longer side in the PDF
REGION_COLUMNS = (
    "region", "region_type", "region_area_px", "region_area_mm2", "region_longest_px", "region_longest_mm",
    "region_perpendicular_px", "region_perpendicular_mm", "region_side", "region_row", "region_column",
)  # fmt: skip
GRAY, INK, RULE = (90, 98, 110), (23, 32, 42), (205, 212, 220)


def verdict_words(findings: Findings) -> str:
    """The verdict as a heading."""
    if findings.status == "rejected":
        return "Not a brain MRI"
    return "Tumor detected" if findings.verdict == "tumor" else "No tumor detected"


def report_json(findings: Findings, notes: str = "") -> dict[str, Any]:
    """The findings with what a report adds: when, by which version, the reader's notes and the disclaimer.

    Raises:
        DataError: Notes of more than MAX_NOTES characters or MAX_LINES lines.
    """
    return {
        "report": {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "neurovision": __version__,
            "verdict": verdict_words(findings),
            "notes": _checked(notes),
            "disclaimer": DISCLAIMER,
        },
        **findings.to_json(),
    }


def write_json(findings: Findings, path: Path, notes: str = "") -> None:
    """Write :func:`report_json`."""
    write(path, json.dumps(report_json(findings, notes), indent=2, ensure_ascii=False) + "\n")


def region_sizes(region: Region) -> tuple[float, float, float]:
    """Area, longest and perpendicular diameter; in millimeters where they are known, else in pixels."""
    if region.area_mm2 is None or region.longest_diameter_mm is None or region.perpendicular_diameter_mm is None:
        return float(region.area_px), region.longest_diameter_px, region.perpendicular_diameter_px
    return region.area_mm2, region.longest_diameter_mm, region.perpendicular_diameter_mm


def summary_row(findings: Findings) -> dict[str, Any]:
    """One scan as one flat row; what is unknown is empty."""
    largest = findings.regions[0] if findings.regions else None
    areas = [r.area_mm2 for r in findings.regions]
    metric = bool(areas) and all(a is not None for a in areas)
    return {
        "scan": findings.source.name,
        "slice": findings.slice_index + 1,
        "status": findings.status,
        "reason": findings.reason or "",
        "verdict": findings.verdict or "",
        "tumor_probability": _cell(findings.tumor_probability, 4),
        "threshold": _cell(findings.threshold, 4),
        "tumor_type": findings.tumor_type or "",
        **{f"p_{kind.key}": _cell(findings.type_probabilities.get(kind.key), 4) for kind in TUMORS},
        "tumor_area_px": int((findings.mask >= FIRST_TUMOR).sum()),
        "tumor_area_mm2": round(sum(a for a in areas if a is not None), 2) if metric else "",
        "regions": len(findings.regions),
        "longest_diameter_px": _cell(largest.longest_diameter_px if largest else None, 2),
        "longest_diameter_mm": _cell(largest.longest_diameter_mm if largest else None, 2),
        "disagreement": round(findings.disagreement, 4),
        "weights": findings.weights,
        "warnings": " ".join(findings.warnings),
    }


def volume_row(volume: VolumeFindings) -> dict[str, Any]:
    """One volume as one flat row, under the names of :func:`summary_row` and ``tumor_volume_ml``."""
    milliliters = [v for v in volume.volumes_ml.values() if v is not None]
    return {
        "scan": volume.source.name,
        "slice": "",
        "status": volume.status,
        "reason": volume.reason or "",
        "verdict": volume.verdict or "",
        "tumor_probability": _cell(volume.tumor_probability, 4),
        "threshold": _cell(volume.threshold, 4),
        "tumor_type": volume.tumor_type or "",
        **{f"p_{kind.key}": _cell(volume.type_probabilities.get(kind.key), 4) for kind in TUMORS},
        "tumor_area_px": sum(s.area_px for s in volume.slices),
        "tumor_area_mm2": "",
        "tumor_volume_ml": round(sum(milliliters), 3) if milliliters else "",
        "regions": len(volume.lesions),
        "longest_diameter_px": _cell(max((x.longest_diameter_px for x in volume.lesions), default=None), 2),
        "longest_diameter_mm": _cell(volume.longest_diameter_mm, 2),
        "disagreement": round(max(s.disagreement for s in volume.slices), 4),
        "weights": volume.weights,
        "warnings": " ".join(volume.warnings),
    }


def csv_rows(findings: Findings) -> list[dict[str, Any]]:
    """One row a region, each with the scan's own columns; a scan without regions is one row."""
    shared = summary_row(findings)
    numbered = list(enumerate(findings.regions, 1))
    return [{**shared, **_region_row(i, r)} for i, r in numbered] or [{**shared, **_region_row(0, None)}]


def _region_row(number: int, r: Region | None) -> dict[str, Any]:
    if r is None:
        return dict.fromkeys(REGION_COLUMNS, "")
    values = (
        number, r.type, r.area_px, _cell(r.area_mm2, 2), _cell(r.longest_diameter_px, 2), _cell(r.longest_diameter_mm, 2),
        _cell(r.perpendicular_diameter_px, 2), _cell(r.perpendicular_diameter_mm, 2), r.side, _cell(r.centroid[0], 2),
        _cell(r.centroid[1], 2),
    )  # fmt: skip
    return dict(zip(REGION_COLUMNS, values, strict=True))


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows of equal keys; text that a spreadsheet would run as a formula is quoted."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: _harmless(v) for k, v in row.items()})


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _cell(value: float | None, digits: int) -> float | str:
    return "" if value is None else round(float(value), digits)


def _checked(notes: str) -> str:
    notes = notes.strip()
    lines = notes.count("\n") + 1
    if len(notes) > MAX_NOTES or lines > MAX_LINES:
        raise DataError(
            f"A report's notes have at most {MAX_NOTES} characters and {MAX_LINES} lines;"
            f" received {len(notes)} and {lines}, shorten them."
        )
    return notes


def write_pdf(findings: Findings, path: Path, notes: str = "") -> None:
    """Write one page, or two where the notes or the regions are many.

    Args:
        findings: Of one slice.
        path: The file to write.
        notes: The reader's own words, printed as they are.

    Raises:
        DataError: Notes of more than MAX_NOTES characters or MAX_LINES lines.
    """
    notes = _checked(notes)
    pdf = _document()
    created = datetime.datetime.now(datetime.UTC)
    _text(pdf, "Neurovision report", 17, bold=True)
    source = findings.source
    height, width = findings.mask.shape
    _text(
        pdf,
        f"Created {created:%Y-%m-%d %H:%M} UTC by neurovision {__version__}, weights {findings.weights or 'none'}."
        f" Scan: {source.name} ({source.format}, {width} x {height} px, slice {findings.slice_index + 1}"
        + (f", sha256 {source.sha256[:12]}" if source.sha256 else "")
        + ").",
        8.5,
        GRAY,
    )
    _rule(pdf)
    _text(pdf, verdict_words(findings), 15, bold=True)
    for sentence in _verdict_sentences(findings):
        _text(pdf, sentence, 10)
    pdf.ln(2)
    _pictures(pdf, findings)
    _regions(pdf, findings)
    _members(pdf, findings)
    for warning in findings.warnings:
        _text(pdf, f"Note: {warning}", 9)
    if notes:
        pdf.ln(1)
        _text(pdf, "Notes of the reader", 11, bold=True)
        _text(pdf, notes, 9.5)
    write(path, bytes(pdf.output()))


def _document() -> FPDF:
    import matplotlib
    from fpdf import FPDF

    logging.getLogger("fontTools").setLevel(logging.ERROR)
    logging.getLogger("fpdf").setLevel(logging.ERROR)  # it would log characters of the notes that the font lacks

    class Document(FPDF):
        def footer(self) -> None:
            self.set_y(-16)
            self.set_font("Report", size=7.5)
            self.set_text_color(*GRAY)
            self.multi_cell(0, 3.6, f"{DISCLAIMER} Page {self.page_no()}.", align="C")

    pdf = Document(format="A4")
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # the PDF standard's own fonts know Latin-1 only
    pdf.add_font("Report", "", fonts / "DejaVuSans.ttf")
    pdf.add_font("Report", "B", fonts / "DejaVuSans-Bold.ttf")
    pdf.set_margins(16, 14, 16)
    pdf.set_auto_page_break(True, 20)
    pdf.c_margin = 0
    pdf.set_title("Neurovision report")
    pdf.set_creator(f"neurovision {__version__}")
    pdf.set_lang("en-US")
    pdf.add_page()
    return pdf


def _text(pdf: FPDF, words: str, size: float, color: tuple[int, int, int] = INK, bold: bool = False) -> None:
    pdf.set_font("Report", "B" if bold else "", size)
    pdf.set_text_color(*color)
    pdf.multi_cell(0, size * 0.5, words, align="L", new_x="LMARGIN", new_y="NEXT")


def _rule(pdf: FPDF) -> None:
    pdf.ln(2)
    pdf.set_draw_color(*RULE)
    pdf.line(pdf.l_margin, pdf.get_y(), pdf.w - pdf.r_margin, pdf.get_y())
    pdf.ln(3)


def _verdict_sentences(findings: Findings) -> list[str]:
    if findings.tumor_probability is None or findings.threshold is None:
        return [findings.reason or ""]
    sentences = [
        f"Calibrated probability of a tumor {findings.tumor_probability:.2f}; the threshold is {findings.threshold:.2f}."
    ]
    if findings.verdict == "tumor":
        types = ", ".join(f"{BY_KEY[k].title} {p:.2f}" for k, p in findings.type_probabilities.items())
        sentences.append(f"Type, given a tumor: {types}.")
        sentences.append(f"Marked is where the vote's probability of tumor is at least {findings.marked_from:.2f}.")
    else:
        sentences.append("A negative answer does not exclude a tumor.")
    sentences.append(f"Disagreement of the networks: {findings.disagreement:.2f} (1 minus their mean Dice).")
    return sentences


def _pictures(pdf: FPDF, findings: Findings) -> None:
    """The slice and its overlay side by side."""
    from PIL import Image

    scale = min(1.0, PICTURE / max(findings.mask.shape))
    height, width = findings.mask.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    space = (pdf.epw - 6) / 2
    wide = min(space, 78 * width / height)  # no taller than 78 mm
    top = pdf.get_y()
    for k, picture in enumerate((gray_rgb(findings.picture), findings.overlay())):
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        pdf.image(Image.fromarray(small), x=pdf.l_margin + k * (space + 6), y=top, w=wide, alt_text=("Scan", "Overlay")[k])
    pdf.set_y(top + wide * height / width + 2)
    shown = [kind for kind in TUMORS if (findings.mask == kind.index).any()]
    legend = ", ".join(f"{kind.title}: {_color_name(kind.key)}" for kind in shown) or "no region is marked"
    _text(pdf, f"Left: the scan. Right: the vote of the networks ({legend}).", 8.5, GRAY)
    pdf.ln(2)


def _color_name(key: str) -> str:
    return {"glioma": "orange", "meningioma": "blue", "pituitary": "pink"}[key]


def _regions(pdf: FPDF, findings: Findings) -> None:
    if not findings.regions:
        return
    metric = findings.spacing is not None
    unit = "mm" if metric else "px"
    rows = []
    for i, r in enumerate(findings.regions[:MAX_REGIONS], 1):
        area, longest, across = region_sizes(r)
        rows.append([str(i), BY_KEY[r.type].title, f"{area:.0f}", f"{longest:.1f}", f"{across:.1f}", r.side])
    _table(pdf, "Regions", ["#", "Type", f"Area ({unit}²)", f"Longest ({unit})", f"Across ({unit})", "Side"], rows)
    left_out = len(findings.regions) - MAX_REGIONS
    if left_out > 0:
        _text(pdf, f"{left_out} smaller regions are listed in the JSON and CSV.", 8.5, GRAY)
    if not metric:
        _text(pdf, "The file gives no pixel spacing, so sizes are in pixels.", 8.5, GRAY)


def _members(pdf: FPDF, findings: Findings) -> None:
    if not findings.members:
        return
    rows = [
        [m.title, BY_KEY[m.tumor_type].title if m.tumor_type else "none", str(m.area_px)]
        for m in findings.members
    ]
    _table(pdf, "Each network alone", ["Network", "Type", "Area (px)"], rows)
    total = findings.timing_ms.get("total")
    if total is not None:
        _text(pdf, f"Computed in {total:.0f} ms.", 8.5, GRAY)


def _table(pdf: FPDF, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from fpdf.enums import TableBordersLayout
    from fpdf.fonts import FontFace

    _text(pdf, title, 11, bold=True)
    pdf.set_font("Report", "", 8.5)
    pdf.set_draw_color(*RULE)
    with pdf.table(
        borders_layout=TableBordersLayout.HORIZONTAL_LINES, line_height=5, text_align="LEFT",
        headings_style=FontFace(emphasis="BOLD", color=GRAY),
    ) as table:  # fmt: skip
        for row in (columns, *rows):
            table.row(list(row))
    pdf.ln(2)
