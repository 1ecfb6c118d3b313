"""DGNet: Dense Global Network with attention, of the project's source document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import Tensor, attention_gate, class_head, conv_bn_relu, double_conv
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras


def dense_block(x: Tensor, filters: int, name: str) -> Tensor:
    """Two convolutions, each reading all earlier maps of the block (DenseNet, arXiv 1608.06993).

    Returns:
        ``(N, H, W, 2 * filters)``: the maps of both convolutions. The block's input is read by both but not
        returned, so that channels do not add up from level to level.
    """
    from keras import layers

    first = conv_bn_relu(x, filters, f"{name}_1")
    second = conv_bn_relu(layers.Concatenate(name=f"{name}_1_concat")([x, first]), filters, f"{name}_2")
    return layers.Concatenate(name=f"{name}_2_concat")([first, second])


@segmenter(
    Card(
        name="dgnet",
        title="DGNet",
        paper="arXiv 1608.06993",
        size=512,
        stride=16,
        claim="Dice 92",
        changes="The document names dense blocks, a dense bottleneck and attention gates, without widths: "
        "each level's two convolutions share U-Net's filters, and the gates follow arXiv 1804.03999.",
        votes=True,
    )
)
def build(input_shape: tuple[int, int, int], classes: int = 5, width: int = 64) -> keras.Model:
    """Encoder and bottleneck of dense blocks, decoder of transposed convolutions with gated skips.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 16.
        classes: Channels of the softmax.
        width: Channels that the first level's dense block returns; 64 by default, even.
    """
    from keras import Input, Model, layers

    # === Layers ===
    levels = [width * 2**k for k in range(4)]

    # === Functional model ===
    inputs = x = Input(input_shape, name="canvas")
    skips = []
    for k, filters in enumerate(levels):
        x = dense_block(x, filters // 2, f"down{k}")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{k}_pool")(x)
    x = dense_block(x, width * 8, "bottleneck")
    for k in reversed(range(4)):
        x = layers.Conv2DTranspose(levels[k], 2, strides=2, name=f"up{k}_transpose")(x)
        gated = attention_gate(skips[k], x, levels[k] // 2, f"up{k}_gate")
        x = layers.Concatenate(name=f"up{k}_concat")([x, gated])
        x = double_conv(x, levels[k], f"up{k}")

    # === Config ===
    return Model(inputs, class_head(x, classes), name="dgnet")
