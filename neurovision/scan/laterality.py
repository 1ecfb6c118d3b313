"""On which side of the patient a place lies, from the file's geometry and from where the head is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from neurovision.scan.prepare import head_mask

if TYPE_CHECKING:
    from neurovision.scan.study import Study

Side = Literal["left", "right", "midline", "image left", "image right"]
NEAR, ACROSS = 0.04, 0.1  # of the head's width: how far from its middle a center may lie, and one that reaches across it
ALIGNED = np.cos(np.deg2rad(30))  # an image axis this near the patient's left is what the head was lined up with
HEAD_WIDTH = 150.0  # millimeters, where the slices do not show it
SAMPLES = 48  # slices of a volume in which the head is looked for


@dataclass(frozen=True)
class LeftRight:
    """The direction to the patient's left, and the head's middle along it.

    Technicians line slices up with the head, so the image axis that is within 30 degrees of the patient's left is taken
    for it; between the axes the patient's own is.

    Attributes:
        study: The scan.
    """

    study: Study

    def side(self, index: int, rows: np.ndarray, columns: np.ndarray) -> Side:
        """The side of a region of slice ``index``.

        Args:
            index: Which slice.
            rows: Of the region's pixels, any order.
            columns: Of the same pixels.

        Returns:
            ``left`` or ``right`` of the patient, ``midline`` where the region lies at the head's middle or reaches across
            it; ``image left`` or ``image right`` (or ``midline`` of the picture) where the file gives no geometry.
        """
        along = self._along(index, rows, columns)
        low, high = self._head_in(index) if self._in_plane else self._head
        middle, width, center = (low + high) / 2, high - low, float(along.mean())
        apart = abs(center - middle)
        if apart < NEAR * width or (along.min() < middle < along.max() and apart < ACROSS * width):
            return "midline"
        if self.study.affine is None:
            return "image left" if center < middle else "image right"
        return "left" if center > middle else "right"

    @cached_property
    def _to_left(self) -> np.ndarray:
        """Weights of ``(slice, row, column, 1)`` that give millimeters to the patient's left; pixels without geometry."""
        affine = self.study.affine
        if affine is None:
            return np.array([0.0, 0.0, 1.0, 0.0])
        axes = [np.cross(affine[:3, 1], affine[:3, 2]), affine[:3, 1], affine[:3, 2]]
        axes = [a / np.linalg.norm(a) for a in axes]
        best = max(axes, key=lambda a: abs(float(a[0])))
        left = best * np.sign(best[0]) if abs(best[0]) >= ALIGNED else np.array([1.0, 0.0, 0.0])
        return np.asarray(left @ affine[:3])

    @cached_property
    def _in_plane(self) -> bool:
        """Whether every slice shows both sides in full, so that its own outline tells the head's middle."""
        across, rows, columns = np.abs(self._to_left[:3])
        spacing = (1.0, 1.0, 1.0) if self.study.affine is None else np.linalg.norm(self.study.affine[:3, :3], axis=0)
        return bool(across / spacing[0] < 0.5 * max(rows / spacing[1], columns / spacing[2]))

    @cached_property
    def _head(self) -> tuple[float, float]:
        """Where the whole volume's head begins and ends; around the scanner's middle where the slices do not show both."""
        count = self.study.n_slices
        sampled = np.unique(np.linspace(0, count - 1, SAMPLES).round().astype(int))
        step = max(1, max(self.study.pixels.shape[1:3]) // 64)
        small = np.stack([self.study.gray(int(k))[::step, ::step] for k in sampled])
        levels = np.clip(small * (255 / max(float(np.percentile(small, 99.5)), 1e-6)), 0, 255).astype(np.uint8)
        otsu, _ = cv2.threshold(levels.reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
        found = levels > 0.5 * otsu  # one threshold for all slices: those beside the head hold noise only
        areas = found.sum((1, 2))
        if count < 2 or not areas.any() or max(areas[0], areas[-1]) > 0.5 * areas.max():
            return -HEAD_WIDTH / 2, HEAD_WIDTH / 2
        ends = []
        for k in np.flatnonzero(areas > 0.1 * areas.max()):
            rows, columns = np.nonzero(found[k])
            ends += list(np.percentile(self._along(int(sampled[k]), rows * step, columns * step), (1, 99)))
        return float(min(ends)), float(max(ends))

    def _head_in(self, index: int) -> tuple[float, float]:
        mask = self._mask(index)
        return self._range(index, np.ones(self.study.pixels.shape[1:3], bool) if mask is None else mask)

    def _mask(self, index: int) -> np.ndarray | None:
        return head_mask(self.study.gray(index), self.study.pixel_shape)

    def _range(self, index: int, mask: np.ndarray) -> tuple[float, float]:
        along = self._along(index, *np.nonzero(mask))
        return float(along.min()), float(along.max())

    def _along(self, index: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        across, down, right, start = self._to_left
        return np.asarray(index * across + rows * down + columns * right + start, np.float64)
