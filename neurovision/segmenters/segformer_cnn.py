"""SegFormer's decoder (Xie 2021) over convolutional stages, after the project's source document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import class_head, conv_bn_relu, double_conv
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras


@segmenter(
    Card(
        name="segformer_cnn",
        title="SegFormer-like CNN",
        paper="arXiv 2105.15203",
        size=512,
        stride=32,
        claim="none stated",
        changes="Convolutions instead of transformer blocks, and maps joined at stride 16, as the source document has it. "
        "It gives no filters for the stages: 64, 128, 256, 512 here, with SegFormer's overlapping 7x7 first step.",
    )
)
def build(input_shape: tuple[int, int, int], classes: int = 5, width: int = 64) -> keras.Model:
    """Four stages at strides 4, 8, 16, 32, each brought to 128 channels and to stride 16, joined, convolved, upsampled.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 32.
        classes: Channels of the softmax.
        width: Filters of the first stage; each map is projected to twice, the joined one to four times as many.
    """
    from keras import Input, Model, layers

    # === Layers ===
    grid = (input_shape[0] // 16, input_shape[1] // 16)

    # === Functional model ===
    inputs = x = Input(input_shape, name="canvas")
    maps = []
    for k in range(4):
        x = conv_bn_relu(x, width * 2**k, f"stage{k}_down", kernel=3 if k else 7, stride=2 if k else 4)
        x = double_conv(x, width * 2**k, f"stage{k}")
        projected = layers.Conv2D(2 * width, 1, name=f"project{k}_conv")(x)
        maps.append(layers.Resizing(*grid, interpolation="bilinear", name=f"project{k}_resize")(projected))
    x = double_conv(layers.Concatenate(name="fuse_concat")(maps), 4 * width, "fuse")
    x = layers.UpSampling2D(16, interpolation="bilinear", name="full_up")(x)

    # === Config ===
    return Model(inputs, class_head(x, classes), name="segformer_cnn")
