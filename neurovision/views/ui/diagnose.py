"""Diagnose: one scan in; verdict, overlay and measurements out."""

from __future__ import annotations

import json
from typing import Any

import cv2
import gradio as gr
import numpy as np
from PIL import Image

from neurovision.ensemble.results import Findings
from neurovision.errors import NeurovisionError, UnsupportedScan
from neurovision.scan import contained
from neurovision.scan.paint import paint
from neurovision.scan.study import Study
from neurovision.views.examples import EXAMPLES, examples_folder
from neurovision.views.overlay import gray_rgb, heat
from neurovision.views.ui import parts
from neurovision.views.ui.room import MODELS, Case, Room, require, speaks

VIEWS = ("Overlay", "Before and after", "Uncertainty", "Tumor probability")
STYLES = ("Fill", "Contour")
SCREEN = 768  # pixels that the longer side is drawn with: crisp outlines, small files
INFERNO = ("#000004", "#420a68", "#932667", "#dd513a", "#fca50a", "#fcffa4")
PROGRESS = gr.Progress()

Look = tuple[str, str, float]  # view, style, opacity


def open_case(room: Room, path: str | None, slice_index: int | None = None) -> Case:
    """Read a file and analyze one slice of it, the middle one unless told.

    Raises:
        ScanError: The file cannot be read.
    """
    if not path:
        raise UnsupportedScan("There is no scan yet; drop a file or pick an example.")
    study = contained.study([path])
    return Case(study, room.analyzer().analyze(study, study.n_slices // 2 if slice_index is None else slice_index))


def to_screen(plane: np.ndarray, interpolation: int = cv2.INTER_CUBIC) -> np.ndarray:
    """Resize ``(H, W)`` so that its longer side has SCREEN pixels."""
    scale = SCREEN / max(plane.shape)
    size = (max(1, round(plane.shape[1] * scale)), max(1, round(plane.shape[0] * scale)))
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA if scale < 1 and plane.dtype != np.uint8 else interpolation)


def draw_mask(picture: np.ndarray, mask: np.ndarray, style: str = "Fill", opacity: float = 0.45) -> np.ndarray:
    """A label map over its picture at screen size, uint8 ``(h, w, 3)``."""
    return paint(to_screen(picture), to_screen(mask, cv2.INTER_NEAREST), opacity, contour=style == "Contour")


def draw(findings: Findings, look: Look) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """What the viewer shows: one picture, or two for the slider."""
    view, style, opacity = look
    if view in ("Uncertainty", "Tumor probability"):
        values = findings.uncertainty if view == "Uncertainty" else findings.tumor_map
        return heat(to_screen(findings.picture), to_screen(values, cv2.INTER_LINEAR))
    over = draw_mask(findings.picture, findings.mask, style, opacity)
    return (gray_rgb(to_screen(findings.picture)), over) if view == "Before and after" else over


def viewer(case: Case | None, look: Look) -> list[Any]:
    """Updates of the picture, the slider and the legend for one look at a case."""
    slider = look[0] == "Before and after"
    legend = (
        parts.ramp(INFERNO, "low", "high") if look[0] in ("Uncertainty", "Tumor probability") else parts.legend()
    )
    drawn = None if case is None else draw(case.findings, look)
    return [
        gr.update(value=None if slider else drawn, visible=not slider),
        gr.update(value=drawn if slider else None, visible=slider),
        legend,
    ]


def describe(room: Room, case: Case, look: Look) -> list[Any]:
    """Everything that the tab shows of a case, in the order of its outputs."""
    findings = case.findings
    fitted = room.analyzer().manifest.verdict.fitted
    written = room.new_file("findings.json")
    written.write_text(json.dumps(findings.to_json(), indent=2) + "\n")
    mask = written.with_name("mask.png")
    Image.fromarray(findings.mask).save(mask)
    return [
        case,
        parts.verdict_card(findings, fitted),
        *viewer(case, look),
        slices(case.study, findings.slice_index),
        parts.regions_table(findings),
        parts.members_table(findings),
        timing_line(findings),
        gr.update(value=str(written), interactive=True),
        gr.update(value=str(mask), interactive=True),
    ]


def blank(card: str, look: Look) -> list[Any]:
    """The tab without a case, in the order of its outputs."""
    none = gr.update(value=None, interactive=False)
    return [None, card, *viewer(None, look), gr.update(visible=False), parts.empty(EMPTY), "", "", none, none]


EMPTY = "Regions, their size and side will be listed here."


def slices(study: Study, index: int) -> dict[str, Any]:
    """The slice slider's update: hidden for a picture."""
    several = study.n_slices > 1
    return gr.update(visible=several, maximum=max(study.n_slices, 2), value=index + 1)


def timing_line(findings: Findings) -> str:
    """Milliseconds by stage, in words."""
    words = ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in findings.timing_ms.items() if stage != "total")
    total = findings.timing_ms.get("total", 0)
    return f'<p class="nv-fine">{total:.0f} ms in all ({words}); weights {findings.weights}.</p>'


