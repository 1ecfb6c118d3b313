"""Files of results: how a mask is written."""

from __future__ import annotations

from pathlib import Path

import cv2

from neurovision.ensemble.results import Result
from neurovision.files import write
from neurovision.scan.study import Study


def write_mask(result: Result, study: Study, folder: Path, stem: str) -> Path:
    """Write class indices 0 to 4: of a slice ``STEM.mask.png``, of a volume ``STEM.mask.nii.gz`` in the file's geometry.

    Args:
        result: What was said.
        study: What was analyzed.
        folder: Where to; it exists.
        stem: Of the file's name.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    if study.n_slices == 1:
        path = folder / f"{stem}.mask.png"
        write(path, cv2.imencode(".png", result.mask_in(study)[0])[1].tobytes())
        return path
    from neurovision.views.dicom_out import write_nifti_mask

    return write_nifti_mask(result, study, folder / f"{stem}.mask.nii.gz")
