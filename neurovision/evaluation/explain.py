"""Whether the heat of Grad-CAM falls in the tumor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurovision.aids.gradcam import Network, gradcam, likeliest
from neurovision.errors import ModelError
from neurovision.scan.prepare import standardize
from neurovision.training.dataset import Item


def pointing_hit(heat: np.ndarray, truth: np.ndarray) -> bool:
    """Pointing game (Zhang 2016, arXiv 1608.00507): is the hottest pixel in the tumor? No heat is a miss.

    Args:
        heat: float32 ``(H, W)``.
        truth: bool ``(H, W)``.
    """
    return bool(heat.max() > 0 and truth[np.unravel_index(int(heat.argmax()), heat.shape)])


def pointing_share(heat: np.ndarray, truth: np.ndarray) -> float:
    """Energy-based pointing game (Wang 2020, arXiv 1910.01279): share of all heat that falls in the tumor, in [0, 1]."""
    return float(heat[truth].sum() / max(float(heat.sum()), 1e-12))


@dataclass(frozen=True)
class Pointing:
    """Pointing scores of one network and layer over scans with masks.

    Attributes:
        scans: How many.
        hits: Share of scans whose hottest pixel is in the tumor.
        share: Mean share of heat in the tumor.
        chance: Mean share of the head that is tumor: what heat spread evenly over the head would score.
    """

    scans: int
    hits: float
    share: float
    chance: float


def measure_pointing(
    model: Network, items: Sequence[Item], layer: str | None = None, class_index: int | None = None
) -> Pointing:
    """Measure where a network's heat falls.

    Args:
        model: A classifier or segmenter.
        items: Scans with a mask that is not empty; others are left out.
        layer: See :func:`~neurovision.aids.gradcam.gradcam`.
        class_index: Whose heat; by default what the network itself says of each scan: the tumor class that it gives
            most of the picture (the positive class of a single sigmoid).

    Raises:
        ModelError: No scan has a tumor to point at.
    """
    size = int(model.input_shape[1])
    rows = []
    for item in items:
        if item.mask is None or not item.tumor:
            continue
        canvas, labels = item.canvas(size)
        truth = labels == item.tumor_index
        if not truth.any():
            continue
        pixels = standardize(canvas)
        heat = gradcam(model, pixels, likeliest(model, pixels) if class_index is None else class_index, layer)
        rows.append((pointing_hit(heat, truth), pointing_share(heat, truth), truth.sum() / max(int((labels > 0).sum()), 1)))
    if not rows:
        raise ModelError("Pointing needs scans with a tumor mask; received none.")
    hits, share, chance = np.mean(rows, axis=0)
    return Pointing(len(rows), float(hits), float(share), float(chance))
