"""UNet++ (Zhou 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.errors import ModelError
from neurovision.segmenters._blocks import Tensor, double_conv
from neurovision.segmenters._encoders import encode
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
        "as the source document has it; batch normalization. With an encoder, its five maps at strides 2 to 32 are the "
        "backbone nodes, and a last, skipless step takes the map from stride 2 to the full grid.",
        votes=True,
    )
)
def build(
    input_shape: tuple[int, int, int],
    classes: int = 5,
    width: int = 64,
    deep_supervision: bool = False,
    encoder: str | None = None,
    encoder_weights: str | None = None,
) -> keras.Model:
    """Nested U-Net: node ``(i, j)`` reads all earlier nodes of its level and the upsampled node below.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 8; of 32 with an encoder.
        classes: Channels of the softmax.
        width: Filters of the first level; 64 as published.
        deep_supervision: Average the softmax of all nested decoders (the paper's accurate mode), not the last only.
        encoder: A name in ``_encoders.ENCODERS`` whose maps replace the plain backbone, or None.
        encoder_weights: ``"imagenet"`` or None.

    Raises:
        ModelError: With an encoder, sides that 32 does not divide.
    """
    from keras import Input, Model, layers

    # === Layers ===
    def up(x: Tensor, name: str) -> Tensor:
        return layers.UpSampling2D(2, name=f"{name}_up")(x)

    def head(x: Tensor, name: str) -> Tensor:
        if encoder is not None:
            x = double_conv(up(x, f"{name}_full"), max(8, width // 2), f"{name}_full")
        x = layers.Conv2D(classes, 1, name=f"{name}_conv")(x)
        return layers.Softmax(dtype="float32", name=f"{name}_softmax")(x)

    # === Functional model ===
    inputs = Input(input_shape, name="canvas")
    nodes: dict[tuple[int, int], Tensor] = {}
    if encoder is None:
        depth = 4
        for i in range(depth):
            below = inputs if i == 0 else layers.MaxPooling2D(2, name=f"x{i}_0_pool")(nodes[i - 1, 0])
            nodes[i, 0] = double_conv(below, width * 2**i, f"x{i}_0")
    else:
        if input_shape[0] % 32 or input_shape[1] % 32:
            raise ModelError(
                f"UNet++ with an encoder takes sides that are multiples of 32; received {input_shape[0]} x {input_shape[1]}."
            )
        maps = encode(inputs, encoder, encoder_weights)
        depth = len(maps)
        nodes |= {(i, 0): x for i, x in enumerate(maps)}
    for j in range(1, depth):
        for i in range(depth - j):
            joined = [*(nodes[i, k] for k in range(j)), up(nodes[i + 1, j - 1], f"x{i}_{j}")]
            joined = layers.Concatenate(name=f"x{i}_{j}_concat")(joined)
            nodes[i, j] = double_conv(joined, width * 2**i, f"x{i}_{j}")
    if deep_supervision:
        branches = [head(nodes[0, j], f"head{j}") for j in range(1, depth)]
        outputs = layers.Average(dtype="float32", name="head_average")(branches)
    else:
        outputs = head(nodes[0, depth - 1], "head")

    # === Config ===
    return Model(inputs, outputs, name="unetpp")
