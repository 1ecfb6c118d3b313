"""Findings: what neurovision says of one slice, measured in the file's own geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np

from neurovision.classes import TUMORS
from neurovision.scan.paint import paint
from neurovision.scan.study import Source, Study

MIN_REGION = 12  # pixels of a 256 x 256 slice; smaller specks stay in the mask but are not listed

Side = Literal["left", "right", "midline", "image left", "image right"]


@dataclass(frozen=True)
class Region:
    """One connected tumor region of one slice.

    Attributes:
        type: Key of its tumor class.
        area_px: Pixels.
        area_mm2: Square millimeters, or None where the file gives no spacing.
        bbox: ``(top, left, bottom, right)`` in pixels, bottom and right exclusive.
        centroid: ``(row, column)`` in pixels.
        longest_diameter_px: Longest distance between two of its outline's pixel centers, plus one pixel.
        longest_diameter_mm: The same in millimeters, or None.
        perpendicular_diameter_px: Its extent across the longest diameter, plus one pixel.
        perpendicular_diameter_mm: The same in millimeters, or None.
        side: ``left`` or ``right`` of the patient where the geometry tells; ``image left`` or ``image right`` where
            it does not; ``midline`` where the region reaches across the head's middle.
    """

    type: str
    area_px: int
    area_mm2: float | None
    bbox: tuple[int, int, int, int]
    centroid: tuple[float, float]
    longest_diameter_px: float
    longest_diameter_mm: float | None
    perpendicular_diameter_px: float
    perpendicular_diameter_mm: float | None
    side: Side


@dataclass(frozen=True)
class MemberFinding:
    """What one member alone says.

    Attributes:
        name: The segmenter.
        area_px: Tumor pixels of its own mask.
        tumor_type: Its most frequent tumor class, or None without tumor pixels.
        mask: uint8 ``(H, W)`` of its class indices.
        title: What it is called to readers, its encoder being the one that it has.
    """

    name: str
    area_px: int
    tumor_type: str | None
    mask: np.ndarray
    title: str


@dataclass(frozen=True)
class Findings:
    """Everything said of one slice.

    Attributes:
        status: ``"ok"``, or ``"rejected"`` where the picture is not a readable brain MRI.
        reason: Why it was rejected, one sentence; None otherwise.
        verdict: ``"tumor"`` or ``"no tumor"``; None when rejected.
        tumor_probability: Calibrated, in [0, 1]; None when rejected.
        threshold: The probability from which the verdict is ``"tumor"``.
        marked_from: The vote's probability of tumor from which ``mask`` marks a pixel: 0.5, or less where the verdict is
            tumor and the vote's peak is low; see :func:`~neurovision.ensemble.features.tumor_threshold`.
        tumor_type: Key of the likeliest type where the verdict is tumor, else None.
        type_probabilities: Of each tumor type given that there is a tumor; they sum to 1.
        regions: Largest first.
        members: What each member alone says.
        disagreement: 1 minus the mean Dice between pairs of members' tumor masks, in [0, 1]; 0 where none finds one.
        mask: uint8 ``(H, W)`` of class indices, the vote.
        tumor_map: float32 ``(H, W)``, the vote's probability of any tumor.
        uncertainty: float32 ``(H, W)`` in [0, 1]: entropy of the vote over log 5.
        picture: float32 ``(H, W)`` in [0, 1], the slice.
        source: Where the slice comes from.
        spacing: Millimeters ``(row, column)``, or None.
        slice_index: Which slice of its study.
        timing_ms: Milliseconds by stage.
        weights: First 12 hexadecimal digits of the manifest's sha256.
        warnings: Sentences for the reader.
    """

    status: Literal["ok", "rejected"]
    source: Source
    picture: np.ndarray
    mask: np.ndarray
    tumor_map: np.ndarray
    uncertainty: np.ndarray
    reason: str | None = None
    verdict: Literal["tumor", "no tumor"] | None = None
    tumor_probability: float | None = None
    threshold: float | None = None
    marked_from: float = 0.5
    tumor_type: str | None = None
    type_probabilities: dict[str, float] = field(default_factory=dict)
    regions: tuple[Region, ...] = ()
    members: tuple[MemberFinding, ...] = ()
    disagreement: float = 0.0
    spacing: tuple[float, float] | None = None
    slice_index: int = 0
    timing_ms: dict[str, float] = field(default_factory=dict)
    weights: str = ""
    warnings: tuple[str, ...] = ()

    def overlay(self, opacity: float = 0.45, contour: bool = False) -> np.ndarray:
        """The mask over the slice: uint8 ``(H, W, 3)`` RGB."""
        return paint(self.picture, self.mask, opacity, contour)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: everything but the maps."""
        return {
            "status": self.status,
            "reason": self.reason,
            "verdict": self.verdict,
            "tumor_probability": _rounded(self.tumor_probability, 4),
            "threshold": _rounded(self.threshold, 4),
            "marked_from": round(self.marked_from, 4),
            "tumor_type": self.tumor_type,
            "type_probabilities": {k: round(v, 4) for k, v in self.type_probabilities.items()},
            "regions": [
                {
                    "type": r.type,
                    "area_px": r.area_px,
                    "area_mm2": _rounded(r.area_mm2, 2),
                    "bbox": list(r.bbox),
                    "centroid": [round(c, 2) for c in r.centroid],
                    "longest_diameter_px": round(r.longest_diameter_px, 2),
                    "longest_diameter_mm": _rounded(r.longest_diameter_mm, 2),
                    "perpendicular_diameter_px": round(r.perpendicular_diameter_px, 2),
                    "perpendicular_diameter_mm": _rounded(r.perpendicular_diameter_mm, 2),
                    "side": r.side,
                }
                for r in self.regions
            ],
            "models": [
                {"name": m.name, "tumor_area_px": m.area_px, "tumor_type": m.tumor_type} for m in self.members
            ],
            "disagreement": round(self.disagreement, 4),
            "timing_ms": {k: round(v, 2) for k, v in self.timing_ms.items()},
            "weights": self.weights,
            "warnings": list(self.warnings),
            "spacing_mm": None if self.spacing is None else list(self.spacing),
            "slice_index": self.slice_index,
            "source": {
                "name": self.source.name,
                "format": self.source.format,
                "sha256": self.source.sha256,
                "sequence": self.source.sequence,
                "height": int(self.mask.shape[0]),
                "width": int(self.mask.shape[1]),
            },
        }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)


