"""U-Net (Ronneberger 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import class_head, double_conv
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras


@segmenter(
    Card(
        name="unet",
        title="U-Net",
        paper="arXiv 1505.04597",
        size=224,
        stride=16,
        claim="Dice 91.2",
        changes="Same padding instead of valid, and batch normalization, as the source document has it.",
        votes=True,
    )
)
def build(input_shape: tuple[int, int, int], classes: int = 5, width: int = 64) -> keras.Model:
    """Encoder of ``width`` x 1, 2, 4, 8 filters, bottleneck of 16, transposed convolutions back up.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 16.
        classes: Channels of the softmax.
        width: Filters of the first level; 64 as published.
    """
    from keras import Input, Model, layers

    # === Layers ===
    levels = [width * 2**k for k in range(4)]

    # === Functional model ===
    inputs = x = Input(input_shape, name="canvas")
    skips = []
    for k, filters in enumerate(levels):
        x = double_conv(x, filters, f"down{k}")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{k}_pool")(x)
    x = double_conv(x, width * 16, "bottleneck")
    for k in reversed(range(4)):
        x = layers.Conv2DTranspose(levels[k], 2, strides=2, name=f"up{k}_transpose")(x)
        x = layers.Concatenate(name=f"up{k}_concat")([x, skips[k]])
        x = double_conv(x, levels[k], f"up{k}")

    # === Config ===
    return Model(inputs, class_head(x, classes), name="unet")
