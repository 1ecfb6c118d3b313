"""The list of classifiers, kept as the segmenters' is: a leaf decorates its builder and is found by being in the folder."""

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


Builder = Callable[..., "keras.Model"]
_BUILDERS: dict[str, tuple[Card, Builder]] = {}


def classifier(card: Card) -> Callable[[Builder], Builder]:
    """Register the decorated builder under ``card.name``."""

    def register(builder: Builder) -> Builder:
        _BUILDERS[card.name] = (card, builder)
        return builder

    return register


@cache
def _load_leaves() -> None:
    package = importlib.import_module("neurovision.classifiers")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")


def cards() -> tuple[Card, ...]:
    """All cards by name."""
    _load_leaves()
    return tuple(sorted((c for c, _ in _BUILDERS.values()), key=lambda c: c.name))


def card(name: str) -> Card:
    """The card of ``name``.

    Raises:
        ModelError: No such classifier.
    """
    _load_leaves()
    if name not in _BUILDERS:
        raise ModelError(f"No classifier is called {name!r}; choose one of {', '.join(c.name for c in cards())}.")
    return _BUILDERS[name][0]


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
    builder = _BUILDERS[name][1]
    shape = input_shape or (found.size, found.size, 3)
    if min(shape[:2]) < 32:
        raise ModelError(f"{found.title} takes sides of at least 32 pixels; received {shape[0]} x {shape[1]}.")
    known = inspect.signature(builder).parameters
    for argument in config:
        if argument not in known:
            raise ModelError(f"{found.title} has no argument {argument!r}; it takes {', '.join(known)}.")
    return builder(input_shape=tuple(shape), **config)
