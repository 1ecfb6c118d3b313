"""Connected tumor regions of one slice, measured in the file's own geometry."""

from __future__ import annotations

import math

import cv2
import numpy as np

from neurovision.classes import FIRST_TUMOR, SHIPPED, Classes
from neurovision.ensemble.results import Region
from neurovision.scan.study import Study

MIN_REGION = 12  # pixels of a 256 x 256 slice; smaller specks stay in the mask but are not listed


def smallest_region(shape: tuple[int, ...]) -> float:
    """Pixels that a region of a slice of ``shape`` (H, W) has at least."""
    return max(2.0, MIN_REGION * shape[0] * shape[1] / 256**2)


def find_regions(mask: np.ndarray, study: Study, slice_index: int = 0, classes: Classes = SHIPPED) -> tuple[Region, ...]:
    """Measure the connected tumor regions of a label map.

    Pixels that touch, also at a corner, are one region; its type is the commonest class in it.

    Args:
        mask: uint8 ``(H, W)`` of class indices.
        study: For spacing, and for the side.
        slice_index: Which slice.
        classes: Of the mask.

    Returns:
        Regions of at least MIN_REGION (scaled by the slice's size), largest first.
    """
    tumor = (mask >= FIRST_TUMOR).astype(np.uint8)
    count, labels, stats, centroids = cv2.connectedComponentsWithStats(tumor, connectivity=8)
    smallest = smallest_region(mask.shape)
    spacing = None if study.spacing is None else study.spacing[1:]
    regions = []
    for k in range(1, count):
        left, top, width, height, area = (int(v) for v in stats[k])
        if area < smallest:
            continue
        window = labels[top : top + height, left : left + width] == k
        rows, columns = np.nonzero(window)
        counts = np.bincount(mask[top : top + height, left : left + width][window], minlength=len(classes))
        outline = _outline(window) + np.array([top, left])
        longest_px, across_px = _diameters(outline.astype(float), (1.0, 1.0))
        longest_mm, across_mm = (None, None) if spacing is None else _diameters(outline.astype(float), spacing)
        regions.append(
            Region(
                type=classes.commonest(counts),
                area_px=area,
                area_mm2=None if spacing is None else area * spacing[0] * spacing[1],
                bbox=(top, left, top + height, left + width),
                centroid=(float(centroids[k][1]), float(centroids[k][0])),
                longest_diameter_px=longest_px,
                longest_diameter_mm=longest_mm,
                perpendicular_diameter_px=across_px,
                perpendicular_diameter_mm=across_mm,
                side=study.left_right.side(slice_index, rows + top, columns + left),
            )
        )
    return tuple(sorted(regions, key=lambda r: -r.area_px))


def _outline(window: np.ndarray) -> np.ndarray:
    contours, _ = cv2.findContours(window.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(np.concatenate(contours))
    return hull.reshape(-1, 2)[:, ::-1]


def _diameters(points: np.ndarray, spacing: tuple[float, float]) -> tuple[float, float]:
    """Longest distance between hull points and the extent across it, one pixel's width added to each."""
    scaled = points * np.asarray(spacing)
    pixel = math.sqrt(spacing[0] * spacing[1])
    apart = np.linalg.norm(scaled[:, None] - scaled[None], axis=2)
    i, j = np.unravel_index(int(apart.argmax()), apart.shape)
    direction = scaled[j] - scaled[i]
    length = float(np.linalg.norm(direction))
    if length == 0:
        return pixel, pixel
    across = scaled @ np.array([-direction[1], direction[0]]) / length
    return length + pixel, float(np.ptp(across)) + pixel
