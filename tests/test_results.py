"""Results: a slice, a volume and an unread file answer the same questions, and nothing drawn contradicts the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from standin import standin
from test_report import text_of
from truth import TruthAnalyzer

from neurovision.classes import SHIPPED
from neurovision.ensemble.manifest import BorderlineRule
from neurovision.ensemble.pipeline import differ_warning
from neurovision.ensemble.results import Findings, Interval, Unread, Verdict, VolumeFindings, columns
from neurovision.ensemble.volume import analyze_study, analyze_volume
from neurovision.scan.phantom import phantom, phantom_volume
from neurovision.scan.study import Source, Study
from neurovision.views.pdf import write_pdf
from neurovision.views.report import csv_rows, report_json, verdict_words, write_csv

TYPES = {"glioma": 0.7, "meningioma": 0.2, "pituitary": 0.1}


def boxes(chances: list[float], *drawn: int) -> tuple[Study, TruthAnalyzer]:
    """Slices 5 mm apart, a box of glioma in some, the probability of each."""
    truth = np.ones((len(chances), 100, 100), np.uint8)
    for k in drawn:
        truth[k, 10:30, 10:40] = 2
    pixels = np.random.default_rng(0).random((*truth.shape, 1)).astype(np.float32)
    return Study(pixels, Source("s", "array"), (5.0, 1.0, 1.0)), TruthAnalyzer(truth, chances)


def test_a_verdict_checks_itself():
    assert Verdict.of(0.5, 0.5, TYPES).state == "tumor" and Verdict.of(0.49, 0.5, TYPES).likeliest_type is None
    assert Verdict.of(0.9, 0.5, TYPES).likeliest_type == "glioma"
    rule = BorderlineRule(low=0.4, high=0.6, rate=0.1, errors_inside=0.3, errors_outside=0.01)
    below, above = Verdict.of(0.4, 0.5, TYPES, rule), Verdict.of(0.59, 0.5, TYPES, rule)
    assert (below.state, below.called, below.likeliest_type) == ("borderline", "no tumor", None)
    assert (above.state, above.called, above.likeliest_type) == ("borderline", "tumor", "glioma")
    assert Verdict.of(0.6, 0.5, TYPES, rule).state == "tumor" and Verdict.of(0.39, 0.5, TYPES, rule).state == "no tumor"
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="0, 1"):
            Verdict.of(wrong, 0.5, TYPES)
    with pytest.raises(ValueError, match="upward"):
        Interval(3, 2, "px")
    with pytest.raises(ValueError, match="a reason why"):
        Unread(source=Source("x", ""))


def test_every_result_answers_alike(tmp_path: Path):
    picture, volume = phantom("glioma", 4)[0], phantom_volume("glioma", 4, slices=6)[0]
    noise = Study(np.random.default_rng(1).random((1, 90, 90, 1)).astype(np.float32), Source("noise", "array"))
    results = [analyze_study(standin(), s) for s in (picture, volume, noise)] + [Unread.of("a.png", "It is torn.")]
    assert [type(r) for r in results] == [Findings, VolumeFindings, Findings, Unread]
    assert [r.status for r in results] == ["ok", "ok", "rejected", "unread"]
    assert {verdict_words(r) for r in results} == {"Tumor detected", "Not a brain MRI", "Cannot be read"}
    assert all(tuple(r.row()) == columns(SHIPPED) for r in results)
    write_csv([row for r in results for row in csv_rows(r)], tmp_path / "all.csv")
    for study, result in zip((picture, volume, noise, picture), results, strict=True):
        assert result.mask_in(study).shape == result.probability_in(study).shape == study.pixels.shape[:3]
        json.dumps(report_json(result), allow_nan=False)
        write_pdf(result, tmp_path / "r.pdf")
        assert verdict_words(result) in text_of(tmp_path / "r.pdf")[1]


def test_an_unread_files_json_has_every_key_of_a_slice():
    read = standin().analyze(phantom("glioma", 4)[0]).to_json()
    unread = Unread.of("a.png", "It is torn.", "f" * 12).to_json()
    assert list(unread) == list(read) and list(unread["source"]) == list(read["source"])
    assert (unread["status"], unread["reason"], unread["source"]["name"]) == ("unread", "It is torn.", "a.png")
    assert unread["threshold"] is unread["marked_from"] is unread["spacing_mm"] is unread["slice_index"] is None


def test_overlay_report_and_json_of_a_volume_agree(tmp_path: Path):
    """One slice of 0.95 between slices of 0.02: the volume is none, and so says everything that is made of it."""
    study, analyzer = boxes([0.02, 0.02, 0.95, 0.02, 0.02], 2)
    volume = analyze_volume(analyzer, study)
    plain, shown = volume.to_json(), volume.shown
    assert (plain["verdict"], plain["tumor_probability"]) == ("no tumor", 0.485)
    assert shown.slice_index == plain["largest_slice"] == 2 and shown.positive
    assert np.array_equal(shown.mask, volume.mask[2]) and np.array_equal(shown.picture, study.gray(2))
    write_pdf(volume, tmp_path / "v.pdf")
    text = text_of(tmp_path / "v.pdf")[1]
    assert "No tumor detected" in text and "Tumor detected" not in text and "of a tumor 48 %" in text and "Slice 3" in text
    assert "Lesions" not in text and "nothing is marked" in text  # below the threshold nothing is tabled or drawn
    (warning,) = volume.warnings
    assert warning in text and warning in plain["warnings"] and "600 px" in warning and "threshold 50 %" in warning
    assert volume.row()["verdict"] == "no tumor" and volume.row()["tumor_volume_ml"] == plain["lesions"][0]["volume_ml"]


def test_a_slice_shows_only_what_the_volume_counts():
    study, analyzer = boxes([0.02, 0.4, 0.02, 0.95, 0.95, 0.02], 1, 3, 4)
    volume = analyze_volume(analyzer, study)
    assert len(volume.lesions) == 1 and volume.shown_slice == 3
    assert not (volume.at(1).mask >= 2).any() and volume.at(1).regions == ()
    assert volume.at(4).area_px == 600 == volume.at(4).regions[0].area_px
    with pytest.raises(IndexError, match="no slice 6"):
        volume.at(6)


def test_without_a_tumor_the_likeliest_readable_slice_is_shown():
    study, analyzer = boxes([0.1, 0.3, 0.2, 0.01])
    assert analyze_volume(analyzer, study).shown_slice == 1
    analyzer.rejected = {0, 1, 2, 3}
    nothing = analyze_volume(analyzer, study)
    assert nothing.shown_slice == 2 and nothing.shown.status == "rejected"


def test_a_volume_keeps_every_slices_maps_and_members():
    study, _ = phantom_volume("glioma", 4, size=96, slices=5)
    volume = analyze_volume(standin(), study)
    for alone in standin().analyze_slices(study):
        kept = volume.at(alone.slice_index)
        assert kept.verdict == alone.verdict and kept.disagreement == alone.disagreement
        assert np.abs(kept.tumor_map - alone.tumor_map).max() <= 0.5 / 255 + 1e-6
        assert np.abs(kept.uncertainty - alone.uncertainty).max() <= 0.5 / 255 + 1e-6
        assert [m.name for m in kept.members] == [m.name for m in alone.members]
        assert all(np.array_equal(a.mask, b.mask) for a, b in zip(kept.members, alone.members, strict=True))


def test_where_verdict_and_mask_differ_the_warning_states_the_facts():
    none, tumor = Verdict.of(0.04, 0.54, TYPES), Verdict.of(0.9, 0.54, TYPES)
    (said,) = differ_warning(none, True, 212, 12)
    assert said == (
        "The mask marks 212 px, but the verdict is no tumor: the probability of a tumor is 4 %, the threshold 54 %."
    )
    assert "near" not in said and "tiny" not in said
    assert differ_warning(tumor, False, 5, 12) == (
        "The verdict is tumor, but only 5 px are marked, in no region of at least 12 px.",
    )
    assert differ_warning(tumor, False, 0, 12) == ("The verdict is tumor, but no pixel is marked.",)
    assert differ_warning(tumor, True, 212, 12) == differ_warning(none, False, 0, 12) == ()
