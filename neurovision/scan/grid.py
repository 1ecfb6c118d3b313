"""How the voxels of a NIfTI file become slices, and how slices go back into its own voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Grid:
    """How a file's voxels become slices, and back.

    Attributes:
        shape: The file's first three dimensions.
        transform: nibabel's orientation transform from the file's axes to ``(slice, row, column)``.
        file_affine: float64 ``(4, 4)``, file index to RAS millimeters.
        affine: float64 ``(4, 4)``, ``(slice, row, column)`` to LPS millimeters.
        known: Whether the file says how it lies in the patient.
        measured: Whether the file says how large its voxels are.
    """

    shape: tuple[int, int, int]
    transform: np.ndarray
    file_affine: np.ndarray
    affine: np.ndarray
    known: bool
    measured: bool = True

    def to_slices(self, voxels: np.ndarray) -> np.ndarray:
        """A view of the file's ``(I, J, K)`` voxels as ``(S, H, W)``."""
        from nibabel.orientations import apply_orientation

        return np.asarray(apply_orientation(voxels, self.transform))

    def to_file(self, slices: np.ndarray) -> np.ndarray:
        """A view of ``(S, H, W)`` slices in the file's own order ``(I, J, K)``."""
        target = np.empty(self.transform.shape)
        for source_axis, (axis, flip) in enumerate(self.transform):
            target[int(axis)] = (source_axis, flip)
        from nibabel.orientations import apply_orientation

        return np.asarray(apply_orientation(slices, target))

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, from which :meth:`from_json` makes the same Grid."""
        return {
            "shape": list(self.shape), "transform": self.transform.tolist(), "file_affine": self.file_affine.tolist(),
            "affine": self.affine.tolist(), "known": self.known, "measured": self.measured,
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: Any) -> Grid:
        """A Grid from :meth:`to_json`'s values.

        Raises:
            KeyError, TypeError, ValueError: Values that no reader gives.
        """
        i, j, k = (int(n) for n in values["shape"])
        transform = np.array(values["transform"], np.float64)
        file_affine, affine = (np.array(values[key], np.float64) for key in ("file_affine", "affine"))
        sound = (
            transform.shape == (3, 2)
            and sorted(transform[:, 0]) == [0, 1, 2]
            and set(transform[:, 1]) <= {-1.0, 1.0}
            and file_affine.shape == affine.shape == (4, 4)
            and np.isfinite([file_affine, affine]).all()
        )
        if not sound:
            raise ValueError("a grid of another shape")
        return cls((i, j, k), transform, file_affine, affine, bool(values["known"]), bool(values["measured"]))
