"""Volumes: milliliters, lesions and profile worked out by hand, and memory that does not grow with the slices."""

from __future__ import annotations

import json
import weakref

import numpy as np
import pytest
from dicom_builder import head
from standin import standin
from truth import TruthAnalyzer

from neurovision.ensemble.volume import analyze_volume
from neurovision.scan.phantom import phantom_volume
from neurovision.scan.study import Source, Study


def boxes(*lesions: tuple[slice, slice, slice, int], shape=(12, 100, 100)) -> np.ndarray:
    truth = np.ones(shape, np.uint8)
    for s, r, c, kind in lesions:
        truth[s, r, c] = kind
    return truth


def study(shape=(12, 100, 100), spacing=(2.0, 0.5, 0.5)) -> Study:
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, 0.5], [0, 0.5, 0], [2.0, 0, 0]]
    rng = np.random.default_rng(0)
    return Study(rng.random((*shape, 1)).astype(np.float32), Source("s", "array"), spacing, affine)


def test_measures_by_hand():
    truth = boxes((slice(2, 6), slice(10, 30), slice(60, 90), 3), (slice(8, 11), slice(50, 60), slice(10, 20), 2))
    truth[4, 30:34, 60:90] = 3  # the largest slice: 24 x 30
    seen = []
    volume = analyze_volume(TruthAnalyzer(truth), study(), lambda done, total: seen.append((done, total)))
    assert seen == [(k, 12) for k in range(1, 13)]
    assert np.array_equal(volume.mask, truth)
    first, second = volume.lesions
    voxels = 4 * 20 * 30 + 4 * 30
    assert (first.type, first.voxels, first.first_slice, first.last_slice) == ("meningioma", voxels, 2, 5)
    assert first.volume_ml == pytest.approx(voxels * 2.0 * 0.5 * 0.5 / 1000)
    assert (first.largest_slice, first.largest_area_mm2) == (4, 24 * 30 * 0.25)
    assert first.longest_diameter_mm == pytest.approx(np.hypot(23, 29) * 0.5 + 0.5)
    assert first.diameter_slice == 4
    assert (first.side, second.side) == ("left", "right")  # columns grow to the patient's left
    assert second.centroid == pytest.approx((9, 54.5, 14.5))
    assert volume.volumes_ml["glioma"] == pytest.approx(300 * 0.5 / 1000)
    assert volume.volumes_ml["pituitary"] == 0
    assert volume.largest_slice == 4
    assert volume.longest_diameter_mm == first.longest_diameter_mm
    assert [s.area_px for s in volume.slices] == [0, 0, 600, 600, 720, 600, 0, 0, 100, 100, 100, 0]
    assert volume.slices[4].area_mm2 == 180
    assert volume.verdict.state == "tumor"
    assert volume.verdict.likeliest_type == "meningioma"
    assert sum(volume.verdict.types.values()) == pytest.approx(1)
    assert volume.probability.dtype == np.uint8
    assert volume.probability[3, 15, 70] == 204  # 0.8
    assert json.loads(json.dumps(volume.to_json()))["lesions"][0]["volume_ml"] == pytest.approx(1.26)


def test_lesions_join_through_corners_and_part_otherwise():
    joined = boxes((slice(2, 4), slice(10, 20), slice(10, 20), 2), (slice(4, 6), slice(20, 30), slice(20, 30), 2))
    parted = boxes((slice(2, 4), slice(10, 20), slice(10, 20), 2), (slice(5, 7), slice(20, 30), slice(20, 30), 2))
    assert len(analyze_volume(TruthAnalyzer(joined), study()).lesions) == 1
    assert len(analyze_volume(TruthAnalyzer(parted), study()).lesions) == 2


def test_what_is_no_lesion_leaves_the_mask():
    flat = (slice(3, 4), slice(10, 30), slice(10, 30), 2)  # 2 mm high
    speck = (slice(6, 9), slice(50, 51), slice(50, 51), 2)
    unsure = (slice(9, 12), slice(70, 80), slice(70, 80), 2)
    chances = [0.02] * 9 + [0.4] * 3
    chances[3] = 0.95
    volume = analyze_volume(TruthAnalyzer(boxes(flat, speck, unsure), chances), study())
    assert volume.lesions == ()
    assert set(np.unique(volume.mask)) == {1}
    assert volume.largest_slice is None
    assert volume.longest_diameter_mm is None
    assert volume.verdict.state == "no tumor"
    assert volume.verdict.probability == pytest.approx(0.485)  # (0.95 + 0.02) / 2: one slice alone does not decide


def test_one_slice_is_a_volume_without_height():
    truth = boxes((slice(0, 1), slice(10, 30), slice(10, 30), 4), shape=(1, 100, 100))
    volume = analyze_volume(TruthAnalyzer(truth), study((1, 100, 100), (None, 0.5, 0.5)))
    assert volume.verdict.probability == 0.95
    assert volume.lesions[0].volume_ml is None
    assert volume.lesions[0].largest_area_mm2 == 100
    assert volume.volumes_ml == {"glioma": None, "meningioma": None, "pituitary": None}
    assert volume.voxels["pituitary"] == 400


def test_without_spacing_everything_is_in_voxels():
    truth = boxes((slice(2, 6), slice(10, 30), slice(10, 30), 2))
    plain = study()
    volume = analyze_volume(TruthAnalyzer(truth), Study(plain.pixels, plain.source))
    assert volume.lesions[0].voxels == 1600
    assert volume.lesions[0].longest_diameter_mm is None
    assert volume.lesions[0].side == "image left"


def test_rejected_slices():
    truth = boxes((slice(2, 6), slice(10, 30), slice(10, 30), 2))
    some = analyze_volume(TruthAnalyzer(truth, rejected=[0, 1, 11]), study())
    assert [s.status for s in some.slices].count("rejected") == 3
    assert some.positive
    nothing = analyze_volume(TruthAnalyzer(truth, rejected=range(12)), study())
    assert (nothing.status, nothing.verdict, nothing.reason) == ("rejected", None, "No head stands out.")


def test_maps_of_slices_are_let_go():
    alive: list[weakref.ref] = []
    most = 0

    class Watching(TruthAnalyzer):
        def analyze_slices(self, study, indices=None):
            nonlocal most
            for findings in super().analyze_slices(study, indices):
                alive.append(weakref.ref(findings.uncertainty))
                yield findings
                del findings
                most = max(most, sum(r() is not None for r in alive))

    analyze_volume(Watching(boxes((slice(2, 6), slice(10, 30), slice(10, 30), 2))), study())
    assert len(alive) == 12
    assert most <= 2


def test_the_real_path_finds_the_phantoms_tumor():
    """Through the analyzer's own batches, with a stand-in for the networks that calls bright tissue a tumor."""
    volume, truth = phantom_volume("glioma", seed=4, size=96, slices=12, sequence="FLAIR")
    found = analyze_volume(standin(), volume)
    wanted, got = truth >= 2, found.mask >= 2
    assert 2 * (wanted & got).sum() / (wanted.sum() + got.sum()) > 0.5
    assert found.positive
    assert len(found.slices) == 12
    assert abs(found.lesions[0].largest_slice - int(wanted.sum((1, 2)).argmax())) <= 2


def test_the_fixture_head_has_a_lesion():
    volume, truth = head()
    found = analyze_volume(TruthAnalyzer(truth), volume)
    assert found.lesions[0].voxels == int((truth >= 2).sum())
