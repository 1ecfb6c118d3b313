"""``neurovision bench`` and ``neurovision convert``: how fast, and what is made once so that a start is fast."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Weights = Annotated[Path | None, typer.Option(help="Weights folder; found by itself where it is not given.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command()(bench)
    app.command()(convert)


def convert(weights: Weights = None) -> None:
    """Make, once, what every start reads: the networks as one graph and the forest as plain arrays.

    The first start does the same; this is for building a container or warming up a server. It ends with an error where
    the networks cannot be converted.
    """
    from neurovision.ensemble.engine import OpenVinoEngine
    from neurovision.ensemble.voter import Voter
    from neurovision.ensemble.weights import load_manifest

    manifest = load_manifest(weights)
    precision = OpenVinoEngine(manifest).precision
    Voter.load(manifest)
    print(f"The networks run in {precision} on this machine; a start reads what was made now.")


def bench(
    weights: Weights = None,
    data: Annotated[Path | None, typer.Option(help="Prepared scans; NEUROVISION_DATA by default.")] = None,
    engine: Annotated[str, typer.Option(help="How the networks are run; auto, openvino, keras or reference.")] = "auto",
    repeats: Annotated[int, typer.Option(help="Runs that each median is taken of.", min=1)] = 15,
    starts: Annotated[int, typer.Option(help="Cold starts that their median is taken of.", min=1)] = 15,
    scans: Annotated[int, typer.Option(help="Scans that are timed and whose labels are compared.", min=1)] = 40,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also plot cost as work grows into this PNG.")] = None,
    write: Annotated[Path | None, typer.Option(help="Also put the tables between this page's marks.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the tables.")] = False,
) -> None:
    """Measure the speed against the naive way, as ratios; on real scans where NEUROVISION_DATA or --data names some."""
    import json

    from neurovision.ensemble.pipeline import Analyzer
    from neurovision.ensemble.weights import load_manifest
    from neurovision.evaluation.bench import bench as run
    from neurovision.evaluation.bench import scaling, table, write_measured
    from neurovision.files import write as write_file
    from neurovision.training.dataset import data_root

    root = data_root(data) if data or os.environ.get("NEUROVISION_DATA") else None
    folder = load_manifest(weights).folder
    result = run(folder, root, engine, repeats, starts, scans)
    if plot is not None:
        result["scaling_milliseconds"] = scaling(Analyzer.load(folder, "openvino"), plot)
    text = json.dumps(result, indent=1)
    if out is not None:
        write_file(out, text.encode())
    if write is not None:
        write_measured(write, result)
    print(text if as_json else table(result))
