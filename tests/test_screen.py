"""What looks like a head and is read wrongly: upside down, negative, a CT."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from neurovision.ensemble.screen import (
    FAULTS,
    FILE,
    SENTENCES,
    Screen,
    bone_is_white,
    features_of,
    is_upside_down,
    mirrored,
    turned,
    turned_features,
)
from neurovision.evaluation.nonbrain import spoiled
from neurovision.scan.phantom import phantom, phantom_volume
from neurovision.scan.prepare import prepare
from neurovision.training.screen import drawn_ct, save


def test_features_of_a_mirror_image_are_the_mirrored_features():
    pixels = prepare(phantom("glioma", 3)[0].gray(), 96).pixels
    mirror = features_of(np.ascontiguousarray(pixels[:, ::-1]))
    assert np.abs(mirrored(features_of(pixels)[None])[0] - mirror).max() < 0.02
    half = features_of(np.ascontiguousarray(pixels[::-1, ::-1]))
    assert np.abs(turned_features(features_of(pixels)[None])[0] - half).max() < 0.02
    assert Screen.load().scores(pixels)[0] == pytest.approx(-Screen.load().log_odds(half[None])[0, 0], abs=0.05)


def test_a_screen_is_read_as_it_was_written(tmp_path: Path):
    screen = Screen.load()
    save(screen, tmp_path / "s.safetensors")
    assert (tmp_path / "s.safetensors").read_bytes() == FILE.read_bytes()
    assert set(SENTENCES) == set(FAULTS) and len(screen.limits) == len(FAULTS)


def test_turning_keeps_every_voxel_in_its_place_in_the_patient():
    study = phantom_volume("glioma", 1, 48, 5)[0]
    turn = turned(study)
    assert np.array_equal(turn.pixels[:, ::-1, ::-1], study.pixels)
    assert np.allclose(turn.affine @ [2, 47 - 10, 47 - 7, 1], study.affine @ [2, 10, 7, 1])
    assert any("turned by 180° before" in w for w in turn.warnings)


def faults(gray: np.ndarray) -> tuple[str, ...]:
    return Screen.load().faults(prepare(gray, 160).pixels)


def test_drawn_cts_are_told():
    rng = np.random.default_rng(77)
    canvases = [prepare(phantom("glioma", k)[0].gray(), 96).pixels for k in range(10)]
    found = [Screen.load().faults(drawn_ct(c, rng)) for c in canvases]
    assert np.mean(["CT" in f for f in found]) >= 0.9


def test_scans_are_redrawn_as_cts_for_the_evaluation():
    scans = [spoiled(phantom("glioma", k)[0].gray())["scan, redrawn as a CT"] for k in range(6)]
    assert np.mean(["CT" in Screen.load().faults(prepare(s, 160).pixels) for s in scans]) >= 0.8


@pytest.mark.parametrize("window", [(0.35, 0.1), (0.45, 0.05), (0.25, 0.2)])
def test_a_head_in_white_bone_is_a_ct_whatever_its_window(window: tuple[float, float]):
    """As brain windows show it: hardly any skin, white bone to the picture's edge, a flat brain."""
    middle, contrast = window
    for kind in ("glioma", "healthy"):
        for seed in range(4):
            canvas = prepare(phantom(kind, seed)[0].gray(), 96)
            depth = cv2.distanceTransform(np.pad(canvas.head.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
            brain = middle + contrast * (canvas.pixels - canvas.pixels[canvas.head].mean())
            ct = np.select([depth <= 0, depth < 7], [0.0, 1.0], brain).clip(0, 1).astype(np.float32)
            assert bone_is_white(ct) and not bone_is_white(canvas.pixels)
            assert "CT" in Screen.load().faults(ct)


def test_the_rule_for_bone_takes_no_mri_for_a_ct(scans: Path):
    from neurovision.training.dataset import load_index

    items = load_index(scans, ("figshare", "lgg", "navoneel", "brats"))[::40]
    assert not any(bone_is_white(prepare(i.gray(), 96).pixels) for i in items)


@pytest.fixture(scope="module")
def unseen(scans: Path) -> list[np.ndarray]:
    """Fold 4, which nothing was fitted on."""
    from neurovision.training.dataset import load_index

    return [i.gray() for i in load_index(scans, ("figshare", "lgg", "navoneel", "healthy"), [4])[::20]]


def test_real_scans_are_told_apart_from_spoiled_ones(unseen: list[np.ndarray]):
    upright = [faults(g) for g in unseen]
    assert np.mean([bool(f) for f in upright]) <= 0.05
    negative = [faults(1 - g) for g in unseen]
    assert np.mean(["negative" in f for f in negative]) >= 0.95
    turned_over = [faults(np.ascontiguousarray(g[::-1, ::-1])) for g in unseen]
    assert np.mean(["upside down" in f for f in turned_over]) >= 0.75


def test_a_volume_that_stands_on_its_head_is_told_as_one(scans: Path):
    import csv

    from neurovision.scan.images import read_image
    from neurovision.scan.study import Source, Study

    rows = list(csv.DictReader((scans / "lgg" / "index.csv").open()))
    patient = next(r["patient"] for r in rows if r["fold"] == "4")
    files = [scans / "lgg" / r["image"] for r in rows if r["patient"] == patient]
    pixels = np.stack([read_image(f.read_bytes(), f.name).pixels[0, ..., 1:2] for f in files])
    study = Study(pixels, Source("volume", "array"))
    assert not is_upside_down(study) and is_upside_down(turned(study))
