"""How the other tabs follow the scan that is open in Read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from neurovision.views.ui import parts
from neurovision.views.ui.case import NOT_OPEN, Case, at_slice
from neurovision.views.ui.read import Tab
from neurovision.views.ui.room import speaks

# The slice that the viewer shows, or -1 where none of the tabs' names is not the selected one. It waits until the page
# has marked the tab that was just clicked.
_SLICE = """async (...given) => {
  await new Promise((done) => setTimeout(done, 80));
  const chosen = [...document.querySelectorAll('[role=tab][aria-selected=true]')].map((t) => t.textContent.trim());
  const seen = %s.every((name) => chosen.includes(name));
  return [...given.slice(0, -1), seen ? Number(document.querySelector('#viewer')?.dataset.slice || 0) : -1];
}"""


def heading(case: Case | None) -> str:
    """The open scan's name and slice, on every tab that follows it."""
    return parts.empty(NOT_OPEN) if case is None else f'<p class="nv-open">{parts.escape(case.title)}</p>'


def title() -> gr.HTML:
    """Where :func:`follow` says which scan a tab shows."""
    return gr.HTML(heading(None), elem_classes="nv-title")


def follow(
    read: Tab,
    names: Sequence[str],
    tabs: Sequence[gr.Tab],
    draw: Callable[[Case], list[Any]],
    nothing: Callable[[], list[Any]],
    outputs: Sequence[Any],
    label: gr.HTML,
    model: dict[str, Any] | None = None,
) -> None:
    """Draw the viewer's slice of the open scan when a tab is entered, and forget it when another scan is opened.

    Args:
        read: The tab with the open scan.
        names: Of the tab, and of those around it.
        tabs: The same as components; whichever is entered last triggers.
        draw: What the tab shows of a case, in the order of ``outputs``.
        nothing: What it shows of none.
        outputs: Its components.
        label: Of :func:`title`.
        model: Settings of the event where ``draw`` runs a network.
    """
    seen, number = gr.State(""), gr.Number(visible=False)
    shown = [read.case, seen, label, *outputs]

    @speaks
    def enter(case: Case | None, seen: str, number: float) -> list[Any]:
        """Draw the open scan; coming back to the same slice changes nothing."""
        if case is None or number < 0:
            return [gr.skip()] * len(shown)
        moved = at_slice(case, number)
        if moved.key == seen:
            return [gr.skip()] * len(shown)
        return [moved, moved.key, heading(moved), *draw(moved)]

    @speaks
    def forget() -> list[Any]:
        """Show nothing of the scan before."""
        return ["", heading(None), *nothing()]

    event: dict[str, Any] = {
        "js": _SLICE % str(list(names)), "api_visibility": "private", "show_progress": "minimal",
        "show_progress_on": [label], "trigger_mode": "always_last", **(model or {}),
    }  # fmt: skip
    given = [read.case, seen, number]
    for tab in tabs:
        tab.select(enter, given, shown, **event)
    quick: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}
    emptied = read.key.change(forget, None, shown[1:], **quick)
    emptied.then(enter, given, shown, **event)
