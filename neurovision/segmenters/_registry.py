"""The list of architectures. A leaf module decorates its builder and is found by being in the folder.

Cards are readable without starting Keras, so that listing models is instant: builders import Keras when they run.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from neurovision.errors import ModelError

if TYPE_CHECKING:
    import keras

Builder = Callable[..., "keras.Model"]


class Named(Protocol):
    """What a registry asks of a card."""

    @property
    def name(self) -> str:
        """The key in commands and files, also the leaf module's name."""

    @property
    def title(self) -> str:
        """The name its paper gave it."""


C = TypeVar("C", bound=Named)


class Registry(Generic[C]):
    """Cards and builders of the leaf modules of one package, loaded when first asked for.

    Args:
        kind: What a leaf is called in messages, such as "segmenter".
        package: Dotted name of the folder; its modules without a leading underscore are the leaves.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._builders: dict[str, tuple[C, Builder]] = {}
        self._loaded = False

    def register(self, card: C) -> Callable[[Builder], Builder]:
        """Decorator that keeps a builder under ``card.name``."""

        def keep(builder: Builder) -> Builder:
            self._builders[card.name] = (card, builder)
            return builder

        return keep

    def cards(self) -> list[C]:
        """All cards, by name."""
        if not self._loaded:
            for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{self.package}.{module.name}")
            self._loaded = True
        return [self._builders[name][0] for name in sorted(self._builders)]

    def card(self, name: str) -> C:
        """The card of ``name``.

        Raises:
            ModelError: No such leaf.
        """
        known = {c.name: c for c in self.cards()}
        if name not in known:
            raise ModelError(f"No {self.kind} is called {name!r}; choose one of {', '.join(known)}.")
        return known[name]

    def builder(self, name: str) -> Builder:
        """The function that builds ``name``.

        Raises:
            ModelError: No such leaf.
        """
        return self._builders[self.card(name).name][1]

    def build(self, name: str, shape: tuple[int, int, int], config: dict[str, Any]) -> keras.Model:
        """Call a leaf's builder.

        Raises:
            ModelError: An unknown name, or an argument that the builder does not take.
        """
        card, builder = self.card(name), self.builder(name)
        known = inspect.signature(builder).parameters
        for argument in config:
            if argument not in known:
                raise ModelError(f"{card.title} has no argument {argument!r}; it takes {', '.join(known)}.")
        return builder(input_shape=tuple(shape), **config)


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


_REGISTRY: Registry[Card] = Registry("segmenter", "neurovision.segmenters")
segmenter = _REGISTRY.register
card = _REGISTRY.card


def cards() -> tuple[Card, ...]:
    """All cards, voting members first, then by name."""
    return tuple(sorted(_REGISTRY.cards(), key=lambda c: not c.votes))


def title_of(name: str, config: Mapping[str, Any]) -> str:
    """What a network built with ``config`` is called: the card's title, with the encoder that it really has.

    Raises:
        ModelError: No such architecture.
    """
    from neurovision.segmenters._encoders import TITLES

    title = card(name).title
    taken = inspect.signature(_REGISTRY.builder(name)).parameters.get("encoder")
    published = None if taken is None else taken.default
    encoder = config.get("encoder", published)
    if encoder == published:
        return title
    if published is None or TITLES[published] not in title:
        return f"{title}-{TITLES[encoder]}" if encoder else title
    return title.replace(TITLES[published], TITLES[encoder])


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
    shape = input_shape or (found.size, found.size, 3)
    for side in shape[:2]:
        if side % found.stride or side < found.stride:
            nearest = max(found.stride, round(side / found.stride) * found.stride)
            raise ModelError(
                f"{found.title} takes sides that are multiples of {found.stride}; received {side}, the nearest is {nearest}."
            )
    return _REGISTRY.build(name, shape, config)
