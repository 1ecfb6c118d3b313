"""Scores against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from neurovision.evaluation.scores import (
    MASK_SCORES,
    Counts,
    Weighted,
    auc,
    bootstrap,
    boundary_f1,
    error_by_decile,
    hd95,
    lesion_scores,
    mask_scores,
    mean_interval,
    paired,
    rates,
    reliability,
    share_interval,
)


def mask(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (20, 20)) -> np.ndarray:
    """Bool mask of boxes ``(top, left, bottom, right)``."""
    out = np.zeros(shape, bool)
    for top, left, bottom, right in boxes:
        out[top:bottom, left:right] = True
    return out


TRUTH = mask((2, 2, 6, 6))  # 16 pixels
SHIFTED = mask((2, 4, 6, 8))  # 16 pixels, 8 of them shared
EMPTY = mask()


def test_overlap_of_two_squares():
    counts = Counts.of(TRUTH, SHIFTED)
    assert counts == Counts(tp=8, fp=8, fn=8, tn=376)
    scores = mask_scores(TRUTH, SHIFTED)
    assert tuple(scores) == MASK_SCORES
    assert scores["dice"] == scores["f1"] == 0.5
    assert scores["iou"] == pytest.approx(8 / 24)
    assert scores["precision"] == scores["recall"] == 0.5
    assert scores["pixel_accuracy"] == pytest.approx(384 / 400)


def test_precision_is_of_the_prediction_and_recall_of_the_truth():
    scores = mask_scores(TRUTH, mask((2, 2, 4, 6)))  # the upper half only
    assert (scores["precision"], scores["recall"]) == (1.0, 0.5)
    assert scores["dice"] == pytest.approx(2 / 3)


def test_counts_pool_over_slices():
    pooled = Counts.of(TRUTH, SHIFTED) + Counts.of(TRUTH, TRUTH) + Counts.of(EMPTY, EMPTY)
    assert pooled.dice == pytest.approx(2 * 24 / (2 * 24 + 16))


def test_empty_masks():
    both = mask_scores(EMPTY, EMPTY)
    assert all(math.isnan(both[k]) for k in MASK_SCORES if k != "pixel_accuracy")
    assert both["pixel_accuracy"] == 1.0
    for pair in ((TRUTH, EMPTY), (EMPTY, TRUTH)):
        one = mask_scores(*pair)
        assert all(one[k] == 0.0 for k in ("dice", "iou", "precision", "recall", "f1", "boundary_f1"))
        assert one["hd95"] == math.inf
        assert one["pixel_accuracy"] == pytest.approx(384 / 400)


def test_masks_of_another_type_or_shape_are_refused():
    with pytest.raises(ValueError, match="bool and of one shape"):
        Counts.of(TRUTH.astype(np.uint8), SHIFTED)
    with pytest.raises(ValueError, match="bool and of one shape"):
        hd95(TRUTH, TRUTH[:10])


def test_hausdorff_of_two_points_is_their_distance():
    a, b = mask((3, 3, 4, 4)), mask((6, 7, 7, 8))
    assert hd95(a, b) == 5.0  # 3 rows, 4 columns
    assert hd95(a, b, spacing=(2.0, 0.5)) == pytest.approx(math.hypot(6, 2))
    assert hd95(a, a) == 0.0


def test_hausdorff_leaves_out_the_farthest_twentieth():
    line = mask((5, 0, 6, 40), shape=(20, 40))
    tail = line.copy()
    tail[10, 0] = True  # 1 of 41 outline pixels, 5 rows off: beyond the 95th percentile
    assert hd95(line, tail) == 0.0
    tail[10, :4] = True  # 4 of 44: the 95th percentile lies among them
    assert hd95(line, tail) == 5.0


def test_hausdorff_takes_the_worse_direction():
    small, large = mask((5, 5, 6, 6)), mask((5, 5, 6, 15))
    assert hd95(small, large) == hd95(large, small)
    assert hd95(small, large) == pytest.approx(np.percentile(np.arange(10), 95))


def test_the_window_around_both_masks_changes_nothing():
    edge = mask((0, 0, 4, 20))  # touches three borders of the picture
    padded = tuple(np.pad(m, 9) for m in (edge, SHIFTED))
    assert hd95(edge, SHIFTED) == hd95(*padded)
    assert boundary_f1(edge, SHIFTED) == boundary_f1(*padded)


def test_boundary_f1_counts_outline_pixels_within_the_tolerance():
    a, b = mask((5, 0, 6, 10)), mask((7, 0, 8, 20))  # two lines, two rows apart, the second twice as long
    assert boundary_f1(a, b, tolerance=1.9) == 0.0
    # all 10 of a are within 2 of b; of b the first 10 only, since the 11th is sqrt(5) away
    assert boundary_f1(a, b, tolerance=2.0) == pytest.approx(2 * 0.5 * 1.0 / 1.5)
    assert boundary_f1(a, b, tolerance=1.0, spacing=(0.5, 1.0)) == pytest.approx(2 / 3)


def test_a_missed_small_lesion_is_seen_beside_a_large_one():
    truth = mask((0, 0, 10, 10), (15, 15, 17, 17))
    found = mask((0, 0, 10, 10), (15, 0, 17, 2))
    scores = lesion_scores(truth, found)
    assert scores.dice == (1.0, 0.0)
    assert (scores.found, scores.false_positives) == (1, 1)
    assert scores.lesion_dice == pytest.approx(1 / 3)
    assert Counts.of(truth, found).dice > 0.95  # what pooling hides
    assert lesion_scores(truth, found, smallest=5).lesion_dice == 0.5


def test_lesions_that_touch_at_a_corner_are_one_and_nothing_is_undefined():
    assert lesion_scores(mask((0, 0, 2, 2), (2, 2, 4, 4)), EMPTY).dice == (0.0,)
    assert math.isnan(lesion_scores(EMPTY, EMPTY).lesion_dice)
    split = lesion_scores(TRUTH, mask((2, 2, 3, 6), (5, 2, 6, 6)))  # two bands of one lesion count together
    assert split.dice == (pytest.approx(2 * 8 / 24),)
    assert split.false_positives == 0


def test_bootstrap_draws_patients_not_slices():
    values = [0.0] * 50 + [1.0] * 50
    patients = ["a"] * 50 + ["b"] * 50
    by_patient, by_slice = mean_interval(values, patients), mean_interval(values)
    assert (by_patient.value, by_patient.n, by_patient.clusters) == (0.5, 100, 2)
    assert (by_patient.low, by_patient.high) == (0.0, 1.0)  # a quarter of the draws take one patient twice
    assert by_slice.clusters == 100
    assert 0.38 < by_slice.low < 0.42 and 0.58 < by_slice.high < 0.62  # 0.5 -+ 1.96 * 0.05
    assert mean_interval(values, patients) == by_patient


def test_bootstrap_keeps_strata_whole():
    strata = ["x"] * 10 + ["y"] * 10
    held = bootstrap(lambda w: w[:, :10].sum(1) / w.sum(1), range(20), strata)
    assert (held.low, held.high) == (0.5, 0.5)


def test_intervals_of_nothing_and_of_one():
    nothing = mean_interval([float("nan"), float("inf")])
    assert nothing.n == 0 and nothing.to_json()["value"] is None
    one = mean_interval([0.25])
    assert (one.value, one.n) == (0.25, 1) and one.to_json()["low"] is None


def test_paired_comparison():
    worse = np.linspace(0.2, 0.8, 20)
    compared = paired(worse + 0.1, worse)
    assert compared.difference.value == pytest.approx(0.1)
    assert compared.better == 1.0
    assert compared.p_value < 1e-4
    assert paired(worse, worse).p_value == 1.0
    one_patient = paired(worse + 0.1, worse, ["same"] * 20)
    assert one_patient.p_value == 1.0  # 20 slices of one patient prove nothing: Wilcoxon's p for n = 1


def test_rates_worked_by_hand():
    truth = [True, True, True, False, False]
    decided = [True, True, False, True, False]
    found = rates(truth, decided)
    assert (found.accuracy, found.sensitivity, found.specificity) == (0.6, pytest.approx(2 / 3), 0.5)
    assert math.isnan(rates([False, False], [True, False]).sensitivity)


def test_auc_is_the_share_of_ordered_pairs():
    truth, p = [True, True, False, False], [0.9, 0.4, 0.6, 0.1]
    assert auc(truth, p) == 0.75
    assert math.isnan(auc([True, True], [0.1, 0.2]))


def test_false_alarms_at_a_stated_sensitivity():
    truth = [True] * 4 + [False] * 4
    cases = Weighted(truth, [0.9, 0.8, 0.7, 0.2, 0.75, 0.3, 0.1, 0.05])
    once = np.ones((1, 8))
    assert cases.false_alarms_at(0.5, once) == [0.0]  # threshold 0.8
    assert cases.false_alarms_at(0.75, once) == [0.25]  # threshold 0.7
    assert cases.false_alarms_at(1.0, once) == [0.5]  # threshold 0.2
    weights = np.array([[1, 1, 1, 0, 3, 0, 0, 1]])  # without the hard positive; the bright negative three times
    assert cases.false_alarms_at(1.0, weights) == [0.75]
    assert np.isnan(cases.false_alarms_at(0.5, np.array([[0, 0, 0, 0, 1, 1, 1, 1]])))


def test_weighted_figures_are_those_of_repeated_cases():
    rng = np.random.default_rng(3)
    truth = rng.random(60) < 0.4
    p = np.round(np.clip(0.3 * truth + rng.random(60) * 0.7, 0, 1), 1)  # many ties
    times = rng.integers(0, 4, (5, 60))
    cases = Weighted(truth, p)
    for k, (area, error) in enumerate(zip(cases.auc(times), cases.ece(times), strict=True)):
        at = np.repeat(np.arange(60), times[k])
        assert area == pytest.approx(auc(truth[at], p[at]))
        assert error == pytest.approx(reliability(truth[at], p[at]).ece)


def test_calibration_error_worked_by_hand():
    found = reliability([True, False, False, True], [0.15, 0.15, 1.0, 1.0], bins=10)
    assert found.counts.tolist() == [0, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.ece == pytest.approx(0.5 * 0.35 + 0.5 * 0.5)
    assert np.isnan(found.observed[0]) and found.observed[9] == 0.5


def test_error_rate_by_decile():
    uncertainty = np.arange(100)[::-1] / 100
    edges, errors = error_by_decile(uncertainty, uncertainty > 0.84)
    assert errors.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0.5, 1]
    assert edges[0] == pytest.approx(0.09)


def test_bootstrap_draws_whole_clusters():
    sizes = set()

    def size(w: np.ndarray) -> np.ndarray:
        a, b, c = w[:, 0], w[:, 1], w[:, 3]
        assert (w == np.stack([a, b, a, c, b, a], 1)).all()  # all slices of a patient, or none
        if len(w) > 1:
            assert (a + b + c == 3).all()  # as many patients as there are
            sizes.update(w.sum(1).tolist())
        return w.sum(1)

    bootstrap(size, ["a", "b", "a", "c", "b", "a"], rounds=200)
    assert sizes == {3, 4, 5, 6, 7, 8, 9}  # from three times c to three times a


def test_a_share_of_none_is_not_certain():
    none = share_interval([0.0] * 60, ["a", "b", "c"] * 20)
    assert (none.value, none.low, none.clusters) == (0.0, 0.0, 3)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 3))  # three patients, no event
    assert share_interval([1.0] * 10).low == pytest.approx(0.025**0.1)
    assert share_interval([0.0, 1.0] * 50) == mean_interval([0.0, 1.0] * 50)
