"""The page: its frame, its tabs and how it is served."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from neurovision import __version__
from neurovision.ensemble.pipeline import Analyzer
from neurovision.logs import Quiet, to_stderr
from neurovision.views.examples import FOLDER
from neurovision.views.ui import batch, compare, lab, look, models, parts, viewer
from neurovision.views.ui.gradio_gaps import close, keep_open_sessions, queued, signed_in
from neurovision.views.ui.guard import Guard, Limits, login
from neurovision.views.ui.metrics import Metrics
from neurovision.views.ui.read import Tab, predict_endpoint
from neurovision.views.ui.room import MAX_UPLOAD, Room
from neurovision.views.ui.sealed import seal
from neurovision.views.ui.wire import wire

SESSIONS = 128  # kept in memory, the least recently used let go: every call without a session opens one, with its own page
TITLE = "Neurovision MRI Brain Abnormality Detector"
DISCLAIMER = (
    "Research tool, not a medical device: not for diagnosis or treatment. It knows only the tumor types of its"
    " weights, and may miss or invent findings. Scans stay on the computer that runs this page and are deleted there"
    " within the hour."
)


def build(room: Room) -> gr.Blocks:
    """Lay out the page. Handlers get the room; whatever a visitor opens stays in that visitor's session."""
    os.environ["GRADIO_TEMP_DIR"] = str(room.folder)
    gr.set_static_paths([FOLDER, models.EVALUATION])  # the page's own pictures are never copied, so never swept
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(
            f'<header class="nv-header"><div><h1>{TITLE}</h1><p>Five networks segment the slice, trees vote on every pixel.'
            "</p></div></header>"
            f'<p class="nv-disclaimer" role="note">{DISCLAIMER}</p>'
        )
        status = gr.HTML(_status("nv-wait", "The models are loading; you may open a scan meanwhile."))
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Read", id="read"):
                read = Tab(room)
            with gr.Tab("Compare", id="compare") as tab:
                compare.build(read, tab)
            with gr.Tab("Batch", id="batch"):
                batch.build(room, read, tabs)
            with gr.Tab("Models", id="models") as tab:
                models.build(room, tab)
            with gr.Tab("Lab", id="lab") as tab:
                lab.build(room, read, tab)
        predict_endpoint(room)

        def loaded() -> str:
            """Wait for the models; tell the device, the networks and the weights."""
            try:
                analyzer = room.analyzer()
            except gr.Error as e:
                return _status("nv-bad", str(e.message))
            names = ", ".join(parts.title(m) for m in analyzer.manifest.members)
            return _status(
                "", f"Device: {analyzer.engine.device}", f"Networks: {names}", f"Weights: {analyzer.manifest.digest[:12]}",
                f"Version {__version__}",
            )  # fmt: skip

        page.load(None, None, None, js=look.SCRIPT, api_visibility="private")
        page.load(loaded, outputs=status, api_name="status", show_progress="hidden", concurrency_limit=None)
    page.queue(max_size=64, default_concurrency_limit=4)
    page.state_session_capacity = SESSIONS
    close(page)
    return page


def _status(tone: str, *words: str) -> str:
    first, *rest = (escape(w) for w in words)
    return (
        f'<div class="nv-status {tone}" role="status"><span><i></i>{first}</span>'
        + "".join(f"<span>{w}</span>" for w in rest)
        + "</div>"
    )


def application(room: Room, limits: Limits | None = None) -> Guard:
    """The page as an ASGI application behind its :class:`Guard`, with ``/healthz`` and ``/readyz``.

    Args:
        room: The models and the private folder.
        limits: Of what one visitor may do; the environment's by default.
    """
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse

    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", response_model=None)
    def readyz() -> Any:
        return JSONResponse({"status": room.state}, 200 if room.state == "ready" else 503)

    viewer.serve_library(app)
    check, page = login(), build(room)
    gr.mount_gradio_app(
        app, page, path="/", footer_links=["api", "settings"], run_history=False, enable_monitoring=False,
        ssr_mode=False, pwa=False, show_error=False, mcp_server=False, max_file_size=MAX_UPLOAD, auth=check,
        root_path=os.environ.get("GRADIO_ROOT_PATH"), theme=look.theme(), css=look.CSS, head=look.HEAD,
    )  # fmt: skip
    metrics = Metrics.from_environment(room)
    # Around everything: what an error or a broken request is answered with gets the headers too.
    return Guard(
        app, room.folder, limits or Limits.from_environment(), metrics.observe if metrics else _unobserved,
        signed_in=signed_in(app) if check else None, queued=queued(page), sessions=keep_open_sessions(app, page).open,
    )  # fmt: skip


def _unobserved(route: str, status: int, seconds: float) -> None:
    """What is called after a request where nobody asked for metrics."""


def serve(
    host: str | None = None, port: int | None = None, load: Callable[[], Analyzer] = Analyzer.load
) -> None:
    """Serve the page until the process is told to stop.

    Args:
        host: Address to listen on; by default GRADIO_SERVER_NAME, else 127.0.0.1.
        port: By default GRADIO_SERVER_PORT, else 7860.
        load: Makes the analyzer, while the page answers already.
    """
    import uvicorn

    to_stderr(logging.INFO if os.environ.get("NEUROVISION_LOG") == "info" else logging.WARNING)
    host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    port = int(os.environ.get("GRADIO_SERVER_PORT") or 7860) if port is None else port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            sys.exit(f"Cannot listen on {host}:{port} ({e.strerror}); set GRADIO_SERVER_PORT to a free port.")

    seal()  # before anything is loaded or asked: whatever fetches weights is a process of its own
    tempfile.tempdir = os.environ["TMPDIR"] = str((room := Room(load)).folder)  # libraries' temporary files too
    room.open()
    app = application(room)
    print(f"{TITLE}\nOpen http://{host}:{port} in a browser; Ctrl+C stops it.", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn hands the signal on; exiting clears the folder
    sys.stderr = Quiet()
    most = 0 if os.environ.get("FORWARDED_ALLOW_IPS") else app.limits.connections  # a proxy's are everyone's
    uvicorn.run(
        app, http=wire(most, app.headers), host=host, port=port, log_config=None,
        proxy_headers=bool(os.environ.get("FORWARDED_ALLOW_IPS")),
        log_level="warning", access_log=False, timeout_graceful_shutdown=3,
        loop="asyncio",  # other loops open connections in C, where nothing is sealed
    )  # fmt: skip
