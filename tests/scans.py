"""Phantoms as the files that people bring: pictures, a NIfTI volume, an oblique DICOM series, two in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
from dicom_builder import oblique, stored, write_series
from PIL import Image

from neurovision.scan.phantom import phantom, phantom_volume
from neurovision.scan.study import Study

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Scans:
    """Paths of the files.

    Attributes:
        glioma: A picture with a tumor.
        healthy: A picture without one.
        truth: The tumor of ``glioma`` as a mask.
        nifti: A volume of 12 slices whose tumor is off the middle.
        series: An oblique DICOM series of 10 files.
        two: A folder with two DICOM series and a letter.
        letter: No scan.
    """

    glioma: str
    healthy: str
    truth: str
    nifti: str
    series: list[str]
    two: str
    letter: str


def png(study: Study) -> bytes:
    """A study's middle slice as an 8-bit PNG."""
    stream = BytesIO()
    Image.fromarray(np.rint(study.gray(study.n_slices // 2) * 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_picture(path: Path, study: Study) -> str:
    """The same as a file."""
    path.write_bytes(png(study))
    return str(path)


def write_nifti(path: Path, study: Study) -> str:
    """A volume with its geometry."""
    assert study.affine is not None
    across, down, along, origin = study.affine.T
    affine = RAS_TO_LPS @ np.stack([along, down, across, origin], axis=1)
    image = nibabel.Nifti1Image(np.rint(study.pixels[..., 0].transpose(2, 1, 0) * 1000).astype(np.int16), affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return str(path)


def write_scans(folder: Path) -> Scans:
    """Write all of them under ``folder``."""
    glioma, truth = phantom("glioma", 4)
    volume, labels = phantom_volume("glioma", 4, size=96, slices=24)
    sizes = (labels > 1).sum((1, 2))
    first = max(0, int(sizes.argmax()) - 1)  # the tumor lies in the first slices, not in the middle
    assert volume.affine is not None
    cut = Study(volume.pixels[first : first + 12], volume.source, volume.spacing, volume.affine)
    head, _ = phantom_volume("glioma", seed=4, size=96, slices=10)
    assert head.affine is not None
    turned = oblique(head.affine)
    two = folder / "two"
    write_series(two / "a", stored(head), turned, "a")
    other, _ = phantom_volume("healthy", seed=2, size=96, slices=6)
    assert other.affine is not None
    write_series(two / "b", stored(other), other.affine, "b", SeriesNumber=5)
    letter = folder / "letter.txt"
    letter.write_text("Dear colleague")
    (two / "letter.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"nothing")
    Image.fromarray(((truth > 1) * 255).astype(np.uint8)).save(folder / "truth.png")
    return Scans(
        write_picture(folder / "glioma.png", glioma),
        write_picture(folder / "healthy.png", phantom("healthy", 4)[0]),
        str(folder / "truth.png"),
        write_nifti(folder / "head.nii.gz", cut),
        [str(p) for p in write_series(folder / "series", stored(head), turned, "s")],
        str(two),
        str(letter),
    )
