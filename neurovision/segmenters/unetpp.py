"""UNet++ (Zhou 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import class_head, double_conv
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras


@segmenter(
    Card(
        name="unetpp",
        title="UNet++",
        paper="arXiv 1807.10165",
        size=224,
        stride=8,
        claim="Dice 92",
        changes="Four levels (64 to 512 filters) instead of five, and upsampling instead of transposed convolution, "
        "as the source document has it; batch normalization.",
        votes=True,
    )
)
def build(
    input_shape: tuple[int, int, int], classes: int = 5, width: int = 64, deep_supervision: bool = False
) -> keras.Model:
    """Nested U-Net: node ``(i, j)`` reads all earlier nodes of its level and the upsampled node below.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 8.
        classes: Channels of the softmax.
        width: Filters of the first level; 64 as published.
        deep_supervision: Average the softmax of all nested decoders (the paper's accurate mode), not the last only.
    """
    from keras import Input, Model, layers

    # === Layers ===
    depth = 4
    filters = [width * 2**i for i in range(depth)]

    # === Functional model ===
    inputs = Input(input_shape, name="canvas")
    nodes: dict[tuple[int, int], object] = {}
    for i in range(depth):
        below = inputs if i == 0 else layers.MaxPooling2D(2, name=f"x{i}_0_pool")(nodes[i - 1, 0])
        nodes[i, 0] = double_conv(below, filters[i], f"x{i}_0")
    for j in range(1, depth):
        for i in range(depth - j):
            up = layers.UpSampling2D(2, name=f"x{i}_{j}_up")(nodes[i + 1, j - 1])
            joined = layers.Concatenate(name=f"x{i}_{j}_concat")([*(nodes[i, k] for k in range(j)), up])
            nodes[i, j] = double_conv(joined, filters[i], f"x{i}_{j}")
    if deep_supervision:
        branches = [
            layers.Softmax(dtype="float32", name=f"head{j}_softmax")(
                layers.Conv2D(classes, 1, name=f"head{j}_conv")(nodes[0, j])
            )
            for j in range(1, depth)
        ]
        outputs = layers.Average(dtype="float32", name="head_average")(branches)
    else:
        outputs = class_head(nodes[0, depth - 1], classes)

    # === Config ===
    return Model(inputs, outputs, name="unetpp")
