"""What classifiers share: pretrained encoders, heads of dense layers, and the sigmoid at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from neurovision.errors import ModelError
from neurovision.segmenters._blocks import Tensor
from neurovision.segmenters._encoders import encode, fetched

if TYPE_CHECKING:
    import keras

# Encoder to its factory in keras.applications and what its weights expect: "caffe" takes 0 to 255 minus ImageNet's mean,
# blue first; "own" takes 0 to 255 and normalizes by layers of its own.
APPLICATIONS = {
    "resnet50": ("ResNet50", "caffe"),
    "vgg16": ("VGG16", "caffe"),
    "efficientnetv2b0": ("EfficientNetV2B0", "own"),
    "efficientnetv2l": ("EfficientNetV2L", "own"),
    "convnexttiny": ("ConvNeXtTiny", "own"),
    "convnextbase": ("ConvNeXtBase", "own"),
}
ENCODERS = (*APPLICATIONS, "efficientnetlite0")
_CAFFE_MEAN = (103.939, 116.779, 123.68)


def encoded(inputs: Tensor, encoder: str, weights: str | None) -> Tensor:
    """Run a pretrained encoder over standardized canvases.

    Args:
        inputs: ``(N, H, W, 1 or 3)``. One channel is repeated three times.
        encoder: One of ENCODERS; ``efficientnetlite0`` is the compact one whose ImageNet weights come as a package.
        weights: ``"imagenet"``, or None for random ones. Where they cannot be fetched the encoder starts random, and a
            warning says so.

    Returns:
        The last map, ``(N, h, w, K)``; its layers stand in one nested model named ``encoder``.

    Raises:
        ModelError: An unknown encoder or weights name.
    """
    from keras import applications, layers

    if encoder not in ENCODERS:
        raise ModelError(f"A classifier's encoder is one of {', '.join(ENCODERS)}; received {encoder!r}.")
    if weights not in (None, "imagenet"):
        raise ModelError(f"Encoder weights are 'imagenet' or None; received {weights!r}.")
    if encoder == "efficientnetlite0":
        return encode(inputs, encoder, weights)[-1]
    name, expects = APPLICATIONS[encoder]
    factory = getattr(applications, name)
    shape = (*inputs.shape[1:3], 3)
    network = fetched(factory, encoder, weights, input_shape=shape, name="encoder")
    x = inputs
    if x.shape[-1] == 1:
        x = layers.Concatenate(name="gray_to_rgb")([x, x, x])
    mean = 255.0 * 0.449  # ImageNet's, as 0.226 is its deviation
    offset = [mean - m for m in _CAFFE_MEAN] if expects == "caffe" else mean
    return network(layers.Rescaling(255.0 * 0.226, offset, name="to_encoder_range")(x))


def dense_bn_drop(x: Tensor, units: int, rate: float, name: str) -> Tensor:
    """Dense - ReLU - batch normalization - dropout."""
    from keras import layers

    x = layers.Dense(units, activation="relu", name=f"{name}_dense")(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.Dropout(rate, name=f"{name}_dropout")(x)


def tumor_head(x: Tensor) -> Tensor:
    """One unit and a sigmoid, kept apart so that Grad-CAM finds the score; float32 also under mixed precision."""
    from keras import layers

    x = layers.Dense(1, dtype="float32", name="head_dense")(x)
    return layers.Activation("sigmoid", dtype="float32", name="head_sigmoid")(x)


def transfer(
    name: str, input_shape: tuple[int, int, int], encoder: str, weights: str | None, head: Callable[[Tensor], Tensor]
) -> keras.Model:
    """A classifier over a pretrained encoder: its last map, averaged, then ``head``, then :func:`tumor_head`."""
    from keras import Input, Model, layers

    inputs = Input(input_shape, name="canvas")
    x = layers.GlobalAveragePooling2D(name="pool")(encoded(inputs, encoder, weights))
    return Model(inputs, tumor_head(head(x)), name=name)


def three_dense(x: Tensor, width: int) -> Tensor:
    """Three normalized dense layers of ``width``, a half and an eighth of it; dropout 0.5, 0.3, 0.2."""
    x = dense_bn_drop(x, width, 0.5, "top0")
    x = dense_bn_drop(x, width // 2, 0.3, "top1")
    return dense_bn_drop(x, width // 8, 0.2, "top2")


def two_dense(x: Tensor, width: int, dropout: float) -> Tensor:
    """Normalization, then dense layers of ``width`` (dropout as given) and a quarter of it (0.3), one more between."""
    from keras import layers

    x = layers.BatchNormalization(name="pool_bn")(x)
    x = layers.Dropout(dropout, name="top0_dropout")(layers.Dense(width, activation="relu", name="top0_dense")(x))
    x = layers.BatchNormalization(name="top0_bn")(x)
    return layers.Dropout(0.3, name="top1_dropout")(layers.Dense(width // 4, activation="relu", name="top1_dense")(x))
