"""Enhancement, cropping, clean-up and first looks at a gray slice: pure functions on float32 ``(H, W)`` in [0, 1].

None of them stands between a scan and the networks: they serve a reader's eye, and data that need cleaning first.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from neurovision.errors import ModelError
from neurovision.scan.prepare import head_mask

CROPS = ("hard", "soft")
BACKGROUND_LEVEL = 150 / 255  # paper or a light screen is at least this bright
WHITE_LEVEL = 220 / 255  # a drawn frame is
BORDER = 0.05  # of the shorter side: where a frame stands
Box = tuple[int, int, int, int]


def musica(gray: np.ndarray, strength: float | Sequence[float] = 1.6, levels: int = 5, power: float = 1.0) -> np.ndarray:
    """Multi-scale contrast amplification (MUSICA, Vuylsteke & Schoeters 1994, doi 10.1117/12.175090).

    The slice is taken apart into a Laplacian pyramid, every detail is amplified, the slice is put together again.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        strength: Factor of the details, one for all levels or one a level, finest first; 1 changes nothing.
        levels: Of the pyramid; fewer are used where the coarsest would be less than 8 pixels wide.
        power: 1 amplifies all details alike, as the source document does; below 1 faint ones gain more than strong
            ones, as in the paper (which uses about 0.7): ``strength * M * sign(d) * (|d| / M) ** power`` with ``M``
            the level's largest detail.

    Returns:
        float32 ``(H, W)``, clipped to [0, 1].

    Raises:
        ModelError: Levels below 1, a negative strength, as many strengths as there are not levels, or a power
            outside (0, 1].
    """
    factors = [float(s) for s in np.broadcast_to(strength, levels if np.ndim(strength) == 0 else np.shape(strength))]
    if levels < 1 or len(factors) != levels or min(factors) < 0:
        raise ModelError(
            f"MUSICA takes one non-negative strength for each of at least 1 level; received {strength} for {levels} levels."
        )
    if not 0 < power <= 1:
        raise ModelError(f"MUSICA's power is above 0 and at most 1; received {power}.")
    details = []
    low: np.ndarray = gray.astype(np.float32)
    for factor in factors:
        if min(low.shape) < 16:
            break
        smaller = cv2.pyrDown(low)
        detail = low - cv2.pyrUp(smaller, dstsize=low.shape[::-1])
        peak = float(np.abs(detail).max())
        if power < 1 and peak > 0:
            detail = peak * np.sign(detail) * (np.abs(detail) / peak) ** power
        details.append(factor * detail)
        low = smaller
    for detail in reversed(details):
        low = cv2.pyrUp(low, dstsize=detail.shape[::-1]) + detail
    return np.clip(low, 0, 1).astype(np.float32)


def crop_box(gray: np.ndarray, how: str = "hard", padding: int = 8) -> Box:
    """Find the head's box by the outline that encloses most.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        how: ``"hard"``, Otsu's global threshold; ``"soft"``, an adaptive threshold after less blur, for dim heads that
            the global one would cut.
        padding: Pixels left free on each side, where the slice has them.

    Returns:
        ``(top, left, bottom, right)``, bottom and right exclusive; the whole slice where nothing stands out.

    Raises:
        ModelError: An unknown ``how`` or a negative padding.
    """
    if how not in CROPS or padding < 0:
        raise ModelError(f"A crop is one of {', '.join(CROPS)} with a padding of at least 0; received {how!r}, {padding}.")
    levels = _levels(gray)
    height, width = gray.shape
    if how == "hard":
        _, mask = cv2.threshold(cv2.GaussianBlur(levels, (5, 5), 0), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    else:
        block = max(3, min(height, width) // 8) | 1
        local = cv2.GaussianBlur(levels, (3, 3), 0)
        mask = cv2.adaptiveThreshold(local, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY, block, -3)
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return 0, 0, height, width
    left, top, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
    return max(top - padding, 0), max(left - padding, 0), min(top + h + padding, height), min(left + w + padding, width)


def crop(gray: np.ndarray, how: str = "hard", padding: int = 8) -> np.ndarray:
    """Cut :func:`crop_box` out of the slice: float32 ``(h, w)``.

    Raises:
        ModelError: As :func:`crop_box`.
    """
    top, left, bottom, right = crop_box(gray, how, padding)
    return np.ascontiguousarray(gray[top:bottom, left:right])


def blacken_background(gray: np.ndarray) -> np.ndarray:
    """Turn a white background black: bright areas that touch the edge, where bright pixels are 40 % of the edge.

    A slice whose edge is mostly dark comes back unchanged, so that fat cut by a tight crop is not taken for paper.

    Returns:
        float32 ``(H, W)`` in [0, 1].
    """
    bright = gray >= BACKGROUND_LEVEL
    edge = np.concatenate([bright[0], bright[-1], bright[1:-1, 0], bright[1:-1, -1]])
    return _without(gray, bright, 1) if edge.mean() >= 0.4 else gray.copy()


def blacken_border(gray: np.ndarray) -> np.ndarray:
    """Turn a drawn white frame black: near-white pieces within BORDER of an edge, dilated by 3 x 3.

    The source document sets every near-white pixel to black; here it must be joined to the border, so that bright
    tumor stays.

    Returns:
        float32 ``(H, W)`` in [0, 1].
    """
    return _without(gray, gray >= WHITE_LEVEL, max(1, round(BORDER * min(gray.shape))))


def _without(gray: np.ndarray, bright: np.ndarray, reach: int) -> np.ndarray:
    """Set the connected pieces of ``bright`` that come within ``reach`` pixels of an edge, dilated, to 0."""
    _, labels = cv2.connectedComponents(bright.astype(np.uint8), connectivity=8)
    inner = np.zeros(gray.shape, bool)
    inner[reach:-reach, reach:-reach] = True
    touching = np.unique(labels[~inner])
    piece = np.isin(labels, touching[touching > 0]).astype(np.uint8)
    return np.where(cv2.dilate(piece, np.ones((3, 3), np.uint8)) > 0, 0, gray).astype(np.float32)


def equalize(gray: np.ndarray, local: bool = False) -> np.ndarray:
    """Histogram equalization over 256 levels.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        local: Equalize each of 8 x 8 tiles with limited contrast (CLAHE, clip limit 2), which leaves air dark.

    Returns:
        float32 ``(H, W)`` in [0, 1].
    """
    levels = _levels(gray)
    flat = cv2.createCLAHE(2.0, (8, 8)).apply(levels) if local else cv2.equalizeHist(levels)
    return flat.astype(np.float32) / 255


def denoise(gray: np.ndarray, edges: bool = True) -> np.ndarray:
    """Smooth noise by a bilateral filter that keeps edges, or by a 5 x 5 Gaussian: float32 ``(H, W)`` in [0, 1]."""
    plane = gray.astype(np.float32)
    return cv2.bilateralFilter(plane, 7, 0.1, 3) if edges else cv2.GaussianBlur(plane, (5, 5), 0)


def sharpen(gray: np.ndarray, amount: float = 1.0) -> np.ndarray:
    """Unsharp mask: the slice plus ``amount`` times what a Gaussian of 2 pixels takes away, clipped to [0, 1]."""
    plane = gray.astype(np.float32)
    return np.clip(plane + amount * (plane - cv2.GaussianBlur(plane, (0, 0), 2)), 0, 1).astype(np.float32)


def distribution(picture: np.ndarray, bins: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Histogram and cumulative distribution of intensities, of each channel.

    Args:
        picture: float32 ``(H, W)`` or ``(H, W, C)`` in [0, 1].
        bins: Of equal width; 256 are the levels of an 8-bit picture.

    Returns:
        Shares and their cumulative sum, float64 ``(C, bins)`` each (C is 1 for ``(H, W)``); the last cumulative share
        is 1.
    """
    channels = np.atleast_3d(picture)
    which = np.minimum((channels * bins).astype(int), bins - 1)
    counts = np.stack([np.bincount(which[..., c].ravel(), minlength=bins) for c in range(channels.shape[2])])
    shares = counts / (channels.shape[0] * channels.shape[1])
    return shares, shares.cumsum(1)


