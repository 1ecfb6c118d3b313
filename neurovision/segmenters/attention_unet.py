"""Attention U-Net (Oktay 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import attention_gate, class_head, double_conv
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras


@segmenter(
    Card(
        name="attention_unet",
        title="Attention U-Net",
        paper="arXiv 1804.03999",
        size=224,
        stride=16,
        claim="none printed",
        changes="Two dimensions instead of three; the gating signal is upsampled before the gate, not after it.",
    )
)
def build(input_shape: tuple[int, int, int], classes: int = 5, width: int = 64) -> keras.Model:
    """U-Net whose skips pass an attention gate steered by the coarser level.

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
        gated = attention_gate(skips[k], x, levels[k] // 2, f"up{k}_gate")
        x = layers.Concatenate(name=f"up{k}_concat")([x, gated])
        x = double_conv(x, levels[k], f"up{k}")

    # === Config ===
    return Model(inputs, class_head(x, classes), name="attention_unet")
