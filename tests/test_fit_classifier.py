"""Training a classifier, choosing its threshold, and asking it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neurovision.ensemble.classify import FILE, Diagnosis, TrainedClassifier
from neurovision.errors import DataError, ModelError, WeightsMissing, WeightsTampered
from neurovision.scan.phantom import phantom
from neurovision.scan.prepare import prepare, standardize
from neurovision.scan.read import read
from neurovision.training.fit_classifier import (
    LOSSES,
    RECIPES,
    ClassifierRecipe,
    Jitter,
    Labeled,
    Stage,
    best_threshold,
    binary_iou,
    fit_classifier,
    fit_stages,
    jittered,
)
from neurovision.training.trainer import OPTIMIZERS

SIZE = 48


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve phantoms in three folds, as a prepared folder."""
    root = tmp_path_factory.mktemp("data")
    (root / "navoneel" / "images").mkdir(parents=True)
    with (root / "navoneel" / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "image", "label", "fold", "tumor"])
        for k in range(12):
            kind = "healthy" if k % 2 else "meningioma"
            pixels = np.rint(phantom(kind, k, 96)[0].gray() * 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "navoneel" / "images" / f"{k}.png")
            rows.writerow([k, f"images/{k}.png", "none" if k % 2 else "tumor", 1 + k % 3, 1 - k % 2])
    return root


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "custom_cnn"
    fit_classifier("custom_cnn", prepared, [1, 2], 3, out, size=SIZE, config={"width": 4}, epochs=2, verbose=0)
    return out


def test_schedules_are_those_of_the_documents() -> None:
    def listed(name: str) -> list[tuple[int, float, float]]:
        return [(s.epochs, s.learning_rate, s.decay) for s in RECIPES[name].stages]

    assert listed("custom_cnn") == listed("two_branch_resnet50") == [(20, 3e-4, 1), (15, 3e-5, 1)]
    assert listed("resnet50_v1")[0][1:] == (1e-4, 0.9)
    assert [r[1:] for r in listed("resnet50_v2")] == [(1e-6, 0.9), (1e-6, 1)] and RECIPES["resnet50_v2"].weight_decay == 1e-5
    assert listed("efficientnetv2l_v1") == [(30, 1e-4, 0.9), (10, 1e-5, 1)]
    assert [r[1:] for r in listed("efficientnetv2l_v2")] == [(1e-5, 0.85), (1e-6, 1)]
    assert RECIPES["efficientnetv2l_v2"].patience is None and RECIPES["convnextbase_v1"].patience == 5
    assert [r[1:] for r in listed("convnextbase_v2")] == [(1e-5, 0.85), (1e-6, 1)]
    first, second = RECIPES["two_branch_resnet50"].stages
    assert (first.encoder_layers, first.jitter) == (0, None) and second.encoder_layers == 30
    assert second.jitter == Jitter(rotation=15, shift=0.05, zoom=0.05, brightness=0.05)


def test_third_convnext_is_slower_with_more_decay() -> None:
    second, third = RECIPES["convnextbase_v2"], RECIPES["convnextbase_v3"]
    assert all(b.learning_rate < a.learning_rate for a, b in zip(second.stages, third.stages, strict=True))
    assert third.weight_decay > second.weight_decay and all(s.jitter is not None for s in third.stages)


def test_binary_iou_by_hand_and_as_keras_has_it() -> None:
    import keras

    truth = np.array([True, True, True, False, False])
    found = np.array([True, True, False, False, True])
    assert binary_iou(truth, found) == pytest.approx((2 / 4 + 1 / 3) / 2)
    metric = keras.metrics.BinaryIoU()
    metric.update_state(truth.astype(np.float32), found.astype(np.float32))
    assert binary_iou(truth, found) == pytest.approx(float(metric.result()), abs=1e-5)


@pytest.mark.parametrize(("optimizer", "loss"), list(zip(OPTIMIZERS, LOSSES, strict=True)))
def test_every_optimizer_and_loss_trains(optimizer: str, loss: str) -> None:
    import keras

    tumor = np.array([True, False] * 4)
    scans = Labeled(np.random.default_rng(0).uniform(size=(8, 32, 32)).astype(np.float32), tumor)
    model = keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid")])
    before = np.array(model.weights[0])
    plan = ClassifierRecipe("custom_cnn", (Stage(2, 1e-2, 0.9),), batch=4, optimizer=optimizer, loss=loss)
    assert fit_stages(model, plan, scans, scans)[0] == 16
    assert np.isfinite(model.weights[0]).all() and not np.allclose(before, model.weights[0])
    with pytest.raises(ModelError, match="adam, rmsprop, sgd; received 'lion'"):
        fit_stages(model, ClassifierRecipe("custom_cnn", (Stage(1, 1e-2),), optimizer="lion"), scans, scans)
    with pytest.raises(ModelError, match="bce, dice, focal; received 'hinge'"):
        fit_stages(model, ClassifierRecipe("custom_cnn", (Stage(1, 1e-2),), loss="hinge"), scans, scans)


