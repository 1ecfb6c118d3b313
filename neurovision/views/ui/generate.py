"""Generate: pictures of heads that no patient had."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np

from neurovision.errors import ModelError
from neurovision.evaluation.held_out import generator_words
from neurovision.views.overlay import gray_rgb, to_screen
from neurovision.views.ui import parts
from neurovision.views.ui.room import MODELS, Room, speaks

if TYPE_CHECKING:
    from neurovision.aids.sampling import Generator

KINDS = ("Without a tumor", "With a tumor", "Both")
MOST = 12  # pictures at a time
STEPS = 20
ABOUT = (
    '<p class="nv-fine">A small diffusion model (DDIM) draws these heads from noise. They show no patient and are not for'
    " diagnosis.{measured} Whether they copy a scan is measured in docs/diffusion.md.</p>"
)


def about(room: Room) -> str:
    """What the pictures are and how far they are from real scans, as HTML."""
    generator = room.analyzer().manifest.generator
    words = "" if generator is None else generator_words(generator.sha256)
    return parts.card("Not real scans", ABOUT.format(measured=f" {words}" if words else ""))


def build(room: Room, tab: gr.Tab) -> None:
    """Lay out the tab; the model is loaded when first asked for."""
    with gr.Row(equal_height=True):
        kind = gr.Radio(KINDS, value="Both", label="Heads")
        count = gr.Slider(1, MOST, 8, step=1, label="Pictures")
        seed = gr.Number(1, label="Seed: the same one gives the same pictures", precision=0)
    run = gr.Button("Generate", variant="primary", elem_id="generate", elem_classes="nv-action")
    gallery = gr.Gallery(
        label="Generated heads: no patients", columns=4, height="auto", object_fit="contain", format="png",
        interactive=False, buttons=["download", "fullscreen"], elem_classes="nv-gallery", elem_id="generated",
    )  # fmt: skip
    note = gr.HTML(parts.card("Not real scans", ABOUT.format(measured="")))
    lock, loaded = threading.Lock(), list["Generator"]()  # the same for every visitor

    def generator() -> Generator:
        from neurovision.aids.sampling import load

        with lock:
            if not loaded:
                loaded.append(load())
            return loaded[0]

    @speaks
    def generate(kind: str, count: float, seed: float) -> list[tuple[np.ndarray, str]]:
        """Draw heads "With a tumor", "Without a tumor" or "Both" from noise with a seed."""
        number = int(count or 0)
        if kind not in KINDS or not 1 <= number <= MOST or seed is None or not 0 <= seed < 2**32:
            raise ModelError(f"Choose which heads, 1 to {MOST} pictures and a seed from 0 up.")
        kinds = [kind == KINDS[1] or (kind == KINDS[2] and bool(k % 2)) for k in range(number)]
        pictures = generator().sample(kinds, int(seed), STEPS)
        words = [f"{k}: {'tumor' if kind else 'no tumor'}" for k, kind in enumerate(kinds, 1)]
        return [(gray_rgb(to_screen(p)), w) for p, w in zip(pictures, words, strict=True)]

    @speaks
    def measured() -> str:
        """Say how far the loaded generator's pictures are from real scans."""
        return about(room)

    tab.select(measured, None, note, api_visibility="private", show_progress="hidden")
    run.click(
        generate, [kind, count, seed], gallery, api_name="generate", concurrency_id=MODELS, concurrency_limit=1
    )
