"""ResNet50 (He 2015), the source document's second version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.classifiers._blocks import three_dense, transfer
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
    return transfer("resnet50_v2", input_shape, encoder, encoder_weights, lambda x: three_dense(x, width))
