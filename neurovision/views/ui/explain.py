"""Explain: heat of a network, and looks at the slice that need no network."""

from __future__ import annotations

from typing import Any

import cv2
import gradio as gr
import numpy as np

from neurovision.aids.gradcam import gradcam, gradcam_layers
from neurovision.classes import BY_KEY, TUMORS
from neurovision.errors import NeurovisionError
from neurovision.scan.clusters import KS, cluster, paint_clusters
from neurovision.scan.enhance import asymmetry, distribution, musica
from neurovision.scan.prepare import prepare, standardize
from neurovision.views.overlay import gray_rgb, heat
from neurovision.views.ui import parts
from neurovision.views.ui.diagnose import INFERNO, to_screen
from neurovision.views.ui.room import MODELS, Case, Room, require, speaks

HEIGHT = 430
NO_SCAN = "Open a scan in Diagnose first; it is explained here."
COARSEST = "coarsest"  # the layer that Grad-CAM takes unless told
CHANNELS = ("Red", "Green", "Blue")
CHANNEL_COLORS = ("#d55e00", "#009e73", "#0072b2")  # Okabe-Ito, in the place of pure red, green and blue
ASYMMETRY_FULL = 0.35  # difference of the sides that is drawn at full heat


def heat_of(room: Room, case: Case, network: str, layer: str, kind: str) -> np.ndarray:
    """Grad-CAM of one network over the open slice, float32 ``(H, W)`` in [0, 1].

    Raises:
        NeurovisionError: The network's weights, the layer or the class are not there.
    """
    canvas = prepare(case.findings.picture, room.analyzer().manifest.size, case.findings.spacing)
    chosen = None if layer == COARSEST else layer
    grid = gradcam(room.member(network), standardize(canvas.pixels), BY_KEY[kind].index, chosen)
    return np.clip(canvas.restore(grid), 0, 1)


def clusters_table(labels_area: np.ndarray, intensity: np.ndarray, colors: np.ndarray) -> str:
    """Each cluster's color, mean intensity and share of the slice."""
    total = labels_area.sum()
    rows = [
        [
            f'<i class="nv-dot" style="background:rgb({c[0]},{c[1]},{c[2]})"></i>',
            str(i), f"{value:.0f}", f"{100 * area / total:.1f}",
        ]
        for i, (area, value, c) in enumerate(zip(labels_area, intensity, colors, strict=True), 1)
    ]  # fmt: skip
    return parts.table("Clusters, darkest first", ["Color", "##", "#Mean intensity (0-255)", "#Share (%)"], rows)


