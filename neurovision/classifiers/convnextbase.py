"""ConvNeXt-Base (Liu 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.classifiers._blocks import three_dense, transfer
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
    return transfer("convnextbase", input_shape, encoder, encoder_weights, lambda x: three_dense(x, width))
