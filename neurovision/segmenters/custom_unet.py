"""The custom U-Net of the project's source document on detection and segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import class_head, double_conv
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras


@segmenter(
    Card(
        name="custom_unet",
        title="Custom U-Net",
        paper="arXiv 1505.04597",
        size=512,
        stride=16,
        claim="IoU 93",
        changes="The document gives size and scores but no layers: U-Net with upsampling, whose filters stop at eight times "
        "the first level's, and dropout that grows with depth from 0.1 to 0.3.",
    )
)
def build(input_shape: tuple[int, int, int], classes: int = 5, width: int = 32) -> keras.Model:
    """U-Net at 512 pixels, lighter and with dropout.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 16.
        classes: Channels of the softmax.
        width: Filters of the first level.
    """
    from keras import Input, Model, layers

    # === Layers ===
    levels = [width * 2**k for k in range(4)]
    rates = (0.1, 0.1, 0.2, 0.2, 0.3)

    # === Functional model ===
    inputs = x = Input(input_shape, name="canvas")
    skips = []
    for k, filters in enumerate(levels):
        x = double_conv(x, filters, f"down{k}")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{k}_pool")(x)
        x = layers.SpatialDropout2D(rates[k], name=f"down{k}_dropout")(x)
    x = double_conv(x, levels[-1], "bottleneck")
    x = layers.SpatialDropout2D(rates[4], name="bottleneck_dropout")(x)
    for k in reversed(range(4)):
        x = layers.UpSampling2D(2, interpolation="bilinear", name=f"up{k}_up")(x)
        x = layers.Concatenate(name=f"up{k}_concat")([x, skips[k]])
        x = double_conv(x, levels[k], f"up{k}")

    # === Config ===
    return Model(inputs, class_head(x, classes), name="custom_unet")
