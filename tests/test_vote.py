"""The vote, the verdict and the weights' digests."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from neurovision.classes import FIRST_TUMOR, SHIPPED
from neurovision.ensemble.features import PLANES, Scene, pixel_features
from neurovision.ensemble.manifest import VerdictModel
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.verdict import refusal, retyped, tumor_probability, type_probabilities, verdict_features
from neurovision.ensemble.voter import Blend, ManualVotingClassifier, Voter
from neurovision.ensemble.weights import DEFAULT, load_manifest
from neurovision.errors import ModelError, WeightsMissing, WeightsTampered
from neurovision.scan.phantom import phantom
from neurovision.scan.prepare import prepare, standardize


class Fixed:
    """A classifier that always says the same."""

    def __init__(self, probabilities, classes):
        self.probabilities, self.classes_ = np.array(probabilities), np.array(classes)

    def predict_proba(self, features):
        return np.repeat(self.probabilities[None], len(features), 0)


def test_vote_is_the_mean_by_class():
    vote = ManualVotingClassifier([Fixed([0.2, 0.8], [0, 2]), Fixed([0.1, 0.2, 0.3, 0.2, 0.2], range(5))], 5)
    assert np.allclose(vote.predict_proba(np.zeros((2, 25)))[0], [0.15, 0.1, 0.55, 0.1, 0.1])
    assert vote.predict(np.zeros((3, 25))).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("mean", "skips"),
    [
        ([0.992, 0.007, 0.001, 0, 0], True),  # air
        ([0.004, 0.993, 0.001, 0.001, 0.001], True),  # head
        ([0, 0.985, 0.005, 0.005, 0.005], False),  # head, but tumors of three kinds add up
        ([0.49, 0.5, 0.01, 0, 0], False),  # air or head?
        ([0, 0.02, 0.98, 0, 0], True),  # a strong tumor
        ([0, 0.08, 0.92, 0, 0], False),  # not strong enough: trees with context may know better
        ([0, 0, 0.5, 0.5, 0], False),  # of which kind?
    ],
)
def test_only_doubtful_pixels_reach_the_trees(mean, skips):
    """Members may differ around their mean, which decides."""
    apart = np.minimum(mean, 1 - np.array(mean)).min() * np.array([1, -1, 0, 0, 0])
    softmax = np.stack([mean + apart, mean - apart]).reshape(2, 1, 1, 1, 5).astype(np.float32)
    voter = Voter(ManualVotingClassifier([Fixed([0.2, 0.2, 0.2, 0.2, 0.2], range(5))], 5))
    assert np.allclose(voter.vote_maps(softmax)[0, 0, 0], mean if skips else 0.2, atol=1e-6)
    assert np.allclose(voter.vote_maps(softmax, everywhere=True)[0, 0, 0], 0.2)


@pytest.mark.parametrize(("peak", "skips"), [(1.0, True), (0.3, False)])
def test_a_faint_tumor_reaches_the_trees_unless_another_outshines_it(peak, skips):
    """Masks are marked from a share of the peak: 0.02 cannot be marked beside 1, and may be beside 0.3."""
    softmax = np.zeros((1, 1, 32, 32, 5), np.float32)
    softmax[..., 1], softmax[..., 2] = 0.98, 0.02
    softmax[0, 0, :4, :4, 1:3] = 1 - peak, peak
    voter = Voter(ManualVotingClassifier([Fixed([0.2, 0.2, 0.2, 0.2, 0.2], range(5))], 5))
    assert np.allclose(voter.vote_maps(softmax)[0, 20, 20], [0, 0.98, 0.02, 0, 0] if skips else 0.2, atol=1e-6)


def test_trees_are_asked_where_canvas_and_members_differ_on_the_head():
    """In a skull-stripped slice all members may call head what the canvas knows to be air."""
    softmax = np.zeros((1, 1, 2, 2, 5), np.float32)
    softmax[..., 0, 0], softmax[..., 1, 1] = 1, 1  # air on the left, head on the right
    head = np.array([[False, True], [True, False]])
    scenes = [Scene(np.zeros((2, 2), np.float32), head)]
    voter = Voter(ManualVotingClassifier([Fixed([0.2, 0.2, 0.2, 0.2, 0.2], range(5))], 5), context=True)
    asked = np.isclose(voter.vote_maps(softmax, scenes)[0], 0.2).all(-1)
    assert asked.tolist() == [[False, False], [True, True]]


def test_every_core_gets_pixels_back_in_order():
    class First:
        classes_ = np.arange(5)

        def predict_proba(self, features):
            return np.repeat(features[:, :1], 5, 1)

    values = np.linspace(0, 0.7, 1001).astype(np.float32)
    softmax = np.zeros((1, 1, 1001, 1, 5), np.float32)
    softmax[..., 0], softmax[..., 2] = values[:, None], 0.5  # doubtful all of them
    said = Voter(ManualVotingClassifier([First()], 5)).vote_maps(softmax)
    assert np.allclose(said[0, :, 0, 3], values)


def test_trees_with_context_see_the_slice():
    class Columns:
        classes_ = np.arange(5)

        def predict_proba(self, features):
            assert features.shape[1] == 3 * 5 + len(PLANES) + 3 + 1 + 3 + 5
            return np.full((len(features), 5), 0.2)

    rng = np.random.default_rng(0)
    softmax = rng.dirichlet(np.ones(5), (3, 2, 32, 32)).astype(np.float32)
    head = np.zeros((32, 32), bool)
    head[4:28, 6:26] = True
    answers = np.array([0.1, 0.2, 0.3, 0.25, 0.15], np.float32)
    scenes = [Scene(rng.normal(size=(32, 32)).astype(np.float32), head, a) for a in (answers, None)]
    voted = Voter(ManualVotingClassifier([Columns()], 5), context=True).vote_maps(softmax, scenes, everywhere=True)
    assert np.allclose(voted, 0.2)
    features = np.stack([pixel_features(softmax[:, n], scene=s) for n, s in enumerate(scenes)]).reshape(2, 32, 32, -1)
    assert np.array_equal(features[1, 5, 7, :15], softmax[:, 1, 5, 7].ravel())
    planes = dict(zip(PLANES, np.moveaxis(features[0, ..., 15 : 15 + len(PLANES)], -1, 0), strict=True))
    assert np.array_equal(planes["intensity"], scenes[0].pixels)
    assert np.allclose(planes["left-right difference"], -planes["left-right difference"][:, ::-1])
    tumor = softmax[:, 0, ..., 2:].sum(-1)
    assert np.allclose(planes["highest member"], tumor.max(0))
    assert np.allclose(planes["mean mirrored"], tumor.mean(0)[:, ::-1])
    assert (planes["depth"][~head] == 0).all() and planes["depth"][16, 16] == planes["depth"].max()
    assert np.array_equal(features[0, 0, 0, -5:], answers) and np.allclose(features[1, 0, 0, -5:], 0.2)


@pytest.mark.slow
def test_sure_pixels_keep_the_labels_of_real_scans(scans, analyzer):
    """At most 5 labels in 10,000 change, and tumors' Dice by less than 0.001, marked as the product marks a tumor."""
    from neurovision.ensemble.features import label_map, tumor_threshold
    from neurovision.ensemble.looks import classify_both_ways, look_twice
    from neurovision.scan.prepare import label_grid
    from neurovision.training.dataset import load_index

    items = [i for i in load_index(scans, folds=[4]) if i.mask is not None][::60]
    changed, shifts = [], []
    for item in items:
        canvas = prepare(item.gray(), analyzer.manifest.size)
        softmax = look_twice(analyzer.engine, standardize(canvas.pixels)[None])[:, 0]
        answers = classify_both_ways(analyzer.engine, standardize(canvas.pixels)[None])[0][0]
        scenes = [Scene(standardize(canvas.pixels), canvas.head, answers)]
        voted = [analyzer.voter.vote_maps(softmax[:, None], scenes, everywhere=e)[0] for e in (False, True)]
        share = analyzer.manifest.verdict.mask_share if item.tumor else None
        limits = [0.5 if share is None else tumor_threshold(v[..., FIRST_TUMOR:].sum(-1), share) for v in voted]
        fast, full = (label_map(v, limit).reshape(-1) for v, limit in zip(voted, limits, strict=True))
        changed.append((fast != full).mean())
        truth = label_grid(canvas, item.truth(), FIRST_TUMOR).reshape(-1) >= FIRST_TUMOR
        if truth.any():
            dice = [2 * ((m >= FIRST_TUMOR) & truth).sum() / ((m >= FIRST_TUMOR).sum() + truth.sum()) for m in (fast, full)]
            shifts.append(dice[0] - dice[1])
    assert len(shifts) >= 10
    assert np.mean(changed) <= 5e-4 and abs(np.mean(shifts)) < 1e-3


