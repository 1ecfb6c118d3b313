"""Reader for a ground-truth mask that belongs to a scan."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from neurovision.classes import FIRST_TUMOR, SHIPPED
from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan
from neurovision.scan.images import MAX_BYTES, MAX_PIXELS, stored_inverted

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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked before decoding
            picture = Image.open(io.BytesIO(file.read_bytes()), formats=FORMATS)
    except Exception as e:  # Pillow's parsers raise anything on hostile headers
        raise UnsupportedScan(f"{file.name}: a mask is a picture, best a PNG; this file is none.") from e
    width, height = picture.size
    if width * height > MAX_PIXELS or (height, width) != shape:
        raise UnsupportedScan(
            f"{file.name}: a mask has the scan's own size, {shape[1]} x {shape[0]}; received {width} x {height}."
        )
    try:
        keep = picture.mode in ("P", "L", "I", "F") or "16" in picture.mode  # values as they are stored
        values = np.asarray(picture if keep else picture.convert("L"))
        if stored_inverted(picture):
            values = values.max() - values
    except Exception as e:  # Pillow's decoders raise anything on damaged data
        raise DamagedScan(f"{file.name}: the mask is damaged or cut off and cannot be decoded.") from e
    high = values.max()
    if high <= 0:
        return Truth(np.zeros(shape, bool), "The mask is empty: it says that there is no tumor.")
    if high == 1 and picture.mode != "1" and (values == 1).sum() >= (values.size / 3 if head is None else head) / 2:
        return Truth(np.zeros(shape, bool), "Read as a label map: it shows air and head, and no tumor.")
    if FIRST_TUMOR <= high < classes:
        which = f"values {FIRST_TUMOR} to {classes - 1} are" if classes - 1 > FIRST_TUMOR else f"the value {FIRST_TUMOR} is"
        return Truth(values >= FIRST_TUMOR, f"Read as a label map: {which} tumor.")
    return Truth(values > high / 2, f"Read as a mask: values above half of {high:g} are tumor.")
