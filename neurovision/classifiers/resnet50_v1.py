"""ResNet50 (He 2015), the source document's first version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.classifiers._blocks import transfer, two_dense
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
    dropout: float = 0.5,
) -> keras.Model:
    """Pooled features, normalized, then dense layers of 512 and 128.

    Args:
        input_shape: ``(H, W, C)``.
        width: Units of the first dense layer; 512 as in the document.
        encoder: A name in ``_blocks.ENCODERS``.
        encoder_weights: ``"imagenet"`` or None.
        dropout: Rate behind the first dense layer.
    """
    return transfer("resnet50_v1", input_shape, encoder, encoder_weights, lambda x: two_dense(x, width, dropout))
