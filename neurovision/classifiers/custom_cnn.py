"""The small CNN that the source document on detection trains from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.classifiers._blocks import tumor_head
from neurovision.classifiers._registry import Card, classifier

if TYPE_CHECKING:
    import keras


@classifier(
    Card(
        name="custom_cnn",
        title="Custom CNN",
        paper="none",
        size=224,
        claim="accuracy 75.2, AUC 0.812",
        changes="40,673 parameters as counted; the document says about 500,000 for the same layers.",
    )
)
def build(input_shape: tuple[int, int, int], width: int = 16) -> keras.Model:
    """Three blocks of convolution, normalization, pool and dropout, then two dense layers.

    Args:
        input_shape: ``(H, W, C)``.
        width: Filters of the first block; 16 as in the document.
    """
    from keras import Input, Model, layers

    # === Functional model ===
    inputs = x = Input(input_shape, name="canvas")
    for k in range(3):
        x = layers.Conv2D(width * 2**k, 3, padding="same", activation="relu", name=f"block{k}_conv")(x)
        x = layers.BatchNormalization(name=f"block{k}_bn")(x)
        x = layers.MaxPooling2D(2, name=f"block{k}_pool")(x)
        x = layers.Dropout(0.25, name=f"block{k}_dropout")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    for units, rate in ((width * 8, 0.5), (width * 4, 0.3)):
        x = layers.Dense(units, activation="relu", name=f"top{units}_dense")(x)
        x = layers.Dropout(rate, name=f"top{units}_dropout")(x)

    # === Config ===
    return Model(inputs, tumor_head(x), name="custom_cnn")
