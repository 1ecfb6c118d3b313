"""``neurovision serve``: the page from the command line."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from neurovision.commands.options import Weights


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; GRADIO_SERVER_NAME or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; GRADIO_SERVER_PORT or 7860.")] = None,
    limit_uploads: Annotated[int | None, typer.Option(min=0, help="Uploads a minute of one address; 0 for any.")] = None,
    limit_calls: Annotated[int | None, typer.Option(min=0, help="Actions a minute of one address; 0 for any.")] = None,
    limit_upload_mb: Annotated[int | None, typer.Option(min=0, help="MB of one upload; 0 for any.")] = None,
    weights: Weights = None,
    ray: Annotated[bool, typer.Option("--ray", help="As one replica on Ray Serve.")] = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    cpus: Annotated[float, typer.Option(help="Processors of the Ray replica.")] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs of the Ray replica.")] = 0.0,
) -> None:
    """Serve the page, by one process, or as one replica on Ray Serve.

    User, password and further limits come from the environment, as for app.py.
    """
    from functools import partial

    from neurovision.ensemble.pipeline import Analyzer
    from neurovision.serving.hub import load_analyzer
    from neurovision.serving.serve import PageLimits
    from neurovision.serving.serve import serve as run

    limits = PageLimits(limit_uploads, limit_calls, limit_upload_mb)
    load = load_analyzer if weights is None else partial(Analyzer.load, weights)
    if not ray:
        run(host, port, limits, load)
        return
    from neurovision.serving.ray_serve import serve_on_ray

    os.environ.update(limits.environment())
    serve_on_ray(host, port, address, cpus, gpus, load)
