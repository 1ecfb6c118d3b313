"""``neurovision enhance`` and ``neurovision clusters``: pictures of scans without any network."""

from __future__ import annotations

from typing import Annotated

import typer

from neurovision.commands.options import Out, Scans


def enhance(
    paths: Scans,
    out: Out,
    crop: Annotated[str | None, typer.Option(help="hard (Otsu) or soft (adaptive threshold); none by default.")] = None,
    padding: Annotated[int, typer.Option(help="Pixels left free around the crop.")] = 8,
    strength: Annotated[float, typer.Option(help="Factor of MUSICA's details; 1 changes nothing.")] = 1.6,
    levels: Annotated[int, typer.Option(help="Levels of MUSICA's pyramid.")] = 5,
) -> None:
    """Clean up, crop and enhance scans (MUSICA); write pictures, figures and enhance.json."""
    from neurovision.scan.read import find_scans
    from neurovision.views.explore import enhance_scans

    enhance_scans(find_scans(paths), out, crop, padding, strength, levels)
    print(out / "enhance.json")


def clusters(
    paths: Scans,
    out: Out,
    k: Annotated[int, typer.Option("--k", help="Clusters of the pictures, 2 to 20.")] = 10,
    score: Annotated[bool, typer.Option(help="Score 2 to 20 clusters.")] = True,
    position: Annotated[float, typer.Option(help="Weight of x and y; 0 clusters by intensity alone.")] = 1.0,
) -> None:
    """Cluster scans by K-means on position and intensity; write pictures, figures and clusters.json."""
    from neurovision.scan.clusters import KS
    from neurovision.scan.read import find_scans
    from neurovision.views.explore import cluster_scans

    cluster_scans(find_scans(paths), out, k, KS if score else (), position)
    print(out / "clusters.json")
