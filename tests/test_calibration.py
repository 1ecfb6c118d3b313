"""What a result promises: intervals that hold the truth, expected Dice, the borderline, the sequence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurovision.ensemble.calibration import (
    OTHER,
    QUALITY,
    SequenceHead,
    area_interval,
    expected_dice,
    is_borderline,
    quality_features,
    volume_interval,
)
from neurovision.ensemble.manifest import IntervalModel, SequenceModel, VerdictModel
from neurovision.training.calibrate import (
    FEWEST,
    FEWEST_PATIENTS,
    SHARES,
    CrossFitted,
    best_share,
    blocks_of,
    fit_borderline,
    fit_intervals,
    fit_quality,
    fit_sequence,
    telling,
)
from neurovision.training.dataset import Item


def item(source: str, k: int, sequence: str | None = None, patient: str | None = None, label: str = "glioma") -> Item:
    return Item(source, f"{k:04d}", Path("x.png"), Path("m.png"), label, 3, patient, sequence)


def slices(count: int, rng: np.random.Generator, source: str = "figshare", sequence: str = "T1c") -> list[CrossFitted]:
    """Slices whose outline is the worse, and whose area the more wrong, the lower their peak is."""
    found = []
    for k in range(count):
        peak = rng.uniform(0.3, 1.0)
        dice = np.clip(peak + rng.normal(0, 0.05), 0, 1)
        truth = int(rng.uniform(100, 2000))
        area = max(1, round(truth * np.exp(rng.normal(0, 0.05 + 0.8 * (1 - peak)))))
        quality = np.tile([peak, 0.5, 0.5, 0.5, 5.0, 1.0], (len(SHARES), 1))
        of = item(source, k, sequence, f"p{k // 5}" if source == "lgg" else None)
        dices, areas = (np.full(len(SHARES), v) for v in (dice, area))
        found.append(CrossFitted(of, k, np.ones(3) / 3, dices, quality, areas, truth))
    return found


def test_patients_stand_in_one_block_and_names_in_order():
    items = [item("lgg", k, "FLAIR", f"p{k % 7}") for k in range(70)] + [item("figshare", k) for k in range(40)]
    blocks = blocks_of(items)
    for patient in range(7):
        assert len({blocks[k] for k in range(70) if k % 7 == patient}) == 1
    assert blocks[70:].tolist() == sorted(blocks[70:]) and np.bincount(blocks[70:]).tolist() == [10, 10, 10, 10]


def test_every_block_holds_every_type():
    """Names follow the types, as figshare's do: a vote without a block must still have seen all of them."""
    labels = ["meningioma"] * 24 + ["glioma"] * 40 + ["pituitary"] * 36
    blocks = blocks_of([item("figshare", k, label=label) for k, label in enumerate(labels)])
    counts = [np.bincount(blocks[np.array(labels) == label]).tolist() for label in ("meningioma", "glioma", "pituitary")]
    assert counts == [[6] * 4, [10] * 4, [9] * 4]


def test_intervals_cover_what_they_promise_and_grow_with_doubt():
    rng = np.random.default_rng(0)
    fitted = slices(600, rng) + slices(300, rng, "lgg", "FLAIR")
    quality = fit_quality(fitted, SHARES[0])
    assert quality.features == QUALITY and quality.correlation > 0.9
    model = fit_intervals(fitted, SHARES[0], quality)
    assert set(model.low) == {"", "T1 post-contrast", "FLAIR"} and model.patients == 60 and model.volume is not None
    inside, factors = [], {True: [], False: []}
    for s in slices(2000, rng):
        expected = expected_dice(s.quality[0], quality)
        low, high = area_interval(s.areas[0], expected, "T1 post-contrast", model)
        inside.append(low <= s.truth <= high)
        factors[expected > 0.65].append(high / low)
    assert 0.88 <= np.mean(inside) <= 0.92
    assert np.median(factors[False]) > 2 * np.median(factors[True])
    assert area_interval(100, 0.8, "DWI", model) == area_interval(100, 0.8, None, model)  # unknown: all together


def test_a_volume_of_too_few_patients_gets_no_interval():
    few = slices(60, np.random.default_rng(0))
    model = fit_intervals(few, SHARES[0], fit_quality(few, SHARES[0]))
    assert volume_interval(10.0, model) is None
    known = IntervalModel(level=0.9, base=0.1, slope=0.0, low={"": -1}, high={"": 1}, volume=float(np.log(2)), scans=9)
    assert volume_interval(10.0, known) == pytest.approx((5.0, 20.0))


