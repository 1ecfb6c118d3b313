"""Left, right and the midline are the patient's, in every plane; what is square in millimeters is square to the networks."""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations, product

import cv2
import numpy as np
import pytest
from truth import TruthAnalyzer

from neurovision.ensemble.regions import find_regions
from neurovision.ensemble.volume import analyze_volume
from neurovision.scan.phantom import KINDS, phantom, phantom_volume
from neurovision.scan.prepare import label_grid, prepare
from neurovision.scan.study import Source, Study


@lru_cache
def head(kind: str, seed: int) -> tuple[Study, np.ndarray]:
    return phantom_volume(kind, seed, size=72, slices=48)


def expected(kind: str, seed: int) -> str:
    """The side by the truth: the tumor's center against the head's, along the patient's x."""
    if kind == "pituitary":
        return "midline"
    truth = head(kind, seed)[1]
    tumor, whole = (float(np.nonzero(m)[2].mean()) for m in (truth > 1, truth > 0))
    return "left" if tumor > whole else "right"


def resliced(study: Study, truth: np.ndarray, order: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[Study, np.ndarray]:
    """The same head with its axes in another order and direction, its geometry moved along."""
    move = np.zeros((4, 4))
    move[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        move[old, new] = -1 if flip else 1
        move[old, 3] = study.pixels.shape[old] - 1 if flip else 0
    where = [k for k, flip in enumerate(flips) if flip]
    pixels, labels = (np.ascontiguousarray(np.flip(v.transpose(order), where)) for v in (study.pixels[..., 0], truth))
    spacing = tuple(study.spacing[k] for k in order)
    return Study(pixels[..., None], Source("x", "array"), spacing, study.affine @ move), labels


def largest(labels: np.ndarray) -> int:
    return int((labels > 1).sum((1, 2)).argmax())


@pytest.mark.parametrize(
    ("kind", "seed"), [("glioma", 0), ("glioma", 1), ("meningioma", 0), ("meningioma", 1), ("pituitary", 0)]
)
@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_the_side_is_the_patients_in_every_plane(kind: str, seed: int, order: tuple[int, ...]):
    for flips in product((False, True), repeat=3):
        study, labels = resliced(*head(kind, seed), order, flips)
        region = find_regions(labels[largest(labels)], study, largest(labels))[0]
        assert region.side == expected(kind, seed), flips
        lesion = analyze_volume(TruthAnalyzer(labels), study).lesions[0] if flips == (False, False, True) else region
        assert lesion.side == expected(kind, seed)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("degrees", [(20, 10), (0, 40), (35, -25), (0, 45)])
@pytest.mark.parametrize(("kind", "seed"), [("glioma", 0), ("glioma", 1)])
def test_oblique_planes(kind: str, seed: int, order: tuple[int, ...], degrees: tuple[int, int]):
    study, labels = resliced(*head(kind, seed), order, (False, True, False))
    a, b = np.deg2rad(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = study.affine.copy()
    affine[:3] = z @ x @ affine[:3]
    turned = Study(study.pixels, study.source, study.spacing, affine)
    region = find_regions(labels[largest(labels)], turned, largest(labels))[0]
    truth = [np.argwhere(m).mean(0) @ affine[:3, :3].T + affine[:3, 3] for m in (labels > 1, labels > 0)]
    if abs(truth[0][0] - truth[1][0]) > 15:  # where the turned head leaves no doubt
        assert region.side == ("left" if truth[0][0] > truth[1][0] else "right")
    if degrees == (20, 10):
        assert region.side == expected(kind, seed)


def test_a_head_beside_the_scanners_middle():
    """The head's own middle counts, also across the slices of a sagittal series."""
    for order in ((0, 1, 2), (2, 0, 1)):
        study, labels = resliced(*head("glioma", 0), order, (False, False, False))
        affine = study.affine.copy()
        affine[0, 3] += 60
        moved = Study(study.pixels, study.source, study.spacing, affine)
        assert find_regions(labels[largest(labels)], moved, largest(labels))[0].side == expected("glioma", 0)


def test_one_sagittal_slice_is_told_by_its_place():
    study, labels = resliced(*head("glioma", 0), (2, 0, 1), (False, False, False))
    k = largest(labels)
    affine = study.affine.copy()
    affine[:3, 3] += k * affine[:3, 0]
    one = Study(study.pixels[k : k + 1], study.source, study.spacing, affine)
    assert find_regions(labels[k], one)[0].side == expected("glioma", 0)
    affine[0, 3] = 2.0  # two millimeters off the scanner's middle
    assert find_regions(labels[k], Study(one.pixels, one.source, one.spacing, affine))[0].side == "midline"


def test_without_geometry_the_pictures_sides_are_named():
    study, labels = head("glioma", 0)
    flat = Study(study.pixels, study.source)
    side = find_regions(labels[largest(labels)], flat, largest(labels))[0].side
    assert side == ("image right" if expected("glioma", 0) == "left" else "image left")


# --- pixels that are not square --------------------------------------------------------------------------------------

SQUEEZES = [(1.0, 0.5), (0.5, 1.0), (0.9, 0.6), (0.5, 1.25)]  # millimeters between rows, between columns


def squeezed(plane: np.ndarray, spacing: tuple[float, float], mode: int = cv2.INTER_AREA) -> np.ndarray:
    """The plane as a scanner with such pixels stores it: fewer of the longer ones."""
    rows, columns = (round(n * min(spacing) / s) for n, s in zip(plane.shape, spacing, strict=True))
    return cv2.resize(plane, (columns, rows), interpolation=mode)


@pytest.mark.parametrize("spacing", SQUEEZES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_canvas_is_square_in_millimeters(kind: str, spacing: tuple[float, float]):
    gray = phantom(kind, 3, 320)[0].gray()
    plain = prepare(gray, 160)
    seen = prepare(squeezed(gray, spacing), 160, spacing)
    assert seen.pixels.shape == (160, 160)
    assert np.abs(seen.pixels - plain.pixels).mean() < 0.06
    overlap = 2 * (seen.head & plain.head).sum() / (seen.head.sum() + plain.head.sum())
    assert overlap > 0.98
    wrong = prepare(squeezed(gray, spacing), 160)
    assert np.abs(wrong.pixels - plain.pixels).mean() > 2 * np.abs(seen.pixels - plain.pixels).mean()


@pytest.mark.parametrize("spacing", SQUEEZES)
def test_maps_go_back_to_the_files_own_pixels(spacing: tuple[float, float]):
    study, truth = phantom("meningioma", 1, 400)
    gray, tumor = squeezed(study.gray(), spacing), squeezed((truth > 1).astype(np.uint8), spacing, cv2.INTER_NEAREST) > 0
    canvas = prepare(gray, 160, spacing)
    back = canvas.restore((label_grid(canvas, tumor, 3) > 1).astype(np.float32)) >= 0.5
    assert back.shape == gray.shape
    assert 2 * (back & tumor).sum() / (back.sum() + tumor.sum()) > 0.92


def test_square_pixels_and_unbelievable_ones_change_nothing():
    gray = phantom("glioma", 0)[0].gray()
    plain = prepare(gray, 96)
    for spacing in ((0.4, 0.4), (3.0, 3.0), (0.4883, 0.4884), (1.0, 0.001), (1e-3, 1.0)):
        seen = prepare(gray, 96, spacing)
        assert np.array_equal(seen.pixels, plain.pixels)
        assert seen.box == plain.box
