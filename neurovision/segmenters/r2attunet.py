"""R2AttU-Net: recurrent residual units (Alom 2018) with attention gates (Oktay 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.segmenters._blocks import Tensor, attention_gate, class_head, conv_bn_relu
from neurovision.segmenters._registry import Card, segmenter

if TYPE_CHECKING:
    import keras


def recurrent_residual(x: Tensor, filters: int, name: str, steps: int = 2) -> Tensor:
    """RRCNN unit of R2U-Net (arXiv 1802.06955): two recurrent convolutions inside a residual connection.

    The recurrence follows that paper, not DenseNet, which the source document cites for it: the *same* convolution
    reads the unit's input plus its own last state, ``steps`` times after the first pass. Batch normalization is kept
    apart for each step, as statistics differ between steps.
    """
    from keras import layers

    x = layers.Conv2D(filters, 1, name=f"{name}_project")(x)
    state = x
    for part in range(2):
        source = state
        shared = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_r{part}_conv")
        for step in range(steps + 1):
            seen = source if step == 0 else layers.Add(name=f"{name}_r{part}_s{step}_add")([source, state])
            state = layers.BatchNormalization(momentum=0.97, name=f"{name}_r{part}_s{step}_bn")(shared(seen))
            state = layers.ReLU(name=f"{name}_r{part}_s{step}_relu")(state)
    return layers.Add(name=f"{name}_residual")([x, state])


@segmenter(
    Card(
        name="r2attunet",
        title="R2AttU-Net",
        paper="arXiv 1802.06955",
        size=224,
        stride=16,
        claim="Dice 93",
        changes="Attention gates of arXiv 1804.03999 on the skips; recurrence after R2U-Net, not DenseNet.",
    )
)
def build(input_shape: tuple[int, int, int], classes: int = 5, width: int = 64, steps: int = 2) -> keras.Model:
    """U-Net of recurrent residual units and gated skips.

    Args:
        input_shape: ``(H, W, C)``, sides multiples of 16.
        classes: Channels of the softmax.
        width: Filters of the first level; 64 as published.
        steps: Recurrent passes after the first (t of the paper).
    """
    from keras import Input, Model, layers

    # === Layers ===
    levels = [width * 2**k for k in range(4)]

    # === Functional model ===
    inputs = x = Input(input_shape, name="canvas")
    skips = []
    for k, filters in enumerate(levels):
        x = recurrent_residual(x, filters, f"down{k}", steps)
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{k}_pool")(x)
    x = recurrent_residual(x, width * 16, "bottleneck", steps)
    for k in reversed(range(4)):
        x = layers.UpSampling2D(2, name=f"up{k}_up")(x)
        x = conv_bn_relu(x, levels[k], f"up{k}_upconv")
        gated = attention_gate(skips[k], x, levels[k] // 2, f"up{k}_gate")
        x = layers.Concatenate(name=f"up{k}_concat")([x, gated])
        x = recurrent_residual(x, levels[k], f"up{k}", steps)

    # === Config ===
    return Model(inputs, class_head(x, classes), name="r2attunet")
