"""All networks of the ensemble in a given time: how the minutes are shared out."""

from __future__ import annotations

from collections.abc import Sequence

from neurovision.segmenters import cards
from neurovision.training.recipes import CLASSIFIER, REFIT, Recipe

FROM_SCRATCH = 2.0  # a network without a pretrained encoder gets so many times what one with it gets


def voting() -> list[str]:
    """The segmenters whose cards say that they vote."""
    return [c.name for c in cards() if c.votes]


def networks() -> list[str]:
    """What the ensemble consists of: the segmenters that vote, then the whole-slice classifier."""
    return [*voting(), CLASSIFIER]


def by_clock(
    recipes: Sequence[Recipe],
    minutes: float,
    size: int | None = None,
    batch: int | None = None,
    dtype: str = "float32",
    crossed: int = 0,
) -> list[Recipe]:
    """Recipes that take so many minutes together; see :meth:`recipes.Recipe.by_clock`.

    Args:
        recipes: Whose numbers hold otherwise.
        minutes: For all; one that starts from scratch gets FROM_SCRATCH times what a pretrained one gets.
        size: Side of the canvas in pixels, of each.
        batch: Scans a step, of each.
        dtype: Of each.
        crossed: How often each is also trained by its :meth:`recipes.Recipe.unseen`; the minutes are for that as well.
    """
    shares = [1.0 if r.pretrained else FROM_SCRATCH for r in recipes]
    whole = 60 * minutes / (1 + crossed * (1 - REFIT))
    seconds = [whole * share / sum(shares) for share in shares]
    return [r.by_clock(s, size, batch, dtype) for r, s in zip(recipes, seconds, strict=True)]
