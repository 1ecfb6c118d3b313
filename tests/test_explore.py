"""Figures of enhancement and clusters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neurovision.scan.phantom import phantom
from neurovision.views.explore import cluster_scans, enhance_scans


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    """Two scans of one name in two folders: neither may overwrite the other's results."""
    paths = []
    for seed in range(2):
        path = tmp_path / str(seed) / "head.png"
        path.parent.mkdir()
        Image.fromarray(np.rint(phantom("glioma", seed, 96)[0].gray() * 255).astype(np.uint8)).save(path)
        paths.append(path)
    return paths


def test_enhance(scans: list[Path], tmp_path: Path) -> None:
    rows = enhance_scans(scans, tmp_path / "out", crop="hard", padding=2)
    assert json.loads((tmp_path / "out" / "enhance.json").read_text()) == rows
    assert [r["image"] for r in rows] == ["head.png", "head.png"]
    for number, row in enumerate(rows, 1):
        top, left, bottom, right = row["box"]
        with Image.open(tmp_path / "out" / f"{number:03d}_head_enhanced.png") as picture:
            assert picture.size == (right - left, bottom - top)
        assert (tmp_path / "out" / f"{number:03d}_head_figure.png").stat().st_size > 10_000
        assert 0 < row["entropy_bits"] <= 8 and 0 <= row["median_level"] < 256


def test_clusters(scans: list[Path], tmp_path: Path) -> None:
    result = cluster_scans(scans, tmp_path / "out", k=4, ks=(2, 3))
    assert json.loads((tmp_path / "out" / "clusters.json").read_text()) == result
    assert [s["k"] for s in result["mean"]] == [2, 3]
    first, second = (row["scores"][0]["wcss"] for row in result["images"])
    assert result["mean"][0]["wcss"] == pytest.approx((first + second) / 2)
    with Image.open(tmp_path / "out" / "002_head_clusters.png") as picture:
        assert picture.size == (128, 128) and len(set(picture.get_flattened_data())) == 4
    assert (tmp_path / "out" / "scores.png").is_file()
    assert cluster_scans(scans[:1], tmp_path / "quick", ks=())["mean"] == []
