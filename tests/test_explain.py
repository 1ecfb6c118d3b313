"""Grad-CAM against heat worked out by hand, and the pointing score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from standin import NAMES, standin
from typer.testing import CliRunner

from neurovision.aids import gradcam
from neurovision.cli import app
from neurovision.errors import DataError, ModelError
from neurovision.evaluation import explain
from neurovision.scan.phantom import phantom
from neurovision.segmenters import build
from neurovision.training.dataset import Item

SIDE = 8


def canvas() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 1, (SIDE, SIDE)).astype(np.float32)


def maps(x: Any) -> Any:
    """Two maps: the canvas, and one minus the canvas."""
    conv = layers.Conv2D(2, 1, name="maps")
    x = conv(x)
    conv.set_weights([np.array([[[[1.0, -1.0]]]], np.float32), np.array([0.0, 1.0], np.float32)])
    return x


def dense(x: Any, weights: list[list[float]]) -> Any:
    layer = layers.Dense(len(weights[0]), use_bias=False, name="scores")
    x = layer(layers.GlobalAveragePooling2D(name="pool")(x))
    layer.set_weights([np.array(weights, np.float32)])
    return x


def classifier(weights: list[list[float]], activation: str, nested: bool = False) -> keras.Model:
    inputs = keras.Input((SIDE, SIDE, 1), name="canvas")
    if nested:
        inner = keras.Input((SIDE, SIDE, 1))
        x = keras.Model(inner, maps(inner), name="encoder")(inputs)
    else:
        x = maps(inputs)
    return keras.Model(inputs, layers.Activation(activation, name="head")(dense(x, weights)), name="tiny")


@pytest.mark.parametrize("nested", [False, True])
def test_a_classifiers_heat_by_hand(nested: bool) -> None:
    """The score of class 1 is mean(3 * first + second): the heat is 3c + (1 - c) = 1 + 2c, over its maximum."""
    model = classifier([[-1.0, 3.0], [-1.0, 1.0]], "softmax", nested)
    c = canvas()
    expected = (1 + 2 * c) / (1 + 2 * c).max()
    layer = "encoder/maps" if nested else "maps"
    assert gradcam.gradcam_layers(model) == (layer,)
    assert gradcam.gradcam(model, c, 1) == pytest.approx(expected, abs=1e-5)
    assert gradcam.gradcam(model, c, 1, layer) == pytest.approx(expected, abs=1e-5)
    assert not gradcam.gradcam(model, c, 0).any()  # both maps speak against class 0


def test_a_certain_answer_still_has_heat() -> None:
    """The gradient is that of the score: the one of a saturated softmax would be 0."""
    model = classifier([[-1e3, 1e3], [0.0, 0.0]], "softmax")
    assert model.predict_on_batch(canvas()[None, ..., None])[0, 1] == 1.0
    assert gradcam.gradcam(model, canvas(), 1).max() == pytest.approx(1)


def test_a_single_sigmoid_has_two_sides() -> None:
    model = classifier([[1.0], [-1.0]], "sigmoid")  # score: mean(c - (1 - c))
    c = canvas()
    for sign, index in ((1, 1), (-1, 0)):
        raw = np.maximum(sign * (2 * c - 1), 0)
        assert gradcam.gradcam(model, c, index) == pytest.approx(raw / raw.max(), abs=1e-5)


def test_a_segmenter_is_asked_where_it_sees_the_class() -> None:
    """Class 1 wins where the canvas is 1 and reads the first map, class 0 the second; neither wins on an even canvas."""
    c = np.zeros((SIDE, SIDE), np.float32)
    c[2:4, 2:4] = 1
    inputs = keras.Input((SIDE, SIDE, 1), name="canvas")
    head = layers.Conv2D(2, 1, name="head_conv")
    x = layers.Softmax(name="head_softmax")(head(maps(inputs)))
    head.set_weights([np.array([[[[0.0, 2.0], [0.5, 0.0]]]], np.float32), np.array([0.4, 0.0], np.float32)])
    model = keras.Model(inputs, x, name="tiny")
    assert np.array_equal(gradcam.gradcam(model, c, 1), c)
    assert np.array_equal(gradcam.gradcam(model, c, 0), 1 - c)
    assert np.array_equal(gradcam.gradcam(model, np.full((SIDE, SIDE), 0.1, np.float32), 1), np.ones((SIDE, SIDE)))


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("unet", {"width": 4}, "bottleneck_2_relu"),
        ("r2attunet", {"width": 4}, "bottleneck_residual"),  # its convolutions are used several times
        ("linknet", {"encoder": "efficientnetlite0"}, "encoder/block3b_add"),  # a nested encoder
    ],
)
def test_real_architectures(name: str, config: dict[str, Any], expected: str) -> None:
    keras.utils.set_random_seed(0)
    model = build(name, (64, 64, 1), **config)
    listed = gradcam.gradcam_layers(model)
    assert expected in listed and not any(n.startswith("head") for n in listed)
    picture = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    for layer in (None, listed[0], expected, listed[-1]):
        heat = gradcam.gradcam(model, picture, 2, layer)
        assert heat.shape == (64, 64) and heat.dtype == np.float32
        assert heat.min() >= 0 and heat.max() == pytest.approx(1, abs=1e-6)


def test_refusals_name_what_is_right() -> None:
    model = classifier([[-1.0, 3.0], [-1.0, 1.0]], "softmax")
    with pytest.raises(ModelError, match="choose one of maps"):
        gradcam.gradcam(model, canvas(), 1, "head")
    with pytest.raises(ModelError, match="8 x 8"):
        gradcam.gradcam(model, canvas()[:4], 1)
    with pytest.raises(ModelError, match="0 to 1; received 2"):
        gradcam.gradcam(model, canvas(), 2)


def test_pointing_by_hand() -> None:
    heat = np.array([[0.0, 0.2], [0.3, 0.5]], np.float32)
    truth = np.array([[False, False], [True, True]])
    assert explain.pointing_hit(heat, truth) and not explain.pointing_hit(heat, ~truth)
    assert explain.pointing_share(heat, truth) == pytest.approx(0.8)
    nothing = np.zeros((2, 2), np.float32)
    assert not explain.pointing_hit(nothing, ~nothing.astype(bool)) and explain.pointing_share(nothing, truth) == 0


def test_pointing_over_scans_with_masks(tmp_path: Path) -> None:
    """A network that answers by brightness points at bright meningiomas better than heat spread evenly."""
    items = []
    for seed in range(4):
        kind = "meningioma" if seed else "healthy"
        study, truth = phantom(kind, seed, 64)
        picture, mask = tmp_path / f"{seed}.png", tmp_path / f"{seed}_mask.png"
        Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8)).save(picture)
        Image.fromarray(((truth > 1) * 255).astype(np.uint8)).save(mask)
        label = kind if seed else "none"
        items.append(Item("figshare", str(seed), picture, mask if seed else None, label, 1))
    inputs = keras.Input((64, 64, 1), name="canvas")
    x = layers.ReLU(threshold=1.2, name="maps_relu")(inputs)
    model = keras.Model(inputs, layers.Activation("sigmoid", name="head")(dense(x, [[1.0]])), name="bright")
    score = explain.measure_pointing(model, items)
    assert score.scans == 3 and 0 < score.chance < 0.2
    assert score.share > 2 * score.chance
    with pytest.raises(ModelError, match="received none"):
        explain.measure_pointing(model, items[:1])


def bright_segmenter(side: int) -> keras.Model:
    """Calls tissue a glioma the more, the brighter it is."""
    inputs = keras.Input((side, side, 1), name="canvas")
    head = layers.Conv2D(5, 1, name="head_conv")
    x = layers.Softmax(name="head_softmax")(head(layers.ReLU(threshold=1.2, name="maps_relu")(inputs)))
    head.set_weights([np.array([[[[0.0, 0.0, 2.0, 0.0, 0.0]]]], np.float32), np.array([0, 1, 0, 0, 0], np.float32)])
    return keras.Model(inputs, x, name="bright")


def test_the_command_draws_heat_over_scans_and_names_what_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, truth = phantom("glioma", 4)
    model = bright_segmenter(64)
    values = gradcam.heat_over(model, study.gray(), study.pixel_shape)
    assert values.shape == truth.shape and values.max() <= 1
    assert explain.pointing_hit(values, truth > 1) and values[truth > 1].mean() > 3 * values[truth == 1].mean()
    monkeypatch.setattr("neurovision.ensemble.pipeline.Analyzer.load", lambda *a, **k: standin())
    monkeypatch.setattr("neurovision.ensemble.engine.load_member", lambda entry, manifest: model)
    (tmp_path / "in").mkdir()
    Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8)).save(tmp_path / "in" / "a.png")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "in" / "empty.png")
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1 and "empty.png: " in done.stderr and "a.png: slice 1, glioma by unet: " in done.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"a.{name}.heat.png" for name in NAMES}
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.unet.heat.png")).astype(int)
    color = np.ptp(drawn, axis=2)
    inside = np.asarray(Image.fromarray(truth > 1).resize(color.shape[::-1])).astype(bool)
    assert color[inside].mean() > 20 and color[inside].mean() > 3 * color[~inside].mean()


@pytest.mark.parametrize("words", [["a.png"], ["--out", "x"]])
def test_pictures_need_scans_and_a_folder(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["explain", *words])
    assert done.exit_code == 2 and "--out" in done.output


def test_heat_is_measured_on_a_data_set_by_name_and_needs_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, truth = phantom("glioma", 4)
    for part in ("images", "masks"):
        (tmp_path / "clinic" / part).mkdir(parents=True)
    Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8)).save(tmp_path / "clinic" / "images" / "a.png")
    Image.fromarray(((truth > 1) * 255).astype(np.uint8)).save(tmp_path / "clinic" / "masks" / "a.png")
    (tmp_path / "clinic" / "index.csv").write_text(
        "id,image,mask,label,tumor,fold\na,images/a.png,masks/a.png,glioma,1,4\nb,images/a.png,,tumor,1,3\n"
    )
    monkeypatch.setattr("neurovision.ensemble.weights.load_manifest", lambda weights: standin().manifest)
    monkeypatch.setattr("neurovision.ensemble.engine.load_member", lambda entry, manifest: bright_segmenter(64))
    words = ["explain", "--data", str(tmp_path), "--source", "clinic"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    network, source, scans, hits, *_ = done.stdout.splitlines()[1].split()
    assert (network, source, scans, hits) == (NAMES[0], "clinic", "1", "1.00")
    refused = CliRunner().invoke(app, [*words, "--fold", "3"])
    assert isinstance(refused.exception, DataError) and "fold 3 of clinic has none" in str(refused.exception)
