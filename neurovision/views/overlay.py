"""Pictures drawn from Findings besides the plain overlay."""

from __future__ import annotations

import cv2
import numpy as np

from neurovision.classes import Classes
from neurovision.scan.paint import paint

SCREEN = 768  # pixels that the longer side is drawn with: crisp outlines, small files
STYLES = ("Fill", "Contour")
INFERNO = ("#000004", "#420a68", "#932667", "#dd513a", "#fca50a", "#fcffa4")  # of :func:`heat`, for legends
AGREED, MISSED, EXTRA = (0, 158, 115), (213, 94, 0), (86, 180, 233)  # Okabe-Ito, apart for any color blindness


def gray_rgb(picture: np.ndarray) -> np.ndarray:
    """Float ``(H, W)`` in [0, 1] as uint8 ``(H, W, 3)``."""
    return np.repeat(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)


def to_screen(plane: np.ndarray, interpolation: int = cv2.INTER_CUBIC) -> np.ndarray:
    """Resize ``(H, W)`` so that its longer side has SCREEN pixels."""
    scale = SCREEN / max(plane.shape)
    size = (max(1, round(plane.shape[1] * scale)), max(1, round(plane.shape[0] * scale)))
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA if scale < 1 and plane.dtype != np.uint8 else interpolation)


def draw_mask(
    picture: np.ndarray, mask: np.ndarray, classes: Classes, style: str = "Fill", opacity: float = 0.45
) -> np.ndarray:
    """A label map over its picture at screen size, uint8 ``(h, w, 3)``; ``style`` is one of STYLES."""
    return paint(to_screen(picture), to_screen(mask, cv2.INTER_NEAREST), classes, opacity, contour=style == "Contour")


def heat(picture: np.ndarray, values: np.ndarray, opacity: float = 0.75) -> np.ndarray:
    """Lay a map over a picture; where it is low the picture stays clear.

    Args:
        picture: float32 ``(H, W)`` in [0, 1].
        values: float32 ``(H, W)`` in [0, 1], colored by the perceptually even map "inferno".
        opacity: Of the highest values.

    Returns:
        uint8 ``(H, W, 3)`` RGB.
    """
    levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    colors = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1].astype(np.float32)
    alpha = opacity * np.sqrt(np.clip(values, 0, 1))[..., None]
    return np.rint((1 - alpha) * gray_rgb(picture) + alpha * colors).astype(np.uint8)


def difference(picture: np.ndarray, truth: np.ndarray, found: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Draw where a mask agrees with the truth, misses it and exceeds it.

    Args:
        picture: float32 ``(H, W)`` in [0, 1].
        truth: bool ``(H, W)``.
        found: bool ``(H, W)``.
        opacity: Of the colors AGREED, MISSED and EXTRA.

    Returns:
        uint8 ``(H, W, 3)`` RGB.
    """
    out = gray_rgb(picture).astype(np.float32)
    for where, color in ((truth & found, AGREED), (truth & ~found, MISSED), (~truth & found, EXTRA)):
        out[where] = (1 - opacity) * out[where] + opacity * np.array(color, np.float32)
    return np.rint(out).astype(np.uint8)
