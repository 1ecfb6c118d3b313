"""Enhance and clusters: looks at the open slice that need no network."""

from __future__ import annotations

from typing import Any

import cv2
import gradio as gr
import numpy as np

from neurovision.scan.clusters import KS, cluster, paint_clusters
from neurovision.scan.enhance import asymmetry, distribution, musica
from neurovision.views.overlay import INFERNO, gray_rgb, heat, to_screen
from neurovision.views.ui import parts
from neurovision.views.ui.case import Case
from neurovision.views.ui.follow import follow, title
from neurovision.views.ui.read import Tab
from neurovision.views.ui.room import speaks

HEIGHT = 380
CHANNELS = ("Red", "Green", "Blue")
CHANNEL_COLORS = ("#d55e00", "#009e73", "#0072b2")  # Okabe-Ito, in the place of pure red, green and blue
ASYMMETRY_FULL = 0.35  # difference of the sides that is drawn at full heat
STRENGTH, CLUSTERS = 1.6, 10


def clusters_table(area: np.ndarray, intensity: np.ndarray, colors: np.ndarray) -> str:
    """Each cluster's color, mean intensity and share of the slice."""
    total = area.sum()
    rows = [
        [
            f'<i class="nv-dot" style="background:rgb({c[0]},{c[1]},{c[2]})"></i>',
            str(i), f"{value:.0f}", f"{100 * share / total:.1f}",
        ]
        for i, (share, value, c) in enumerate(zip(area, intensity, colors, strict=True), 1)
    ]  # fmt: skip
    return parts.table("Clusters, darkest first", ["Color", "##", "#Mean intensity (0-255)", "#Share (%)"], rows)


def enhanced(case: Case, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """The slice and the slice with its details amplified by MUSICA."""
    gray = case.findings.picture
    return gray_rgb(to_screen(gray)), gray_rgb(to_screen(musica(gray, strength)))


def partitioned(case: Case, k: int) -> tuple[np.ndarray, str]:
    """The slice in k clusters of position and intensity, and their table."""
    picture = case.findings.picture
    found = cluster(picture, k)
    labels = cv2.resize(found.labels, picture.shape[::-1], interpolation=cv2.INTER_NEAREST)
    painted = paint_clusters(to_screen(labels, cv2.INTER_NEAREST), k)
    return painted, clusters_table(found.area, found.intensity, paint_clusters(np.arange(k), k))


def sides(case: Case) -> np.ndarray:
    """How much the sides of the head differ, as heat."""
    gray = case.findings.picture
    return heat(to_screen(gray), np.clip(to_screen(asymmetry(gray)) / ASYMMETRY_FULL, 0, 1))


def curve(case: Case) -> str:
    """The cumulative distribution of intensities, of each channel of a color picture."""
    _, cumulative = distribution(case.study.pixels[case.findings.slice_index])
    lines = (
        [("Share of pixels at or below", "var(--nv-clear)", cumulative[0])]
        if len(cumulative) == 1
        else [(n, c, v) for n, c, v in zip(CHANNELS, CHANNEL_COLORS, cumulative, strict=True)]
    )
    return parts.line_chart(lines, "intensity, 256 levels", "share of pixels")


def build(read: Tab, tabs: list[gr.Tab]) -> None:
    """Lay out the tab on the scan that is open in Read; ``tabs`` are Lab and this one."""
    label = title()
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            strength = gr.Slider(0, 4, STRENGTH, step=0.1, label="Strength of MUSICA's details (1 changes nothing)",
                                 elem_id="strength")  # fmt: skip
            pair = gr.ImageSlider(
                label="MUSICA: before and after, drag the handle", height=HEIGHT, max_height=HEIGHT, format="png",
                type="numpy", interactive=False, buttons=["download", "fullscreen"], elem_classes="nv-view",
                elem_id="musica",
            )  # fmt: skip
            _note("Shown: the slice with fine contrast raised. It adds no information and may raise noise as well.")
        with gr.Column(min_width=300):
            k = gr.Slider(KS[0], KS[-1], CLUSTERS, step=1, label="Number of clusters (k)", elem_id="k")
            colored = _picture("Clusters of position and intensity", "clusters")
            _note("Shown: pixels that are alike in place and brightness (K-means). A cluster is no tissue and no finding.")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            differ = _picture("Difference between the sides of the head", "asymmetry")
            gr.HTML(parts.ramp(INFERNO, "alike", "different"))
            _note("Shown: how far each place differs from its mirror image. A tilted head differs as well.")
        with gr.Column(min_width=300):
            table = gr.HTML()
            curves = gr.HTML()
            _note("Shown: how many pixels are at most so bright. It says nothing of where they are.")

    def draw(case: Case) -> list[Any]:
        return [enhanced(case, STRENGTH), *partitioned(case, CLUSTERS), sides(case), curve(case), STRENGTH, CLUSTERS]

    @speaks
    def enhance(case: Case | None, strength: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Amplify the details of the open slice by MUSICA."""
        return None if case is None else enhanced(case, strength)

    @speaks
    def partition(case: Case | None, k: float) -> tuple[np.ndarray | None, str]:
        """Partition the open slice into k clusters of position and intensity."""
        return (None, "") if case is None else partitioned(case, int(k))

    follow(
        read, ["Lab", "Enhance and clusters"], tabs, draw, lambda: [None, None, "", None, "", STRENGTH, CLUSTERS],
        [pair, colored, table, differ, curves, strength, k], label,
    )  # fmt: skip
    event: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "always_last"}
    # change, not release: the arrow keys and the number box move a slider as well.
    strength.change(enhance, [read.case, strength], pair, **event)
    k.change(partition, [read.case, k], [colored, table], **event)


def _note(words: str) -> None:
    gr.HTML(f'<p class="nv-fine">{words}</p>')


def _picture(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label, height=HEIGHT, format="png", type="numpy", interactive=False, buttons=["download", "fullscreen"],
        elem_classes="nv-view", elem_id=name, alt_text=label,
    )  # fmt: skip
