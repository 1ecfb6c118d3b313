"""Random changes of a canvas that leave its diagnosis alone."""

from __future__ import annotations

import cv2
import numpy as np

from neurovision.classes import BACKGROUND, FIRST_TUMOR

CLOSER = (1.2, 1.8)  # so many times enlarged
WITHOUT_SKULL = 0.35  # of the scans whose contrast is redrawn: skull and scalp are taken off


def augment(
    pixels: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    strength: float = 1.0,
    randomize: float = 0.0,
    skull: bool = True,
    closer: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Flip, rotate, zoom, shift, then bend intensities: contrast, gamma, bias field, low resolution, noise.

    Args:
        pixels: float32 ``(size, size)`` in [0, 1].
        labels: uint8 ``(size, size)`` of class indices.
        rng: Source of chance.
        strength: 0 changes nothing, 1 is the default range.
        randomize: Share of canvases that become another sequence, see :func:`redraw_contrast`; some of them also lose
            skull and scalp, see :func:`without_skull`.
        skull: Whether the head still has its skull, which may then be taken off.
        closer: Share of canvases that show a part of the head only, enlarged: as the networks' second look does.

    Returns:
        The same two, changed; labels in space only, but for the skull that becomes air.
    """
    if strength <= 0:
        return pixels, labels
    size = pixels.shape[0]
    other_sequence = rng.random() < randomize
    if other_sequence and skull and rng.random() < WITHOUT_SKULL:
        pixels, labels = without_skull(pixels, labels, rng)
    if rng.random() < 0.5:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    angle = rng.normal(0, 10 * strength)
    zoom = float(np.exp(rng.uniform(-0.22, 0.18) * strength))
    middle = (size / 2 - 0.5, size / 2 - 0.5)
    matrix = cv2.getRotationMatrix2D(middle, angle, zoom)
    if closer and rng.random() < closer:
        zoom = float(rng.uniform(*CLOSER))
        place = _place(labels, zoom, rng)
        matrix = cv2.getRotationMatrix2D(place, angle, zoom)
        matrix[:, 2] += np.subtract(middle, place)
    matrix[:, 2] += rng.uniform(-0.06, 0.06, 2) * size * strength
    matrix[0, 1] += rng.normal(0, 0.04) * strength  # shear
    pixels = cv2.warpAffine(np.ascontiguousarray(pixels), matrix, (size, size), flags=cv2.INTER_LINEAR)
    labels = cv2.warpAffine(np.ascontiguousarray(labels), matrix, (size, size), flags=cv2.INTER_NEAREST)
    if other_sequence:
        pixels = redraw_contrast(pixels, labels != BACKGROUND.index, rng)
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
        pixels = pixels + rng.normal(0, rng.uniform(0.005, 0.08) * strength, pixels.shape).astype(np.float32)
    return np.clip(pixels, 0, 1).astype(np.float32), labels


def _place(labels: np.ndarray, zoom: float, rng: np.random.Generator) -> tuple[float, float]:
    """What an enlarged canvas is centered at, x and y: about a tumor, or anywhere in the head; never beyond the canvas."""
    size = labels.shape[0]
    tumor = np.argwhere(labels >= FIRST_TUMOR)
    inside = tumor if len(tumor) else np.argwhere(labels != BACKGROUND.index)
    if not len(inside):
        return size / 2 - 0.5, size / 2 - 0.5
    place = inside[rng.integers(len(inside))].astype(float)
    if len(tumor):
        place = (place + tumor.mean(0)) / 2
    half = size / 2 / zoom
    row, column = np.clip(place + rng.normal(0, 0.03 * size, 2), half - 0.5, size - 0.5 - half)
    return float(column), float(row)


def redraw_contrast(pixels: np.ndarray, head: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make another sequence of a canvas: a random smooth curve of intensities, and a random small filter.

    After GIN (Ouyang 2022, arXiv 2111.12525) and SynthSeg's contrast randomization (Billot 2023), with two changes: a few
    points draw the curve, so that it may fall as well as rise (T1 against T2), and one filter of 3 x 3 stands for GIN's
    network, since finer texture tells a tumor. Air stays air.

    Args:
        pixels: float32 ``(size, size)`` in [0, 1].
        head: bool ``(size, size)``.
        rng: Source of chance.

    Returns:
        float32 ``(size, size)`` in [0, 1].
    """
    knots = np.linspace(0, 1, int(rng.integers(3, 6)), dtype=np.float32)
    values = rng.random(len(knots)).astype(np.float32)
    if rng.random() < 0.35:
        values = np.sort(values)[::-1]  # an inversion: what was bright becomes dark, all the way
    curved = np.interp(pixels, knots, values).astype(np.float32)
    if rng.random() < 0.3:
        kernel = rng.normal(0, 1, (3, 3)).astype(np.float32)
        kernel = 0.25 * kernel / np.abs(kernel).sum()
        kernel[1, 1] += 1
        curved = cv2.filter2D(curved, -1, kernel)
    share = float(rng.uniform(0.3, 1.0))
    mixed = share * curved + (1 - share) * pixels
    inside = mixed[head]
    if inside.size < 16:
        return pixels
    low, high = np.percentile(inside, (0.5, 99.5))
    scaled = np.clip((mixed - low) / max(float(high - low), 0.05), 0, 1)
    if rng.random() < 0.7:  # tissue that a curve made black is still brighter than air
        scaled = 0.08 + 0.92 * scaled
    return np.where(head, scaled, pixels * 0.1).astype(np.float32)


def without_skull(pixels: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Take skull and scalp off a canvas and let what is left fill it, as :func:`scan.prepare.prepare` would.

    The brain is taken to be what lies a random distance, 7 to 15 % of the head, inside the head's outline; an annotated
    tumor stays whole.

    Args:
        pixels: float32 ``(size, size)`` in [0, 1].
        labels: uint8 ``(size, size)`` of class indices.
        rng: Source of chance.

    Returns:
        The same two, air where the skull was.
    """
    size = pixels.shape[0]
    head = (labels != BACKGROUND.index).astype(np.uint8)
    depth = cv2.distanceTransform(np.pad(head, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    uneven = rng.normal(0, 0.012 * size, (6, 6)).astype(np.float32)
    depth = depth + cv2.resize(uneven, (size, size), interpolation=cv2.INTER_CUBIC)
    tumor = cv2.dilate((labels >= FIRST_TUMOR).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    brain = (depth > rng.uniform(0.07, 0.15) * size) | (tumor & (head > 0))
    rows, columns = np.flatnonzero(brain.any(1)), np.flatnonzero(brain.any(0))
    if len(rows) < size // 4 or len(columns) < size // 4:
        return pixels, labels
    inside = pixels[brain]
    low, high = np.percentile(inside, (0.5, 99.5))
    pixels = np.where(brain, np.clip((pixels - low) / max(float(high - low), 1e-3), 0, 1), 0).astype(np.float32)
    labels = np.where(brain, labels, BACKGROUND.index).astype(np.uint8)
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) * 1.06 + 1
    zoom = size / side
    middle = np.array([columns[0] + columns[-1], rows[0] + rows[-1]]) / 2
    matrix = np.array([[zoom, 0, size / 2 - 0.5 - zoom * middle[0]], [0, zoom, size / 2 - 0.5 - zoom * middle[1]]])
    return (
        cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_LINEAR),
        cv2.warpAffine(labels, matrix, (size, size), flags=cv2.INTER_NEAREST),
    )