def test_the_members_weighted_mean_by_hand():
    softmax = np.random.default_rng(0).dirichlet(np.ones(5), (2, 3, 4)).astype(np.float32)
    said = Blend([0.25, 0.75], 5).predict_proba(pixel_features(softmax))
    np.testing.assert_allclose(said.reshape(3, 4, 5), 0.25 * softmax[0] + 0.75 * softmax[1], rtol=1e-5)


def test_member_weights_trust_the_right_one():
    from neurovision.training.stack import _member_weights

    truth = np.random.default_rng(0).integers(0, 3, 500)
    right = np.eye(5, dtype=np.float32)[truth]
    wrong = np.eye(5, dtype=np.float32)[2 - truth]
    weights = _member_weights(np.stack([wrong, right], 1), truth, np.ones(500))
    assert sum(weights) == pytest.approx(1) and weights[1] > 0.99


def test_verdict_features_by_hand():
    tumor = np.zeros((160, 160), np.float32)
    tumor[10:20, 10:20] = 1
    area, peak, top, positive, differ = verdict_features(tumor, np.array([100, 100, 0, 20, 21]), 0.25)
    assert area == pytest.approx(np.log1p(100 / 25600 * 1e4))
    assert peak == 1 and top == pytest.approx(0.5) and positive == pytest.approx(0.6) and differ == 0.25


