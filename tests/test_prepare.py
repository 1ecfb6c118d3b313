"""To the grid and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neurovision.scan.phantom import KINDS, phantom, phantom_volume
from neurovision.scan.prepare import fullest_slice, head_mask, label_grid, prepare, standardize
from neurovision.training.dataset import Item


@pytest.mark.parametrize("kind", KINDS)
def test_head_is_found_and_fills_the_canvas(kind):
    study, truth = phantom(kind, 5)
    mask = head_mask(study.gray())
    assert mask is not None
    overlap = 2 * (mask & (truth > 0)).sum() / (mask.sum() + (truth > 0).sum())
    assert overlap > 0.97
    canvas = prepare(study.gray(), 160)
    assert canvas.found and canvas.head.any(1).mean() > 0.9


def test_bright_paper_is_taken_for_air():
    study, truth = phantom("healthy", 2)
    paper = np.where(truth > 0, study.gray(), 1.0).astype(np.float32)
    mask = head_mask(paper)
    assert mask is not None and not mask[:10].any() and mask[128, 128]


def test_nothing_found_takes_the_whole_picture():
    gray = np.zeros((100, 140), np.float32)
    gray[50, 70] = 1
    canvas = prepare(gray, 64)
    assert not canvas.found and canvas.box[2] >= 140


@pytest.mark.parametrize("kind", ["glioma", "meningioma", "pituitary"])
def test_tumor_survives_grid_and_back(kind):
    study, truth = phantom(kind, 1, 400)
    canvas = prepare(study.gray(), 160)
    labels = label_grid(canvas, truth > 1, int(truth.max()))
    back = canvas.restore((labels > 1).astype(np.float32)) >= 0.5
    dice = 2 * (back & (truth > 1)).sum() / (back.sum() + (truth > 1).sum())
    assert back.shape == truth.shape and dice > 0.94


@pytest.mark.parametrize("classes", [3, 5])
def test_outside_the_square_is_air(classes):
    study, _ = phantom("healthy", 0)
    canvas = prepare(study.gray(), 96)
    grid = np.zeros((96, 96, classes), np.float32)
    grid[..., 1] = 1
    back = canvas.restore_probabilities(grid)
    assert back.shape == (256, 256, classes)
    assert np.allclose(back.sum(-1), 1, atol=1e-5) and back[0, 0, 0] == 1


def test_standardize_has_zero_mean_and_unit_deviation():
    p = standardize(prepare(phantom("glioma", 0)[0].gray(), 64).pixels)
    assert abs(p.mean()) < 1e-4 and abs(p.std() - 1) < 1e-3 and p.dtype == np.float32
    assert np.isfinite(standardize(np.zeros((8, 8), np.float32))).all()


def test_training_and_serving_prepare_alike(tmp_path):
    """The same file, pixel for pixel, on both ways."""
    from PIL import Image

    from neurovision.scan.read import read

    study, truth = phantom("meningioma", 7)
    Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray((truth > 1).astype(np.uint8) * 255).save(tmp_path / "m.png")
    item = Item("figshare", "a", tmp_path / "a.png", tmp_path / "m.png", "meningioma", 1)
    trained, labels = item.canvas(160)
    served = prepare(read(tmp_path / "a.png").gray(), 160)
    assert np.array_equal(trained, served.pixels)
    assert set(np.unique(labels)) == {0, 1, 3}


def test_phantom_is_repeatable_and_labeled():
    for kind in KINDS:
        a, truth = phantom(kind, 11)
        b, _ = phantom(kind, 11)
        assert np.array_equal(a.pixels, b.pixels)
        assert set(np.unique(truth)) == {0, 1} | ({KINDS.index(kind) + 1} if kind != "healthy" else set())
    assert not np.array_equal(phantom("glioma", 1)[0].pixels, phantom("glioma", 2)[0].pixels)


def test_phantom_volume_has_geometry():
    study, truth = phantom_volume("glioma", 0, 64, 9)
    assert study.pixels.shape == (9, 64, 64, 1) and truth.shape == (9, 64, 64)
    assert study.spacing is not None and study.affine is not None
    assert np.allclose(np.linalg.norm(study.affine[:3, :3], axis=0), study.spacing)
    assert (truth > 1).any()


def test_the_fullest_slice_is_not_the_middle_one_of_a_stack_that_ends_far_above_the_head():
    study = phantom_volume("healthy", 1, 64, 9)[0]
    longer = np.concatenate([study.pixels, np.zeros((12, *study.pixels.shape[1:]), np.float32)])
    full = fullest_slice(replace(study, pixels=longer))
    assert full < 9 and head_mask(longer[full, ..., 0]) is not None


def test_scans_of_every_source_have_a_head(scans):
    from neurovision.training.dataset import load_index

    items = load_index(scans)[::97]
    found = [prepare(i.gray(), 64).found for i in items]
    assert np.mean(found) > 0.98
