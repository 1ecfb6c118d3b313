"""Speed as ratios, held loosely so that a busy machine passes, and the fast paths against the slow ones."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from standin import NAMES, MeanOfMembers, standin

from neurovision.ensemble.cache import DIGESTS, kept
from neurovision.ensemble.engine import OpenVinoEngine, ReferenceEngine
from neurovision.ensemble.features import label_map, pixel_features
from neurovision.ensemble.pipeline import BATCH, restore_labels
from neurovision.ensemble.voter import CERTAIN, ManualVotingClassifier, Voter, load_forest
from neurovision.evaluation.bench import TARGETS, median_ms, table
from neurovision.scan.phantom import phantom, phantom_volume
from neurovision.scan.prepare import prepare, standardize


def smooth_softmax(rng, *shape):
    logits = rng.normal(size=(*shape, 96, 96, 5)).astype(np.float32).reshape(-1, 96, 96, 5)
    logits = np.stack([cv2.GaussianBlur(x, (0, 0), 3) * 30 for x in logits])
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).reshape(*shape, 96, 96, 5)


class TestFastPathsSayTheSame:
    def test_labels_restored_from_fewer_planes(self):
        canvas = prepare(phantom("glioma", 4, 200)[0].gray(), 96)
        for seed in range(4):
            probabilities = smooth_softmax(np.random.default_rng(seed))
            full = label_map(canvas.restore_probabilities(probabilities))
            assert len(np.unique(full)) == 5
            assert (restore_labels(canvas, probabilities) != full).mean() < 1e-4  # rounding at exactly equal

    def test_maps_are_voted_as_their_pixels_are(self):
        softmax = smooth_softmax(np.random.default_rng(0), len(NAMES), 2)
        planes = np.ascontiguousarray(np.moveaxis(softmax, -1, 2)).transpose(0, 1, 3, 4, 2)  # as the engine lays them
        voter = Voter(ManualVotingClassifier([MeanOfMembers(), MeanOfMembers()]))
        maps = voter.vote_maps(planes)
        for n in range(2):
            assert np.allclose(maps[n].reshape(-1, 5), voter.vote(pixel_features(softmax[:, n])), atol=1e-6)

    def test_kept_forest_is_the_shipped_one(self, analyzer):
        manifest = analyzer.manifest
        forest = load_forest(manifest.path(**manifest.vote["forest"])).set_params(n_jobs=1)
        features = np.random.default_rng(0).dirichlet(np.ones(5), (500, 5)).reshape(500, 25).astype(np.float32)
        kept_forest = analyzer.voter.classifier.classifiers[0]
        assert np.array_equal(kept_forest.predict_proba(features), forest.predict_proba(features))

    def test_slices_of_overlapping_batches_are_in_order(self):
        study, _ = phantom_volume("glioma", 1, 96, 2 * BATCH + 3)
        together = list(standin().analyze_slices(study))
        assert [f.slice_index for f in together] == list(range(2 * BATCH + 3))
        for k in (0, BATCH, 2 * BATCH + 2):
            assert np.array_equal(standin().analyze(study, k).mask, together[k].mask)

    def test_a_consumer_may_stop_early(self):
        study, _ = phantom_volume("glioma", 1, 96, 3 * BATCH)
        slices = standin().analyze_slices(study)
        assert next(slices).slice_index == 0
        slices.close()


class TestKept:
    def make(self, text):
        def write(folder):
            self.made += 1
            (folder / "a").write_text(text)

        return write

    @pytest.fixture(autouse=True)
    def counted(self, monkeypatch, tmp_path):
        self.made = 0
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))

    def test_made_once(self, tmp_path):
        for _ in range(2):
            assert kept(tmp_path, ["x"], ["a"], self.make("one")) == {"a": b"one"}
        assert self.made == 1
        assert kept(tmp_path, ["y"], ["a"], self.make("two")) == {"a": b"two"}
        assert not [p for p in (tmp_path / "cache").iterdir() if p.name.startswith(".")]

    @pytest.mark.parametrize("file", ["a", DIGESTS])
    def test_a_changed_byte_is_not_trusted(self, tmp_path, file):
        kept(tmp_path, ["x"], ["a"], self.make("one"))
        (path,) = (tmp_path / "cache").glob(f"*/{file}")
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(data)
        assert kept(tmp_path, ["x"], ["a"], self.make("one")) == {"a": b"one"}
        assert self.made == 2

    def test_weights_that_cannot_be_written_beside(self, tmp_path):
        weights = tmp_path / "weights"
        weights.mkdir()
        (weights / "cache").write_text("a file where the folder should be")
        for _ in range(2):
            assert kept(weights, ["x"], ["a"], self.make("one")) == {"a": b"one"}
        assert self.made == 1 and len(list((tmp_path / "user" / "neurovision").iterdir())) == 1


class TestRatios:
    def test_networks(self, analyzer):
        assert isinstance(analyzer.engine, OpenVinoEngine)
        reference = ReferenceEngine(analyzer.manifest)
        canvas = standardize(prepare(phantom("glioma", 4)[0].gray(), analyzer.manifest.size).pixels)[None]
        fast = median_ms(lambda: analyzer.engine.predict(canvas), 3)
        assert median_ms(lambda: reference.predict(canvas), 3) > fast

    def test_vote(self, analyzer):
        canvas = standardize(prepare(phantom("healthy", 4)[0].gray(), analyzer.manifest.size).pixels)[None]
        softmax = analyzer.engine.predict(canvas)
        assert (softmax.min(0) >= CERTAIN).any(-1).mean() > 0.5  # most of a healthy head needs no trees
        features = pixel_features(softmax[:, 0])
        fast = median_ms(lambda: analyzer.voter.vote_maps(softmax), 3)
        assert median_ms(lambda: analyzer.voter.vote(features, everywhere=True), 3) > fast

    def test_a_warm_start_imports_no_framework(self, analyzer):
        code = (
            "import sys; from neurovision.ensemble.pipeline import Analyzer; Analyzer.load();"
            "print([m for m in ('tensorflow', 'keras', 'torch', 'jax', 'skops') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


def test_table_names_every_aim():
    result = {
        "ratios": dict.fromkeys(TARGETS, 7.0), "matmul_fraction": 0.4, "peak_memory_mb": 900.0, "volume_memory_ratio": 1.1,
        "labels_changed": 0.5, "dice_shift": 0.0, "milliseconds": {"vote": 3.0, "naive": {"vote": 30.0}},
        "machine": {"processor": "p", "cores": 2, "load": 0.1, "engine": "e", "precision": "f32", "versions": {}},
        "runs": {"repeats": 15, "scans": "phantoms"},
    }  # fmt: skip
    json.dumps(result)
    lines = table(result).splitlines()
    assert {line.split()[-1] for line in lines if line.startswith("slice ")} == {"NO"}  # 7 of 12
    assert {line.split()[-1] for line in lines if line.startswith("vote ") and ">=" in line} == {"yes"}
