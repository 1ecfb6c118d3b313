"""Study: what a reader makes of the scan that a person brings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from neurovision.errors import UnsupportedScan
from neurovision.scan.grid import Grid
from neurovision.scan.headers import Headers

if TYPE_CHECKING:
    from neurovision.scan.laterality import LeftRight

FINEST, COARSEST = 0.01, 100.0  # millimeters: a pixel or a gap beyond them is a header's error


@dataclass(frozen=True)
class Source:
    """Where a Study comes from; nothing here identifies a patient.

    Attributes:
        name: What the scan is told by: its path in the given folder, or its file's name.
        format: ``"PNG"``, ``"JPEG"``, ``"TIFF"``, ``"DICOM"``, ``"NIfTI"``, ``"phantom"`` or ``"array"``.
        sha256: Digest of the file's bytes (of all files, in slice order, for a series), or "".
        sequence: MR sequence as the headers tell it (``"FLAIR"``, ``"T1"``, ...), or None where nothing tells.
    """

    name: str
    format: str
    sha256: str = ""
    sequence: str | None = None


@dataclass(frozen=True)
class Study:
    """One scan: a picture, or a volume of parallel slices.

    Attributes:
        pixels: float32 ``(S, H, W, C)``, slices by rows by columns by channels, finite, in [0, 1]; C is 1 or 3,
            S is 1 for a picture.
        source: Where it comes from.
        spacing: Millimeters between pixel centers as ``(slice, row, column)``, or None where the file does not say.
            ``slice`` is None for a single picture whose file gives no slice distance.
        affine: float64 ``(4, 4)`` taking the index ``(slice, row, column, 1)`` to patient millimeters in LPS
            (x grows to the patient's left, y to the back, z to the head), or None.
        warnings: Sentences for the reader: what is unusual about this scan.
        headers: What objects made of a DICOM scan need of its headers; None for every other format.
        grid: How the slices lie in a NIfTI file's own voxels; None for every other format.
        aspect: Height by width of a pixel where the file says this much and no spacing.

    Raises:
        UnsupportedScan: A shape, type, range or spacing that breaks the rules above.
    """

    pixels: np.ndarray
    source: Source
    spacing: tuple[float | None, float, float] | None = None
    affine: np.ndarray | None = None
    warnings: tuple[str, ...] = field(default=())
    headers: Headers | None = field(default=None, repr=False)  # which names a patient
    grid: Grid | None = None
    aspect: float | None = None

    def __post_init__(self) -> None:
        p = self.pixels
        if p.ndim != 4 or p.shape[3] not in (1, 3) or min(p.shape) < 1:
            raise UnsupportedScan(f"A study holds pixels as (slices, rows, columns, 1 or 3); received shape {p.shape}.")
        if p.dtype != np.float32 or not np.isfinite(p).all() or p.min() < 0 or p.max() > 1:
            raise UnsupportedScan(f"A study's pixels are finite float32 in [0, 1]; received {p.dtype}.")
        if self.spacing is not None and not all(s is None or (np.isfinite(s) and s > 0) for s in self.spacing):
            raise UnsupportedScan(f"Spacing is in positive millimeters; received {self.spacing}.")
        if self.aspect is not None and not 0 < self.aspect < math.inf:
            raise UnsupportedScan(f"A pixel's height by its width is a positive number; received {self.aspect}.")
        if self.affine is not None and (self.affine.shape != (4, 4) or not np.isfinite(self.affine).all()):
            raise UnsupportedScan("An affine is a finite 4 x 4 matrix.")
        if self.headers is not None and len(self.headers.images) != len(p):
            raise UnsupportedScan("A study's headers name an image for every slice.")

    @cached_property
    def left_right(self) -> LeftRight:
        """On which side of the patient a region lies."""
        from neurovision.scan.laterality import LeftRight

        return LeftRight(self)

    @property
    def pixel_shape(self) -> tuple[float, float] | None:
        """Height and width of a pixel, in millimeters or as a ratio; None where the file gives neither."""
        if self.spacing is not None:
            return self.spacing[1:]
        return None if self.aspect is None else (self.aspect, 1.0)

    @property
    def n_slices(self) -> int:
        """Number of slices, 1 for a picture."""
        return int(self.pixels.shape[0])

    def gray(self, index: int = 0) -> np.ndarray:
        """Return slice ``index`` as float32 ``(H, W)`` in [0, 1]; color becomes luma (ITU-R BT.601)."""
        p = self.pixels[index]
        return p[..., 0] if p.shape[2] == 1 else p @ np.array([0.299, 0.587, 0.114], np.float32)
