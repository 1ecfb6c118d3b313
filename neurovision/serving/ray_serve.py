"""The page on Ray Serve: one replica, whose FastAPI application has the page mounted.

Ray's own Gradio integration does not work with Gradio 6, so the page is built inside the replica and handed to Serve
as an ASGI application. One replica, because a visitor's session, queue and uploads live in it; more visitors are
served by more such applications under other names.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from neurovision.ensemble.pipeline import Analyzer
from neurovision.errors import BatchError
from neurovision.serving.ray_batch import start

if TYPE_CHECKING:
    from neurovision.views.ui.guard import Guard

NAME = "neurovision"
AT_ONCE = 1000  # requests of a replica, open streams included; Serve's own default is 5
PASSED = "NEUROVISION_"  # begins the environment's settings that the replica gets too


def deploy(host: str, port: int, address: str | None, cpus: float, gpus: float, load: Callable[[], Analyzer]) -> Any:
    """Start Serve and the page on it; returns when it answers.

    Args:
        host: Address to listen on.
        port: Port.
        address: Cluster to join; one is started on this machine by default.
        cpus: Processors of the replica.
        gpus: GPUs of the replica.
        load: Makes the analyzer, in the replica.

    Returns:
        Ray.

    Raises:
        BatchError: Ray is not installed, or the page does not start on it.
    """
    ray = start(address, max(2.0, cpus + 1))
    try:
        from ray import serve
    except ImportError as e:
        raise BatchError("Ray Serve is not installed; run pip install 'neurovision[ray]', or leave --ray out.") from e
    settings = {k: v for k, v in os.environ.items() if k.startswith(PASSED)}
    try:
        serve.start(http_options={"host": host, "port": port})
        deployed = serve.deployment(
            name="page", num_replicas=1, max_ongoing_requests=AT_ONCE,
            ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        )  # fmt: skip
        page = deployed(serve.ingress(lambda: _page(settings, load))(_Page))
        serve.run(page.bind(), name=NAME, route_prefix="/")
    except (RuntimeError, ValueError, ray.exceptions.RayError) as e:
        raise BatchError(f"The page does not start on Ray ({type(e).__name__}); is port {port} free, and room on it?") from e
    return ray


class _Page:
    """The replica: everything is in its ASGI application."""


def _page(settings: dict[str, str], load: Callable[[], Analyzer]) -> Guard:
    """Build the page, inside the replica."""
    os.environ.update(settings)
    from neurovision.views.ui.page import application
    from neurovision.views.ui.room import Room

    room = Room(load)
    room.open()
    return application(room)


def serve_on_ray(
    host: str | None,
    port: int | None,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    load: Callable[[], Analyzer] = Analyzer.load,
) -> None:
    """Serve the page on Ray until the process is told to stop."""
    host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    port = int(os.environ.get("GRADIO_SERVER_PORT") or 7860) if port is None else port
    ray = deploy(host, port, address, cpus, gpus, load)
    from ray import serve

    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    print(f"Open http://{host}:{port} in a browser; Ctrl+C stops it.", flush=True)
    stop.wait()
    serve.delete(NAME)
    if address is None:
        serve.shutdown()
    ray.shutdown()
