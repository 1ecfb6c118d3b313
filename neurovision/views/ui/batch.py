"""Batch: many files at once; one bad file never spoils the rest."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import gradio as gr
import numpy as np

from neurovision.classes import Classes
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.results import Row, Unread
from neurovision.errors import NeurovisionError, ScanTooLarge
from neurovision.scan import contained
from neurovision.scan.names import stems_of, told_apart
from neurovision.views.files import write_mask
from neurovision.views.report import size_words, verdict_words, write_csv
from neurovision.views.ui import card, parts, viewer
from neurovision.views.ui.case import Case, analyze, marked
from neurovision.views.ui.read import Tab, findings_json, overlay_of
from neurovision.views.ui.room import MODELS, Room, speaks

MAX_TOTAL = 2 * 1024**3  # bytes of one batch
THUMBNAIL = 56  # pixels
PROGRESS = gr.Progress()
_SCRIPT = """element.addEventListener('click', (e) => {
  const button = e.target.closest('[data-row]');
  if (button) trigger('click', { row: Number(button.dataset.row) });
});"""


@dataclass(frozen=True)
class Outcome:
    """One scan of a batch; its pixels are let go, what was drawn of them is kept.

    Attributes:
        stem: What its files in the ZIP are called; no two are alike.
        row: Its row in the CSV.
        files: What it was read from.
        verdict: Words for the table.
        size: Area or volume of what is marked, in words.
        overlay: PNG of its largest slice with the mask, or empty.
        members: Name in the ZIP to content, besides the overlay.
    """

    stem: str
    row: Row
    files: tuple[str, ...]
    verdict: str
    size: str = ""
    overlay: bytes = b""
    members: tuple[tuple[str, bytes], ...] = ()


def analyze_all(
    analyzer: Analyzer, paths: Sequence[Path], tell: Callable[[int, int], None] = lambda done, total: None
) -> list[Outcome]:
    """Analyze files, DICOM series together, in order of falling tumor probability; unread ones come last.

    Args:
        analyzer: The loaded ensemble.
        paths: Files in any mixture.
        tell: Called with ``(scans done, scans)``.

    Raises:
        ScanTooLarge: More than MAX_TOTAL bytes, or too many files.
    """
    size = sum(p.stat().st_size for p in paths)
    if size > MAX_TOTAL:
        raise ScanTooLarge(f"A batch may have {MAX_TOTAL >> 20} MB; received {size >> 20} MB, split it.")
    groups = contained.group_scans(paths)
    # By file names alone: the folders of uploads are the server's own.
    files = [Path(min(f.name for f in group)) for group in groups]
    names, stems = told_apart(files, [Path()] * len(files)), stems_of(files)
    outcomes: list[Outcome] = []
    for done, (group, name, stem) in enumerate(zip(groups, names, stems, strict=True)):
        tell(done, len(groups))
        more = "" if len(group) == 1 else f" and {len(group) - 1} more"
        outcomes.append(_analyze(analyzer, group, name + more, stem))
    return sorted(outcomes, key=lambda o: -_number(o.row["tumor_probability"], -1.0))


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default


def _analyze(analyzer: Analyzer, group: tuple[Path, ...], name: str, stem: str) -> Outcome:
    files = tuple(map(str, group))
    try:
        case = analyze(analyzer, contained.study(group, name), files)
    except NeurovisionError as e:
        reason, manifest = str(e).removeprefix(f"{group[0].name}: "), analyzer.manifest
        unread = Unread.of(name, reason, manifest.digest[:12], manifest.classes)
        text = json.dumps(unread.to_json(), indent=1).encode()
        return Outcome(stem, unread.row(), files, verdict_words(unread), members=((f"{stem}.json", text),))
    result = case.findings if case.study.n_slices == 1 else case.volume
    text = json.dumps(findings_json(case), indent=1, ensure_ascii=False).encode()
    return Outcome(
        stem, result.row(), files, verdict_words(case.volume),
        size_words(case.volume) if case.state in ("tumor", "borderline") else "", _overlay(case),
        ((f"{stem}.json", text), *_mask(case, stem)),
    )  # fmt: skip


def _mask(case: Case, stem: str) -> list[tuple[str, bytes]]:
    """The mask: of a picture as PNG, of a volume as NIfTI in its own geometry."""
    if case.volume.verdict is None:
        return []
    mask = marked(case.volume)
    drawn = replace(case.findings, mask=mask[0]) if case.study.n_slices == 1 else replace(case.volume, mask=mask)
    with TemporaryDirectory() as folder:
        path = write_mask(drawn, case.study, Path(folder), stem)
        return [(path.name, path.read_bytes())]


def _overlay(case: Case) -> bytes:
    data: bytes = cv2.imencode(".png", overlay_of(case)[..., ::-1])[1].tobytes()
    return data


def write_zip(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write JSON, mask and overlay of every scan, and the table, into one archive."""
    table = path.with_name("batch.csv")
    write_csv([o.row for o in outcomes], table)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(table, table.name)
        for o in outcomes:
            for name, data in o.members:
                archive.writestr(name, data)
            if o.overlay:
                archive.writestr(f"{o.stem}.overlay.png", o.overlay)


