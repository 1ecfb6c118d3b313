"""Compare: every network's mask beside the vote, and all of them against a ground truth."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import cv2
import gradio as gr
import numpy as np

from neurovision.classes import FIRST_TUMOR
from neurovision.ensemble.results import Findings
from neurovision.scan import contained
from neurovision.scan.masks import Truth
from neurovision.views.overlay import AGREED, EXTRA, MISSED, STYLES, difference, draw_mask, to_screen
from neurovision.views.ui import parts
from neurovision.views.ui.case import Case
from neurovision.views.ui.follow import follow, title
from neurovision.views.ui.read import Tab
from neurovision.views.ui.room import speaks

VOTE = "vote"
COLUMNS = ("dice", "iou", "precision", "recall", "f1", "hd95")
TITLES = ("Dice", "IoU", "Precision", "Recall", "F1", "HD95")
NO_SCAN = "The networks' masks of the open scan appear here, side by side."


def masks(findings: Findings) -> dict[str, np.ndarray]:
    """Label maps ``(H, W)`` by name, the vote first."""
    return {VOTE: findings.mask, **{m.name: m.mask for m in findings.members}}


def names(findings: Findings) -> dict[str, str]:
    """Titles of the masks, the vote first."""
    return {VOTE: "Vote", **{m.name: m.title for m in findings.members}}


def truth_of(case: Case, path: str | None) -> Truth | None:
    """The uploaded ground truth of the open scan, or None."""
    mask = case.findings.mask
    return contained.mask(path, mask.shape, int((mask > 0).sum()) or None, len(case.findings.classes)) if path else None


def pictures(findings: Findings, chosen: list[str], style: str, truth: Truth | None) -> list[tuple[np.ndarray, str]]:
    """The scan's masks side by side: against the truth where there is one."""
    from neurovision.evaluation.scores import mask_scores  # its libraries take a second, which the start need not wait

    shown = []
    for key, mask in masks(findings).items():
        if key not in chosen:
            continue
        found = mask >= FIRST_TUMOR
        if truth is None:
            drawn = draw_mask(findings.picture, mask, findings.classes, style)
            words = f"{int(found.sum())} px"
        else:
            drawn = difference(to_screen(findings.picture), _large(truth.tumor), _large(found))
            words = f"Dice {_figure(mask_scores(truth.tumor, found)['dice'])}"
        shown.append((drawn, f"{names(findings)[key]}: {words}"))
    return shown


def _large(mask: np.ndarray) -> np.ndarray:
    return to_screen(mask.astype(np.uint8), cv2.INTER_NEAREST).astype(bool)


def score_table(findings: Findings, chosen: list[str], truth: Truth) -> str:
    """Scores of every chosen mask against the truth, the vote stressed."""
    from neurovision.evaluation.scores import mask_scores

    spacing = findings.spacing or (1.0, 1.0)
    unit = "mm" if findings.spacing else "px"
    rows = []
    for key, mask in masks(findings).items():
        if key in chosen:
            scores = mask_scores(truth.tumor, mask >= FIRST_TUMOR, spacing)
            rows.append([escape(names(findings)[key]), *(_figure(scores[c], 1 if c == "hd95" else 3) for c in COLUMNS)])
    head = ["Network", *(f"#{t}" for t in TITLES[:-1]), f"#{TITLES[-1]} ({unit})"]
    note = (
        f'<p class="nv-fine">{escape(truth.meaning)} Any tumor against none, in the scan\'s own pixels. A dash: nothing'
        " to score, as both masks are empty.</p>"
    )
    return parts.table("Against the ground truth", head, rows, strong=0 if VOTE in chosen else None) + note


def _figure(value: float, digits: int = 3) -> str:
    if math.isnan(value):
        return "–"  # noqa: RUF001 - a dash in a table's cell
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def build(read: Tab, tab: gr.Tab) -> None:
    """Lay out the tab on the scan that is open in Read."""
    label = title()
    with gr.Row():
        with gr.Column(scale=7, min_width=300):
            chosen = gr.CheckboxGroup([], label="Show", info="The vote and each network alone", elem_id="chosen")
            style = gr.Radio(STYLES, value=STYLES[0], label="Marking")
        with gr.Column(scale=5, min_width=300):
            truth = gr.File(label="Ground truth of this slice: a mask of the same size", height=132, elem_id="truth")
    legend = gr.HTML()
    gallery = gr.Gallery(
        label="The same slice, mask by mask", columns=3, height="auto", object_fit="contain", format="png",
        interactive=False, buttons=["download", "fullscreen"], elem_classes="nv-gallery", elem_id="masks",
    )  # fmt: skip
    scores = gr.HTML(parts.empty(NO_SCAN))

    def shown(case: Case | None, chosen: list[str], style: str, truth: str | None) -> list[Any]:
        if case is None or not case.findings.members:
            return [[], "", parts.empty(NO_SCAN)]
        read = truth_of(case, truth)
        gallery = pictures(case.findings, chosen, style, read)
        if read is None:
            return [gallery, parts.legend(case.findings.classes), parts.members_table(case.findings)]
        colors = [(_css(AGREED), "Agreed"), (_css(MISSED), "Missed"), (_css(EXTRA), "Extra")]
        return [gallery, parts.swatches(colors), score_table(case.findings, chosen, read)]

    @speaks
    def compare(case: Case | None, chosen: list[str], style: str, truth: str | None) -> list[Any]:
        """Draw the chosen networks' masks of the open slice, and score them where a ground truth is given."""
        return shown(case, chosen, style, truth)

    def draw(case: Case) -> list[Any]:
        titles = names(case.findings) if case.findings.members else {}
        keys = list(titles)
        choices = gr.update(choices=[(title, key) for key, title in titles.items()], value=keys)
        return [choices, None, *shown(case, keys, STYLES[0], None), STYLES[0]]

    def nothing() -> list[Any]:
        return [gr.update(choices=[], value=[]), None, *shown(None, [], STYLES[0], None), STYLES[0]]

    outputs = [gallery, legend, scores]
    follow(read, ["Compare"], [tab], draw, nothing, [chosen, truth, *outputs, style], label)
    gr.on(
        [chosen.input, style.input, truth.upload, truth.clear], compare, [read.case, chosen, style, truth], outputs,
        api_visibility="private", show_progress="minimal", show_progress_on=[scores],
        trigger_mode="always_last",  # a file that comes while the last change is still drawn must not be passed over
    )  # fmt: skip


def _css(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
