"""Per-pixel features of the vote: the members' softmax, side by side."""

from __future__ import annotations

import numpy as np

from neurovision.classes import FIRST_TUMOR


def label_map(probabilities: np.ndarray) -> np.ndarray:
    """Decide the class of every pixel: argmax in two steps, tumor against the rest, then which.

    A plain argmax over five classes misses a tumor whose type is in doubt: 0.2 + 0.2 + 0.2 loses to 0.4.

    Args:
        probabilities: float32 ``(..., 5)``.

    Returns:
        uint8 ``(...)`` of class indices.
    """
    tumor = probabilities[..., FIRST_TUMOR:]
    kind = tumor.argmax(-1) + FIRST_TUMOR
    rest = probabilities[..., :FIRST_TUMOR].argmax(-1)
    return np.where(2 * tumor.sum(-1) >= probabilities.sum(-1), kind, rest).astype(np.uint8)


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