def _thumbnail(overlay: bytes) -> str:
    if not overlay:
        return ""
    picture = cv2.imdecode(np.frombuffer(overlay, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None  # it was written here
    scale = THUMBNAIL * 2 / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    small = cv2.imencode(".jpg", cv2.resize(picture, size, interpolation=cv2.INTER_AREA))[1].tobytes()
    return f'<img class="nv-thumb" alt="" src="data:image/jpeg;base64,{base64.b64encode(small).decode()}">'


def batch_table(outcomes: Sequence[Outcome], classes: Classes) -> str:
    """The verdicts, likeliest tumor first, then what could not be read and why; a row's button opens it in Read."""
    rows = []
    for number, o in enumerate(outcomes):
        p, name = o.row["tumor_probability"], escape(str(o.row["scan"]))
        said = escape(str(o.row["reason"] or o.row["warnings"] or ""))
        open_ = f'<button type="button" class="nv-go" data-row="{number}" aria-label="Open {name} in Read">Open</button>'
        rows.append(
            [
                _thumbnail(o.overlay), name, escape(o.verdict), "" if p is None else parts.percent(float(p)),
                parts.type_cell(str(o.row["tumor_type"]), classes) if o.row["tumor_type"] else "", escape(o.size),
                f'<span class="nv-wrap">{said}</span>', open_ if o.overlay else "",
            ]
        )  # fmt: skip
    head = ["Slice", "Scan", "Verdict", "#Probability", "Type", "#Marked", "Reason or warning", "Read"]
    return parts.table("Scans, likeliest tumor first", head, rows)


def build(room: Room, read: Tab, tabs: gr.Tabs) -> None:
    """Lay out the tab; a row opens in ``read``, to which ``tabs`` then turns."""
    files = gr.File(label="Scans: pictures, DICOM series, NIfTI", file_count="multiple", height=170, elem_id="batch-files")
    run = gr.Button("Analyze all", variant="primary", elem_id="batch-run", elem_classes="nv-action")
    summary = gr.HTML()
    table = gr.HTML(
        parts.empty("Verdicts will be listed here, likeliest tumor first."), elem_id="batch-table", js_on_load=_SCRIPT
    )
    results = gr.File(
        label="CSV table and ZIP of all results", file_count="multiple", interactive=False, elem_id="batch-results",
    )  # fmt: skip
    rows, chosen = gr.State([], time_to_live=3600), gr.State([])

    def listed(paths: Sequence[str], progress: gr.Progress) -> tuple[list[Outcome], list[str]]:
        if not paths:
            raise NeurovisionError("There is no file yet; add some first.")
        progress(0, desc="Waiting for the models")
        analyzer = room.analyzer()

        def tell(done: int, total: int) -> None:
            progress((done, total), desc="Analyzing", unit="scans")

        outcomes = analyze_all(analyzer, [Path(f) for f in paths], tell)
        archive = room.new_file("neurovision-batch.zip")
        write_zip(outcomes, archive)
        return outcomes, [str(archive.with_name("batch.csv")), str(archive)]

    @speaks
    def batch(files: list[str] | None, progress: gr.Progress = PROGRESS) -> list[Any]:
        """Analyze many files; returns a summary, a table, and a CSV and a ZIP with all results."""
        outcomes, written = listed(files or [], progress)
        count = {v: sum(o.row["state"] == v for o in outcomes) for v in ("tumor", "borderline", "no tumor", None)}
        figures = parts.facts(
            [
                ("scans", str(len(outcomes))), ("tumor detected", str(count["tumor"])),
                ("borderline", str(count["borderline"])), ("no tumor detected", str(count["no tumor"])),
                ("not read", str(count[None])),
            ]
        )  # fmt: skip
        return [figures, batch_table(outcomes, room.analyzer().manifest.classes), written, [list(o.files) for o in outcomes]]

    @speaks
    def choose(rows: list[list[str]], event: gr.EventData) -> list[Any]:
        """Turn to Read, which forgets the scan before."""
        number = int(event.row)
        if not 0 <= number < len(rows):
            raise NeurovisionError("That scan is no longer listed; analyze the files again.")
        emptied = read.blank(card.loading("Reading the scan."), viewer.LOADING)
        return [rows[number], gr.Tabs(selected="read"), *emptied, *read.unlisted(), None]

    @read.tells()
    @speaks
    def open_row(paths: list[str], progress: gr.Progress = PROGRESS) -> list[Any]:
        """Read and analyze the chosen scan in full."""
        return read.open_study(contained.study([Path(p) for p in paths]), paths, progress)

    model: dict[str, Any] = {"concurrency_id": MODELS, "concurrency_limit": 1}
    run.click(batch, files, [summary, table, results, rows], api_name="batch", show_progress_on=[table], **model)
    turning = [chosen, tabs, *read.shown, *read.listing, read.upload]
    turned = table.click(choose, rows, turning, api_visibility="private", concurrency_limit=None)
    turned.then(open_row, chosen, read.shown, api_visibility="private", show_progress_on=[read.card], **model)