def build(room: Room) -> gr.State:
    """Lay out the tab.

    Returns:
        The visitor's open case, which other tabs read.
    """
    case = gr.State(None, time_to_live=3600)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            upload = gr.File(label="Scan: PNG, JPEG, TIFF, DICOM or NIfTI", height=132, elem_id="scan")
            choice = gr.Textbox(visible=False)
            with gr.Row(elem_classes="nv-examples"):
                buttons = [gr.Button(e.title, icon=examples_folder() / e.file, size="sm", min_width=52) for e in EXAMPLES]
            run = gr.Button("Analyze", variant="primary", elem_id="analyze")
            card = gr.HTML(parts.waiting_card(), elem_id="verdict")
        with gr.Column(scale=7, min_width=300):
            picture = gr.Image(
                label="Scan with the marked regions", height=430, format="png", type="numpy", interactive=False,
                buttons=["download", "fullscreen"], elem_id="overlay", elem_classes="nv-view",
                alt_text="The scan with the regions that the vote marks",
            )  # fmt: skip
            pair = gr.ImageSlider(
                label="Before and after: drag the handle", height=430, format="png", type="numpy", interactive=False,
                visible=False, max_height=430, buttons=["download", "fullscreen"], elem_classes="nv-view",
            )  # fmt: skip
            legend = gr.HTML(parts.legend())
            slice_ = gr.Slider(1, 2, 1, step=1, label="Slice", visible=False)
            view = gr.Radio(VIEWS, value=VIEWS[0], label="View")
            with gr.Row():
                style = gr.Radio(STYLES, value=STYLES[0], label="Marking", min_width=140)
                opacity = gr.Slider(0, 1, 0.45, step=0.05, label="Opacity of the fill", min_width=140)
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=300):
            regions = gr.HTML(parts.empty(EMPTY))
            with gr.Row():
                written = gr.DownloadButton("Findings (JSON)", interactive=False, size="sm")
                mask = gr.DownloadButton("Mask (PNG)", interactive=False, size="sm")
        with gr.Column(scale=5, min_width=300):
            members = gr.HTML("")
            timing = gr.HTML("")

    look = [view, style, opacity]
    shown = [case, card, picture, pair, legend, slice_, regions, members, timing, written, mask]
    model_event: dict[str, Any] = {
        "concurrency_id": MODELS, "concurrency_limit": 1, "show_progress": "full", "show_progress_on": [card],
    }  # fmt: skip

    @speaks
    def diagnose(
        file: str | None, view: str, style: str, opacity: float, progress: gr.Progress = PROGRESS
    ) -> list[Any]:
        """Analyze one scan and show everything: verdict, picture, regions, networks, downloads.

        A file of several slices is shown at its middle slice. A file that cannot be read gives a card with the
        reason.
        """
        progress(0.1, desc="Reading, then the five networks and the vote")
        try:
            opened = open_case(room, file)
        except NeurovisionError as e:
            return blank(parts.refused_card(str(e)), (view, style, opacity))
        progress(0.9, desc="Drawing")
        return describe(room, opened, (view, style, opacity))

    @speaks
    def example(name: str, view: str, style: str, opacity: float, progress: gr.Progress = PROGRESS) -> list[Any]:
        """Show one of the shipped examples, given its file name; it is analyzed when the first visitor asks for it."""
        if name not in {e.file for e in EXAMPLES}:
            raise UnsupportedScan(f"There is no example of that name; choose one of {', '.join(e.file for e in EXAMPLES)}.")
        progress(0.1, desc="Reading, then the five networks and the vote")
        case = room.once(name, lambda: open_case(room, str(examples_folder() / name)))
        return [None, *describe(room, case, (view, style, opacity))]

    @speaks
    def show_slice(case: Case | None, number: float, view: str, style: str, opacity: float) -> list[Any]:
        """Analyze another slice of the open scan, counted from 1."""
        study = require(case).study
        moved = Case(study, room.analyzer().analyze(study, min(max(int(number), 1), study.n_slices) - 1))
        return describe(room, moved, (view, style, opacity))

    @speaks
    def repaint(case: Case | None, view: str, style: str, opacity: float) -> list[Any]:
        """Draw the open scan again with another view, marking or opacity."""
        return viewer(case, (view, style, opacity))

    @speaks
    def clear(view: str, style: str, opacity: float) -> list[Any]:
        """Forget the open scan."""
        return blank(parts.waiting_card(), (view, style, opacity))

    run.click(diagnose, [upload, *look], shown, api_name="diagnose", **model_event)
    upload.upload(diagnose, [upload, *look], shown, api_visibility="private", **model_event)
    for k, (button, shipped) in enumerate(zip(buttons, EXAMPLES, strict=True)):
        button.click(
            example, [choice, *look], [upload, *shown], api_name="example" if k == 0 else None,
            api_visibility="public" if k == 0 else "private",
            js=f"(...rest) => [{json.dumps(shipped.file)}, ...rest.slice(1)]", **model_event,
        )  # fmt: skip
    slice_.release(show_slice, [case, slice_, *look], shown, api_name="slice", **model_event)
    gr.on(
        [view.change, style.change, opacity.release], repaint, [case, *look], [picture, pair, legend],
        api_name="repaint", show_progress="hidden",
    )  # fmt: skip
    upload.clear(clear, look, shown, api_name="clear", show_progress="hidden")
    _predict_endpoint(room)
    return case


def _predict_endpoint(room: Room) -> None:
    """The plain endpoint for programs, on components that nobody sees."""
    file = gr.File(visible=False, label="scan")
    overlay = gr.Image(visible=False, format="png", type="numpy", label="overlay")
    verdict = gr.Textbox(visible=False, label="verdict")
    findings = gr.JSON(visible=False, label="findings")
    button = gr.Button(visible=False)

    @speaks
    def predict(scan: str) -> tuple[np.ndarray, str, dict[str, Any]]:
        """Analyze one scan file.

        Returns the overlay as a PNG of the scan's own size; the verdict, "tumor", "no tumor" or "rejected"; and the
        findings as JSON. A file that cannot be read is an error with one sentence.
        """
        found = open_case(room, scan).findings
        return found.overlay(), "rejected" if found.verdict is None else found.verdict.state, found.to_json()

    button.click(
        predict, file, [overlay, verdict, findings], api_name="predict", concurrency_id=MODELS, concurrency_limit=1
    )