def test_tumors_smaller_than_a_pixel_of_the_grid_have_no_interval():
    rng = np.random.default_rng(0)
    some = slices(FEWEST, rng)
    gone = [replace(s, truth=0, dice=np.zeros(len(SHARES))) for s in slices(10, rng)]
    quality = fit_quality(some + gone, SHARES[0])
    model = fit_intervals(some + gone, SHARES[0], quality)
    assert model == fit_intervals(some, SHARES[0], quality) and model.scans == FEWEST
    assert fit_intervals(some[1:] + gone, SHARES[0], quality) is None, "too few are left"


def test_networks_that_find_nothing_have_no_correlation():
    nothing = [replace(s, dice=np.zeros(len(SHARES))) for s in slices(FEWEST, np.random.default_rng(0))]
    assert fit_quality(nothing, SHARES[0]).correlation == 0


def test_the_share_serves_most_slices():
    def at(source: str, best: int, sequence: str | None = None) -> CrossFitted:
        dice = np.where(np.arange(len(SHARES)) == best, 1.0, 0.0)
        of, ones = item(source, 0, sequence), np.ones(len(SHARES))
        return CrossFitted(of, 0, np.ones(3) / 3, dice, np.zeros((len(SHARES), 6)), ones, 1)

    few = [at("lgg", 5, "FLAIR"), at("brats", 5, "T2")]
    assert best_share([at("figshare", 2)] * 9 + few) == SHARES[2]
    assert best_share([at("lgg", 2, "T1c")] * 9 + few) == SHARES[5]  # marked on FLAIR
    assert best_share([at("lgg", 2, "T1c")] * 9) == SHARES[2], "nothing else is there"


def test_a_few_patients_of_a_data_set_do_not_decide():
    some = [item("figshare", k) for k in range(3)]
    lgg = [item("lgg", k, "FLAIR", f"p{k}") for k in range(FEWEST_PATIENTS)]
    brats = [item("brats", k, "T2", f"q{k % 2}") for k in range(40)]
    assert telling([*some, *lgg, *brats]).tolist() == [True] * 8 + [False] * 40
    assert telling(brats).all(), "nothing else is there"


def test_the_classifier_counts_for_the_type_as_far_as_it_is_right():
    """Against the types of cross-fitted votes, with which it is blended when a scan is read."""
    from neurovision.training.stack import _type_weight

    right, wrong = np.array([0.9, 0.05, 0.05]), np.array([0.05, 0.9, 0.05])

    def weight(voted: list[np.ndarray], said: list[np.ndarray]) -> float:
        zeros = np.zeros(len(SHARES))
        found = [CrossFitted(item("figshare", k), k, v, zeros, zeros, zeros, 1) for k, v in enumerate(voted)]
        return _type_weight(found, np.array([[0.1, *(0.8 * s), 0.1] for s in said]))

    assert weight([right] * 4, [wrong] * 4) == 0.0
    assert weight([wrong] * 4, [right] * 4) == 1.0
    assert 0 < weight([right, right, wrong], [wrong, right, right]) < 1
    assert weight([], []) == 0.0, "nothing to tell by"


def test_quality_features_by_hand():
    tumor = np.zeros((50, 50), np.float32)
    tumor[:10, :10] = 0.8
    marked = tumor > 0.5
    half, none = marked & (np.arange(50) < 5), np.zeros_like(marked)
    found = dict(zip(QUALITY, quality_features(tumor, marked, np.stack([half, none])), strict=True))
    assert found["peak"] == pytest.approx(0.8) and found["inside"] == pytest.approx(0.8)
    assert found["members_dice"] == pytest.approx(1 / 3) and found["lowest_dice"] == 0
    assert found["log_area"] == pytest.approx(np.log1p(400)) and found["members_positive"] == 0.5


