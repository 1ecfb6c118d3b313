"""Batch: many files at once; one bad file never spoils the rest."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np

from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.results import Findings, Result, Unread
from neurovision.ensemble.volume import analyze_study
from neurovision.errors import NeurovisionError, ScanTooLarge
from neurovision.scan import contained
from neurovision.scan.names import stems_of, told_apart
from neurovision.views.report import verdict_words, write_csv
from neurovision.views.ui import parts
from neurovision.views.ui.room import MODELS, Room, speaks

MAX_TOTAL = 2 * 1024**3  # bytes of one batch
PROGRESS = gr.Progress()


@dataclass(frozen=True)
class Outcome:
    """One scan of a batch.

    Attributes:
        stem: What its files in the ZIP are called; no two are alike.
        result: What was said of it.
    """

    stem: str
    result: Result


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
    return sorted(outcomes, key=lambda o: 1.0 if o.result.verdict is None else -o.result.verdict.probability)


def _analyze(analyzer: Analyzer, group: tuple[Path, ...], name: str, stem: str) -> Outcome:
    try:
        study = contained.study(group, name)
        return Outcome(stem, analyze_study(analyzer, study))
    except NeurovisionError as e:
        reason = str(e).removeprefix(f"{group[0].name}: ")
        return Outcome(stem, Unread.of(name, reason, analyzer.manifest.digest[:12]))


def write_zip(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write JSON, mask and overlay of every scan, and the table, into one archive."""
    table = path.with_name("batch.csv")
    write_csv([o.result.row() for o in outcomes], table)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(table, table.name)
        for o in outcomes:
            archive.writestr(f"{o.stem}.json", json.dumps(o.result.to_json(), indent=1))
            if isinstance(o.result, Findings):  # a volume's mask needs the files that it was read from
                archive.writestr(f"{o.stem}.mask.png", _png(o.result.mask))
            if o.result.shown is not None:
                archive.writestr(f"{o.stem}.overlay.png", _png(o.result.shown.overlay()[..., ::-1]))


def _png(picture: np.ndarray) -> bytes:
    data: bytes = cv2.imencode(".png", picture)[1].tobytes()
    return data


def batch_table(outcomes: Sequence[Outcome]) -> str:
    """The verdicts, likeliest tumor first, then what could not be read and why."""
    rows = []
    for o in outcomes:
        row, verdict = o.result.row(), o.result.verdict
        kind = None if verdict is None else verdict.likeliest_type
        rows.append(
            [
                escape(o.result.source.name), verdict_words(o.result),
                "" if verdict is None else parts.percent(verdict.probability), "" if kind is None else parts.type_cell(kind),
                "" if row["tumor_area_px"] is None else str(row["tumor_area_px"]),
                f'<span class="nv-wrap">{escape(o.result.reason or "")}</span>',
            ]
        )  # fmt: skip
    head = ["Scan", "Verdict", "#Probability", "Type", "#Area (px)", "Reason"]
    return parts.table("Scans, likeliest tumor first", head, rows)


def build(room: Room) -> None:
    """Lay out the tab."""
    files = gr.File(label="Scans: pictures, DICOM series, NIfTI", file_count="multiple", height=170, elem_id="batch-files")
    run = gr.Button("Analyze all", variant="primary", elem_id="batch-run", elem_classes="nv-action")
    summary = gr.HTML()
    table = gr.HTML(parts.empty("Verdicts will be listed here, likeliest tumor first."), elem_id="batch-table")
    results = gr.File(
        label="CSV table and ZIP of all results", file_count="multiple", interactive=False, elem_id="batch-results",
    )  # fmt: skip

    @speaks
    def batch(files: list[str] | None, progress: gr.Progress = PROGRESS) -> list[Any]:
        """Analyze many files; returns a summary, a table, and a CSV and a ZIP with all results."""
        if not files:
            raise NeurovisionError("There is no file yet; add some first.")
        progress(0, desc="Waiting for the models")
        analyzer = room.analyzer()

        def tell(done: int, total: int) -> None:
            progress((done, total), desc="Analyzing", unit="scans")

        outcomes = analyze_all(analyzer, [Path(f) for f in files], tell)
        archive = room.new_file("neurovision-batch.zip")
        write_zip(outcomes, archive)
        said = [o.result.row()["verdict"] for o in outcomes]
        figures = parts.facts(
            [
                ("scans", str(len(outcomes))), ("tumor detected", str(said.count("tumor"))),
                ("no tumor detected", str(said.count("no tumor"))), ("not read", str(said.count(None))),
            ]
        )  # fmt: skip
        return [figures, batch_table(outcomes), [str(archive.with_name("batch.csv")), str(archive)]]

    run.click(
        batch, files, [summary, table, results], api_name="batch", concurrency_id=MODELS, concurrency_limit=1,
        show_progress_on=[table],
    )  # fmt: skip
