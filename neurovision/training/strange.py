"""Pictures of nothing: drawn by chance, so that the classifier learns that not everything is a brain.

They have no more to do with photographs, films and pages than chance wills; those are what the refusal is measured on.
"""

from __future__ import annotations

import cv2
import numpy as np


def strange(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """Draw one: colored noise, fallen leaves, strokes, or waves, some bent, some on a dark ground.

    Returns:
        float32 ``(size, size)`` in [0, 1].
    """
    picture = (_colored_noise, _leaves, _strokes, _waves)[int(rng.integers(4))](rng, size)
    if rng.random() < 0.5:
        picture = picture * rng.uniform(0.3, 1) + _colored_noise(rng, size) * rng.uniform(0, 0.6)
    if rng.random() < 0.5:
        y, x = np.mgrid[:size, :size].astype(np.float32)
        reach = rng.uniform(2, 25)
        bend = [cv2.GaussianBlur(rng.normal(0, 1, (size, size)).astype(np.float32), (0, 0), size / 12) for _ in range(2)]
        across, along = (axis + reach * b / max(float(b.std()), 1e-6) for axis, b in zip((x, y), bend, strict=True))
        picture = cv2.remap(picture.astype(np.float32), across, along, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    if rng.random() < 0.4:
        y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
        angle = rng.uniform(0, np.pi)
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        power = rng.uniform(1, 6)
        ground = (np.abs(u / rng.uniform(0.2, 0.48)) ** power + np.abs(v / rng.uniform(0.2, 0.48)) ** power) < 1
        picture = picture * ground
    picture = picture - picture.min()
    return np.clip(picture / max(float(picture.max()), 1e-6), 0, 1).astype(np.float32)


def like_ct(pixels: np.ndarray, head: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Redraw a canvas as a CT of the same head: dim scalp without fat's signal, white skull, nearly even gray brain.

    Args:
        pixels: float32 ``(size, size)`` in [0, 1], an MRI.
        head: bool ``(size, size)``.
        rng: Source of chance.

    Returns:
        float32 ``(size, size)`` in [0, 1].
    """
    size = len(pixels)
    depth = cv2.distanceTransform(np.pad(head.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1] / size
    outer = rng.uniform(0.01, 0.035)
    inner = outer + rng.uniform(0.02, 0.06)
    contrast = rng.uniform(-0.2, 0.2)
    brain = rng.uniform(0.3, 0.55) + contrast * (cv2.GaussianBlur(pixels, (0, 0), 0.01 * size) - pixels[head].mean())
    brain = brain + rng.normal(0, rng.uniform(0.01, 0.05), brain.shape)
    picture = np.select([depth <= 0, depth < outer, depth < inner], [0.0, rng.uniform(0.1, 0.35), 1.0], brain)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 0.6), 0, 1).astype(np.float32)


def _colored_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise whose amplitude falls with frequency to a power of 0 to 2.5, as in many natural pictures."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1 / size
    spectrum = np.fft.rfft2(rng.normal(0, 1, (size, size))) / frequency ** rng.uniform(0, 2.5)
    noise = np.fft.irfft2(spectrum, (size, size))
    return np.clip(0.5 + noise / (6 * noise.std()), 0, 1).astype(np.float32)


def _leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    """Ellipses and polygons fallen over each other, with sizes spread by a power law (Lee 2001's dead leaves)."""
    picture = np.full((size, size), rng.random(), np.float32)
    for _ in range(int(rng.integers(5, 250))):
        radius = size * 0.02 / max(float(rng.random()), 0.02) ** 0.8
        center = rng.uniform(0, size, 2)
        if rng.random() < 0.5:
            axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(0.3, 1))))
            turn, shade = float(rng.uniform(0, 180)), float(rng.random())
            cv2.ellipse(picture, center.astype(int).tolist(), axes, turn, 0, 360, shade, -1)
        else:
            corners = center + rng.normal(0, radius, (int(rng.integers(3, 7)), 2))
            cv2.fillPoly(picture, [corners.astype(np.int32)], float(rng.random()))
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 2))


def _strokes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Thin lines and short marks on an even ground."""
    ground = float(rng.random())
    picture = np.full((size, size), ground, np.float32)
    for _ in range(int(rng.integers(10, 300))):
        start = rng.uniform(0, size, 2)
        end = start + rng.normal(0, size * rng.uniform(0.01, 0.3), 2)
        ink = float(np.clip(ground + rng.choice((-1, 1)) * rng.uniform(0.3, 1), 0, 1))
        cv2.line(picture, start.astype(int).tolist(), end.astype(int).tolist(), ink, int(rng.integers(1, 5)), cv2.LINE_AA)
    return picture


def _waves(rng: np.random.Generator, size: int) -> np.ndarray:
    """A few plane and round waves, added or multiplied."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - rng.uniform(0, 1)
    picture = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        turn, count = rng.uniform(0, np.pi), rng.uniform(2, 60)
        along = np.hypot(x, y) if rng.random() < 0.3 else x * np.cos(turn) + y * np.sin(turn)
        wave = np.sin(2 * np.pi * count * along / 2 + rng.uniform(0, 6))
        picture = picture * wave if rng.random() < 0.4 and picture.any() else picture + wave
    return np.sign(picture) if rng.random() < 0.3 else picture
