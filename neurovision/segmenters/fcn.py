"""FCN-8s (Long 2015): a classifier turned fully convolutional."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import Tensor, conv_bn_relu
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras


@segmenter(
    Card(
        name="fcn",
        title="FCN-8s",
        paper="arXiv 1411.4038",
        size=224,
        stride=32,
        claim="none stated",
        changes="Batch normalization, so that VGG16's stages train from random weights; bilinear upsampling of the scores "
        "instead of learned.",
    )
)
def build(input_shape: tuple[int, int, int], classes: int = 5, width: int = 64) -> keras.Model:
    """VGG16's stages; class scores at strides 32, 16 and 8 are added up and upsampled.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 32.
        classes: Channels of the softmax.
        width: Filters of the first stage; the fully connected ones have 64 times as many.
    """
    from keras import Input, Model, layers

    # === Layers ===
    stages = ((2, width), (2, width * 2), (3, width * 4), (3, width * 8), (3, width * 8))

    def scores(x: Tensor, name: str) -> Tensor:
        return layers.Conv2D(classes, 1, name=f"{name}_score")(x)

    # === Functional model ===
    inputs = x = Input(input_shape, name="canvas")
    pools = []
    for k, (depth, filters) in enumerate(stages):
        for part in range(depth):
            x = conv_bn_relu(x, filters, f"stage{k}_{part}")
        x = layers.MaxPooling2D(2, name=f"stage{k}_pool")(x)
        pools.append(x)
    for name, kernel in (("fc6", 7), ("fc7", 1)):
        x = layers.Dropout(0.5, name=f"{name}_dropout")(conv_bn_relu(x, width * 64, name, kernel=kernel))
    x = scores(x, "fc7")
    for k in (3, 2):
        x = layers.UpSampling2D(2, interpolation="bilinear", name=f"up{k}_up")(x)
        x = layers.Add(name=f"up{k}_add")([x, scores(pools[k], f"pool{k}")])
    x = layers.UpSampling2D(8, interpolation="bilinear", name="full_up")(x)
    outputs = layers.Softmax(dtype="float32", name="head_softmax")(x)

    # === Config ===
    return Model(inputs, outputs, name="fcn")
