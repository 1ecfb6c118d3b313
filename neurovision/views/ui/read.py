"""Read: everything that was dropped, seen in a viewer, with a verdict of all of it."""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from neurovision.ensemble.screen import is_upside_down, turned
from neurovision.errors import UnsupportedScan
from neurovision.evaluation.held_out import measured_for
from neurovision.scan import contained
from neurovision.scan.names import stem_of
from neurovision.scan.study import Study
from neurovision.views.dicom_out import obstacle, write_dicom, write_nifti_mask
from neurovision.views.examples import CREDIT, FOLDER, examples
from neurovision.views.layers import grid, levels, plane, window, write_layer, write_scan
from neurovision.views.report import MAX_NOTES
from neurovision.views.ui import card, parts, viewer
from neurovision.views.ui.case import (
    Case,
    Series,
    analyze,
    marked,
    read_series,
    require,
    sort_files,
)
from neurovision.views.ui.room import CANNOT, MODELS, Room, speaks

PROGRESS = gr.Progress()
STEPS = (
    '<ol class="nv-steps"><li><b>Open</b> a brain MRI: picture, NIfTI, DICOM files or a folder, or an example.</li>'
    "<li><b>Look</b> at it in three planes with what the networks mark.</li>"
    "<li><b>Take</b> the verdict along as PDF, mask, JSON or DICOM.</li></ol>"
)


def findings_json(case: Case) -> dict[str, Any]:
    """What a program is told of a case."""
    return case.findings.to_json() if case.study.n_slices == 1 else case.volume.to_json()


def overlay_of(case: Case) -> np.ndarray:
    """The largest slice with what is marked in it, uint8 ``(H, W, 3)`` in the slice's own pixels."""
    return replace(case.findings, mask=marked(case.volume)[case.index]).overlay()


