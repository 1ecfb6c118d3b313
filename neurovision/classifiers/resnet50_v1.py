"""ResNet50 (He 2015), the source document's first version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.classifiers._blocks import encoded, tumor_head
from neurovision.classifiers._registry import Card, classifier

if TYPE_CHECKING:
    import keras


@classifier(
    Card(
        name="resnet50_v1",
        title="ResNet50, first version",
        paper="arXiv 1512.03385",
        size=224,
        claim="accuracy 96.00, AUC 0.9858",
        changes="Reads standardized canvases instead of 8-bit colors.",
    )
)
def build(
    input_shape: tuple[int, int, int],
    width: int = 512,
    encoder: str = "resnet50",
    encoder_weights: str | None = None,
) -> keras.Model:
    """Pooled features, normalized, then dense layers of 512 and 128.

    Args:
        input_shape: ``(H, W, C)``.
        width: Units of the first dense layer; 512 as in the document.
        encoder: A name in ``_blocks.ENCODERS``.
        encoder_weights: ``"imagenet"`` or None.
    """
    from keras import Input, Model, layers

    # === Functional model ===
    inputs = Input(input_shape, name="canvas")
    x = layers.GlobalAveragePooling2D(name="pool")(encoded(inputs, encoder, encoder_weights))
    x = layers.BatchNormalization(name="pool_bn")(x)
    x = layers.Dropout(0.5, name="top0_dropout")(layers.Dense(width, activation="relu", name="top0_dense")(x))
    x = layers.BatchNormalization(name="top0_bn")(x)
    x = layers.Dropout(0.3, name="top1_dropout")(layers.Dense(width // 4, activation="relu", name="top1_dense")(x))

    # === Config ===
    return Model(inputs, tumor_head(x), name="resnet50_v1")
