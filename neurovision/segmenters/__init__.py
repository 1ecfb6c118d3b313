"""Per-pixel networks: one leaf file each, all built through :func:`build` and listed by :func:`cards`."""

from neurovision.segmenters._registry import Card, build, card, cards, title_of

__all__ = ["Card", "build", "card", "cards", "title_of"]
