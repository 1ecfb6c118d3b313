"""U-Net with an EfficientNet encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import class_head, double_conv
from neurovision.segmenters._encoders import encode
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras


@segmenter(
    Card(
        name="unet_efficientnet",
        title="UNet-EfficientNetB4",
        paper="arXiv 1905.11946",
        size=512,
        stride=32,
        claim="Dice 92.8",
        changes="As the source document has it: bridge of 2 x 1024 filters, decoder of 512, 256, 128, 64; "
        "a fifth, skipless step takes the map from stride 2 to the full grid.",
        votes=True,
    )
)
def build(
    input_shape: tuple[int, int, int],
    classes: int = 5,
    width: int = 64,
    encoder: str = "efficientnetb4",
    encoder_weights: str | None = None,
) -> keras.Model:
    """EfficientNet stages, a bridge, transposed convolutions with concatenated skips.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 32.
        classes: Channels of the softmax.
        width: Filters of the decoder at stride 2; the bridge has 16 times as many.
        encoder: A name in ``_encoders.ENCODERS``.
        encoder_weights: ``"imagenet"`` or None.
    """
    from keras import Input, Model, layers

    # === Layers ===
    inputs = Input(input_shape, name="canvas")
    skips = encode(inputs, encoder, encoder_weights)

    # === Functional model ===
    x = double_conv(skips.pop(), width * 16, "bridge")
    for k, skip in enumerate(reversed(skips)):
        filters = width * 2 ** (3 - k)
        x = layers.Conv2DTranspose(filters, 2, strides=2, name=f"up{k}_transpose")(x)
        x = layers.Concatenate(name=f"up{k}_concat")([x, skip])
        x = double_conv(x, filters, f"up{k}")
    x = layers.Conv2DTranspose(width, 2, strides=2, name="up4_transpose")(x)
    x = double_conv(x, width, "up4")

    # === Config ===
    return Model(inputs, class_head(x, classes), name="unet_efficientnet")