def test_probability_is_a_logistic_regression():
    model = VerdictModel(
        features=("a", "b"), mean=(1, 0), scale=(2, 1), coefficients=(1, -1), intercept=0.5, threshold=0.5
    )
    assert tumor_probability(np.array([3.0, 1.0]), model) == pytest.approx(1 / (1 + np.exp(-0.5)))


def test_types_sum_to_one_and_follow_the_vote():
    vote = np.zeros((8, 8, 5), np.float32)
    vote[..., 1] = 1
    vote[2, 2] = [0, 0, 0.1, 0.8, 0.1]
    types = type_probabilities(vote, SHIPPED.keys)
    assert sum(types.values()) == pytest.approx(1) and types["meningioma"] == pytest.approx(0.8, abs=1e-6)


def test_pixels_follow_the_slices_types_within_their_tumor():
    vote = np.zeros((8, 8, 5), np.float32)
    vote[..., 1] = 1
    vote[2, 2] = [0, 0.2, 0.5, 0.2, 0.1]
    vote[5, 5] = [0, 0.9, 0.0, 0.0, 0.1]
    np.testing.assert_allclose(retyped(vote, type_probabilities(vote, SHIPPED.keys)), vote, atol=1e-6)
    answers = np.array([0, 0.1, 0.8, 0.1, 0], np.float32)
    types = type_probabilities(vote, SHIPPED.keys, answers, 1.0)
    typed = retyped(vote, types)
    np.testing.assert_allclose(typed[..., 2:].sum(-1), vote[..., 2:].sum(-1), atol=1e-6)
    np.testing.assert_array_equal(typed[..., :2], vote[..., :2])
    share = np.array([0.5 * 0.8, 0.2 * 0.8, 0.1 * 0.8 + 0.1 * 0.1])
    share /= share.sum()
    by_hand = np.array([0.5, 0.2, 0.1]) * np.array([0.1, 0.8, 0.1]) / share
    np.testing.assert_allclose(typed[2, 2, 2:], 0.8 * by_hand / by_hand.sum(), rtol=1e-3)
    assert typed[2, 2, 2:].argmax() == 1 and typed[5, 5, 2:].argmax() == 2, "a pixel that sees one type alone keeps it"


def test_noise_and_flat_pictures_are_refused():
    rng = np.random.default_rng(0)
    noise = rng.random((200, 200)).astype(np.float32)
    assert "noise" in str(refusal(noise, prepare(noise, 160)))
    flat = (0.5 + 0.001 * noise).astype(np.float32)
    assert "contrast" in str(refusal(flat, prepare(flat, 160)))
    head = phantom("healthy", 0)[0].gray()
    assert refusal(head, prepare(head, 160)) is None


class TestManifest:
    """A copy of the shipped weights, spoiled in one way or another."""

    @pytest.fixture
    def copy(self, tmp_path):
        return shutil.copytree(DEFAULT, tmp_path / "weights")

    def test_shipped_files_have_their_digests_and_sizes(self):
        manifest = load_manifest()
        assert all(len(manifest.read(file)) < 10_000_000 for file in manifest.files)
        assert sum(p.stat().st_size for p in DEFAULT.iterdir()) < 80_000_000

    def test_every_file_is_listed(self):
        manifest = load_manifest()
        assert manifest.classifier is not None and manifest.out_of_distribution is not None
        there = {p.name for p in DEFAULT.iterdir() if p.name not in ("cache", "diffusion.json")}
        assert there == {f.file for f in manifest.files} | {"manifest.json"}

    @pytest.mark.parametrize(
        "of",
        [
            lambda m: m.members[0], lambda m: m.classifier, lambda m: m.out_of_distribution, lambda m: m.vote.forest,
            lambda m: m.vote.boost,
        ],
    )
    def test_a_changed_byte_is_refused(self, copy, of):
        file = of(load_manifest(copy)).file
        data = bytearray((copy / file).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / file).write_bytes(data)
        with pytest.raises(WeightsTampered, match=file):
            Analyzer.load(copy)

    def test_a_missing_file_is_named(self, copy):
        (copy / "boost.ubj").unlink()
        with pytest.raises(WeightsMissing, match=r"boost\.ubj"):
            Voter.load(load_manifest(copy))

    def test_no_manifest(self, tmp_path):
        with pytest.raises(WeightsMissing, match=r"manifest\.json"):
            load_manifest(tmp_path)

    def test_a_path_outside_the_folder_is_refused(self, copy):
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["vote"]["boost"]["file"] = "../weights/boost.ubj"
        (copy / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(WeightsTampered, match="not a manifest"):
            load_manifest(copy)

    def test_half_a_manifest(self, copy):
        (copy / "manifest.json").write_text('{"members": [')
        with pytest.raises(WeightsTampered):
            load_manifest(copy)

    def test_members_are_the_five_that_vote(self):
        from neurovision.segmenters import cards

        assert {m.name for m in load_manifest().members} == {c.name for c in cards() if c.votes}

    def test_unknown_engine(self):
        from neurovision.ensemble.engine import load_engine

        with pytest.raises(ModelError, match="received 'warp'"):
            load_engine(load_manifest(), "warp")
