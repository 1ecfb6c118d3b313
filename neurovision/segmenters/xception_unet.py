"""U-Net in the style of Xception (Chollet 2017): separable convolutions and residuals, no skips across."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import Tensor, class_head, conv_bn_relu
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras


def residual_down(x: Tensor, filters: int, name: str) -> Tensor:
    """Two separable convolutions and a pool, beside a strided 1x1."""
    from keras import layers

    shortcut = layers.Conv2D(filters, 1, strides=2, name=f"{name}_shortcut")(x)
    for part in range(2):
        x = layers.ReLU(name=f"{name}_{part}_relu")(x)
        x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_{part}_conv")(x)
        x = layers.BatchNormalization(momentum=0.97, name=f"{name}_{part}_bn")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name=f"{name}_pool")(x)
    return layers.Add(name=f"{name}_add")([x, shortcut])


def residual_up(x: Tensor, filters: int, name: str) -> Tensor:
    """Two transposed convolutions and upsampling, beside an upsampled 1x1."""
    from keras import layers

    shortcut = layers.UpSampling2D(2, name=f"{name}_shortcut_up")(x)
    shortcut = layers.Conv2D(filters, 1, name=f"{name}_shortcut")(shortcut)
    for part in range(2):
        x = layers.ReLU(name=f"{name}_{part}_relu")(x)
        x = layers.Conv2DTranspose(filters, 3, padding="same", use_bias=False, name=f"{name}_{part}_transpose")(x)
        x = layers.BatchNormalization(momentum=0.97, name=f"{name}_{part}_bn")(x)
    x = layers.UpSampling2D(2, name=f"{name}_up")(x)
    return layers.Add(name=f"{name}_add")([x, shortcut])


@segmenter(
    Card(
        name="xception_unet",
        title="Xception-style U-Net",
        paper="arXiv 1610.02357",
        size=512,
        stride=16,
        claim="IoU 89",
        changes="The layers of Keras' published example of this network, with this project's 1x1 head instead of a 3x3. "
        "The document estimates its IoU instead of measuring it.",
    )
)
def build(input_shape: tuple[int, int, int], classes: int = 5, width: int = 32) -> keras.Model:
    """A strided stem, three residual steps down, four up.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 16.
        classes: Channels of the softmax.
        width: Filters of the stem; 32 as in the example.
    """
    from keras import Input, Model

    # === Functional model ===
    inputs = Input(input_shape, name="canvas")
    x = conv_bn_relu(inputs, width, "stem", stride=2)
    for k in range(3):
        x = residual_down(x, width * 2 ** (k + 1), f"down{k}")
    for k in reversed(range(4)):
        x = residual_up(x, width * 2**k, f"up{k}")

    # === Config ===
    return Model(inputs, class_head(x, classes), name="xception_unet")
