"""EfficientNetV2-L (Tan 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.classifiers._blocks import transfer
from neurovision.classifiers._registry import Card, classifier
from neurovision.segmenters._blocks import Tensor

if TYPE_CHECKING:
    import keras


@classifier(
    Card(
        name="efficientnetv2l",
        title="EfficientNetV2-L",
        paper="arXiv 2104.00298",
        size=224,
        claim="accuracy 98.43, AUC 0.9985",
        changes="Reads standardized canvases instead of 8-bit colors. The document states neither its size nor the dropout "
        "rates: 224 pixels, 0.5 and 0.3 here.",
    )
)
def build(
    input_shape: tuple[int, int, int],
    width: int = 512,
    encoder: str = "efficientnetv2l",
    encoder_weights: str | None = None,
) -> keras.Model:
    """Pooled features, normalized, then dense layers of 512 and 256.

    Args:
        input_shape: ``(H, W, C)``.
        width: Units of the first dense layer; 512 as in the document.
        encoder: A name in ``_blocks.ENCODERS``.
        encoder_weights: ``"imagenet"`` or None.
    """
    from keras import layers

    def head(x: Tensor) -> Tensor:
        x = layers.BatchNormalization(name="pool_bn")(x)
        x = layers.Dropout(0.5, name="pool_dropout")(x)
        x = layers.Dropout(0.5, name="top0_dropout")(layers.Dense(width, activation="relu", name="top0_dense")(x))
        return layers.Dropout(0.3, name="top1_dropout")(layers.Dense(width // 2, activation="relu", name="top1_dense")(x))

    return transfer("efficientnetv2l", input_shape, encoder, encoder_weights, head)
