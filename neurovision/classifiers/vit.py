"""Vision Transformer (Dosovitskiy 2020), compact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.classifiers._blocks import tumor_head
from neurovision.classifiers._registry import Card, classifier

if TYPE_CHECKING:
    import keras

PATCH = 16


@classifier(
    Card(
        name="vit",
        title="Vision Transformer",
        paper="arXiv 2010.11929",
        size=224,
        claim="none stated",
        changes="The document names the network only. A depthwise convolution over the patches tells their places (Chu "
        "2021, arXiv 2102.10882) instead of learned position vectors, so that any side works, and their mean is read "
        "instead of a class token.",
    )
)
def build(input_shape: tuple[int, int, int], width: int = 768, depth: int = 12) -> keras.Model:
    """Patches of 16 x 16 pixels, then blocks of attention and a two-layer perceptron, each added to its input.

    Args:
        input_shape: ``(H, W, C)``.
        width: Channels of a patch, a multiple of 4; 768 as in ViT-Base. A head has at most 64 of them.
        depth: Blocks; 12 as in ViT-Base.
    """
    from keras import Input, Model, layers

    # === Layers ===
    heads = max(1, width // 64)

    # === Functional model ===
    inputs = Input(input_shape, name="canvas")
    x = layers.Conv2D(width, PATCH, strides=PATCH, name="patch_conv")(inputs)
    x = layers.Add(name="place_add")([x, layers.DepthwiseConv2D(3, padding="same", name="place_conv")(x)])
    rows, columns = int(x.shape[1]), int(x.shape[2])
    x = layers.Reshape((rows * columns, width), name="patch_tokens")(x)
    for k in range(depth):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"block{k}_attention_ln")(x)
        y = layers.MultiHeadAttention(heads, width // heads, name=f"block{k}_attention")(y, y)
        x = layers.Add(name=f"block{k}_attention_add")([x, y])
        y = layers.LayerNormalization(epsilon=1e-6, name=f"block{k}_mlp_ln")(x)
        y = layers.Dense(4 * width, activation="gelu", name=f"block{k}_mlp_in")(y)
        x = layers.Add(name=f"block{k}_mlp_add")([x, layers.Dense(width, name=f"block{k}_mlp_out")(y)])
    x = layers.LayerNormalization(epsilon=1e-6, name="last_ln")(x)
    x = layers.Reshape((rows, columns, width), name="last_map")(x)  # spatial again, so that Grad-CAM can look at it
    x = layers.GlobalAveragePooling2D(name="pool")(x)

    # === Config ===
    return Model(inputs, tumor_head(x), name="vit")
