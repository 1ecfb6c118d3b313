"""The viewer: NiiVue inside the page, with the scan, the mask and two maps as files of the visitor's session.

The library is vendored; ``vendor/vendor.json`` pins its version and digest. Where the browser has no WebGL2, the same
files are drawn slice by slice on a plain canvas.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

if TYPE_CHECKING:
    from fastapi import FastAPI

VENDOR = Path(__file__).with_name("vendor")
PINNED: dict[str, str] = json.loads((VENDOR / "vendor.json").read_text())
ROUTE = f"/viewer/niivue-{PINNED['version']}.js"  # the one address that the page loads a script from
EMPTY: dict[str, Any] = {"state": "empty"}
LOADING: dict[str, Any] = {"state": "loading"}
KEYS = (
    ("↑ ↓ or wheel", "slice"), ("Home", "largest slice"), ("Drag", "crosshair"), 
    ("Right drag, or Window", "window and level"), ("Ctrl + wheel, + or -", "zoom"), ("O", "overlay on and off"),
    ("F", "fill or outline"), ("1 · 3 · V", "one plane, three, 3-D"),
    ("R", "reset"),
)  # fmt: skip
_TEMPLATE = """
<div class="nv-v" data-state="empty">
 <div class="nv-v-bar" role="toolbar" aria-label="Viewer">
  <span class="nv-v-group nv-v-planes" role="group" aria-label="Planes">
   <button type="button" data-plane="one" aria-pressed="true">One plane</button>
   <button type="button" data-plane="three" aria-pressed="false">Three planes</button>
   <button type="button" data-plane="volume" aria-pressed="false">3-D</button></span>
  <span class="nv-v-group nv-v-tools" role="group" aria-label="What a drag does">
   <button type="button" data-tool="crosshair" aria-pressed="true">Crosshair</button>
   <button type="button" data-tool="window" aria-pressed="false">Window</button>
   <button type="button" data-tool="measure" aria-pressed="false">Ruler</button>
   <button type="button" data-tool="pan" aria-pressed="false">Move</button></span>
  <span class="nv-v-group"><button type="button" data-do="reset">Reset</button>
   <button type="button" data-do="help" aria-expanded="false" aria-controls="nv-v-help">Keys</button></span>
 </div>
 <div class="nv-v-stage"><canvas aria-label="No scan is open" role="img" tabindex="0"></canvas>
  <p class="nv-v-hint"></p><p class="nv-v-where" aria-hidden="true"></p>
  <dl class="nv-v-help" id="nv-v-help" hidden>@KEYS@</dl></div>
 <div class="nv-v-slices" hidden>
  <svg class="nv-v-strip" preserveAspectRatio="none" aria-hidden="true"></svg>
  <label><span class="nv-v-number">Slice</span><input type="range" min="1" max="1" value="1" step="1"></label>
 </div>
 <div class="nv-v-bar nv-v-look">
  <label>Layer <select data-look="layer"><option value="mask">Mask, filled</option>
   <option value="outline">Mask, outline</option><option value="probability">Tumor probability</option>
   <option value="uncertainty">Uncertainty</option><option value="none">None</option></select></label>
  <label>Opacity <input data-look="opacity" type="range" min="0" max="1" step="0.05" value="0.45"></label>
  <span class="nv-v-legend"></span>
 </div>
</div>
"""


def component() -> gr.HTML:
    """Lay the viewer out; events return :data:`EMPTY`, :data:`LOADING` or what :func:`value_of` makes."""
    keys = "".join(f"<div><dt>{k}</dt><dd>{words}</dd></div>" for k, words in KEYS)
    return gr.HTML(
        value=EMPTY, html_template=_TEMPLATE.replace("@KEYS@", keys), css_template="",
        js_on_load=Path(__file__).with_name("viewer.js").read_text(encoding="utf-8"), niivue=ROUTE,
        elem_id="viewer", apply_default_css=False,
    )  # fmt: skip


def serve_library(app: FastAPI) -> None:
    """Serve the vendored library at ROUTE; its address names the version, so that browsers may keep it."""
    from fastapi.responses import FileResponse

    @app.get(ROUTE)
    def library() -> FileResponse:
        return FileResponse(
            VENDOR / PINNED["file"], media_type="text/javascript",
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
        )  # fmt: skip


def address(path: Path) -> str:
    """Where a browser fetches a file of the page's private folder, relative to the page."""
    return f"gradio_api/file={path}"
