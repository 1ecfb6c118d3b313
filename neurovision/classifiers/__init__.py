"""Whole-image networks: one leaf file each, all built through :func:`build` and listed by :func:`cards`."""

from neurovision.classifiers._registry import Card, build, card, cards

__all__ = ["Card", "build", "card", "cards"]