def test_the_threshold_is_chosen_on_patients_that_the_verdict_has_not_seen():
    """What was learned by heart counts for nothing: of noise nothing can be told, however well it is fitted."""
    from dataclasses import replace

    from neurovision.ensemble.verdict import FEATURES
    from neurovision.training.stack import _fit_verdict

    rng = np.random.default_rng(1)
    items = [replace(item("lgg", k, "FLAIR", f"p{k // 2}"), label="none" if k % 2 else "glioma") for k in range(40)]
    truth = np.array([i.tumor for i in items])
    noise = rng.normal(0, 1, (40, len(FEATURES)))
    verdict, unseen = _fit_verdict(noise, items)
    z = (noise - np.array(verdict.mean)) / np.array(verdict.scale)
    seen = z @ np.array(verdict.coefficients) > -verdict.intercept
    assert (seen == truth).mean() > ((unseen > 0.5) == truth).mean() + 0.1
    told = unseen >= verdict.threshold
    assert verdict.fitted.sensitivity == pytest.approx(told[truth].mean())
    assert verdict.fitted.false_alarms == pytest.approx(told[~truth].mean())
    shown, _ = _fit_verdict(noise + 9 * truth[:, None], items)
    assert shown.fitted.sensitivity >= 0.95 and shown.fitted.false_alarms == 0  # the plateau's middle may miss one


def test_the_borderline_holds_the_errors():
    verdict = VerdictModel(features=("a",), mean=(0.0,), scale=(1.0,), coefficients=(1.0,), intercept=0.0, threshold=0.5)
    chances = np.concatenate([np.linspace(0.001, 0.3, 400), np.linspace(0.45, 0.55, 40), np.linspace(0.7, 0.999, 400)])
    truth = chances >= 0.5
    truth[400:440] ^= np.arange(40) % 2 == 0  # wrong half of the time, near the threshold
    rule = fit_borderline(chances, truth, np.ones(len(truth)), verdict)
    assert 0.45 <= rule.low < 0.48 and 0.52 < rule.high <= 0.55  # no wider than 1 % of errors outside asks for
    assert rule.errors_outside <= 0.01 < rule.errors_inside and 0.02 < rule.rate < 40 / 840
    assert is_borderline(0.5, rule) and not is_borderline(0.9, rule)


def test_the_sequence_head_tells_or_says_other():
    rng = np.random.default_rng(0)
    centers = {"T1": [9, 0, 0], "T2": [0, 9, 0], "FLAIR": [0, 0, 9]}
    names = list(centers) * 60
    features = np.array([centers[n] for n in names]) + rng.normal(0, 1, (180, 3)) + 5
    kernel, bias, sequences = fit_sequence(features, names, np.ones(180))
    head = SequenceHead(kernel, bias, SequenceModel(file="s.safetensors", sha256="0" * 64, sequences=sequences, sure=0.5))
    assert head.tell(np.array([[14, 5, 5], [5, 14, 5], [5, 5, 14], [8, 8, 8]], float)) == ["T1", "T2", "FLAIR", OTHER]


def test_two_sequences_are_told_apart_too():
    names = ["T1", "T2"] * 60
    features = np.random.default_rng(0).normal(0, 1, (120, 2)) + np.where(np.array(names)[:, None] == "T1", [4, 0], [0, 4])
    kernel, bias, sequences = fit_sequence(features, names, np.ones(120))
    head = SequenceHead(kernel, bias, SequenceModel(file="s.safetensors", sha256="0" * 64, sequences=sequences, sure=0.6))
    assert head.tell(np.array([[4, 0], [0, 4], [2, 2]], float)) == ["T1", "T2", OTHER]


def test_a_group_counts_with_the_root_of_its_size():
    from neurovision.training.stack import _by_root

    weights = _by_root(["large"] * 100 + ["small"] * 4)
    assert weights[:100].sum() == pytest.approx(10) and weights[100:].sum() == pytest.approx(2)


def test_few_slices_of_another_data_set_are_told_as_well():
    """T1 looks otherwise there; counted one by one they would not be worth a bend to the regression."""
    from neurovision.training.stack import _by_root

    rng = np.random.default_rng(0)
    many, few = ["a/T1"] * 900 + ["a/T2"] * 900, ["b/T1"] * 12
    centers = {"a/T1": [2, 0], "a/T2": [-2, 0], "b/T1": [-2, 1.5]}
    groups = many + few
    features = np.array([centers[g] for g in groups]) + rng.normal(0, 0.8, (len(groups), 2))
    told = [g.split("/")[1] for g in groups]

    def right(weights: np.ndarray) -> float:
        kernel, bias, sequences = fit_sequence(features, told, weights)
        model = SequenceModel(file="s.safetensors", sha256="0" * 64, sequences=sequences, sure=0.5)
        seen = np.array(centers["b/T1"]) + rng.normal(0, 0.8, (400, 2))
        return float(np.mean([name == "T1" for name in SequenceHead(kernel, bias, model).tell(seen)]))

    assert right(_by_root(groups)) > right(np.ones(len(groups))) + 0.15
