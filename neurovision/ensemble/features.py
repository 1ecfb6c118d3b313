"""Per-pixel features of the vote: the members' softmax, and what stands around a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from neurovision.classes import FIRST_TUMOR

PEAK = 0.002  # of a canvas' pixels, the likeliest ones, whose mean is its peak
PLANES = (
    "intensity", "smooth intensity", "wide intensity", "left-right difference", "spread of members", "lowest member",
    "highest member", "mean nearby", "mean around", "mean mirrored", "depth", "from midline", "height",
)  # fmt: skip
NEAR, AROUND = 0.0125, 0.04  # of the canvas' side: deviations of the Gaussians that look near and around a pixel


@dataclass(frozen=True)
class Scene:
    """The slice that pixels belong to, as the trees see it beside the members' probabilities.

    Attributes:
        pixels: float32 ``(size, size)``, the standardized canvas.
        head: bool ``(size, size)``.
        answers: The classifier's, float32 ``(K,)``, or None without one.
    """

    pixels: np.ndarray
    head: np.ndarray
    answers: np.ndarray | None = None


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
    return min(0.5, max(share * float(peaks(tumor)), 1e-3))


def peaks(tumor: np.ndarray) -> np.ndarray:
    """Mean of the likeliest PEAK of each canvas' pixels, float32 ``(...)`` of ``(..., size, size)``."""
    flat = tumor.reshape(*tumor.shape[:-2], -1)
    count = max(1, round(PEAK * flat.shape[-1]))
    highest: np.ndarray = np.partition(flat, -count, axis=-1)[..., -count:].mean(-1)
    return highest


def label_map(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Decide the class of every pixel in two steps: tumor against the rest, then which.

    A plain argmax over the classes misses a tumor whose type is in doubt: 0.2 + 0.2 + 0.2 loses to 0.4.

    Args:
        probabilities: float32 ``(..., K)``.
        threshold: Share of tumor from which a pixel is one.

    Returns:
        uint8 ``(...)`` of class indices.
    """
    tumor = probabilities[..., FIRST_TUMOR:]
    kind = tumor.argmax(-1) + FIRST_TUMOR
    rest = probabilities[..., :FIRST_TUMOR].argmax(-1)
    return np.where(tumor.sum(-1) >= threshold * probabilities.sum(-1), kind, rest).astype(np.uint8)


def pixel_features(softmax: np.ndarray, where: np.ndarray | None = None, scene: Scene | None = None) -> np.ndarray:
    """What the trees read of pixels: the members' probabilities side by side, and what stands around them.

    Args:
        softmax: float32 ``(M, H, W, K)``.
        where: bool ``(H, W)``, the pixels that are wanted; all where None.
        scene: The slice that they belong to; None for the members' probabilities alone.

    Returns:
        float32 ``(P, F)``: for each pixel the first member's classes, then the second's, ...; with a scene also
        :func:`context_planes` and, the same for all pixels, :func:`slice_facts`.
    """
    members, height, width, classes = softmax.shape
    if where is None:
        where = np.ones((height, width), bool)
    found = softmax[:, where].transpose(1, 0, 2).reshape(-1, members * classes)
    if scene is None:
        return np.ascontiguousarray(found)
    planes = context_planes(softmax, scene.pixels, scene.head)[where]
    facts = slice_facts(softmax, scene.answers)
    return np.concatenate([found, planes, np.broadcast_to(facts, (len(found), len(facts)))], axis=1)


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


def context_planes(softmax: np.ndarray, pixels: np.ndarray, head: np.ndarray) -> np.ndarray:
    """What the trees see of a pixel beside the members' softmax, in the order of PLANES.

    Intensities, the difference to the other side of the head (the canvas stands around the head, so that its middle column
    is the head's), the members' tumor probability here, nearby, around and on the other side, and the place in the head.

    Args:
        softmax: float32 ``(M, size, size, K)``.
        pixels: float32 ``(size, size)``, the standardized canvas.
        head: bool ``(size, size)``.

    Returns:
        float32 ``(size, size, len(PLANES))``.
    """
    size = len(pixels)
    near, around = NEAR * size, AROUND * size
    tumor = softmax[..., FIRST_TUMOR:].sum(-1)
    mean = tumor.mean(0)
    smooth = cv2.GaussianBlur(pixels, (0, 0), near)
    depth = cv2.distanceTransform(np.pad(head.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1] / size
    rows, columns = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    planes = (
        pixels, smooth, cv2.GaussianBlur(pixels, (0, 0), around), smooth - smooth[:, ::-1], tumor.std(0), tumor.min(0),
        tumor.max(0), cv2.GaussianBlur(mean, (0, 0), near), cv2.GaussianBlur(mean, (0, 0), around), mean[:, ::-1], depth,
        np.abs(columns), rows,
    )  # fmt: skip
    return np.stack(planes, -1).astype(np.float32)


def slice_facts(softmax: np.ndarray, answers: np.ndarray | None) -> np.ndarray:
    """What the trees see of the whole slice: each member's peak, log area and share of types, and the classifier's answers.

    Args:
        softmax: float32 ``(M, size, size, K)``.
        answers: float32 ``(K,)``, or None without a classifier.

    Returns:
        float32 ``(M + 1 + K - 2 + K,)``.
    """
    tumor = softmax[..., FIRST_TUMOR:].sum(-1)
    mean = softmax.mean(0)
    area = np.log1p(1e4 * float((mean[..., FIRST_TUMOR:].sum(-1) >= 0.5).mean()))
    weight = mean[..., FIRST_TUMOR:] * mean[..., FIRST_TUMOR:].sum(-1, keepdims=True)
    types = weight.sum((0, 1)) + 1e-6
    given = np.full(mean.shape[-1], 1 / mean.shape[-1], np.float32) if answers is None else answers
    return np.concatenate([peaks(tumor), [area], types / types.sum(), given]).astype(np.float32)
