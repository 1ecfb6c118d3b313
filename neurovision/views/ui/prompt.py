"""Propose: masks of the open slice from a person's points and box."""

from __future__ import annotations

import threading
from html import escape
from typing import Any

import cv2
import gradio as gr
import numpy as np

from neurovision.aids.prompted import (
    SUFFIX,
    Box,
    Hint,
    Prompter,
    load_prompter,
    locate,
    read_box,
    read_hints,
    write_proposals,
)
from neurovision.classes import FIRST_TUMOR, SHIPPED
from neurovision.errors import NeurovisionError
from neurovision.views.overlay import AGREED, EXTRA, draw_mask, gray_rgb, to_screen
from neurovision.views.ui.case import Case, require
from neurovision.views.ui.follow import follow, title
from neurovision.views.ui.read import Tab
from neurovision.views.ui.room import MODELS, Room, speaks

INSIDE, OUTSIDE, CORNER = MODES = ("Point in the object", "Point outside of it", "Corner of a box")
ABOUT = (
    '<p class="nv-fine">SAM draws what you point at. It was trained on photographs and knows nothing of tumors: its masks'
    " are proposals for a person, and its scores are its own estimate of the overlap, not a measurement."
    " 'neurovision sam accept' adds one to a training set, apart from ground truth.</p>"
)


def hints_of(inside: str, outside: str) -> list[Hint]:
    """Points from the two fields, pairs with spaces between.

    Raises:
        ModelError: Something that is no point.
    """
    return read_hints(inside.split(), True) + read_hints(outside.split(), False)


def box_of(text: str) -> Box | None:
    """The box from its field, or None where it is empty.

    Raises:
        ModelError: Something that is no box.
    """
    return read_box(text) if text.strip() else None


def clicked(at: tuple[int, int], shape: tuple[int, int], mode: str, fields: tuple[str, str, str]) -> tuple[str, str, str]:
    """Write a click on the drawn slice into the fields.

    Args:
        at: ``(x, y)`` in the drawing's pixels, see :func:`to_screen`.
        shape: ``(H, W)`` of the slice.
        mode: One of MODES.
        fields: Points inside, points outside, box.

    Returns:
        The fields. A second corner completes a box, the third begins another.
    """
    drawn = to_screen(np.zeros(shape, np.uint8)).shape
    x, y = (min(int(a * n / d), n - 1) for a, n, d in zip(at, shape[::-1], drawn[::-1], strict=True))
    inside, outside, box = fields
    if mode == INSIDE:
        return f"{inside} {x},{y}".strip(), outside, box
    if mode == OUTSIDE:
        return inside, f"{outside} {x},{y}".strip(), box
    corner = box.split(",")
    if len(corner) != 2:
        return inside, outside, f"{x},{y}"
    x0, x1 = sorted((int(float(corner[0])), x))
    y0, y1 = sorted((int(float(corner[1])), y))
    return inside, outside, f"{x0},{y0},{x1 + 1},{y1 + 1}"


def draw_hints(gray: np.ndarray, fields: tuple[str, str, str]) -> np.ndarray:
    """The slice at screen size with what the fields say; a field that says nothing readable is left out."""
    drawn = np.ascontiguousarray(gray_rgb(to_screen(gray)))
    scale = drawn.shape[0] / gray.shape[0]
    try:
        hints, box = hints_of(*fields[:2]), box_of(fields[2])
    except NeurovisionError:
        return drawn
    for hint in hints:
        at = (round((hint.x + 0.5) * scale), round((hint.y + 0.5) * scale))
        cv2.circle(drawn, at, 7, (0, 0, 0), -1)
        cv2.circle(drawn, at, 5, AGREED if hint.inside else EXTRA, -1)
    if box is not None:
        x0, y0, x1, y1 = (round(v * scale) for v in box)
        cv2.rectangle(drawn, (x0, y0), (x1, y1), AGREED, 2)
    return drawn


