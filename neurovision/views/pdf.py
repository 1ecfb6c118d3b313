"""The report of one scan as PDF, for a person's file: at the top what it is, then the study, the finding, the pictures.

It is drawn from the same result, in the same window and with the same figures as the page.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from neurovision import __version__
from neurovision.classes import HEAD, Classes
from neurovision.ensemble.results import Findings, Region, Result, VolumeFindings
from neurovision.evaluation.held_out import HeldOut
from neurovision.files import write
from neurovision.scan.paint import paint
from neurovision.scan.study import Study
from neurovision.views.layers import grid, window, windowed
from neurovision.views.report import (
    ONLY_TYPE,
    checked_notes,
    disclaimer,
    region_sizes,
    sequence_words,
    size_words,
    verdict_words,
)

if TYPE_CHECKING:
    from fpdf import FPDF

BAND = "RESEARCH USE ONLY. Not a medical device, not for diagnosis or treatment."
MAX_ROWS = 12  # lesions in the table; JSON and CSV list all
PICTURE = 900  # pixels of a picture's longer side
GRAY, INK, RULE, WARM = (90, 98, 110), (23, 32, 42), (205, 212, 220), (180, 83, 9)
_IDENTITY = (("PatientName", "Name"), ("PatientID", "Number"), ("PatientBirthDate", "Birth date"), ("PatientSex", "Sex"))
_STUDY = (("StudyDate", "Study date"), ("StudyDescription", "Study"), ("AccessionNumber", "Accession number"))
_LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))  # where each RAS axis points, and where it comes from


def probability_words(value: float) -> str:
    """A probability as the page says it: never 0 or 100 %."""
    if value < 0.01:
        return "< 1 %"
    return "> 99 %" if value > 0.99 else f"{100 * value:.0f} %"


def write_pdf(
    result: Result, path: Path, notes: str = "", identity: bool = False, measured: HeldOut | None = None
) -> None:
    """Write the report.

    The verdict and the measurements are the whole result's; the large picture is of its shown slice.

    Args:
        result: Of a slice, a volume, or a file that could not be read.
        path: The file to write.
        notes: The reader's own words, printed as they are.
        identity: Whether to print the patient's name, number, birth date and sex, where the headers have them.
        measured: Rates on held-out scans like this one, or None.

    Raises:
        DataError: Notes of more than MAX_NOTES characters or MAX_LINES lines.
        OutputError: The disk is full, or the folder cannot be written.
    """
    notes = checked_notes(notes)
    if result.verdict is not None and result.verdict.state == "no tumor" and isinstance(result, Findings | VolumeFindings):
        result = replace(result, mask=np.minimum(result.mask, HEAD.index))  # below the threshold nothing is a finding
    pdf = _document(result.classes)
    study = result.study if isinstance(result, VolumeFindings) else None
    _text(pdf, "Brain MRI: findings of an algorithm", 15, bold=True)
    _pairs(pdf, _study_block(result, study, identity))
    _rule(pdf)
    _text(pdf, verdict_words(result), 14, bold=True)
    for sentence in _sentences(result, measured):
        _text(pdf, sentence, 9.5)
    pdf.ln(2)
    shown = result.shown
    if shown is not None:
        _pictures(pdf, shown, study)
    if isinstance(result, VolumeFindings) and len(result.slices) > 1:
        _planes(pdf, result)
        _strip(pdf, result)
    _tumors(pdf, result)
    if shown is not None:
        _members(pdf, shown)
    for warning in result.warnings:
        _text(pdf, f"Note: {warning}", 8.5)
    pdf.ln(1)
    _text(pdf, "Notes of the reader", 10.5, bold=True)
    _text(pdf, notes or "None.", 9.5)
    _signature(pdf)
    write(path, bytes(pdf.output()))


def _document(classes: Classes) -> FPDF:
    import matplotlib
    from fpdf import FPDF

    logging.getLogger("fontTools").setLevel(logging.ERROR)
    logging.getLogger("fpdf").setLevel(logging.ERROR)  # it would log characters of the notes that the font lacks
    created = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"

    class Document(FPDF):
        def header(self) -> None:
            self.set_fill_color(*WARM)
            self.set_text_color(255, 255, 255)
            self.set_font("Report", "B", 9)
            self.set_xy(0, 0)
            self.cell(self.w, 8, BAND, align="C", fill=True)
            self.set_xy(self.l_margin, 13)

        def footer(self) -> None:
            self.set_y(-15)
            self.set_font("Report", size=7)
            self.set_text_color(*GRAY)
            words = f"{disclaimer(classes)} neurovision {__version__}, {created}. Page {self.page_no()} of {{nb}}"
            self.multi_cell(0, 3.4, words, align="C")

    pdf = Document(format="A4")
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # the PDF standard's own fonts know Latin-1 only
    pdf.add_font("Report", "", fonts / "DejaVuSans.ttf")
    pdf.add_font("Report", "B", fonts / "DejaVuSans-Bold.ttf")
    pdf.set_margins(16, 13, 16)
    pdf.set_auto_page_break(True, 19)
    pdf.c_margin = 0
    pdf.set_title("Brain MRI: findings of an algorithm, for research")
    pdf.set_creator(f"neurovision {__version__}")
    pdf.set_lang("en-US")
    pdf.add_page()
    return pdf


def _text(pdf: FPDF, words: str, size: float, color: tuple[int, int, int] = INK, bold: bool = False) -> None:
    pdf.set_font("Report", "B" if bold else "", size)
    pdf.set_text_color(*color)
    pdf.multi_cell(0, size * 0.5, words, align="L", new_x="LMARGIN", new_y="NEXT")


def _rule(pdf: FPDF) -> None:
    pdf.ln(1.5)
    pdf.set_draw_color(*RULE)
    pdf.line(pdf.l_margin, pdf.get_y(), pdf.w - pdf.r_margin, pdf.get_y())
    pdf.ln(2.5)


def _study_block(result: Result, study: Study | None, identity: bool) -> list[tuple[str, str]]:
    """What was read: dates, series and geometry; whom it shows only where the reader asked for it."""
    source = result.source
    rows = [("Scan", f"{source.name} ({source.format or 'not read'})")]
    headers = None if study is None else study.headers
    if headers is not None:
        for keyword, words in (*(_IDENTITY if identity else ()), *_STUDY[: 3 if identity else 1]):
            if value := headers.identity.get(keyword):
                rows.append((words, value.replace("^", " ").strip()))
        if headers.series_uid:
            rows.append(("Series", headers.series_uid))
    if study is not None:
        count, height, width = study.pixels.shape[:3]
        rows.append(("Geometry", f"{count} slice{'s' * (count > 1)} of {width} x {height} px, {_spacing(study)}"))
    if words := sequence_words(result):
        rows.append(("Sequence", words))
    if source.sha256:
        rows.append(("sha256", source.sha256[:16]))
    rows.append(("Weights", result.weights or "none"))
    return rows


def _spacing(study: Study) -> str:
    if study.spacing is None:
        return "spacing unknown"
    across, row, column = study.spacing
    return f"{column:.2f} x {row:.2f}" + ("" if across is None else f" x {across:.2f}") + " mm"


def _pairs(pdf: FPDF, pairs: Iterable[tuple[str, str]]) -> None:
    pdf.ln(1)
    for name, value in pairs:
        pdf.set_font("Report", "", 8.5)
        pdf.set_text_color(*GRAY)
        pdf.cell(32, 4.4, name)
        pdf.set_text_color(*INK)
        pdf.multi_cell(0, 4.4, value, align="L", new_x="LMARGIN", new_y="NEXT")


def _sentences(result: Result, measured: HeldOut | None) -> list[str]:
    said = result.verdict
    if said is None:
        return [result.reason or ""]
    lines = [
        f"Calibrated probability of a tumor {probability_words(said.probability)}; the threshold is"
        f" {probability_words(said.threshold)}."
    ]
    if said.state == "no tumor":
        lines.append("Nothing passes the threshold. A negative answer does not exclude a tumor.")
    elif said.state == "borderline":
        lines.append("The probability is near the threshold: a person has to decide.")
    if said.state != "no tumor":
        size = size_words(result) if isinstance(result, VolumeFindings) else ""
        if size:
            lines.append(f"Marked: {size}.")
        if said.interval is not None:
            unit = {"px": "px", "mm2": "mm²", "ml": "ml"}[said.interval.unit]
            digits = 1 if said.interval.unit == "ml" else 0
            low, high = (f"{v:.{digits}f}" for v in (said.interval.low, said.interval.high))
            lines.append(f"The true size is expected between {low} and {high} {unit}.")
        if said.expected_dice is not None:
            lines.append(f"Expected overlap of the outline (Dice): {said.expected_dice:.2f}.")
        if said.likeliest_type is not None:
            types = ", ".join(f"{result.classes.title(k)} {probability_words(p)}" for k, p in said.types.items())
            right = measured.type_right if measured else None
            rate = "" if measured is None or right is None else (
                f" The type was right in {probability_words(right)} of held-out {measured.tumors}."
            )
            several = len(said.types) > 1
            only = f"{result.classes.title(said.likeliest_type)}, {ONLY_TYPE}."
            lines.append(f"Type, given a tumor: {types}.{rate}" if several else only)
    if measured is not None:
        rates = []
        if measured.sensitivity is not None:
            words = probability_words(measured.sensitivity)
            rates.append(f"found {words} of {measured.with_tumor} slices with a tumor")
        if measured.false_alarms is not None:
            words = probability_words(measured.false_alarms)
            rates.append(f"raised a false alarm on {words} of {measured.without_tumor} without one")
        if rates:
            lines.append(f"On held-out {measured.scans} the verdict {' and '.join(rates)}.")
    return lines


def _drawn(result: Findings, study: Study | None) -> tuple[np.ndarray, np.ndarray]:
    """The shown slice in the page's window, plain and with what is marked."""
    picture = result.picture
    if study is not None:
        picture = windowed(picture, window(study, result.slice_index))
    nothing = np.zeros_like(result.mask)
    return paint(picture, nothing, result.classes, 0.0), paint(picture, result.mask, result.classes, 0.45)


