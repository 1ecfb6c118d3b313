"""The five classes of a label map: index, key, title and color.

Colors are from the Okabe-Ito palette, which stays apart for readers with any common color blindness.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PixelClass:
    """One class of a label map.

    Attributes:
        index: The value in a ``uint8`` label map.
        key: The word used in files and code.
        title: The words shown to a reader.
        color: RGB in 0..255, or None for classes that are not painted.
    """

    index: int
    key: str
    title: str
    color: tuple[int, int, int] | None


BACKGROUND = PixelClass(0, "background", "Air", None)
HEAD = PixelClass(1, "head", "Healthy head", None)
GLIOMA = PixelClass(2, "glioma", "Glioma", (230, 159, 0))
MENINGIOMA = PixelClass(3, "meningioma", "Meningioma", (86, 180, 233))
PITUITARY = PixelClass(4, "pituitary", "Pituitary tumor", (204, 121, 167))

CLASSES = (BACKGROUND, HEAD, GLIOMA, MENINGIOMA, PITUITARY)
TUMORS = (GLIOMA, MENINGIOMA, PITUITARY)
FIRST_TUMOR = GLIOMA.index  # every class from here on is a tumor
BY_KEY = {c.key: c for c in CLASSES}
