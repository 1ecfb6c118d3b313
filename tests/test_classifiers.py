"""The contract of every classifier. A new leaf inherits it by being registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurovision.classifiers import build, card, cards
from neurovision.errors import ModelError

SIDE = 64
# Every pretrained encoder is exchanged for the smallest one; the heads are as published, narrower.
COMPACT: dict[str, dict[str, Any]] = {"custom_cnn": {"width": 4}, "vit": {"width": 16, "depth": 2}, "efficientnetlite0": {}}
DEFAULT = {"width": 16, "encoder": "efficientnetlite0"}


def compact(name: str, channels: int = 1) -> Any:
    return build(name, (SIDE, SIDE, channels), **COMPACT.get(name, DEFAULT))


def batch(channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, SIDE, SIDE, channels)).astype("float32")


@pytest.mark.parametrize("name", [c.name for c in cards()])
class TestContract:
    def test_output_is_one_probability_and_survives_saving(self, name: str, tmp_path: Path) -> None:
        import keras

        model = compact(name)
        y = model.predict_on_batch(batch())
        assert y.shape == (3, 1) and y.dtype == np.float32 and y.min() >= 0 and y.max() <= 1
        model.save(tmp_path / "m.keras")
        again = keras.saving.load_model(tmp_path / "m.keras", compile=False, safe_mode=True)
        assert np.array_equal(y, again.predict_on_batch(batch()))

    def test_every_trainable_weight_gets_a_gradient(self, name: str) -> None:
        import tensorflow as tf

        model = compact(name, channels=3)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(tf.math.log(model(batch(3), training=True) + 1e-7))
        gradients = tape.gradient(loss, model.trainable_variables)
        assert all(g is not None and np.isfinite(g).all() for g in gradients)

    def test_layers_are_named_and_the_card_is_filled(self, name: str) -> None:
        assert [x.name for x in compact(name).layers[-2:]] == ["head_dense", "head_sigmoid"]
        c = card(name)
        assert c.name == name and c.title and c.paper and c.claim and c.changes and c.size in (224, 300)

    def test_small_sides_and_unknown_arguments_are_refused(self, name: str) -> None:
        with pytest.raises(ModelError, match="at least 32 pixels; received 16 x 64"):
            build(name, (16, 64, 1))
        with pytest.raises(ModelError, match="no argument 'layers'"):
            build(name, (SIDE, SIDE, 1), layers=3)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ModelError, match="custom_cnn"):
        build("nope")
    with pytest.raises(ModelError, match="efficientnetlite0"):
        build("vgg16", encoder="nope")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), [("custom_cnn", 40_673), ("two_branch_resnet50", 25_855_873)])
def test_published_size_is_the_default(name: str, parameters: int) -> None:
    """Counted by hand, layer by layer, from the source document."""
    model = build(name)
    assert model.input_shape == (None, 224, 224, 3)
    assert model.count_params() == parameters
