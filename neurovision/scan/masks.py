"""Reader for a ground-truth mask that belongs to a scan."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from neurovision.classes import FIRST_TUMOR, SHIPPED
from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan
from neurovision.scan.images import MAX_BYTES, MAX_PIXELS
from neurovision.scan.quiet import quiet_decoder
from neurovision.scan.tiff import read_gray

FORMATS = ("PNG", "TIFF", "BMP", "JPEG", "WEBP")


@dataclass(frozen=True)
class Truth:
    """A mask and how its values were understood.

    Attributes:
        tumor: bool ``(H, W)``.
        meaning: One sentence for the reader.
    """

    tumor: np.ndarray
    meaning: str


@quiet_decoder()
def read_mask(
    path: Path | str, shape: tuple[int, int], head: int | None = None, classes: int = len(SHIPPED)
) -> Truth:
    """Read a mask picture.

    Two values, or soft edges between two, part tumor from the rest at half the brightest value. Values that are all
    class indices, some of them above 1, are this project's own label map: tumor from FIRST_TUMOR on. A mask of 0 and 1
    may be a plain mask or a label map of air and head without a tumor; it is a label map where the ones cover half of
    the head or more, since no tumor is that large.

    Args:
        path: A picture with one mask.
        shape: ``(H, W)`` of the scan that it belongs to.
        head: How many pixels the scan's head has; a third of the picture by default.
        classes: How many a label map has.

    Raises:
        ScanError: Not a picture, damaged, or of another size than the scan.
    """
    file = Path(path)
    if file.stat().st_size > MAX_BYTES:
        raise ScanTooLarge(f"{file.name}: a mask may have {MAX_BYTES // 10**6} MB.")
    values, binary = _values(file, shape)
    high = values.max()
    if high <= 0:
        return Truth(np.zeros(shape, bool), "The mask is empty: it says that there is no tumor.")
    if high == 1 and not binary and (values == 1).sum() >= (values.size / 3 if head is None else head) / 2:
        return Truth(np.zeros(shape, bool), "Read as a label map: it shows air and head, and no tumor.")
    if FIRST_TUMOR <= high < classes:
        which = f"values {FIRST_TUMOR} to {classes - 1} are" if classes - 1 > FIRST_TUMOR else f"the value {FIRST_TUMOR} is"
        return Truth(values >= FIRST_TUMOR, f"Read as a label map: {which} tumor.")
    return Truth(values > high / 2, f"Read as a mask: values above half of {high:g} are tumor.")


def _values(file: Path, shape: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """A mask's values ``(H, W)``, larger where it is lighter, and whether they are stored as single bits."""
    data = file.read_bytes()
    gray = read_gray(data, file.name, MAX_PIXELS)
    if gray is not None:
        _check_size(file, gray.values.shape, shape)
        return gray.values.max() - gray.values if gray.white_is_zero else gray.values, False
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as e:  # Pillow's parsers raise anything on hostile headers
        raise UnsupportedScan(f"{file.name}: a mask is a picture, best a PNG; this file is none.") from e
    _check_size(file, picture.size[::-1], shape)
    try:
        keep = picture.mode in ("P", "L", "I", "F") or "16" in picture.mode  # values as they are stored
        return np.asarray(picture if keep else picture.convert("L")), picture.mode == "1"
    except Exception as e:  # Pillow's decoders raise anything on damaged data
        raise DamagedScan(f"{file.name}: the mask is damaged or cut off and cannot be decoded.") from e


def _check_size(file: Path, found: tuple[int, ...], shape: tuple[int, int]) -> None:
    if found != shape:
        raise UnsupportedScan(
            f"{file.name}: a mask has the scan's own size, {shape[1]} x {shape[0]}; received {found[1]} x {found[0]}."
        )
