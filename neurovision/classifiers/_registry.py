"""The list of classifiers, kept as the segmenters' is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neurovision.errors import ModelError
from neurovision.segmenters._registry import Registry

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Card:
    """What is known of a classifier before it is built.

    Attributes:
        name: The key in commands and files, also the leaf module's name.
        title: The name its paper gave it.
        paper: arXiv identifier or DOI, or "none" for a network of the source documents alone.
        size: Side of the published input in pixels.
        claim: What the project's source documents claim for it, on their own split; never ours.
        changes: What differs from the paper or the document, and why.
    """

    name: str
    title: str
    paper: str
    size: int
    claim: str
    changes: str


_REGISTRY: Registry[Card] = Registry("classifier", "neurovision.classifiers")
classifier = _REGISTRY.register
card = _REGISTRY.card


def cards() -> tuple[Card, ...]:
    """All cards by name."""
    return tuple(_REGISTRY.cards())


def build(name: str, input_shape: tuple[int, int, int] | None = None, **config: Any) -> keras.Model:
    """Build one classifier.

    Args:
        name: A card's name.
        input_shape: ``(H, W, C)`` of the canvas; the published ``(size, size, 3)`` by default.
        **config: The builder's own arguments, such as ``width`` or ``encoder``.

    Returns:
        A model from float32 ``(N, H, W, C)``, standardized canvases, to float32 ``(N, 1)``, the probability of a tumor.

    Raises:
        ModelError: An unknown name or argument, or sides below 32.
    """
    found = card(name)
    shape = input_shape or (found.size, found.size, 3)
    if min(shape[:2]) < 32:
        raise ModelError(f"{found.title} takes sides of at least 32 pixels; received {shape[0]} x {shape[1]}.")
    return _REGISTRY.build(name, shape, config)