def test_figures_of_a_classifier(trained: Path, tmp_path: Path) -> None:
    from neurovision.evaluation.classifier_figures import draw_classifier

    drawn = draw_classifier(trained)
    assert [p.name for p in drawn] == ["training_history.png", "confusion_matrix.png", "roc_curve.png"]
    assert all(Image.open(p).size[0] > 200 for p in drawn)
    with pytest.raises(WeightsMissing, match="fit-classifier"):
        draw_classifier(tmp_path)


def test_threshold_by_hand() -> None:
    truth = np.array([False, False, False, True, True])
    # 0.35 to 0.45 parts three of three from two of two
    assert best_threshold(truth, np.array([0.1, 0.2, 0.35, 0.45, 0.9])) == pytest.approx(0.4)
    assert best_threshold(truth, np.array([0.1, 0.2, 0.3, 0.6, 0.9])) == 0.5  # already right at 0.5
    with pytest.raises(DataError, match="one kind only"):
        best_threshold(np.ones(3, bool), np.arange(3) / 3)


def test_jitter_of_nothing_only_flips() -> None:
    picture = np.random.default_rng(0).uniform(size=(16, 16)).astype(np.float32)
    rng = np.random.default_rng(1)
    drawn = [jittered(picture, rng, Jitter()) for _ in range(8)]
    assert all(np.allclose(d, picture) or np.allclose(d, picture[:, ::-1]) for d in drawn)
    assert any(np.allclose(d, picture) for d in drawn) and any(np.allclose(d, picture[:, ::-1]) for d in drawn)
    moved = jittered(np.ones((16, 16), np.float32), rng, Jitter(rotation=15, shift=0.05, zoom=0.05))
    assert np.allclose(moved, 1)  # the border is repeated, never black


def test_encoder_layers_thaw_stage_by_stage() -> None:
    from neurovision.classifiers import build
    from neurovision.training.fit_classifier import _thaw

    model = build("two_branch_resnet50", (64, 64, 1), width=16, encoder="efficientnetlite0")
    encoder = model.get_layer("encoder")
    for kept, trained in ((0, 0), (30, 30), (None, len(encoder.layers))):
        _thaw(model, kept)
        assert sum(layer.trainable for layer in encoder.layers) == trained
        assert model.get_layer("head_dense").trainable


def test_a_trained_classifier_answers_for_files(prepared: Path, trained: Path) -> None:
    told = json.loads((trained / FILE).read_text())
    assert told["validation"]["scans"] == 4 and 0 <= told["validation"]["auc"] <= 1
    assert told["validation"]["balanced_accuracy"] >= told["validation"]["balanced_accuracy_at_half"]
    assert 0 <= told["validation"]["binary_iou"] <= 1
    paths = sorted((prepared / "navoneel" / "images").iterdir())[:3]
    classifier = TrainedClassifier.load(trained)
    answers = classifier.classify(paths)
    assert [a.image for a in answers] == [p.name for p in paths]
    canvas = standardize(prepare(read(paths[1]).gray(), SIZE).pixels)
    assert answers[1].probability == pytest.approx(float(classifier.probabilities(canvas[None])[0]), abs=1e-5)
    assert answers[1].threshold == told["threshold"]


def test_the_words_of_a_diagnosis() -> None:
    assert Diagnosis("a.png", 0.8734, 0.47).text() == "Tumor detected (confidence: 0.873)"
    assert Diagnosis("a.png", 0.4699, 0.47).to_json() == {
        "image": "a.png", "probability": 0.4699, "diagnosis": "No tumor detected"
    }  # fmt: skip
    assert Diagnosis("a.png", 0.47, 0.47).tumor


def test_refusals(prepared: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="convnextbase_v2"):
        fit_classifier("nope", prepared, [1], 2, tmp_path)
    with pytest.raises(DataError, match="cannot validate"):
        fit_classifier("custom_cnn", prepared, [1, 2], 2, tmp_path)
    with pytest.raises(WeightsMissing, match=FILE):
        TrainedClassifier.load(tmp_path)
    (tmp_path / FILE).write_bytes((trained / FILE).read_bytes())
    with pytest.raises(WeightsMissing, match=r"custom_cnn\.safetensors"):
        TrainedClassifier.load(tmp_path)
    (tmp_path / "custom_cnn.safetensors").write_bytes(b"x" + (trained / "custom_cnn.safetensors").read_bytes())
    with pytest.raises(WeightsTampered, match="not the file"):
        TrainedClassifier.load(tmp_path)
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(WeightsTampered, match="does not describe"):
        TrainedClassifier.load(tmp_path)