def layers_of(room: Room, case: Case) -> dict[str, Any]:
    """Write what the viewer draws into the page's private folder, and tell it where that is and how to show it."""
    study, found = case.study, case.volume
    scan = room.new_file("scan.nii.gz")
    write_scan(study, scan)
    files: dict[str, Path] = {"scan": scan}
    if case.state in ("tumor", "borderline"):
        files["mask"] = scan.with_name("mask.nii.gz")
        write_layer(study, marked(found), files["mask"])
    if case.state != "rejected":
        files["probability"] = scan.with_name("probability.nii.gz")
        write_layer(study, found.probability, files["probability"])
        files["uncertainty"] = scan.with_name("uncertainty.nii.gz")
        write_layer(study, found.uncertainty, files["uncertainty"])
    index, affine = found.shown_slice, grid(study)
    low, high = window(study, index)
    count, height, width = study.pixels.shape[:3]
    inside = np.argwhere(marked(found)[index] > 1)
    row, column = (height // 2, width // 2)
    if len(inside) and "mask" in files:
        row, column = (int(v) for v in inside[len(inside) // 2])
    return {
        **{kind: viewer.address(path) for kind, path in files.items()},
        "name": study.source.name, "shape": [width, height, count], "affine": affine.tolist(),
        "inverse": np.linalg.inv(affine).tolist(), "spacing": np.linalg.norm(affine[:3, :3], axis=0).tolist(),
        "letters": study.affine is not None, "metric": study.spacing is not None, "plane": plane(study),
        "levels": levels(study), "window": [low * levels(study), high * levels(study)], "start": [column, row, index],
        "classes": [{"index": t.index, "title": t.title, "color": t.color} for t in found.classes.tumors],
        "legend": parts.legend(found.classes), "alt": card.alternative(case),
        "threshold": 1.0 if found.verdict is None else found.verdict.threshold,
        "strip": {
            "probability": [s.tumor_probability for s in found.slices],
            "area": [s.area_px if "mask" in files else 0 for s in found.slices],
        },
    }  # fmt: skip


def write_files(room: Room, case: Case) -> dict[str, Path]:
    """Write the JSON and the mask of a case, named after its scan; a picture's mask also as PNG."""
    stem, study = stem_of(case.study.source.name), case.study
    path = room.new_file(f"{stem}.json")
    path.write_text(json.dumps(findings_json(case), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    written = {"json": path}
    if case.volume.status == "ok":
        drawn = replace(case.volume, mask=marked(case.volume))
        written["mask"] = write_nifti_mask(drawn, study, path.with_name(f"{stem}.mask.nii.gz"))
        if study.n_slices == 1:
            written["png"] = path.with_name(f"{stem}.mask.png")
            Image.fromarray(drawn.mask[0]).save(written["png"])
    return written


def write_dicom_zip(room: Room, case: Case) -> Path:
    """Write Segmentation and report of a DICOM scan into one archive.

    Raises:
        UnsupportedScan: The scan is no DICOM, or nothing was found readable in it.
    """
    if case.study.headers is None or case.volume.status != "ok":
        raise UnsupportedScan("DICOM SEG and SR are written of DICOM scans only, and of those that were not turned.")
    stem = stem_of(case.study.source.name)
    path = room.new_file(f"{stem}.dicom.zip")
    drawn = replace(case.volume, mask=marked(case.volume))
    written = write_dicom(drawn, case.study, path.parent, stem)
    if written.missing:
        for file in written.paths:
            file.unlink()
        raise UnsupportedScan(f"There is {written.missing_words}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in written.paths:
            archive.write(file, file.name)
            file.unlink()
    return path


def unread_html(unread: Sequence[tuple[str, str]]) -> str:
    """What could not be read, each with its reason."""
    if not unread:
        return ""
    rows = "".join(f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in unread)
    return f'<div class="nv-warn"><p>Not read:</p><ul>{rows}</ul></div>'


class Tab:
    """The components of the tab and what events show in them.

    Attributes:
        case: State, the open :class:`Case`.
        key: State, which changes whenever another scan or slice is open; the other tabs listen to it.
    """

    def __init__(self, room: Room) -> None:
        self.room = room
        self.case = gr.State(None, time_to_live=3600)
        self.key = gr.State("")
        self.series = gr.State([], time_to_live=3600)
        self.brought = gr.State([])  # the files of the last drop
        with gr.Row(equal_height=False, elem_classes="nv-read"):
            with gr.Column(scale=4, min_width=300, elem_classes="nv-left"):
                gr.HTML(STEPS, elem_classes="nv-first")
                self.upload = gr.File(
                    label="Scan: pictures, NIfTI, DICOM", file_count="multiple", height=118, elem_id="scan",
                )  # fmt: skip
                self.folder = gr.UploadButton(
                    "Open a folder", file_count="directory", size="sm", elem_id="scan-folder", variant="secondary"
                )
                self.choice = gr.State("")
                shipped = examples()
                with gr.Row(elem_classes="nv-examples", visible=bool(shipped)):
                    self.examples = [
                        gr.Button(e.title, icon=FOLDER / e.file, size="sm", min_width=52) for e in shipped
                    ]
                self.names = [e.file for e in shipped]
                self.listed = gr.Radio([], label="Series in these files", visible=False, elem_id="series")
                self.unread = gr.HTML(elem_id="unread")
                self.card = card.component()
                self.upside_down = gr.HTML(
                    '<p class="nv-warn">This head seems to stand upside down, and the networks read upright heads. If the '
                    "face or the forehead is not up, have it turned.</p>", visible=False,
                )  # fmt: skip
                self.turn = gr.Button(
                    "Read it turned by 180°", visible=False, size="sm", variant="primary", elem_id="turn"
                )
            with gr.Column(scale=8, min_width=300, elem_classes="nv-right"):
                self.viewer = viewer.component()
        with gr.Row(equal_height=False, elem_classes="nv-found"):
            with gr.Column(scale=7, min_width=300):
                self.lesions = gr.HTML(card.nothing()[0], elem_id="lesions")
                self.facts = gr.HTML()
            with gr.Column(scale=5, min_width=300):
                with gr.Row(elem_classes="nv-downloads"):
                    self.json = gr.DownloadButton("Findings (JSON)", interactive=False, size="sm", min_width=120)
                    self.mask = gr.DownloadButton("Mask (NIfTI)", interactive=False, size="sm", min_width=120)
                    self.png = gr.DownloadButton("Mask (PNG)", visible=False, size="sm", min_width=120)
                    self.dicom = gr.Button("DICOM SEG, SR", visible=False, size="sm", min_width=120, elem_id="make-dicom")
                self.notes = gr.Textbox(
                    label="Notes for the PDF, printed as they are", lines=2, max_lines=8, max_length=MAX_NOTES,
                    elem_id="notes",
                )  # fmt: skip
                self.identity = gr.Checkbox(
                    False, label="Print the patient's name, number and birth date", visible=False, elem_id="identity"
                )
                self.pdf = gr.Button("PDF report", interactive=False, size="sm", variant="primary", elem_id="make-pdf")
                # Never seen: what was made on demand is fetched through it.
                self.made = gr.DownloadButton("Made", visible="hidden", elem_id="made")
        if shipped:
            gr.HTML(f'<p class="nv-fine nv-credit">Examples: {escape(CREDIT)}</p>')
        self.shown = [
            self.case, self.key, self.card, self.viewer, self.lesions, self.facts, self.notes, self.identity, self.json,
            self.mask, self.png, self.dicom, self.pdf,
            self.upside_down, self.turn,
        ]  # fmt: skip
        self.listing = [self.series, self.listed, self.unread]
        self._listen()

    def blank(self, verdict: dict[str, str], shown: dict[str, Any]) -> list[Any]:
        """The tab without a scan, in the order of ``shown``."""
        off = gr.update(value=None, interactive=False)
        return [
            None, "", verdict, shown, *card.nothing(), "", gr.update(value=False, visible=False), off, off,
            gr.update(value=None, visible=False), gr.update(visible=False), gr.update(interactive=False),
            gr.update(visible=False), gr.update(visible=False),
        ]  # fmt: skip

    @staticmethod
    def unlisted() -> list[Any]:
        """The list of series without one, in the order of ``listing``."""
        return [[], gr.update(choices=[], value=None, visible=False), ""]

    def said(self, case: Case) -> dict[str, str]:
        """The card of a case."""
        manifest = self.room.analyzer().manifest
        return card.verdict(case, measured_for(manifest, case.volume), manifest)

    def describe(self, case: Case) -> list[Any]:
        """Everything that is shown of a case, in the order of ``shown``."""
        written = write_files(self.room, case)
        is_dicom, turn = case.study.headers is not None, gr.update(visible=is_upside_down(case.study))
        writable = is_dicom and case.volume.status == "ok" and obstacle(case.study) is None
        mask = str(written["mask"]) if "mask" in written else None
        png = str(written["png"]) if "png" in written else None
        return [
            case, case.key, self.said(case), layers_of(self.room, case),
            card.lesions(case), card.facts(case), "", gr.update(value=False, visible=is_dicom),
            gr.update(value=str(written["json"]), interactive=True), gr.update(value=mask, interactive=mask is not None),
            gr.update(value=png, visible=png is not None), gr.update(visible=writable),
            gr.update(interactive=True), turn, turn,
        ]  # fmt: skip

    def tells(self, more: Callable[[], list[Any]] = list) -> Callable[[Callable[..., list[Any]]], Callable[..., list[Any]]]:
        """Around a handler that opens a scan: an error stands on the card, in the place of "Working".

        Args:
            more: What the handler shows behind ``shown`` where it shows no scan.
        """

        def around(handler: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
            @functools.wraps(handler)
            def answered(*args: object, **kwargs: object) -> list[Any]:
                try:
                    return handler(*args, **kwargs)
                except gr.Error as e:
                    title = "This file cannot be read" if e.title == CANNOT else "Not analyzed"
                    return [*self.blank(card.refused(str(e.message), title), viewer.EMPTY), *more()]

            return answered

        return around

    def open_study(self, study: Study, files: Sequence[str], progress: gr.Progress) -> list[Any]:
        """Analyze a study in full and show it."""
        progress(0, desc="Waiting for the models")
        analyzer = self.room.analyzer()

        def tell(done: int, total: int) -> None:
            progress((done, total), desc="Slices", unit="slices")

        return self.describe(analyze(analyzer, study, files, tell))

    def _listen(self) -> None:
        """Connect the events; all are the page's own."""
        listing = self.listing
        own: dict[str, Any] = {"api_visibility": "private"}
        model: dict[str, Any] = {
            **own, "concurrency_id": MODELS, "concurrency_limit": 1, "show_progress": "full",
            "show_progress_on": [self.card],
        }  # fmt: skip
        quick: dict[str, Any] = {**own, "concurrency_limit": None, "show_progress": "hidden"}

        @speaks
        def begin(files: list[str] | None, before: list[str]) -> list[Any]:
            """Forget the scan before, at once; what is dropped beside its files is a new scan, not more of the old one."""
            names = [str(f) for f in files or []]
            fresh = [f for f in names if f not in before] or names
            emptied = self.blank(card.loading("Reading the files, then every slice."), viewer.LOADING)
            return [*emptied, *self.unlisted(), fresh, gr.skip() if fresh == names else fresh]

        @speaks
        def begin_folder(files: list[str] | None) -> list[Any]:
            """Forget the scan before, and its files in the upload."""
            return [*begin(files, [])[:-1], None]

        @speaks
        def begin_again() -> list[Any]:
            """Forget the series before; the list stays."""
            return self.blank(card.loading("Reading the series, then every slice."), viewer.LOADING)

        @speaks
        def begin_example() -> list[Any]:
            """Forget the scan before, and its files in the upload."""
            emptied = self.blank(card.loading("Reading the example."), viewer.LOADING)
            return [*emptied, *self.unlisted(), [], None]

        @self.tells(self.unlisted)
        @speaks
        def open_files(files: list[str] | None, progress: gr.Progress = PROGRESS) -> list[Any]:
            """Read everything that was dropped, list its series and analyze the longest one."""
            progress(0, desc="Reading")
            found, unread, study = sort_files(files or [])
            if study is None or not found:
                words = unread[0][1] if len(unread) == 1 else "None of the files is a readable scan."
                nothing = self.blank(card.refused(words), viewer.EMPTY)
                return [*nothing, *self.unlisted()[:2], unread_html(unread if len(unread) > 1 else [])]
            choices = [(s.words, k) for k, s in enumerate(found)]
            listed = gr.update(choices=choices, value=0, visible=len(found) > 1)
            return [*self.open_study(study, found[0].files, progress), found, listed, unread_html(unread)]

        @self.tells()
        @speaks
        def choose(found: list[Series], number: int | None, progress: gr.Progress = PROGRESS) -> list[Any]:
            """Analyze another of the listed series."""
            if number is None or not 0 <= number < len(found):
                return self.blank(card.empty(), viewer.EMPTY)
            series = found[number]
            return self.open_study(read_series(series), series.files, progress)

        @self.tells()
        @speaks
        def turn(case: Case | None, progress: gr.Progress = PROGRESS) -> list[Any]:
            """Analyze the open scan anew, every slice turned by half."""
            opened = require(case)
            return self.open_study(turned(opened.study), opened.files, progress)

        @self.tells()
        @speaks
        def example(name: str, progress: gr.Progress = PROGRESS) -> list[Any]:
            """Show one of the shipped examples; it is analyzed when the first visitor asks for it."""
            if name not in self.names:
                raise UnsupportedScan(f"There is no example of that name; choose one of {', '.join(self.names)}.")
            progress(0, desc="Waiting for the models")

            def make() -> Case:
                path = FOLDER / name
                return analyze(self.room.analyzer(), contained.study([path]), [str(path)])

            return self.describe(self.room.once(name, make))

        @speaks
        def clear() -> list[Any]:
            """Forget the open scan."""
            return [*self.blank(card.empty(), viewer.EMPTY), *self.unlisted(), []]

        @speaks
        def make_pdf(case: Case | None, notes: str, identity: bool) -> str:
            """Write the report of the open scan."""
            from neurovision.views.pdf import write_pdf

            opened = require(case)
            path = self.room.new_file(f"{stem_of(opened.study.source.name)}.pdf")
            drawn = replace(opened.volume, mask=marked(opened.volume))
            write_pdf(drawn, path, notes, identity, measured_for(self.room.analyzer().manifest, opened.volume))
            return str(path)

        @speaks
        def make_dicom(case: Case | None) -> str:
            """Write Segmentation and report of the open scan."""
            return str(write_dicom_zip(self.room, require(case)))

        opening = []
        for source in (self.upload, self.folder):
            brought = [source, self.brought] if source is self.upload else [source]
            start = begin if source is self.upload else begin_folder
            started = source.upload(start, brought, [*self.shown, *listing, self.brought, self.upload], **quick)
            opening.append(started.then(open_files, self.brought, [*self.shown, *listing], **model))
        chosen = self.listed.input(begin_again, None, self.shown, **quick)
        opening.append(chosen.then(choose, [self.series, self.listed], self.shown, **model))
        opening.append(self.turn.click(turn, self.case, self.shown, **model))
        for name, button in zip(self.names, self.examples, strict=True):
            started = button.click(begin_example, None, [*self.shown, *listing, self.brought, self.upload], **quick)
            named = started.then(lambda name=name: name, None, self.choice, **quick)
            opening.append(named.then(example, self.choice, self.shown, **model))
        self.upload.clear(clear, None, [*self.shown, *listing, self.brought], cancels=opening, **quick)
        fetch = "() => setTimeout(() => document.querySelector('#made a, a#made, #made')?.click(), 150)"
        for button, make, given in (
            (self.pdf, make_pdf, [self.case, self.notes, self.identity]), (self.dicom, make_dicom, [self.case]),
        ):  # fmt: skip
            made = button.click(make, given, self.made, show_progress_on=[button], **own)
            made.success(None, None, None, js=fetch, **own)


def predict_endpoint(room: Room) -> None:
    """The plain endpoint for programs, on components that nobody sees."""
    file = gr.File(visible=False, label="scan", file_count="multiple")
    overlay = gr.Image(visible=False, format="png", type="numpy", label="overlay")
    verdict = gr.Textbox(visible=False, label="verdict")
    findings = gr.JSON(visible=False, label="findings")
    mask = gr.File(visible=False, label="mask")
    button = gr.Button(visible=False)

    @speaks
    def predict(scan: list[str]) -> tuple[np.ndarray, str, dict[str, Any], str | None]:
        """Analyze everything in one scan: overlay of its largest slice, verdict, findings, mask as NIfTI.

        A scan is a file, or the files of one DICOM series. The verdict is "tumor", "borderline", "no tumor" or
        "rejected". A file that cannot be read is an error with one sentence.
        """
        found, unread, study = sort_files(scan or [])
        if unread:
            raise UnsupportedScan(f"{unread[0][0]}: {unread[0][1]}")
        if study is None or len([s for s in found if not s.stacked]) != 1:
            raise UnsupportedScan(f"One scan is analyzed at a time; received {len(found)}, use batch for them.")
        case = analyze(room.analyzer(), study, found[0].files)
        written = write_files(room, case)
        mask = str(written["mask"]) if "mask" in written else None
        word = "rejected" if case.volume.verdict is None else case.volume.verdict.state
        return overlay_of(case), word, findings_json(case), mask

    button.click(
        predict, file, [overlay, verdict, findings, mask], api_name="predict", concurrency_id=MODELS, concurrency_limit=1
    )
