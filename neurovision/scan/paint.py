"""Painting a label map over its picture."""

from __future__ import annotations

import cv2
import numpy as np

from neurovision.classes import Classes


def paint(
    picture: np.ndarray, mask: np.ndarray, classes: Classes, opacity: float = 0.45, contour: bool = False
) -> np.ndarray:
    """Paint tumor classes over a gray picture.

    Args:
        picture: float32 ``(H, W)`` in [0, 1].
        mask: uint8 ``(H, W)`` of class indices.
        classes: Of the mask.
        opacity: Of the fill, in [0, 1]; a one-pixel outline is drawn opaque in any case.
        contour: Draw the outline only.

    Returns:
        uint8 ``(H, W, 3)`` RGB.
    """
    rgb = np.repeat(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    thickness = max(1, round(max(picture.shape) / 400))
    for kind in classes.tumors:
        inside = mask == kind.index
        if not inside.any() or kind.color is None:
            continue
        color = np.array(kind.color, np.float32)
        if not contour:
            rgb[inside] = np.rint((1 - opacity) * rgb[inside] + opacity * color).astype(np.uint8)
        outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        rgb = np.ascontiguousarray(rgb)
        cv2.drawContours(rgb, outlines, -1, kind.color, thickness)
    return rgb
