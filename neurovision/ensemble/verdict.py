"""The verdict: tumor or no tumor, its calibrated probability, the type; and the refusal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from neurovision.classes import FIRST_TUMOR, TUMORS
from neurovision.scan.prepare import Canvas

FEATURES = ("log_area", "peak", "top_mean", "members_positive", "disagreement")


def verdict_features(tumor_map: np.ndarray, member_areas: np.ndarray, differ: float) -> np.ndarray:
    """What the verdict's model reads of one slice, on the canvas' grid.

    Args:
        tumor_map: float32 ``(size, size)``, the members' mean probability of any tumor.
        member_areas: ``(M,)`` tumor pixels of each member on the grid.
        differ: Disagreement of the members.

    Returns:
        float64 in the order of FEATURES: log of the tumor area in 10,000ths of the grid, highest mean over 3 x 3
        pixels, mean of the highest 200 in 25,600 pixels, share of members that find more than 20 in 25,600 pixels,
        disagreement.
    """
    size = tumor_map.shape[0]
    area = float((tumor_map >= 0.5).mean()) * 1e4
    windows = np.lib.stride_tricks.sliding_window_view(tumor_map, (3, 3)).mean((2, 3))
    top = np.sort(tumor_map, axis=None)[-max(1, round(200 * size * size / 25600)) :]
    positive = float((member_areas > 20 * size * size / 25600).mean())
    return np.array([math.log1p(area), float(windows.max()), float(top.mean()), positive, differ])


def tumor_probability(features: np.ndarray, model: dict[str, Any]) -> float:
    """Logistic regression with the manifest's coefficients, in [0, 1]."""
    z = (features - np.asarray(model["mean"])) / np.asarray(model["scale"])
    return 1 / (1 + math.exp(-float(np.clip(z @ np.asarray(model["coefficients"]) + model["intercept"], -30, 30))))


def type_probabilities(probabilities: np.ndarray) -> dict[str, float]:
    """Share of each tumor type in the vote.

    Args:
        probabilities: float32 ``(size, size, 5)``, the vote.

    Returns:
        Key of the type to a probability, given that there is a tumor: every pixel counts with the square of its
        tumor probability, so that faint haze over the head does not decide. They sum to 1.
    """
    tumor = probabilities[..., FIRST_TUMOR:]
    weight = tumor.sum(-1, keepdims=True)
    total = (tumor * weight).sum((0, 1)).astype(np.float64) + 1e-9
    return {c.key: float(v) for c, v in zip(TUMORS, total / total.sum(), strict=True)}


def refusal(gray: np.ndarray, canvas: Canvas) -> str | None:
    """Why a slice cannot be a readable brain MRI, in one sentence, or None.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        canvas: Its canvas.
    """
    darkest, brightest = np.percentile(gray, (0.5, 99.5))
    if brightest - darkest < 0.015:  # four levels of 256; the end slices of a volume are dim, but not that dim
        return "The picture has almost no contrast; there is nothing to read."
    p = gray - gray.mean()
    smoothness = float((p[:, 1:] * p[:, :-1]).mean() / max((p * p).mean(), 1e-9))
    if smoothness < 0.3:
        return "The picture is noise rather than anatomy: neighboring pixels do not belong together."
    if not canvas.found:
        return "No head stands out from the background; a slice of a head MRI is needed."
    return None