def build(room: Room, case: gr.State, tab: gr.Tab) -> None:
    """Lay out the tab on the scan that is open in Diagnose."""
    seen = gr.State("")
    note = gr.HTML(parts.empty(NO_SCAN))
    with gr.Tabs():
        with gr.Tab("Grad-CAM"):
            with gr.Row():
                network = gr.Dropdown([], label="Network", min_width=140)
                layer = gr.Dropdown([("Coarsest grid", COARSEST)], value=COARSEST, label="Layer", min_width=140)
                kind = gr.Dropdown([(k.title, k.key) for k in TUMORS], value="glioma", label="Class", min_width=140)
            show = gr.Button(
                "Show what speaks for the class", variant="primary", elem_id="gradcam", elem_classes="nv-action"
            )
            warm = _picture("Heat of the chosen network", "heat")
            gr.HTML(parts.ramp(INFERNO, "no weight", "most weight"))
            gr.HTML(
                '<p class="nv-fine">Seg-Grad-CAM: which places of the slice raise the network\'s score for the class. It'
                " shows what the network looked at, not whether it is right.</p>"
            )
        with gr.Tab("MUSICA") as musica_tab:
            strength = gr.Slider(0, 4, 1.6, step=0.1, label="Strength of the details (1 changes nothing)")
            enhanced = gr.ImageSlider(
                label="Before and after: drag the handle", height=HEIGHT, max_height=HEIGHT, format="png", type="numpy",
                interactive=False, buttons=["download", "fullscreen"], elem_classes="nv-view",
                elem_id="musica",
            )  # fmt: skip
        with gr.Tab("K-means") as clusters_tab:
            k = gr.Slider(KS[0], KS[-1], 10, step=1, label="Number of clusters (k)")
            colored = _picture("Clusters of position and intensity", "clusters")
            clusters = gr.HTML()
        with gr.Tab("Asymmetry") as asymmetry_tab:
            sides = _picture("Difference between the sides of the head", "asymmetry")
            gr.HTML(parts.ramp(INFERNO, "alike", "different"))
        with gr.Tab("Intensity") as intensity_tab:
            curves = gr.HTML()

    @speaks
    def enter(case: Case | None, seen: str) -> list[Any]:
        """List the networks and the likeliest class of the open scan; coming back to it changes nothing."""
        key = "" if case is None else case.key
        if key == seen:
            return [gr.skip()] * 10
        blank = [None, None, None, "", None, ""]
        if case is None:
            return [key, gr.skip(), gr.skip(), parts.empty(NO_SCAN), *blank]
        members = room.analyzer().manifest.members
        networks = gr.update(choices=[(parts.title(m), m.name) for m in members], value=members[0].name)
        said = case.findings.verdict
        kind = None if said is None else said.likeliest_type
        return [key, networks, kind or "glioma", "", *blank]

    @speaks
    def layers(network: str | None) -> dict[str, Any]:
        """List the layers of a network that Grad-CAM can look at."""
        found = gradcam_layers(room.member(network)) if network else ()
        return gr.update(choices=[("Coarsest grid", COARSEST), *((n, n) for n in found)], value=COARSEST)

    @speaks
    def explain(case: Case | None, network: str | None, layer: str, kind: str) -> np.ndarray:
        """Draw Grad-CAM of one network, layer and tumor class over the open scan."""
        opened = require(case)
        if network is None:
            raise NeurovisionError("Choose a network first.")
        values = heat_of(room, opened, network, layer, kind)
        return heat(to_screen(opened.findings.picture), np.clip(to_screen(values), 0, 1))

    @speaks
    def enhance(case: Case | None, strength: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Amplify the details of the open scan by MUSICA."""
        if case is None:
            return None
        gray = case.findings.picture
        return gray_rgb(to_screen(gray)), gray_rgb(to_screen(musica(gray, strength)))

    @speaks
    def partition(case: Case | None, k: float) -> tuple[np.ndarray | None, str]:
        """Partition the open scan into k clusters of position and intensity."""
        if case is None:
            return None, ""
        found = cluster(case.findings.picture, int(k))
        labels = cv2.resize(found.labels, case.findings.picture.shape[::-1], interpolation=cv2.INTER_NEAREST)
        painted = paint_clusters(to_screen(labels, cv2.INTER_NEAREST), int(k))
        return painted, clusters_table(found.area, found.intensity, paint_clusters(np.arange(int(k)), int(k)))

    @speaks
    def compare_sides(case: Case | None) -> np.ndarray | None:
        """Draw how much the sides of the head differ."""
        if case is None:
            return None
        gray = case.findings.picture
        return heat(to_screen(gray), np.clip(to_screen(asymmetry(gray)) / ASYMMETRY_FULL, 0, 1))

    @speaks
    def curve(case: Case | None) -> str:
        """Draw the cumulative distribution of intensities, of each channel of a color picture."""
        if case is None:
            return ""
        _, cumulative = distribution(case.study.pixels[case.findings.slice_index])
        lines = (
            [("Share of pixels at or below", "var(--nv-clear)", cumulative[0])]
            if len(cumulative) == 1
            else [(n, c, v) for n, c, v in zip(CHANNELS, CHANNEL_COLORS, cumulative, strict=True)]
        )
        return parts.line_chart(lines, "intensity, 256 levels", "share of pixels")

    model_event: dict[str, Any] = {"concurrency_id": MODELS, "concurrency_limit": 1}
    tab.select(
        enter, [case, seen], [seen, network, kind, note, warm, enhanced, colored, clusters, sides, curves],
        api_name="explain_open", show_progress="hidden",
    )  # fmt: skip
    network.change(layers, network, layer, api_name="layers", show_progress="hidden", **model_event)
    show.click(explain, [case, network, layer, kind], warm, api_name="gradcam", **model_event)
    gr.on([musica_tab.select, strength.release], enhance, [case, strength], enhanced, api_name="musica")
    gr.on([clusters_tab.select, k.release], partition, [case, k], [colored, clusters], api_name="kmeans")
    asymmetry_tab.select(compare_sides, case, sides, api_name="asymmetry")
    intensity_tab.select(curve, case, curves, api_name="intensity")


def _picture(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label, height=HEIGHT, format="png", type="numpy", interactive=False, buttons=["download", "fullscreen"],
        elem_classes="nv-view", elem_id=name, alt_text=label,
    )  # fmt: skip
