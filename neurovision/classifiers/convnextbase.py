"""ConvNeXt-Base (Liu 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.classifiers._blocks import dense_bn_drop, encoded, tumor_head
from neurovision.classifiers._registry import Card, classifier

if TYPE_CHECKING:
    import keras


@classifier(
    Card(
        name="convnextbase",
        title="ConvNeXt-Base",
        paper="arXiv 2201.03545",
        size=224,
        claim="accuracy 99.97, AUC 1.0",
        changes="Reads standardized canvases instead of 8-bit colors. The document does not state its size: 224 pixels "
        "here. Its author asks to check the claim.",
    )
)
def build(
    input_shape: tuple[int, int, int],
    width: int = 1024,
    encoder: str = "convnextbase",
    encoder_weights: str | None = None,
) -> keras.Model:
    """Pooled features, then dense layers of 1024, 512 and 128.

    Args:
        input_shape: ``(H, W, C)``.
        width: Units of the first dense layer; 1024 as in the document.
        encoder: A name in ``_blocks.ENCODERS``.
        encoder_weights: ``"imagenet"`` or None.
    """
    from keras import Input, Model, layers

    # === Functional model ===
    inputs = Input(input_shape, name="canvas")
    x = layers.GlobalAveragePooling2D(name="pool")(encoded(inputs, encoder, encoder_weights))
    x = dense_bn_drop(x, width, 0.5, "top0")
    x = dense_bn_drop(x, width // 2, 0.3, "top1")
    x = dense_bn_drop(x, width // 8, 0.2, "top2")

    # === Config ===
    return Model(inputs, tumor_head(x), name="convnextbase")
