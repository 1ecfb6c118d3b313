"""From a slice to the networks' canvas, and from the canvas back to the slice.

Training and serving both go through :func:`prepare` and :func:`standardize`; a test holds them together.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from neurovision.classes import BACKGROUND, HEAD
from neurovision.scan.study import Study

MARGIN = 0.03  # of the head's longer side, left free around it
SQUARE = 0.01  # pixels whose sides differ by less are square
LONGEST = 5.0  # times wider or longer than that, a pixel is a header's error
MIN_HEAD = 0.04  # of the picture: a smaller bright object is taken for the whole picture instead

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Canvas:
    """A slice on the networks' grid, and the way back.

    Attributes:
        pixels: float32 ``(size, size)`` in [0, 1]: the head's square, padded with 0 where it leaves the picture.
        head: bool ``(size, size)``, True on the head, False on air.
        box: ``(top, left, height, width)`` of the square in the slice's own pixels, of which it may have more one way
            than the other; it may reach outside the slice.
        shape: ``(H, W)`` of the slice.
        found: False where no head stood out from the air and the whole picture was taken.
    """

    pixels: np.ndarray
    head: np.ndarray
    box: Box
    shape: tuple[int, int]
    found: bool

    @property
    def size(self) -> int:
        """Side of the grid in pixels."""
        return int(self.pixels.shape[0])

    def restore(self, grid: np.ndarray, fill: np.ndarray | float = 0.0) -> np.ndarray:
        """Take a map on the grid to the slice's own pixels, bilinearly.

        Args:
            grid: float32 ``(size, size)`` or ``(size, size, K)``.
            fill: Value, or ``(K,)`` values, of pixels outside the square.

        Returns:
            float32 ``(H, W)`` or ``(H, W, K)``.
        """
        top, left, tall, wide = self.box
        height, width = self.shape
        large = cv2.resize(np.ascontiguousarray(grid, np.float32), (wide, tall), interpolation=cv2.INTER_LINEAR)
        out = np.empty((height, width, *grid.shape[2:]), np.float32)
        out[...] = fill
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + tall, height), min(left + wide, width)
        out[y0:y1, x0:x1] = large[y0 - top : y1 - top, x0 - left : x1 - left]
        return out

    def restore_probabilities(self, grid: np.ndarray) -> np.ndarray:
        """Take class probabilities ``(size, size, C)`` to ``(H, W, C)``; outside the square all is air."""
        air = np.zeros(grid.shape[-1], np.float32)
        air[BACKGROUND.index] = 1.0
        return self.restore(grid, air)


def aspect(spacing: tuple[float, float] | None) -> float:
    """How many times longer than wide a pixel is: 1 where the file does not say, or says nothing believable.

    Args:
        spacing: Millimeters between ``(rows, columns)``, or None.
    """
    ratio = 1.0 if spacing is None else spacing[0] / spacing[1]
    return 1.0 if abs(ratio - 1) < SQUARE or not 1 / LONGEST <= ratio <= LONGEST else ratio


def head_mask(gray: np.ndarray, spacing: tuple[float, float] | None = None) -> np.ndarray | None:
    """Find the head: the largest object that stands out from the air, holes filled.

    A bright paper or screen background is taken for air as well: pixels as bright as the border and connected to it.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        spacing: Millimeters between ``(rows, columns)``, or None for square pixels.

    Returns:
        bool ``(H, W)``, or None where nothing larger than MIN_HEAD of the picture stands out.
    """
    height, width = gray.shape
    mask = foreground(gray, spacing)
    # Close and fill before opening: a thin bright scalp around a dark skull must not be opened away.
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(mask), contours, -1, 1, thickness=cv2.FILLED)
    filled = cv2.morphologyEx(filled, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(filled, connectivity=4)
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if stats[largest, cv2.CC_STAT_AREA] < MIN_HEAD * filled.size:
        return None
    filled = (labels == largest).astype(np.uint8)
    return cv2.resize(filled, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def foreground(gray: np.ndarray, spacing: tuple[float, float] | None = None) -> np.ndarray:
    """What stands out from the air: uint8 0 or 1, the picture's longer side scaled down to at most 256 square pixels.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        spacing: Millimeters between ``(rows, columns)``, or None for square pixels.
    """
    height, width = gray.shape
    tall = height * aspect(spacing)  # in columns' widths
    scale = min(1.0, 256 / max(tall, width))
    small = _resized(gray, max(8, round(tall * scale)), max(8, round(width * scale)))
    levels = np.clip(small * (255 / max(float(np.percentile(small, 99.5)), 1e-6)), 0, 255).astype(np.uint8)
    border = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
    air = float(np.median(border))
    if (border > 150).mean() > 0.4:
        levels, air = _bright_border_to_air(levels), 0.0
    smooth = cv2.GaussianBlur(levels, (5, 5), 0)
    otsu, _ = cv2.threshold(smooth, 0, 255, cv2.THRESH_OTSU)
    # Far below Otsu, so that dark skull and scalp belong to the head, but above the air's own noise.
    return np.asarray(smooth > max(8, min(otsu, max(0.4 * otsu, 1.5 * air + 4)))).astype(np.uint8)


def fullest_slice(study: Study) -> int:
    """The slice that shows most of the head, where one is to be shown first: the middle of a stack may lie at its top."""
    areas = [float(foreground(study.gray(k)).mean()) for k in range(study.n_slices)]
    return int(np.argmax(areas))


def _bright_border_to_air(levels: np.ndarray) -> np.ndarray:
    flood = (levels > 150).astype(np.uint8)
    _, labels = cv2.connectedComponents(flood, connectivity=4)
    touching = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    air = np.isin(labels, touching[touching > 0]).astype(np.uint8)
    return np.where(cv2.dilate(air, np.ones((3, 3), np.uint8)) > 0, 0, levels).astype(np.uint8)


def prepare(gray: np.ndarray, size: int, spacing: tuple[float, float] | None = None) -> Canvas:
    """Put the head of one slice on a ``size`` x ``size`` grid.

    The head's bounding box with MARGIN becomes a square around the same center, square in millimeters where pixels are
    not; intensities are scaled to [0, 1] between the 0.5 and 99.5 percentiles of the head.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        size: Side of the grid in pixels.
        spacing: Millimeters between ``(rows, columns)``, or None for square pixels.

    Returns:
        The canvas. Pixels taken for bright paper stay as they are: only the box follows from the head.
    """
    height, width = gray.shape
    mask = head_mask(gray, spacing)
    found = mask is not None
    if mask is None:
        mask = np.ones(gray.shape, bool)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    long = aspect(spacing)
    side = max((y1 - y0) * long, x1 - x0) * (1 + 2 * MARGIN)  # in columns' widths
    tall, wide = max(8, round(side / long)), max(8, round(side))
    box = (int(y0 + y1 - tall) // 2, int(x0 + x1 - wide) // 2, tall, wide)
    low, high = np.percentile(gray[mask], (0.5, 99.5))
    scaled = np.clip((gray - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    pixels = to_grid(scaled, box, size)
    head = to_grid(mask.astype(np.float32), box, size) >= 0.5
    return Canvas(pixels, head, box, (height, width), found)


def to_grid(plane: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Cut ``box`` out of float32 ``(H, W)``, 0 outside, and resize it to ``(size, size)``."""
    top, left, tall, wide = box
    height, width = plane.shape
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + tall, height), min(left + wide, width)
    square = np.zeros((tall, wide), np.float32)
    square[y0 - top : y1 - top, x0 - left : x1 - left] = plane[y0:y1, x0:x1]
    return _resized(square, size, size)


