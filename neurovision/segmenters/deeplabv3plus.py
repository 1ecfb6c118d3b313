"""DeepLabV3+ (Chen 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import Tensor, class_head, conv_bn_relu, double_conv
from neurovision.segmenters._encoders import encode
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras

RATES = (6, 12, 18)


def atrous_pyramid(x: Tensor, filters: int, name: str) -> Tensor:
    """ASPP: the mean of the picture, a 1x1 and three dilated 3x3 convolutions side by side, then a 1x1."""
    from keras import layers

    mean = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(x)
    mean = conv_bn_relu(mean, filters, f"{name}_mean", kernel=1)
    branches = [layers.UpSampling2D(tuple(x.shape[1:3]), name=f"{name}_mean_up")(mean)]
    branches.append(conv_bn_relu(x, filters, f"{name}_rate1", kernel=1))
    branches += [conv_bn_relu(x, filters, f"{name}_rate{r}", dilation=r) for r in RATES]
    return conv_bn_relu(layers.Concatenate(name=f"{name}_concat")(branches), filters, f"{name}_join", kernel=1)


@segmenter(
    Card(
        name="deeplabv3plus",
        title="DeepLabV3+",
        paper="arXiv 1802.02611",
        size=512,
        stride=16,
        claim="IoU 95.8",
        changes="ResNet50 to stride 16 instead of Xception, as the source document has it; plain 3x3 convolutions "
        "instead of separable ones in the pyramid and decoder.",
    )
)
def build(
    input_shape: tuple[int, int, int],
    classes: int = 5,
    width: int = 256,
    encoder: str = "resnet50",
    encoder_weights: str | None = None,
) -> keras.Model:
    """Encoder to stride 16, atrous pyramid, decoder that joins the map of stride 4.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 16.
        classes: Channels of the softmax.
        width: Filters of the pyramid and the decoder; 256 as published. The low-level skip has 3/16 of it.
        encoder: A name in ``_encoders.ENCODERS``.
        encoder_weights: ``"imagenet"`` or None.
    """
    from keras import Input, Model, layers

    # === Layers ===
    inputs = Input(input_shape, name="canvas")
    _, low, _, high = encode(inputs, encoder, encoder_weights, count=4)

    # === Functional model ===
    x = atrous_pyramid(high, width, "aspp")
    x = layers.UpSampling2D(4, interpolation="bilinear", name="decoder_up")(x)
    low = conv_bn_relu(low, max(4, width * 3 // 16), "low", kernel=1)
    x = double_conv(layers.Concatenate(name="decoder_concat")([x, low]), width, "decoder")
    x = layers.UpSampling2D(4, interpolation="bilinear", name="full_up")(x)

    # === Config ===
    return Model(inputs, class_head(x, classes), name="deeplabv3plus")
