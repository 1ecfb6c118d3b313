"""Explain: which places speak for a class, by one network's Grad-CAM."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from neurovision.aids.gradcam import gradcam_layers, heat_over
from neurovision.ensemble.manifest import Manifest
from neurovision.errors import NeurovisionError
from neurovision.views.overlay import INFERNO, heat, to_screen
from neurovision.views.ui import parts
from neurovision.views.ui.case import Case, require
from neurovision.views.ui.follow import follow, title
from neurovision.views.ui.read import Tab
from neurovision.views.ui.room import MODELS, Room, speaks

HEIGHT = 430
COARSEST = "coarsest"  # the layer that Grad-CAM takes unless told
ABOUT = (
    '<p class="nv-fine">Shown: the places whose activity raises this network\'s score for the class (Seg-Grad-CAM). Not'
    " shown: whether the network is right, or how sure it is.</p>"
)


def best_network(manifest: Manifest) -> str:
    """The member that weighs most in the vote; the first where the vote tells no weights."""
    weights = manifest.vote.members
    if len(weights) != len(manifest.members):
        return manifest.members[0].name
    return manifest.members[int(np.argmax(weights))].name


def heat_of(room: Room, case: Case, network: str, layer: str, kind: str) -> np.ndarray:
    """Grad-CAM of one network over the open slice, float32 ``(H, W)`` in [0, 1], 0 outside the head.

    Raises:
        NeurovisionError: The network's weights, the layer or the class are not there.
    """
    chosen = None if layer == COARSEST else layer
    findings, index = case.findings, room.analyzer().manifest.classes.by_key[kind].index
    return heat_over(room.member(network), findings.picture, case.study.pixel_shape, index, chosen)


def build(room: Room, read: Tab, tabs: list[gr.Tab]) -> None:
    """Lay out the tab on the scan that is open in Read; ``tabs`` are Lab and this one."""
    label = title()
    gr.HTML(ABOUT)
    with gr.Row():
        network = gr.Dropdown([], label="Network", min_width=140)
        layer = gr.Dropdown([("Coarsest grid", COARSEST)], value=COARSEST, label="Layer", min_width=140)
        kind = gr.Dropdown([], label="Class", min_width=140)
    show = gr.Button("Show what speaks for the class", variant="primary", elem_id="gradcam", elem_classes="nv-action")
    warm = gr.Image(
        label="Heat of the chosen network", height=HEIGHT, format="png", type="numpy", interactive=False,
        buttons=["download", "fullscreen"], elem_classes="nv-view", elem_id="heat", alt_text="Heat of the chosen network",
    )  # fmt: skip
    gr.HTML(parts.ramp(INFERNO, "no weight", "most weight"))

    def drawn(case: Case, network: str, layer: str, kind: str) -> np.ndarray:
        values = heat_of(room, case, network, layer, kind)
        return heat(to_screen(case.findings.picture), np.clip(to_screen(values), 0, 1))

    def draw(case: Case) -> list[Any]:
        manifest = room.analyzer().manifest
        members, best = manifest.members, best_network(manifest)
        networks = gr.update(choices=[(parts.title(m), m.name) for m in members], value=best)
        shares = case.volume.verdict.types if case.volume.verdict is not None else {}
        tumors = manifest.classes.tumors
        chosen = max(shares, key=lambda k: shares[k], default=tumors[0].key)
        kinds = gr.update(choices=[(t.title, t.key) for t in tumors], value=chosen)
        return [networks, kinds, drawn(case, best, COARSEST, chosen)]

    @speaks
    def layers(network: str | None) -> dict[str, Any]:
        """List the layers of a network that Grad-CAM can look at."""
        found = gradcam_layers(room.member(network)) if network else ()
        return gr.update(choices=[("Coarsest grid", COARSEST), *((n, n) for n in found)], value=COARSEST)

    @speaks
    def explain(case: Case | None, network: str | None, layer: str, kind: str) -> np.ndarray:
        """Draw Grad-CAM of one network, layer and tumor class over the open slice."""
        opened = require(case)
        if network is None:
            raise NeurovisionError("Choose a network first.")
        return drawn(opened, network, layer, kind)

    event: dict[str, Any] = {"concurrency_id": MODELS, "concurrency_limit": 1, "api_visibility": "private"}
    none = gr.update(choices=[], value=None)
    follow(read, ["Lab", "Explain"], tabs, draw, lambda: [none, none, None], [network, kind, warm], label, event)
    network.change(layers, network, layer, show_progress="hidden", **event)
    show.click(explain, [read.case, network, layer, kind], warm, **event)
