"""Measurements worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from neurovision.classes import SHIPPED
from neurovision.ensemble.features import disagreement, label_map, pixel_features
from neurovision.ensemble.regions import find_regions
from neurovision.errors import UnsupportedScan
from neurovision.scan.paint import paint
from neurovision.scan.study import Source, Study

SOURCE = Source("a.png", "array")


def study(spacing=None, affine=None, shape=(100, 100)) -> Study:
    return Study(np.zeros((1, *shape, 1), np.float32), SOURCE, spacing, affine)


def bar(top=40, left=10, height=3, width=21, value=2) -> np.ndarray:
    mask = np.zeros((100, 100), np.uint8)
    mask[top : top + height, left : left + width] = value
    return mask


def test_a_bar_in_pixels():
    (region,) = find_regions(bar(), study())
    assert region.type == "glioma" and region.area_px == 63 and region.area_mm2 is None
    assert region.bbox == (40, 10, 43, 31) and region.centroid == (41.0, 20.0)
    assert region.longest_diameter_px == pytest.approx(math.hypot(20, 2) + 1)
    assert region.longest_diameter_mm is None and region.perpendicular_diameter_mm is None
    assert region.side == "image left"


def test_a_bar_in_millimeters_with_oblong_pixels():
    (region,) = find_regions(bar(), study(spacing=(5.0, 2.0, 0.5)))
    assert region.area_mm2 == pytest.approx(63 * 2.0 * 0.5)
    assert region.longest_diameter_mm == pytest.approx(math.hypot(20 * 0.5, 2 * 2.0) + 1.0)


def test_type_is_the_commonest_class_and_specks_are_left_out():
    mask = bar(value=4)
    mask[40, 10:15] = 2
    mask[90, 90] = 3
    (region,) = find_regions(mask, study())
    assert region.type == "pituitary" and region.area_px == 63


def test_two_regions_largest_first():
    mask = bar() + bar(top=70, height=6, value=3)
    assert [(r.type, r.area_px) for r in find_regions(mask, study())] == [("meningioma", 126), ("glioma", 63)]


@pytest.mark.parametrize(("direction", "side"), [(1.0, "right"), (-1.0, "left")])
def test_side_follows_the_patients_axes(direction, side):
    affine = np.array([[0, 0, direction, 0], [0, 1.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    (region,) = find_regions(bar(), study((3.0, 1.0, 1.0), affine))
    assert region.side == side  # columns grow to the patient's left (+x in LPS): a low column is on the right


def test_midline():
    (region,) = find_regions(bar(left=40), study())
    assert region.side == "midline"


def test_disagreement_by_hand():
    a, b, empty = (np.zeros((4, 4), bool) for _ in range(3))
    a[0], b[0, :2] = True, True
    assert disagreement(np.stack([a, a])) == pytest.approx(0)
    assert disagreement(np.stack([a, b])) == pytest.approx(1 - 2 * 2 / 6)
    assert disagreement(np.stack([empty, empty])) == 0
    assert disagreement(np.stack([a, empty])) == 1
    assert disagreement(np.stack([a])) == 0


def test_a_tumor_of_doubtful_type_is_still_a_tumor():
    p = np.array([[0.05, 0.4, 0.15, 0.2, 0.2], [0.1, 0.5, 0.4, 0, 0], [0.7, 0.1, 0.2, 0, 0], [0, 0.1, 0, 0, 0.9]])
    assert label_map(p).tolist() == [3, 1, 0, 4]


def test_features_lay_members_side_by_side():
    softmax = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    features = pixel_features(softmax)
    assert features.shape == (12, 10)
    assert np.array_equal(features[5, :5], softmax[0, 1, 1]) and np.array_equal(features[5, 5:], softmax[1, 1, 1])


def test_paint_marks_only_tumors():
    picture = np.full((100, 100), 0.5, np.float32)
    plain = paint(picture, np.ones((100, 100), np.uint8), SHIPPED)
    assert (plain == 128).all()
    painted = paint(picture, bar(), SHIPPED, opacity=1.0)
    assert tuple(painted[41, 20]) == (230, 159, 0) and (painted[90] == 128).all()
    outline = paint(picture, bar(height=20), SHIPPED, contour=True)
    assert tuple(outline[50, 20]) == (128, 128, 128) and tuple(outline[40, 20]) == (230, 159, 0)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((1, 4, 4, 2), np.float32),
        np.zeros((1, 4, 4, 1), np.float64),
        np.full((1, 4, 4, 1), 2, np.float32),
        np.full((1, 4, 4, 1), np.nan, np.float32),
    ],
)
def test_a_study_is_valid_or_not_made(pixels):
    with pytest.raises(UnsupportedScan):
        Study(pixels, SOURCE)


def test_a_study_refuses_bad_geometry():
    with pytest.raises(UnsupportedScan, match="positive millimeters"):
        study(spacing=(1.0, 0.0, 1.0))
    with pytest.raises(UnsupportedScan, match="4 x 4"):
        study(affine=np.eye(3))


def test_a_dim_tumor_is_marked_from_a_share_of_its_peak():
    from neurovision.ensemble.features import tumor_threshold

    rng = np.random.default_rng(0)
    dim = rng.uniform(0, 0.05, (100, 100)).astype(np.float32)
    dim[40:50, 40:50] = 0.3
    assert tumor_threshold(dim, 0.5) == pytest.approx(0.15, abs=1e-6)
    assert (dim >= tumor_threshold(dim, 0.5)).sum() == 100
    assert tumor_threshold(dim * 3, 0.6) == 0.5  # never stricter than a plain vote
    speck = dim * 0
    speck[3, 3] = 1.0
    assert tumor_threshold(speck, 0.5) == pytest.approx(0.025)  # one pixel is no peak
    assert tumor_threshold(np.zeros((8, 8), np.float32), 0.5) > 0, "nothing is marked where there is nothing"
    p = np.array([[0.4, 0.4, 0.2, 0, 0]], np.float32)
    assert label_map(p).tolist() == [0] and label_map(p, 0.2).tolist() == [2]
