"""The contract of every segmenter. A new leaf inherits it by being registered."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from neurovision.errors import ModelError
from neurovision.segmenters import build, card, cards, title_of

# Arguments that make an architecture small enough for a test; everything else stays as published.
COMPACT: dict[str, dict] = {
    "linknet": {"encoder": "efficientnetlite0"},
    "unet_efficientnet": {"width": 4, "encoder": "efficientnetlite0"},
    "deeplabv3plus": {"width": 16, "encoder": "efficientnetlite0"},
}
DEFAULT = {"width": 4}
VOTERS = {"unet", "unetpp", "linknet", "unet_efficientnet", "dgnet"}


def compact(name: str, side: int | None = None, channels: int = 1):
    side = side or max(64, 2 * card(name).stride)
    return build(name, (side, side, channels), **COMPACT.get(name, DEFAULT))


@cache
def shared(name: str):
    """One model for the tests that leave its weights alone: building takes longer than running."""
    return compact(name)


def probabilities(model, x: np.ndarray) -> np.ndarray:
    """Eagerly, which for one batch is faster than tracing first."""
    import keras

    return keras.ops.convert_to_numpy(model(x, training=False))


def batch(model, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = model.input_shape[1:]
    return rng.normal(size=(2, *shape)).astype("float32"), rng.integers(0, 5, (2, *shape[:2]))


def test_five_members_vote():
    assert {c.name for c in cards() if c.votes} == VOTERS


def test_unknown_name_lists_the_known():
    with pytest.raises(ModelError, match="unetpp"):
        build("nope")


def test_unknown_argument_is_refused():
    with pytest.raises(ModelError, match="no argument 'depth'"):
        build("unet", (64, 64, 1), depth=3)


@pytest.mark.parametrize("name", [c.name for c in cards()])
class TestContract:
    def test_output_is_a_distribution_over_five_classes(self, name):
        model = shared(name)
        x, _ = batch(model)
        y = probabilities(model, x)
        assert y.shape == (*x.shape[:3], 5)
        assert y.min() >= 0 and np.allclose(y.sum(-1), 1, atol=1e-5)

    def test_three_channels_too(self, name):
        assert compact(name, channels=3).input_shape[-1] == 3

    def test_every_trainable_weight_gets_a_gradient(self, name):
        import tensorflow as tf

        model = shared(name)
        x, y = batch(model)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(tf.math.log(tf.gather(model(x, training=True), y, batch_dims=3) + 1e-7))
        gradients = tape.gradient(loss, model.trainable_variables)
        dead = [v.path for v, g in zip(model.trainable_variables, gradients, strict=True) if g is None or not np.any(g)]
        assert not dead
        assert all(np.isfinite(g).all() for g in gradients)

    def test_saved_equals_reloaded(self, name, tmp_path):
        import keras

        model = shared(name)
        x, _ = batch(model)
        model.save(tmp_path / "m.keras")
        again = keras.saving.load_model(tmp_path / "m.keras", compile=False, safe_mode=True)
        assert np.array_equal(probabilities(model, x), probabilities(again, x))

    def test_mixed_precision_runs_and_stays_close(self, name):
        import keras

        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = compact(name)
        finally:
            keras.config.set_dtype_policy("float32")
        x, _ = batch(model)
        y = probabilities(model, x)
        assert y.dtype == np.float32 and np.allclose(y.sum(-1), 1, atol=1e-2)

    def test_wrong_size_names_the_nearest_right_one(self, name):
        stride = card(name).stride
        with pytest.raises(ModelError, match=f"received {4 * stride + 1}, the nearest is {4 * stride}"):
            build(name, (4 * stride + 1, 4 * stride, 1), **COMPACT.get(name, DEFAULT))

    def test_every_layer_is_named(self, name):
        automatic = [
            layer.name
            for layer in shared(name).layers
            if layer.name.rstrip("0123456789_") in {"conv2d", "batch_normalization", "re_lu", "add", "concatenate"}
        ]
        assert not automatic

    def test_no_custom_or_lambda_layers(self, name):
        for layer in shared(name)._flatten_layers(include_self=False):
            assert type(layer).__module__.startswith("keras."), layer
            assert type(layer).__name__ != "Lambda"

    def test_card_is_filled(self, name):
        c = card(name)
        assert c.title and c.paper and c.claim and c.changes
        assert c.size % c.stride == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "millions"), [("unet", 31.1), ("r2attunet", 39.4), ("unetpp", None), ("dgnet", None)])
def test_published_size_is_the_default(name, millions):
    """Parameters as counted by public implementations of the same layers, where there are any."""
    model = build(name)
    side = card(name).size
    assert model.input_shape[1:] == (side, side, 3)
    assert model.get_layer("head_conv").kernel.shape[2] == 64
    if millions is not None:
        assert model.count_params() / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stem", "encoder_millions"), [("linknet", 64, 64.1), ("unet_efficientnet", 48, 17.7)])
def test_published_encoders(name, stem, encoder_millions):
    encoder = build(name).get_layer("encoder")
    assert encoder.get_layer("stem_conv").filters == stem
    cut = sum(np.prod(w.shape) for layer in encoder.layers if layer.name.startswith("top") for w in layer.weights)
    assert cut == 0  # the classifier's own last convolution is left out
    assert encoder.count_params() / 1e6 == pytest.approx(encoder_millions, rel=0.05)


def test_compact_encoder_comes_with_its_imagenet_weights():
    from neurovision.segmenters._encoders import _lite0

    network = _lite0((64, 64), "imagenet")
    stem = next(layer for layer in network.layers if layer.name == "stem_conv")
    kernel = np.asarray(stem.kernel)
    assert kernel.shape == (3, 3, 3, 32)
    assert kernel.std() > 0.3  # trained: a fresh one has about 0.1
    shares = [float(np.mean(np.asarray(v) != 0)) for layer in network.layers for v in layer.weights if v.name == "beta"]
    assert len(shares) == 49 and min(shares) > 0.9  # in every layer: a fresh one's are all 0


@pytest.mark.parametrize(
    ("name", "config", "title"),
    [
        ("linknet", {"width": 16, "encoder": "efficientnetlite0"}, "LinkNet-EfficientNet-Lite0"),
        ("unet_efficientnet", {}, "UNet-EfficientNetB4"),
        ("unet_efficientnet", {"encoder": "resnet50"}, "UNet-ResNet50"),
        ("unet", {"width": 16}, "U-Net"),
    ],
)
def test_a_title_tells_the_encoder_that_is_there(name, config, title):
    assert title_of(name, config) == title


def test_an_encoder_whose_weights_cannot_be_fetched_starts_random(caplog):
    from neurovision.segmenters._encoders import fetched

    def factory(weights, **options):
        if weights is not None:
            raise Exception("URL fetch failure")  # as Keras words it
        if options.get("input_shape") == "wrong":
            raise ValueError("input_shape")
        return weights, options

    assert fetched(factory, "resnet50", "imagenet", pooling="avg") == (None, {"include_top": False, "pooling": "avg"})
    assert "resnet50 could not be fetched (Exception)" in caplog.text
    with pytest.raises(ValueError, match="input_shape"):
        fetched(factory, "resnet50", "imagenet", input_shape="wrong")

    def broken(weights, **options):
        raise MemoryError if weights else AssertionError("a failure that is no download's was taken for one")

    with pytest.raises(MemoryError):
        fetched(broken, "resnet50", "imagenet")