def find_regions(mask: np.ndarray, head: tuple[float, float], study: Study, slice_index: int = 0) -> tuple[Region, ...]:
    """Measure the connected tumor regions of a label map.

    Pixels that touch, also at a corner, are one region; its type is the commonest class in it.

    Args:
        mask: uint8 ``(H, W)`` of class indices.
        head: ``(middle, width)`` of the head along the columns, in pixels, for the side.
        study: For spacing and the patient's axes.
        slice_index: Which slice.

    Returns:
        Regions of at least MIN_REGION (scaled by the slice's size), largest first.
    """
    tumor = (mask >= TUMORS[0].index).astype(np.uint8)
    count, labels, stats, centroids = cv2.connectedComponentsWithStats(tumor, connectivity=8)
    smallest = max(2, MIN_REGION * mask.size / 256**2)
    spacing = None if study.spacing is None else study.spacing[1:]
    regions = []
    for k in range(1, count):
        left, top, width, height, area = (int(v) for v in stats[k])
        if area < smallest:
            continue
        window = labels[top : top + height, left : left + width] == k
        classes = np.bincount(mask[top : top + height, left : left + width][window], minlength=len(TUMORS) + 2)
        kind = max(TUMORS, key=lambda c: classes[c.index])
        outline = _outline(window) + np.array([top, left])
        longest_px, across_px = _diameters(outline.astype(float), (1.0, 1.0))
        longest_mm, across_mm = (None, None) if spacing is None else _diameters(outline.astype(float), spacing)
        regions.append(
            Region(
                type=kind.key,
                area_px=area,
                area_mm2=None if spacing is None else area * spacing[0] * spacing[1],
                bbox=(top, left, top + height, left + width),
                centroid=(float(centroids[k][1]), float(centroids[k][0])),
                longest_diameter_px=longest_px,
                longest_diameter_mm=longest_mm,
                perpendicular_diameter_px=across_px,
                perpendicular_diameter_mm=across_mm,
                side=_side(float(centroids[k][1]), float(centroids[k][0]), (left, left + width), head, study, slice_index),
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


def _side(
    row: float, column: float, extent: tuple[int, int], head: tuple[float, float], study: Study, slice_index: int
) -> Side:
    """Which side of the head; from the patient's axes where the file gives them, else from the picture."""
    middle, width = head
    if abs(column - middle) < 0.04 * width or (extent[0] < middle < extent[1] and abs(column - middle) < 0.1 * width):
        return "midline"
    if study.affine is not None:
        step = study.affine[:3, 2]  # LPS direction of one column
        if abs(step[0]) > 0.7 * np.linalg.norm(step):
            toward_left = (column - middle) * step[0] > 0
            return "left" if toward_left else "right"
    return "image left" if column < middle else "image right"
