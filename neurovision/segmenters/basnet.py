"""BASNet (Qin 2019, extended 2021): boundary-aware segmentation by prediction and refinement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import Tensor, conv_bn_relu
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras


def residual_block(x: Tensor, filters: int, stride: int, name: str) -> Tensor:
    """ResNet34's block: two 3x3 convolutions beside the input, which a 1x1 brings to size where needed.

    A strided shortcut pools first (He 2018, arXiv 1812.01187): TensorFlow's oneDNN build crashes in the gradient of
    a strided 1x1 convolution with few channels.
    """
    from keras import layers

    shortcut = x
    if stride > 1:
        shortcut = layers.AveragePooling2D(stride, name=f"{name}_shortcut_pool")(shortcut)
    if stride > 1 or x.shape[-1] != filters:
        shortcut = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_shortcut_conv")(shortcut)
        shortcut = layers.BatchNormalization(momentum=0.97, name=f"{name}_shortcut_bn")(shortcut)
    x = conv_bn_relu(x, filters, f"{name}_1", stride=stride)
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_2_conv")(x)
    x = layers.BatchNormalization(momentum=0.97, name=f"{name}_2_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, shortcut]))


def refine(scores: Tensor, classes: int, width: int) -> Tensor:
    """The residual refinement module: a small U-Net over the scores, whose output is added to them."""
    from keras import layers

    x = layers.Conv2D(width, 3, padding="same", name="refine_in")(scores)
    skips = []
    for k in range(4):
        x = conv_bn_relu(x, width, f"refine_down{k}")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"refine_down{k}_pool")(x)
    x = conv_bn_relu(x, width, "refine_bridge")
    for k in reversed(range(4)):
        x = layers.UpSampling2D(2, interpolation="bilinear", name=f"refine_up{k}_up")(x)
        x = conv_bn_relu(layers.Concatenate(name=f"refine_up{k}_concat")([x, skips[k]]), width, f"refine_up{k}")
    residual = layers.Conv2D(classes, 3, padding="same", name="refine_out")(x)
    return layers.Add(name="refine_add")([scores, residual])


@segmenter(
    Card(
        name="basnet",
        title="BASNet",
        paper="arXiv 2101.04704",
        size=256,
        stride=32,
        claim="none stated",
        changes="Five classes instead of one; the last map alone is returned and trained on, without the paper's seven side "
        "outputs and its SSIM loss; strided shortcuts pool first. The source document takes it for background matting.",
    )
)
def build(input_shape: tuple[int, int, int], classes: int = 5, width: int = 64) -> keras.Model:
    """ResNet34 with two more stages, a dilated bridge, a decoder with concatenated skips, then refinement.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 32.
        classes: Channels of the softmax.
        width: Filters of the first stage; 64 as published.
    """
    from keras import Input, Model, layers

    # === Layers ===
    stages = ((3, width), (4, width * 2), (6, width * 4), (3, width * 8), (3, width * 8), (3, width * 8))

    # === Functional model ===
    inputs = Input(input_shape, name="canvas")
    x = conv_bn_relu(inputs, width, "stem")
    skips = []
    for k, (depth, filters) in enumerate(stages):
        if k >= 4:
            x = layers.MaxPooling2D(2, name=f"down{k}_pool")(x)
        for part in range(depth):
            x = residual_block(x, filters, 2 if part == 0 and 0 < k < 4 else 1, f"down{k}_{part}")
        skips.append(x)
    for part in range(3):
        x = conv_bn_relu(x, width * 8, f"bridge_{part}", dilation=2)
    for k in reversed(range(6)):
        x = layers.Concatenate(name=f"up{k}_concat")([x, skips[k]])
        for part in range(3):  # the last one already has the next level's channels
            x = conv_bn_relu(x, stages[max(k - (part == 2), 0)][1], f"up{k}_{part}")
        if k:
            x = layers.UpSampling2D(2, interpolation="bilinear", name=f"up{k}_up")(x)
    scores = layers.Conv2D(classes, 3, padding="same", name="coarse_conv")(x)
    outputs = layers.Softmax(dtype="float32", name="head_softmax")(refine(scores, classes, width))

    # === Config ===
    return Model(inputs, outputs, name="basnet")
