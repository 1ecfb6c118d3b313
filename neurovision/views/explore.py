"""Figures of enhancement and of clusters for a list of scans, written into a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from neurovision.scan import clusters, enhance
from neurovision.scan.names import stem_of
from neurovision.scan.prepare import fullest_slice
from neurovision.scan.read import read

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def enhance_scans(
    paths: Sequence[Path], out: Path, crop: str | None = None, padding: int = 8, strength: float = 1.6, levels: int = 5
) -> list[dict[str, Any]]:
    """Clean up, optionally crop, and enhance the fullest slice of each scan by MUSICA.

    Args:
        paths: Scans.
        out: Folder, made if need be. For each scan ``<number>_<name>_enhanced.png``, ``..._figure.png`` (slice, MUSICA,
            equalized, asymmetry, texture, distribution), and one ``enhance.json``.
        crop: ``"hard"``, ``"soft"`` or None.
        padding: Pixels around the crop.
        strength: Of MUSICA's details.
        levels: Of its pyramid.

    Returns:
        What ``enhance.json`` holds, one entry a scan.

    Raises:
        ScanError: A file that cannot be read.
        ModelError: An argument out of range.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, path in enumerate(paths, 1):
        study = read(path)
        fullest = fullest_slice(study)
        gray = enhance.blacken_border(enhance.blacken_background(study.gray(fullest)))
        box = (0, 0, *gray.shape) if crop is None else enhance.crop_box(gray, crop, padding)
        gray = np.ascontiguousarray(gray[box[0] : box[2], box[1] : box[3]])
        enhanced = enhance.musica(gray, strength, levels)
        stem = f"{number:03d}_{stem_of(path)}"
        Image.fromarray(np.rint(enhanced * 255).astype(np.uint8)).save(out / f"{stem}_enhanced.png")
        shares, cumulative = enhance.distribution(study.pixels[fullest])
        views = {
            "slice": gray,
            "MUSICA": enhanced,
            "equalized": enhance.equalize(gray, local=True),
            "asymmetry": enhance.asymmetry(gray),
            "texture (bits)": enhance.texture(gray),
        }
        _figure(views, cumulative, out / f"{stem}_figure.png")
        rows.append(
            {
                "image": path.name,
                "box": list(box),
                "median_level": int((cumulative[0] >= 0.5).argmax()),
                "entropy_bits": float(-(shares[0] * np.log2(np.where(shares[0] > 0, shares[0], 1))).sum()),
                "asymmetry": float(views["asymmetry"].mean()),
            }
        )
    (out / "enhance.json").write_text(json.dumps(rows, indent=1))
    return rows


def _figure(views: dict[str, np.ndarray], cumulative: np.ndarray, path: Path) -> None:
    figure = _canvas(len(views) + 1)
    for axis, (title, view) in zip(figure.axes, views.items(), strict=False):
        axis.imshow(view, cmap="gray", vmin=0)
        axis.set_title(title)
        axis.axis("off")
    colors = ("gray",) if len(cumulative) == 1 else ("tab:red", "tab:green", "tab:blue")
    for channel, color in zip(cumulative, colors, strict=True):
        figure.axes[-1].plot(channel, color=color)
    figure.axes[-1].set(title="cumulative share", xlabel="level", ylim=(0, 1))
    figure.savefig(path, dpi=110)


def _canvas(columns: int) -> Figure:
    """A figure of its own, outside pyplot's list: nothing to close, safe in threads."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.8 * columns, 3.2), layout="constrained")
    figure.subplots(1, columns)
    return figure


def cluster_scans(
    paths: Sequence[Path], out: Path, k: int = 10, ks: Sequence[int] = clusters.KS, position: float = 1.0
) -> dict[str, Any]:
    """Cluster the fullest slice of each scan by K-means and score a range of cluster numbers.

    Args:
        paths: Scans.
        out: Folder, made if need be. For each scan ``<number>_<name>_clusters.png`` and ``..._figure.png`` (slice,
            clusters, watershed, inside of the snake), one ``scores.png`` and one ``clusters.json``.
        k: Clusters of the pictures.
        ks: Numbers that are scored; none skips the scores.
        position: Weight of x and y; see :func:`neurovision.scan.clusters.pixel_table`.

    Returns:
        What ``clusters.json`` holds: ``{"images": [...], "mean": [...]}``, the mean over all scans.

    Raises:
        ScanError: A file that cannot be read.
        ModelError: A number of clusters out of range.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows, scores = [], []
    for number, path in enumerate(paths, 1):
        study = read(path)
        gray = enhance.blacken_border(enhance.blacken_background(study.gray(fullest_slice(study))))
        found = clusters.cluster(gray, k, position=position)
        painted = clusters.paint_clusters(found.labels, k)
        stem = f"{number:03d}_{stem_of(path)}"
        Image.fromarray(painted).save(out / f"{stem}_clusters.png")
        figure = _canvas(4)
        views = {
            "slice": gray,
            f"{k} clusters": painted,
            "watershed": clusters.watershed_regions(gray),
            "snake": np.where(clusters.snake(gray), gray, 0),
        }
        for axis, (title, view) in zip(figure.axes, views.items(), strict=True):
            axis.imshow(view, cmap="nipy_spectral" if title == "watershed" else "gray")
            axis.set_title(title)
            axis.axis("off")
        figure.savefig(out / f"{stem}_figure.png", dpi=110)
        row = {"image": path.name, "intensity": found.intensity.round(2).tolist(), "area": found.area.tolist()}
        if ks:
            scores.append(clusters.score_clusters(gray, ks, position=position))
            row["scores"] = [asdict(s) for s in scores[-1]]
        rows.append(row)
    mean = clusters.mean_scores(scores) if scores else ()
    if mean:
        figure = _canvas(4)
        for axis, name in zip(figure.axes, ("wcss", "bcss", "silhouette", "calinski_harabasz"), strict=True):
            axis.plot([s.k for s in mean], [getattr(s, name) for s in mean], marker=".")
            axis.set(title=name.replace("_", " "), xlabel="clusters")
        figure.savefig(out / "scores.png", dpi=110)
    result = {"images": rows, "mean": [asdict(s) for s in mean]}
    (out / "clusters.json").write_text(json.dumps(result, indent=1))
    return result