def asymmetry(gray: np.ndarray) -> np.ndarray:
    """Difference between the two sides of the head, mirrored about the middle of its box.

    Both sides are smoothed first (Gaussian of 2 % of the head's width), as no head is symmetric to the pixel. A turned
    head shows the turn as well.

    Returns:
        float32 ``(H, W)`` in [0, 1]: the absolute difference; 0 where the mirror image leaves the slice.
    """
    mask = head_mask(gray)
    columns = np.flatnonzero(mask.any(0)) if mask is not None else np.array([0, gray.shape[1] - 1])
    total = int(columns[0] + columns[-1])  # a column c mirrors to total - c
    smooth = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), max(0.5, 0.02 * len(columns)))
    mirrored = total - np.arange(gray.shape[1])
    inside = (mirrored >= 0) & (mirrored < gray.shape[1])
    difference = np.abs(smooth - smooth[:, np.clip(mirrored, 0, gray.shape[1] - 1)])
    return np.where(inside, difference, 0).astype(np.float32)


def texture(gray: np.ndarray, radius: int = 5) -> np.ndarray:
    """Local entropy of the 256 gray levels in a disk of ``radius`` pixels: float32 ``(H, W)`` in bits, 0 to 8."""
    from skimage.filters.rank import entropy
    from skimage.morphology import disk

    return entropy(_levels(gray), disk(radius)).astype(np.float32)


def edges(gray: np.ndarray, low: float = 0.2, high: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Sobel's gradient magnitude and Canny's edges.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        low: Canny's lower threshold on intensity per pixel, as a share of full contrast.
        high: Its upper one.

    Returns:
        float32 ``(H, W)``, intensity per pixel (a ramp of slope 0.1 gives 0.1), and bool ``(H, W)``.
    """
    plane = gray.astype(np.float32)
    x, y = (cv2.Sobel(plane, cv2.CV_32F, *d, ksize=3) / 8 for d in ((1, 0), (0, 1)))
    return np.hypot(x, y), cv2.Canny(_levels(gray), 8 * low * 255 / 4, 8 * high * 255 / 4) > 0


def _levels(gray: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(gray, 0, 1) * 255).astype(np.uint8)
