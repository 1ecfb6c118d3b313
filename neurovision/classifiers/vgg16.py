"""VGG16 (Simonyan 2014)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.classifiers._blocks import transfer, two_dense
from neurovision.classifiers._registry import Card, classifier

if TYPE_CHECKING:
    import keras


@classifier(
    Card(
        name="vgg16",
        title="VGG16",
        paper="arXiv 1409.1556",
        size=224,
        claim="none stated",
        changes="The document names the network only: the head is that of its first ResNet50.",
    )
)
def build(
    input_shape: tuple[int, int, int],
    width: int = 512,
    encoder: str = "vgg16",
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
    return transfer("vgg16", input_shape, encoder, encoder_weights, lambda x: two_dense(x, width, dropout))
