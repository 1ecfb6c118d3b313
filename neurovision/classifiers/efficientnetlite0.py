"""EfficientNet-Lite0 (Tan 2019, simplified by its authors for small processors)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.classifiers._blocks import encoded, tumor_head
from neurovision.classifiers._registry import Card, classifier

if TYPE_CHECKING:
    import keras


@classifier(
    Card(
        name="efficientnetlite0",
        title="EfficientNet-Lite0",
        paper="arXiv 1905.11946",
        size=224,
        claim="none: it stands in no document",
        changes="The ensemble's own classifier: one softmax over no tumor, the tumor types and not a brain MRI.",
    )
)
def build(
    input_shape: tuple[int, int, int], answers: int = 0, encoder_weights: str | None = None, dropout: float = 0.3
) -> keras.Model:
    """Pooled features, dropout, one dense layer.

    Args:
        input_shape: ``(H, W, C)``.
        answers: 0 for the probability of a tumor, ``(N, 1)``; else how many answers the softmax has, ``(N, answers)``.
        encoder_weights: ``"imagenet"`` or None.
        dropout: Rate before the last layer.
    """
    from keras import Input, Model, layers

    inputs = Input(input_shape, name="canvas")
    x = layers.GlobalAveragePooling2D(name="pool")(encoded(inputs, "efficientnetlite0", encoder_weights))
    x = layers.Dropout(dropout, name="dropout")(x)
    if answers == 0:
        return Model(inputs, tumor_head(x), name="efficientnetlite0")
    x = layers.Dense(answers, dtype="float32", name="head_dense")(x)
    return Model(inputs, layers.Softmax(dtype="float32", name="head_softmax")(x), name="efficientnetlite0")