def _scaled(picture: np.ndarray, high: float, wide: float) -> np.ndarray:
    """Resize so that a pixel of the sheet is square although a voxel is not, its longer side PICTURE."""
    factor = PICTURE / max(high, wide)
    size = (max(1, round(wide * factor)), max(1, round(high * factor)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if size[0] < picture.shape[1] else cv2.INTER_CUBIC)


def _letters(axis: np.ndarray) -> tuple[str, str]:
    """What stands where a voxel axis begins and ends, from its RAS direction."""
    k = int(np.abs(axis).argmax())
    toward, away = _LETTERS[k]
    return (away, toward) if axis[k] > 0 else (toward, away)


def _mark(picture: np.ndarray, across: tuple[str, str], down: tuple[str, str], long_mm: float | None) -> np.ndarray:
    """Write the letters of the four edges and a scale of 10 mm steps onto a picture of the sheet."""
    out = np.ascontiguousarray(picture)
    height, width = out.shape[:2]
    at = [(8, height // 2), (width - 38, height // 2), (width // 2, 40), (width // 2, height - 12)]
    for word, (x, y) in zip((*across, *down), at, strict=True):
        cv2.putText(out, word, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 1.3, (0, 0, 0), 7, cv2.LINE_AA)
        cv2.putText(out, word, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 1.3, (230, 235, 240), 3, cv2.LINE_AA)
    if long_mm:
        pixels = height / long_mm
        base, x = height - 14, 14
        cv2.line(out, (x, base), (x, round(base - 50 * pixels)), (230, 235, 240), 2)
        for k in range(6):
            y = round(base - 10 * k * pixels)
            cv2.line(out, (x, y), (x + 8, y), (230, 235, 240), 2)
        cv2.putText(out, "5 cm", (x + 14, base), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (230, 235, 240), 2, cv2.LINE_AA)
    return out


def _calipers(picture: np.ndarray, region: Region, mask: np.ndarray, scale: tuple[float, float]) -> None:
    """Draw a region's longest diameter, and the longest across it, into a scaled picture."""
    top, left, bottom, right = region.bbox
    rows, columns = np.nonzero(mask[top:bottom, left:right] > 1)
    points = np.stack([(columns + left + 0.5) * scale[0], (rows + top + 0.5) * scale[1]], axis=1)
    hull = cv2.convexHull(points.astype(np.float32)).reshape(-1, 2)
    apart = np.linalg.norm(hull[:, None] - hull[None], axis=2)
    i, j = np.unravel_index(int(apart.argmax()), apart.shape)
    along = hull[j] - hull[i]
    normal = np.array([-along[1], along[0]]) / max(float(np.linalg.norm(along)), 1e-6)
    across = hull @ normal
    lines = ((hull[i], hull[j]), (hull[int(across.argmin())], hull[int(across.argmax())]))
    for n, (a, b) in enumerate(lines):
        if n:  # the extent across, through the middle of what is longest
            middle = hull[i] + along * 0.5
            a, b = (middle + normal * (v - float(middle @ normal)) for v in (across.min(), across.max()))
        begin, end = tuple(np.rint(a).astype(int).tolist()), tuple(np.rint(b).astype(int).tolist())
        cv2.line(picture, begin, end, (0, 0, 0), 5, cv2.LINE_AA)
        cv2.line(picture, begin, end, (255, 255, 255), 2, cv2.LINE_AA)


def _pictures(pdf: FPDF, shown: Findings, study: Study | None) -> None:
    """The shown slice and the same with what is marked, side by side."""
    from PIL import Image

    row, column = shown.spacing or (1.0, 1.0)
    high, wide = shown.mask.shape[0] * row, shown.mask.shape[1] * column
    plain, marked = (_scaled(p, high, wide) for p in _drawn(shown, study))
    if shown.regions and (shown.mask > 1).any():
        scale = (marked.shape[1] / shown.mask.shape[1], marked.shape[0] / shown.mask.shape[0])
        marked = np.ascontiguousarray(marked)
        _calipers(marked, shown.regions[0], shown.mask, scale)
    across = down = ("", "")
    if study is not None and study.affine is not None:
        affine = grid(study)
        across, down = _letters(affine[:3, 0]), _letters(affine[:3, 1])
    length = high if shown.spacing is not None else None
    space = (pdf.epw - 6) / 2
    width = min(space, 76 * wide / high)  # no taller than 76 mm
    top = pdf.get_y()
    for k, picture in enumerate((plain, marked)):
        image = Image.fromarray(_mark(picture, across, down, length))
        pdf.image(image, x=pdf.l_margin + k * (space + 6), y=top, w=width, alt_text=("Scan", "What is marked")[k])
    pdf.set_y(top + width * high / wide + 1.5)
    kinds = [kind for kind in shown.classes.tumors if (shown.mask == kind.index).any()]
    legend = ", ".join(f"{kind.title}: {kind.color_name}" for kind in kinds) or "nothing is marked"
    place = f"Slice {shown.slice_index + 1}, where most is marked. " if kinds else f"Slice {shown.slice_index + 1}. "
    calipers = " White lines: the largest region's diameters." if shown.regions and kinds else ""
    _text(pdf, f"{place}Left: the scan. Right: what the vote marks ({legend}).{calipers}", 8, GRAY)
    pdf.ln(1.5)


def _planes(pdf: FPDF, volume: VolumeFindings) -> None:
    """Three planes through the middle of the largest lesion, or of the volume, each in the voxels' own axes."""
    from PIL import Image

    study = volume.study
    count, height, width = volume.mask.shape
    k, j, i = volume.shown_slice, height // 2, width // 2
    if volume.lesions:
        k, j, i = (round(v) for v in volume.lesions[0].centroid)
    affine = grid(study)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)  # of a column, a row, a slice
    limits = window(study, volume.shown_slice)
    upward = slice(None, None, -1) if affine[np.abs(affine[:3, 2]).argmax(), 2] > 0 else slice(None)
    gray_rows = np.stack([study.gray(n)[j] for n in range(count)])[upward]
    gray_columns = np.stack([study.gray(n)[:, i] for n in range(count)])[upward]
    views = (
        (study.gray(k), volume.mask[k], (sizes[1], sizes[0]), (0, 1, 1.0)),
        (gray_rows, volume.mask[:, j][upward], (sizes[2], sizes[0]), (0, 2, -1.0 if upward.step else 1.0)),
        (gray_columns, volume.mask[:, :, i][upward], (sizes[2], sizes[1]), (1, 2, -1.0 if upward.step else 1.0)),
    )
    pictures = []
    for gray, mask, (high_mm, wide_mm), (across, down, sign) in views:
        high, wide = gray.shape[0] * high_mm, gray.shape[1] * wide_mm
        drawn = _scaled(paint(windowed(gray, limits), mask, volume.classes, 0.45), high, wide)
        letters: tuple[tuple[str, str], tuple[str, str]] = (("", ""), ("", ""))
        if study.affine is not None:
            letters = (_letters(affine[:3, across]), _letters(sign * affine[:3, down]))
        pictures.append((_mark(drawn, *letters, high if study.spacing is not None else None), high / wide))
    space = (pdf.epw - 8) / 3
    tallest = min(58.0, max(space * ratio for _, ratio in pictures))
    if pdf.get_y() + tallest + 8 > pdf.h - 19:
        pdf.add_page()
    top = pdf.get_y()
    for n, (picture, ratio) in enumerate(pictures):
        wide = min(space, tallest / ratio)
        pdf.image(Image.fromarray(picture), x=pdf.l_margin + n * (space + 4), y=top, w=wide, alt_text="One of three planes")
    pdf.set_y(top + tallest + 1.5)
    where = "the middle of the largest lesion" if volume.lesions else "the middle of the volume"
    _text(pdf, f"Three planes through {where}.", 8, GRAY)
    pdf.ln(1.5)


def _strip(pdf: FPDF, volume: VolumeFindings) -> None:
    """Probability and marked area of every slice, as bars."""
    if pdf.get_y() + 22 > pdf.h - 19:
        pdf.add_page()
    top, wide = pdf.get_y(), pdf.epw / len(volume.slices)
    most = max(max(s.area_px for s in volume.slices), 1)
    threshold = 1.0 if volume.verdict is None else volume.verdict.threshold
    pdf.set_fill_color(238, 242, 246)
    pdf.rect(pdf.l_margin, top, pdf.epw, 15, style="F")
    for n, s in enumerate(volume.slices):
        x = pdf.l_margin + n * wide
        pdf.set_fill_color(230, 159, 0)
        pdf.rect(x, top + 9 - 9 * s.area_px / most, wide * 0.85, 9 * s.area_px / most, style="F")
        if s.tumor_probability is not None:
            pdf.set_fill_color(*(WARM if s.tumor_probability >= threshold else (148, 163, 184)))
            pdf.rect(x, top + 15 - 5 * s.tumor_probability, wide * 0.85, 5 * s.tumor_probability, style="F")
    pdf.set_y(top + 16)
    words = f"Slices 1 to {len(volume.slices)}. Above: marked area. Below: probability, brown from the threshold on."
    _text(pdf, words, 8, GRAY)
    pdf.ln(1.5)


def _tumors(pdf: FPDF, result: Result) -> None:
    """Table of lesions, or of a single slice's regions."""
    said = result.verdict
    if said is None or said.state == "no tumor":
        return
    single = not isinstance(result, VolumeFindings) or len(result.slices) == 1
    shown = result.shown
    rows: list[list[str]] = []
    if single and shown is not None:
        metric = shown.spacing is not None
        head = ["#", "Type", "Area (mm²)" if metric else "Area (px)", *_diameters(metric), "Side"]
        for n, r in enumerate(shown.regions, 1):
            area, longest, across = region_sizes(r)
            rows.append([str(n), result.classes.title(r.type), f"{area:.0f}", f"{longest:.1f}", f"{across:.1f}", r.side])
    elif isinstance(result, VolumeFindings):
        metric = result.spacing is not None
        volumes = bool(result.lesions) and result.lesions[0].volume_ml is not None
        head = ["#", "Type", "Volume (ml)" if volumes else "Voxels", *_diameters(metric), "Side", "Slices"]
        for n, x in enumerate(result.lesions, 1):
            size = f"{x.voxels}" if x.volume_ml is None else f"{x.volume_ml:.2f}"
            longest = x.longest_diameter_px if x.longest_diameter_mm is None else x.longest_diameter_mm
            across = x.perpendicular_diameter_px if x.perpendicular_diameter_mm is None else x.perpendicular_diameter_mm
            through = f"{x.first_slice + 1} to {x.last_slice + 1}"
            rows.append([str(n), result.classes.title(x.type), size, f"{longest:.1f}", f"{across:.1f}", x.side, through])
    if not rows:
        return
    _table(pdf, "Lesions, largest first", head, rows[:MAX_ROWS])
    if len(rows) > MAX_ROWS:
        _text(pdf, f"{len(rows) - MAX_ROWS} smaller ones are listed in the JSON.", 8, GRAY)
    if not metric:
        _text(pdf, "The file gives no pixel spacing, so sizes are in pixels.", 8, GRAY)


def _diameters(metric: bool) -> list[str]:
    unit = "mm" if metric else "px"
    return [f"Longest ({unit})", f"Across ({unit})"]


def _members(pdf: FPDF, findings: Findings) -> None:
    if not findings.members:
        return
    rows = [
        [m.title, findings.classes.title(m.tumor_type) if m.tumor_type else "none", str(m.area_px)] for m in findings.members
    ]
    _table(pdf, f"Each network alone, slice {findings.slice_index + 1}", ["Network", "Type", "Area (px)"], rows)


def _table(pdf: FPDF, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from fpdf.enums import TableBordersLayout
    from fpdf.fonts import FontFace

    _text(pdf, title, 10.5, bold=True)
    pdf.set_font("Report", "", 8)
    pdf.set_draw_color(*RULE)
    pdf.set_fill_color(255, 255, 255)
    settings: dict[str, Any] = {
        "borders_layout": TableBordersLayout.HORIZONTAL_LINES, "line_height": 4.6, "text_align": "LEFT",
        "headings_style": FontFace(emphasis="BOLD", color=GRAY),
    }  # fmt: skip
    with pdf.table(**settings) as table:
        for row in (columns, *rows):
            table.row(list(row))
    pdf.ln(1.5)


def _signature(pdf: FPDF) -> None:
    """Where a reader signs; without that nothing here is a report."""
    if pdf.get_y() + 20 > pdf.h - 19:
        pdf.add_page()
    pdf.ln(12)
    y, half = pdf.get_y(), pdf.epw / 2 - 6
    pdf.set_draw_color(*GRAY)
    for n, words in enumerate(("Read by (name, signature)", "Date")):
        x = pdf.l_margin + n * (half + 12)
        pdf.line(x, y, x + half, y)
        pdf.set_xy(x, y + 1)
        pdf.set_font("Report", "", 8)
        pdf.set_text_color(*GRAY)
        pdf.cell(half, 4, words)
    pdf.ln(6)
