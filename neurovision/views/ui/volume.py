"""Volume: all slices of a scan, the tumor's volume and its surface."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from neurovision.classes import BY_KEY
from neurovision.ensemble.results import VolumeFindings
from neurovision.ensemble.volume import analyze_volume
from neurovision.errors import NeurovisionError, UnsupportedScan
from neurovision.scan import contained
from neurovision.scan.phantom import phantom_volume
from neurovision.scan.sniff import kind_of
from neurovision.scan.study import Source, Study
from neurovision.views.report import verdict_words
from neurovision.views.surface import surface
from neurovision.views.ui import parts
from neurovision.views.ui.diagnose import draw_mask
from neurovision.views.ui.room import MODELS, Case, Room, speaks

PROGRESS = gr.Progress()
WAITING = "Drop a NIfTI file, a DICOM series or several pictures of one head, or try the example."
HEIGHT = 400


@dataclass(frozen=True)
class Stack:
    """The volume that one visitor has open.

    Attributes:
        study: What was read.
        findings: What was said of it.
    """

    study: Study
    findings: VolumeFindings


def gather(paths: Sequence[str]) -> Study:
    """Read one volume: a file with several slices, a DICOM series, or pictures of one size in the order of their names.

    Raises:
        ScanError: A file cannot be read, or they do not belong together.
    """
    files = sorted((Path(p) for p in paths), key=lambda p: p.name)
    if not files:
        raise UnsupportedScan("There is no scan yet; drop the slices of one head or try the example.")
    if len(files) == 1 or any(kind_of(f) != "picture" for f in files):
        return contained.study(files)
    slices = [contained.study([f]) for f in files]
    shapes = {s.pixels.shape[1:3] for s in slices}
    if len(shapes) > 1:
        raise UnsupportedScan("Pictures that make one volume have one size; these have several, analyze them in Batch.")
    pixels = np.stack([s.gray() for s in slices])[..., None]
    notes = ("Pictures carry no geometry: the order of their names is taken for the order of the slices.",)
    return Study(pixels, Source(f"{len(files)} pictures", slices[0].source.format), warnings=notes)


def facts(found: VolumeFindings) -> str:
    """The volume in figures."""
    known = [v for v in found.volumes_ml.values() if v is not None]
    voxels = sum(found.voxels.values())
    diameter = found.longest_diameter_mm
    entries = [
        ("tumor volume", f"{sum(known):.1f} ml" if known else f"{voxels} voxels"),
        ("lesions", str(len(found.lesions))),
        ("longest diameter", "unknown" if diameter is None else f"{diameter:.1f} mm"),
        ("slices with tumor", f"{sum(s.area_px > 0 for s in found.slices)} of {len(found.slices)}"),
    ]
    return parts.facts(entries)


def lesions_table(found: VolumeFindings) -> str:
    """Every lesion; slices are counted from 1."""
    if not found.lesions:
        return parts.empty("No lesion is marked in this volume.")
    metric = found.lesions[0].volume_ml is not None
    rows = [
        [
            str(i), parts.type_cell(x.type), str(x.voxels) if x.volume_ml is None else f"{x.volume_ml:.2f}",
            f"{x.first_slice + 1} to {x.last_slice + 1}",
            f"{x.longest_diameter_px if x.longest_diameter_mm is None else x.longest_diameter_mm:.1f}", x.side,
        ]
        for i, x in enumerate(found.lesions, 1)
    ]  # fmt: skip
    volume, length = ("ml", "mm") if metric else ("voxels", "px")
    head = ["##", "Type", f"#Volume ({volume})", "Slices", f"#Longest ({length})", "Side"]
    return parts.table("Lesions through the slices", head, rows)


def verdict(found: VolumeFindings) -> str:
    """The verdict as a card."""
    warnings = "".join(f'<p class="nv-warn">{w}</p>' for w in map(parts.escape, found.warnings))
    said = found.verdict
    if said is None:
        return parts.card("void", verdict_words(found), f"<p>{parts.escape(found.reason or '')}</p>{warnings}")
    body = (
        f'<p class="nv-big"><b>{parts.percent(said.probability)}</b> highest probability of neighboring slices</p>'
        f'<p class="nv-fine">The threshold is {parts.percent(said.threshold)}. It was set on single slices: a volume has'
        " many, so false alarms are likelier.</p>"
    )
    if said.likeliest_type is not None:
        body += f"<p>Likeliest type: <b>{parts.escape(BY_KEY[said.likeliest_type].title)}</b></p>"
    return parts.card("tumor" if said.positive else "clear", verdict_words(found), body + warnings)


def profile(found: VolumeFindings, index: int) -> str:
    """Tumor area by slice, the shown slice marked."""
    metric = found.spacing is not None
    areas = [(s.area_mm2 or 0.0) if metric else float(s.area_px) for s in found.slices]
    unit = "mm²" if metric else "px"
    return parts.line_chart([("Tumor area", "var(--nv-tumor)", areas)], "slice", unit, marker=index, first=1)


def build(room: Room, case: gr.State) -> None:
    """Lay out the tab."""
    stack = gr.State(None, time_to_live=3600)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            files = gr.File(
                label="Slices of one head: NIfTI, DICOM series or pictures", file_count="multiple", height=132,
                elem_id="volume-files",
            )  # fmt: skip
            with gr.Row():
                run = gr.Button("Analyze all slices", variant="primary", elem_id="volume-run")
                example = gr.Button("Example: 24 slices", elem_id="volume-example")
            opened = gr.Button("Use the scan that is open in Diagnose", size="sm")
            card = gr.HTML(parts.card("void", "No volume yet", f"<p>{WAITING}</p>"), elem_id="volume-verdict")
            figures = gr.HTML()
            lesions = gr.HTML()
            written = gr.DownloadButton("Findings (JSON)", interactive=False, size="sm")
        with gr.Column(scale=7, min_width=300):
            picture = gr.Image(
                label="Slice with the marked regions", height=HEIGHT, format="png", type="numpy", interactive=False,
                buttons=["download", "fullscreen"], elem_classes="nv-view", elem_id="volume-slice",
                alt_text="One slice of the volume with the marked regions",
            )  # fmt: skip
            number = gr.Slider(1, 2, 1, step=1, label="Slice", interactive=False, elem_id="volume-number")
            gr.HTML(parts.legend())
            chart = gr.HTML(elem_id="volume-profile")
            model = gr.Model3D(
                label="Surface: drag to turn, scroll to zoom", height=380, interactive=False,
                clear_color=(0.043, 0.059, 0.078, 1.0), elem_classes="nv-view", elem_id="volume-surface",
            )  # fmt: skip

    def show(study: Study, progress: gr.Progress) -> list[Any]:
        progress(0, desc="Waiting for the models")
        analyzer = room.analyzer()

        def tell(done: int, total: int) -> None:
            progress((done, total), desc="Slices", unit="slices")

        if study.n_slices == 1:
            raise UnsupportedScan("A volume has several slices, this scan has one; open it in Diagnose.")
        found = analyze_volume(analyzer, study, tell)
        index = found.shown_slice
        path = room.new_file("volume.json")
        path.write_text(json.dumps(found.to_json(), indent=2) + "\n")
        glb = surface(study, found.mask)
        mesh = path.with_name("surface.glb")
        if glb is not None:
            mesh.write_bytes(glb)
        return [
            Stack(study, found),
            verdict(found),
            *at(study, found, index),
            gr.update(minimum=1, maximum=study.n_slices, value=index + 1, interactive=True),
            facts(found),
            lesions_table(found),
            gr.update(value=str(path), interactive=True),
            None if glb is None else str(mesh),
        ]

    def at(study: Study, found: VolumeFindings, index: int) -> list[Any]:
        return [draw_mask(study.gray(index), found.mask[index]), profile(found, index)]

    @speaks
    def volume(files: list[str] | None, progress: gr.Progress = PROGRESS) -> list[Any]:
        """Analyze every slice of one scan: a NIfTI file, the files of a DICOM series, or pictures of one size."""
        return show(gather(files or []), progress)

    @speaks
    def volume_example(progress: gr.Progress = PROGRESS) -> list[Any]:
        """Analyze the example volume, a procedural head with a glioma in 24 slices."""
        study, _ = phantom_volume("glioma", 4, size=160, slices=24)
        return show(replace(study, source=replace(study.source, name="example")), progress)

    @speaks
    def volume_of_case(case: Case | None, progress: gr.Progress = PROGRESS) -> list[Any]:
        """Analyze every slice of the scan that is open in Diagnose."""
        if case is None:
            raise NeurovisionError("No scan is open in Diagnose; open one there, or drop its slices here.")
        return show(case.study, progress)

    @speaks
    def volume_slice(stack: Stack | None, number: float) -> list[Any]:
        """Draw another slice of the open volume, counted from 1."""
        if stack is None:
            return [gr.skip(), gr.skip()]
        return at(stack.study, stack.findings, min(max(int(number), 1), stack.study.n_slices) - 1)

    shown = [stack, card, picture, chart, number, figures, lesions, written, model]
    model_event: dict[str, Any] = {"concurrency_id": MODELS, "concurrency_limit": 1, "show_progress_on": [card]}
    run.click(volume, files, shown, api_name="volume", **model_event)
    example.click(volume_example, None, shown, api_name="volume_example", **model_event)
    opened.click(volume_of_case, case, shown, api_name="volume_of_case", **model_event)
    number.input(
        volume_slice, [stack, number], [picture, chart], api_name="volume_slice", show_progress="hidden",
        trigger_mode="always_last",
    )  # fmt: skip
