"""The list of architectures. A leaf module decorates its builder and is found by being in the folder.

Cards are readable without starting Keras, so that listing models is instant: builders import Keras when they run.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from neurovision.errors import ModelError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Card:
    """What is known of an architecture before it is built.

    Attributes:
        name: The key in commands and files, also the leaf module's name.
        title: The name its paper gave it.
        paper: arXiv identifier or DOI.
        size: Side of the published input in pixels.
        stride: The input's sides must be multiples of this.
        claim: The figure that the project's source documents claim for it, on their own split; never ours.
        changes: What differs from the paper or the document, and why.
        votes: Whether it is one of the five members of the ensemble.
    """

    name: str
    title: str
    paper: str
    size: int
    stride: int
    claim: str
    changes: str
    votes: bool = False


Builder = Callable[..., "keras.Model"]
_BUILDERS: dict[str, tuple[Card, Builder]] = {}


def segmenter(card: Card) -> Callable[[Builder], Builder]:
    """Register the decorated builder under ``card.name``."""

    def register(builder: Builder) -> Builder:
        _BUILDERS[card.name] = (card, builder)
        return builder

    return register


@cache
def _load_leaves() -> None:
    package = importlib.import_module("neurovision.segmenters")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")


def cards() -> tuple[Card, ...]:
    """All cards, voting members first, then by name."""
    _load_leaves()
    return tuple(sorted((c for c, _ in _BUILDERS.values()), key=lambda c: (not c.votes, c.name)))


def card(name: str) -> Card:
    """The card of ``name``.

    Raises:
        ModelError: No such architecture.
    """
    _load_leaves()
    if name not in _BUILDERS:
        raise ModelError(f"No segmenter is called {name!r}; choose one of {', '.join(c.name for c in cards())}.")
    return _BUILDERS[name][0]


def build(name: str, input_shape: tuple[int, int, int] | None = None, **config: Any) -> keras.Model:
    """Build one architecture.

    Args:
        name: A card's name.
        input_shape: ``(H, W, C)`` of the canvas; the published ``(size, size, 3)`` by default.
        **config: The builder's own arguments, such as ``width``, ``encoder`` or ``classes``.

    Returns:
        A model from float32 ``(N, H, W, C)``, standardized canvases, to ``(N, H, W, classes)`` probabilities that
        sum to 1 at every pixel.

    Raises:
        ModelError: An unknown name or argument, or a size that the strides do not divide.
    """
    found = card(name)
    builder = _BUILDERS[name][1]
    shape = input_shape or (found.size, found.size, 3)
    for side in shape[:2]:
        if side % found.stride or side < found.stride:
            nearest = max(found.stride, round(side / found.stride) * found.stride)
            raise ModelError(
                f"{found.title} takes sides that are multiples of {found.stride}; received {side}, the nearest is {nearest}."
            )
    known = inspect.signature(builder).parameters
    for argument in config:
        if argument not in known:
            raise ModelError(f"{found.title} has no argument {argument!r}; it takes {', '.join(known)}.")
    return builder(input_shape=tuple(shape), **config)
