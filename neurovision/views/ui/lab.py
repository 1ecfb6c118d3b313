"""Lab: tools beside the product, each on the slice that is open in Read."""

from __future__ import annotations

import gradio as gr

from neurovision.views.ui import enhance, explain, generate, prompt
from neurovision.views.ui.read import Tab
from neurovision.views.ui.room import Room


def build(room: Room, read: Tab, tab: gr.Tab) -> None:
    """Lay out the tab and the tabs in it."""
    with gr.Tabs(elem_id="lab-tabs"):
        with gr.Tab("Explain", id="explain") as inner:
            explain.build(room, read, [tab, inner])
        with gr.Tab("Enhance and clusters", id="enhance") as inner:
            enhance.build(read, [tab, inner])
        with gr.Tab("Propose", id="propose") as inner:
            prompt.build(room, read, [tab, inner])
        with gr.Tab("Generate", id="generate") as inner:
            generate.build(room, inner)