def _resized(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize to ``(height, width)``, each way by means of areas where it shrinks and linearly where it grows."""
    down = cv2.INTER_AREA if plane.shape[0] >= height else cv2.INTER_LINEAR
    across = cv2.INTER_AREA if plane.shape[1] >= width else cv2.INTER_LINEAR
    if down != across:
        plane = cv2.resize(plane, (plane.shape[1], height), interpolation=down)
    return np.asarray(cv2.resize(plane, (width, height), interpolation=across))


def standardize(pixels: np.ndarray) -> np.ndarray:
    """Give a canvas, float32 ``(size, size)``, zero mean and unit deviation: what every network reads."""
    return ((pixels - pixels.mean()) / max(float(pixels.std()), 1e-3)).astype(np.float32)


def label_grid(canvas: Canvas, tumor: np.ndarray, tumor_index: int) -> np.ndarray:
    """Draw the truth of one slice on the canvas' grid.

    Args:
        canvas: The slice's canvas.
        tumor: bool ``(H, W)``, the annotated tumor.
        tumor_index: Its class, 2 to 4.

    Returns:
        uint8 ``(size, size)`` of class indices: air, head, tumor.
    """
    labels = np.where(canvas.head, HEAD.index, BACKGROUND.index).astype(np.uint8)
    labels[to_grid(tumor.astype(np.float32), canvas.box, canvas.size) >= 0.5] = tumor_index
    return labels
