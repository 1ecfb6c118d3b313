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
from neurovision.classes import BY_KEY, TUMORS
from neurovision.ensemble.results import Findings, Lesion, Region, Result, VolumeFindings
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
    "region", "region_type", "region_area_px", "region_area_mm2", "region_voxels", "region_volume_ml", "region_first_slice",
    "region_last_slice", "region_longest_px", "region_longest_mm", "region_perpendicular_px", "region_perpendicular_mm",
    "region_side", "region_row", "region_column",
)  # fmt: skip
GRAY, INK, RULE = (90, 98, 110), (23, 32, 42), (205, 212, 220)


_HEADINGS = {"tumor": "Tumor detected", "borderline": "Borderline", "no tumor": "No tumor detected"}


def verdict_words(result: Result) -> str:
    """The verdict as a heading."""
    if result.verdict is None:
        return "Not a brain MRI" if result.status == "rejected" else "Cannot be read"
    return _HEADINGS[result.verdict.state]


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
            "notes": _checked(notes),
            "disclaimer": DISCLAIMER,
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


def _checked(notes: str) -> str:
    notes = notes.strip()
    lines = notes.count("\n") + 1
    if len(notes) > MAX_NOTES or lines > MAX_LINES:
        raise DataError(
            f"A report's notes have at most {MAX_NOTES} characters and {MAX_LINES} lines;"
            f" received {len(notes)} and {lines}, shorten them."
        )
    return notes


def write_pdf(result: Result, path: Path, notes: str = "") -> None:
    """Write one page, or two where the notes or the regions are many.

    The verdict and the measurements are the whole result's; pictures and single networks are of its shown slice.

    Args:
        result: Of a slice, a volume, or a file that could not be read.
        path: The file to write.
        notes: The reader's own words, printed as they are.

    Raises:
        DataError: Notes of more than MAX_NOTES characters or MAX_LINES lines.
    """
    notes = _checked(notes)
    pdf = _document()
    created = datetime.datetime.now(datetime.UTC)
    _text(pdf, "Neurovision report", 17, bold=True)
    _text(
        pdf,
        f"Created {created:%Y-%m-%d %H:%M} UTC by neurovision {__version__}, weights {result.weights or 'none'}."
        f" Scan: {_about(result)}.",
        8.5,
        GRAY,
    )
    _rule(pdf)
    _text(pdf, verdict_words(result), 15, bold=True)
    for sentence in _verdict_sentences(result):
        _text(pdf, sentence, 10)
    pdf.ln(2)
    shown = result.shown
    if shown is not None:
        _pictures(pdf, shown)
    if isinstance(result, VolumeFindings):
        _lesions(pdf, result)
    elif shown is not None:
        _regions(pdf, shown)
    if shown is not None:
        _members(pdf, shown, result.timing_ms.get("total"))
    for warning in result.warnings:
        _text(pdf, f"Note: {warning}", 9)
    if notes:
        pdf.ln(1)
        _text(pdf, "Notes of the reader", 11, bold=True)
        _text(pdf, notes, 9.5)
    write(path, bytes(pdf.output()))


def _about(result: Result) -> str:
    source, row = result.source, result.row()
    if result.shown is None:
        return source.name
    size = f"{row['width']} x {row['height']} px"
    which = f"slice {row['slice']}" if row["slice"] is not None else f"{row['slices']} slices"
    digest = f", sha256 {source.sha256[:12]}" if source.sha256 else ""
    return f"{source.name} ({source.format}, {size}, {which}{digest})"


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


def _verdict_sentences(result: Result) -> list[str]:
    verdict, shown = result.verdict, result.shown
    if verdict is None or shown is None:
        return [result.reason or ""]
    whole = isinstance(result, VolumeFindings)
    what = "Highest calibrated probability of two neighboring slices" if whole else "Calibrated probability of a tumor"
    sentences = [f"{what} {verdict.probability:.2f}; the threshold is {verdict.threshold:.2f}."]
    if verdict.likeliest_type is not None:
        types = ", ".join(f"{BY_KEY[k].title} {p:.2f}" for k, p in verdict.types.items())
        sentences.append(f"Type, given a tumor: {types}.")
    if verdict.positive and not whole:
        sentences.append(f"Pixels are marked where the vote's probability of tumor is at least {shown.marked_from:.2f}.")
    if not verdict.positive:
        sentences.append("A negative answer does not exclude a tumor.")
    if whole:
        sentences.append(f"The pictures and the single networks' findings are of slice {shown.slice_index + 1}.")
    sentences.append(f"Disagreement of the networks: {shown.disagreement:.2f} (1 minus their mean Dice).")
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
    area_unit = "mm²" if metric else "px"
    head = ["#", "Type", f"Area ({area_unit})", f"Longest ({unit})", f"Across ({unit})", "Side"]
    _table(pdf, "Regions", head, rows)
    left_out = len(findings.regions) - MAX_REGIONS
    if left_out > 0:
        _text(pdf, f"{left_out} smaller regions are listed in the JSON and CSV.", 8.5, GRAY)
    if not metric:
        _text(pdf, "The file gives no pixel spacing, so sizes are in pixels.", 8.5, GRAY)


def _lesions(pdf: FPDF, volume: VolumeFindings) -> None:
    if not volume.lesions:
        return
    metric = volume.lesions[0].volume_ml is not None
    unit = "mm" if volume.spacing is not None else "px"
    rows = []
    for i, x in enumerate(volume.lesions[:MAX_REGIONS], 1):
        longest, across = (
            (x.longest_diameter_px, x.perpendicular_diameter_px)
            if x.longest_diameter_mm is None or x.perpendicular_diameter_mm is None
            else (x.longest_diameter_mm, x.perpendicular_diameter_mm)
        )
        size = str(x.voxels) if x.volume_ml is None else f"{x.volume_ml:.2f}"
        between = f"{x.first_slice + 1} to {x.last_slice + 1}"
        rows.append([str(i), BY_KEY[x.type].title, size, between, f"{longest:.1f}", f"{across:.1f}", x.side])
    size = "ml" if metric else "voxels"
    head = ["#", "Type", f"Volume ({size})", "Slices", f"Longest ({unit})", f"Across ({unit})", "Side"]
    _table(pdf, "Lesions", head, rows)
    left_out = len(volume.lesions) - MAX_REGIONS
    if left_out > 0:
        _text(pdf, f"{left_out} smaller lesions are listed in the JSON and CSV.", 8.5, GRAY)


def _members(pdf: FPDF, findings: Findings, total: float | None) -> None:
    if not findings.members:
        return
    rows = [
        [m.title, BY_KEY[m.tumor_type].title if m.tumor_type else "none", str(m.area_px)]
        for m in findings.members
    ]
    _table(pdf, "Each network alone", ["Network", "Type", "Area (px)"], rows)
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