def build(room: Room, read: Tab, tabs: list[gr.Tab]) -> None:
    """Lay out the tab on the scan that is open in Read; ``tabs`` are Lab and this one. Without SAM it is one line."""
    try:
        locate()
    except NeurovisionError as e:
        gr.HTML(f'<p class="nv-empty">{escape(str(e))}</p>')
        return
    case, label = read.case, title()
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=300):
            picture = gr.Image(
                label="Click on the slice", height=430, format="png", type="numpy", interactive=False, buttons=[],
                elem_classes="nv-view", elem_id="prompt-slice", alt_text="The slice with your points and box",
            )  # fmt: skip
        with gr.Column(scale=5, min_width=300):
            mode = gr.Radio(MODES, value=INSIDE, label="A click sets a")
            inside = gr.Textbox(label="Points in the object", placeholder="x,y x,y", elem_id="prompt-inside")
            outside = gr.Textbox(label="Points outside of it", placeholder="x,y x,y")
            box = gr.Textbox(label="Box", placeholder="x0,y0,x1,y1", elem_id="prompt-box")
            with gr.Row():
                ask = gr.Button("Propose masks", variant="primary", elem_id="prompt-ask")
                wipe = gr.Button("Clear")
            gr.HTML(ABOUT)
    gallery = gr.Gallery(
        label="Three proposals, best score first", columns=3, height="auto", object_fit="contain", format="png",
        interactive=False, buttons=["download", "fullscreen"], elem_classes="nv-gallery", elem_id="proposals",
    )  # fmt: skip
    files = gr.File(label="The masks (PNG, 0 or 255) and their list", file_count="multiple", interactive=False,
                    elem_id="prompt-files")  # fmt: skip
    fields = [inside, outside, box]
    lock, loaded = threading.Lock(), list[Prompter]()  # the weights, the same for every visitor

    def prompter() -> Prompter:
        with lock:
            if not loaded:
                loaded.append(load_prompter())
            return loaded[0]

    def draw(case: Case) -> list[Any]:
        return [gray_rgb(to_screen(case.findings.picture)), "", "", "", [], None]

    @speaks
    def click(case: Case | None, mode: str, inside: str, outside: str, box: str, event: gr.SelectData) -> list[Any]:
        """Add a point or a corner where the slice was clicked."""
        gray = require(case).findings.picture
        x, y = event.index
        found = clicked((int(x), int(y)), (gray.shape[0], gray.shape[1]), mode, (inside, outside, box))
        return [*found, draw_hints(gray, found)]

    @speaks
    def redraw(case: Case | None, inside: str, outside: str, box: str) -> np.ndarray | None:
        """Draw the points and the box over the open slice."""
        return None if case is None else draw_hints(case.findings.picture, (inside, outside, box))

    @speaks
    def propose(case: Case | None, inside: str, outside: str, box: str) -> list[Any]:
        """Ask SAM for three masks of the open slice, from points "x,y x,y" and a box "x0,y0,x1,y1" in its pixels."""
        opened = require(case)
        hints, around = hints_of(inside, outside), box_of(box)
        gray, asked = opened.findings.picture, prompter()
        found = asked.propose(gray, hints, around)
        listed = room.new_file(f"scan{SUFFIX}")
        paths = write_proposals(
            found, asked, hints, around, opened.findings.source, opened.findings.slice_index, listed
        )
        pictures = [
            (
                draw_mask(gray, p.mask.astype(np.uint8) * FIRST_TUMOR, SHIPPED),
                f"{n}: score {p.score:.2f}, {int(p.mask.sum())} px",
            )
            for n, p in enumerate(found, 1)
        ]
        return [pictures, [str(p) for p in paths]]

    @speaks
    def clear(case: Case | None) -> list[Any]:
        """Forget the points, the box and the proposals."""
        return ["", "", "", None if case is None else gray_rgb(to_screen(case.findings.picture)), [], None]

    follow(
        read, ["Lab", "Propose"], tabs, draw, lambda: [None, "", "", "", [], None],
        [picture, *fields, gallery, files], label,
    )
    picture.select(
        click, [case, mode, *fields], [*fields, picture], api_visibility="private", show_progress="hidden"
    )
    gr.on(
        [f.submit for f in fields] + [f.blur for f in fields], redraw, [case, *fields], picture,
        api_visibility="private", show_progress="hidden",
    )  # fmt: skip
    ask.click(
        propose, [case, *fields], [gallery, files], api_visibility="private", concurrency_id=MODELS, concurrency_limit=1
    )
    wipe.click(clear, case, [*fields, picture, gallery, files], api_visibility="private", show_progress="hidden")
