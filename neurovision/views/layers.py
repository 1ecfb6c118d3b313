"""A scan and what was found in it as NIfTI files that a viewer in the browser reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neurovision.scan.prepare import head_mask
from neurovision.scan.study import Study

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
PICTURE_LEVELS, VOLUME_LEVELS = 255, 1000  # what the value 1.0 of a study is stored as
PLANES = ("sagittal", "coronal", "axial")  # by the axis that slices are stacked along


def grid(study: Study) -> np.ndarray:
    """The voxel index ``(column, row, slice, 1)`` to RAS millimeters, float64 ``(4, 4)``.

    Where the file does not say how it lies in the patient, rows run to the back and columns to the left, one unit a
    pixel unless the spacing is known; such a scan is to be shown without letters.
    """
    if study.affine is not None:
        across, down, along, origin = study.affine.T
        return LPS_TO_RAS @ np.stack([along, down, across, origin], axis=1)
    across_mm, row, column = study.spacing or (1.0, 1.0, 1.0)
    return np.diag([-column, -row, across_mm or row, 1.0])


def plane(study: Study) -> str:
    """The plane that the slices lie in, one of PLANES; an oblique one is called by the nearest."""
    return PLANES[int(np.abs(grid(study)[:3, 2]).argmax())] if study.affine is not None else "axial"


def levels(study: Study) -> int:
    """What the value 1.0 is stored as: a picture keeps its 256 levels."""
    return VOLUME_LEVELS if study.source.format in ("DICOM", "NIfTI") else PICTURE_LEVELS


def window(study: Study, index: int) -> tuple[float, float]:
    """Darkest and brightest value of one slice's head, in [0, 1]: what a viewer and a report draw black and white."""
    gray = study.gray(index)
    inside = head_mask(gray, None if study.spacing is None else study.spacing[1:])
    low, high = np.percentile(gray if inside is None else gray[inside], (0.5, 99.5))
    return float(low), float(max(high, low + 1e-3))


def windowed(gray: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """A slice, float32 ``(H, W)``, between the limits of :func:`window`, in [0, 1]."""
    low, high = limits
    return np.clip((gray - low) / (high - low), 0, 1).astype(np.float32)


def write_scan(study: Study, path: Path) -> None:
    """Write the study's gray values, 0 to :func:`levels`, as ``.nii.gz``."""
    top = levels(study)
    stored = np.empty(study.pixels.shape[:3], np.uint8 if top == PICTURE_LEVELS else np.int16)
    for k in range(study.n_slices):
        stored[k] = np.rint(study.gray(k) * top)
    write_layer(study, stored, path)


def write_layer(study: Study, values: np.ndarray, path: Path) -> None:
    """Write uint8 or int16 ``(S, H, W)`` on the study's grid as ``.nii.gz``."""
    import nibabel

    affine = grid(study)
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nibabel.save(image, path)
