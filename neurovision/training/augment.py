"""Random changes of a canvas that leave its diagnosis alone."""

from __future__ import annotations

import cv2
import numpy as np


def augment(
    pixels: np.ndarray, labels: np.ndarray, rng: np.random.Generator, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Flip, rotate, zoom, shift, then bend intensities: gamma, contrast, bias field, low resolution, noise.

    Args:
        pixels: float32 ``(size, size)`` in [0, 1].
        labels: uint8 ``(size, size)`` of class indices.
        rng: Source of chance.
        strength: 0 changes nothing, 1 is the default range.

    Returns:
        The same two, changed; labels only in space.
    """
    if strength <= 0:
        return pixels, labels
    size = pixels.shape[0]
    if rng.random() < 0.5:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    angle = rng.normal(0, 10 * strength)
    zoom = float(np.exp(rng.uniform(-0.22, 0.18) * strength))
    matrix = cv2.getRotationMatrix2D((size / 2 - 0.5, size / 2 - 0.5), angle, zoom)
    matrix[:, 2] += rng.uniform(-0.06, 0.06, 2) * size * strength
    matrix[0, 1] += rng.normal(0, 0.04) * strength  # shear
    pixels = cv2.warpAffine(np.ascontiguousarray(pixels), matrix, (size, size), flags=cv2.INTER_LINEAR)
    labels = cv2.warpAffine(np.ascontiguousarray(labels), matrix, (size, size), flags=cv2.INTER_NEAREST)
    pixels = np.power(np.clip(pixels, 0, 1), float(np.exp(rng.normal(0, 0.25 * strength))))
    if rng.random() < 0.3:
        coarse = rng.normal(0, 0.15 * strength, (4, 4)).astype(np.float32)
        pixels = pixels * np.exp(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))
    if rng.random() < 0.3:
        pixels = pixels * rng.uniform(1 - 0.3 * strength, 1 + 0.3 * strength)
    if rng.random() < 0.15:
        low = max(16, int(size * rng.uniform(0.4, 0.8)))
        pixels = cv2.resize(cv2.resize(pixels, (low, low), interpolation=cv2.INTER_AREA), (size, size))
    if rng.random() < 0.2:
        pixels = pixels + rng.normal(0, rng.uniform(0.005, 0.04) * strength, pixels.shape).astype(np.float32)
    return np.clip(pixels, 0, 1).astype(np.float32), labels
