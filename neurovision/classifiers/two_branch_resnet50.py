"""ResNet50 (He 2015) under a head of two parallel branches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurovision.classifiers._blocks import dense_bn_drop, transfer
from neurovision.classifiers._registry import Card, classifier
from neurovision.segmenters._blocks import Tensor

if TYPE_CHECKING:
    import keras


@classifier(
    Card(
        name="two_branch_resnet50",
        title="Two-branch ResNet50",
        paper="arXiv 1512.03385",
        size=224,
        claim="accuracy 78.6, AUC 0.845",
        changes="None in the layers; 25.9 million parameters as counted.",
    )
)
def build(
    input_shape: tuple[int, int, int],
    width: int = 512,
    encoder: str = "resnet50",
    encoder_weights: str | None = None,
) -> keras.Model:
    """Two dense branches are added up, then two dense layers.

    Args:
        input_shape: ``(H, W, C)``.
        width: Units of each branch; 512 as in the document.
        encoder: A name in ``_blocks.ENCODERS``.
        encoder_weights: ``"imagenet"`` or None.
    """
    from keras import layers

    def head(x: Tensor) -> Tensor:
        x = layers.Add(name="branches_add")([dense_bn_drop(x, width, 0.4, f"branch{k}") for k in range(2)])
        return dense_bn_drop(dense_bn_drop(x, width // 2, 0.4, "top0"), width // 4, 0.3, "top1")

    return transfer("two_branch_resnet50", input_shape, encoder, encoder_weights, head)
