"""LinkNet (Chaurasia 2017) with an EfficientNet encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import Tensor, class_head, conv_bn_relu
from neurovision.segmenters._encoders import encode
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras


def link_decoder(x: Tensor, filters: int, name: str) -> Tensor:
    """1x1 reduction to a quarter - upsampling - 3x3 - 1x1 expansion: LinkNet's decoder block."""
    from keras import layers

    quarter = max(8, x.shape[-1] // 4)
    x = conv_bn_relu(x, quarter, f"{name}_reduce", kernel=1)
    x = layers.UpSampling2D(2, name=f"{name}_up")(x)
    x = conv_bn_relu(x, quarter, f"{name}_conv")
    return conv_bn_relu(x, filters, f"{name}_expand", kernel=1)


@segmenter(
    Card(
        name="linknet",
        title="LinkNet-EfficientNetB7",
        paper="arXiv 1707.03718",
        size=512,
        stride=32,
        claim="Dice 92",
        changes="EfficientNetB7 (arXiv 1905.11946) instead of ResNet18, upsampling instead of transposed convolution. "
        "B7's stem has 64 filters, not the 48 that the source document gives.",
        votes=True,
    )
)
def build(
    input_shape: tuple[int, int, int],
    classes: int = 5,
    width: int = 16,
    encoder: str = "efficientnetb7",
    encoder_weights: str | None = None,
) -> keras.Model:
    """Skips are added to, not concatenated with, the decoder's maps: that keeps LinkNet light.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 32.
        classes: Channels of the softmax.
        width: Channels of the last decoder block.
        encoder: A name in ``_encoders.ENCODERS``.
        encoder_weights: ``"imagenet"`` or None.
    """
    from keras import Input, Model, layers

    # === Layers ===
    inputs = Input(input_shape, name="canvas")
    skips = encode(inputs, encoder, encoder_weights)

    # === Functional model ===
    x = skips.pop()
    for k, skip in enumerate(reversed(skips)):
        x = link_decoder(x, skip.shape[-1], f"up{k}")
        x = layers.Add(name=f"up{k}_link")([x, skip])
    x = link_decoder(x, width, f"up{len(skips)}")

    # === Config ===
    return Model(inputs, class_head(x, classes), name="linknet")
