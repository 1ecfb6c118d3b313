"""ResNet50 (He 2015), the source document's second version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.classifiers._blocks import dense_bn_drop, encoded, tumor_head
from neurovision.classifiers._registry import Card, classifier

if TYPE_CHECKING:
    import keras


@classifier(
    Card(
        name="resnet50_v2",
        title="ResNet50, second version",
        paper="arXiv 1512.03385",
        size=300,
        claim="accuracy 96.87, AUC 0.9937",
        changes="Reads standardized canvases instead of 8-bit colors.",
    )
)
def build(
    input_shape: tuple[int, int, int],
    width: int = 1024,
    encoder: str = "resnet50",
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
    return Model(inputs, tumor_head(x), name="resnet50_v2")
