"""Per-pixel features of the vote: the members' softmax, side by side."""

from __future__ import annotations

import numpy as np

from neurovision.classes import FIRST_TUMOR

PEAK = 0.002  # of a canvas' pixels, the likeliest ones, whose mean is its peak


def tumor_threshold(tumor: np.ndarray, share: float) -> float:
    """From which probability of tumor a slice's pixels are marked, once the verdict is that it shows one.

    The threshold that serves Dice best is half the Dice that can be reached (Lipton 2014, arXiv 1402.1892), and that
    differs from slice to slice: where the networks see a tumor only dimly, 0.5 marks a speck of it or nothing. The
    slice's own peak stands for what can be reached.

    Args:
        tumor: float32 ``(size, size)``, probability of any tumor on the canvas.
        share: Of the peak; fitted with the vote.

    Returns:
        At most 0.5, and above 0.
    """
    count = max(1, round(PEAK * tumor.size))
    peak = float(np.partition(tumor, -count, axis=None)[-count:].mean())
    return min(0.5, max(share * peak, 1e-3))


def label_map(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Decide the class of every pixel in two steps: tumor against the rest, then which.

    A plain argmax over five classes misses a tumor whose type is in doubt: 0.2 + 0.2 + 0.2 loses to 0.4.

    Args:
        probabilities: float32 ``(..., 5)``.
        threshold: Share of tumor from which a pixel is one.

    Returns:
        uint8 ``(...)`` of class indices.
    """
    tumor = probabilities[..., FIRST_TUMOR:]
    kind = tumor.argmax(-1) + FIRST_TUMOR
    rest = probabilities[..., :FIRST_TUMOR].argmax(-1)
    return np.where(tumor.sum(-1) >= threshold * probabilities.sum(-1), kind, rest).astype(np.uint8)


def pixel_features(softmax: np.ndarray) -> np.ndarray:
    """Lay the members' probabilities side by side.

    Args:
        softmax: float32 ``(M, H, W, 5)``.

    Returns:
        float32 ``(H * W, M * 5)``: for each pixel the first member's five classes, then the second's, ...
    """
    members, height, width, classes = softmax.shape
    return np.ascontiguousarray(softmax.transpose(1, 2, 0, 3).reshape(height * width, members * classes))


def disagreement(masks: np.ndarray) -> float:
    """1 minus the mean Dice between pairs of members' tumor masks.

    A pair in which neither finds a tumor agrees fully.

    Args:
        masks: bool ``(M, H, W)``.

    Returns:
        In [0, 1]; 0 with fewer than two members.
    """
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    areas = flat.sum(1)
    total = areas[:, None] + areas[None]
    dice = np.where(total > 0, 2 * (flat @ flat.T) / np.maximum(total, 1), 1.0)
    pairs = np.triu_indices(len(masks), 1)
    return float(1 - dice[pairs].mean()) if len(pairs[0]) else 0.0
