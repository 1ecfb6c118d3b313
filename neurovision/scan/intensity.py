"""Scaling a volume's intensities to [0, 1] without a second copy of it."""

from __future__ import annotations

import numpy as np

LARGEST = 1e30  # beyond it no scanner measures, and differences of two values overflow
SAMPLE = 4_000_000  # values that percentiles are taken from
# Outside them lie a few hot pixels. Half a percent of the smallest head that is found (4 % of a picture) lies inside, so
# that what a canvas clips is decided by the head alone, and the same picture in 8 and in 16 bits gives the same canvas.
RANGE = (0.02, 99.98)


def scale_window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Apply a display window in place (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: float32, any shape.
        center: Of the window.
        width: Of the window; at least 1 for LINEAR, positive otherwise.
        function: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``.

    Returns:
        ``values`` itself, now in [0, 1].
    """
    if function == "SIGMOID":
        values -= center
        values *= -4.0 / width
        np.clip(values, -50, 50, out=values)
        np.exp(values, out=values)
        values += 1
        return np.reciprocal(values, out=values)
    if function == "LINEAR":
        center, width = center - 0.5, max(width - 1.0, 1e-6)
    values -= center
    values /= width
    values += 0.5
    return np.clip(values, 0, 1, out=values)


def scale_robust(values: np.ndarray) -> np.ndarray:
    """Scale finite float32 values to [0, 1] in place between their RANGE percentiles; returns ``values``."""
    sample = values.reshape(-1)[:: max(1, values.size // SAMPLE)]
    low, high = (float(v) for v in np.percentile(sample, RANGE))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    values -= low
    values /= max(high - low, 1e-12)
    return np.clip(values, 0, 1, out=values)


def darken_air(values: np.ndarray) -> bool:
    """Give the air the darkest value where it has one inside the tissue's range, in place.

    Intensities that were normalized inside the brain (z-scores) leave 0 outside it, which is then a medium gray. Air is
    taken to be one value that most of the slices' borders have, where at least a twentieth of everything else is darker
    and a twentieth brighter.

    Args:
        values: Finite float32 ``(S, H, W)``.

    Returns:
        Whether there was such air.
    """
    edges = [values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]]
    border = np.concatenate([e.ravel() for e in edges])
    found, counts = np.unique(border[:: max(1, border.size // 100_000)], return_counts=True)
    air = found[counts.argmax()]
    if (border == air).mean() < 0.5:
        return False
    sample = values.reshape(-1)[:: max(1, values.size // SAMPLE)]
    tissue = sample[sample != air]
    if not tissue.size or not 0.05 <= (tissue < air).mean() <= 0.95:
        return False
    from scipy.ndimage import label  # type: ignore[attr-defined]

    darkest = float(values.min())
    for plane in values:  # by slices: what is joined to a slice's border, so that tissue of that value stays
        labels, _ = label(plane == air)
        touching = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        plane[np.isin(labels, touching[touching > 0])] = darkest
    return True


AIR_NOTE = "Its background lies amid the grays of the tissue, as after scaling inside the brain; it is taken for air."


def replace_non_numbers(values: np.ndarray) -> int:
    """Replace NaN and what is beyond LARGEST by the lowest other value, in place, plane by plane along the first axis.

    Returns:
        How many there were; ``values.size`` means that nothing else is there, and nothing was replaced.
    """
    low = min((float(p[_usable(p)].min()) for p in values if _usable(p).any()), default=None)
    if low is None:
        return int(values.size)
    count = 0
    for plane in values:
        bad = ~_usable(plane)
        if bad.any():
            count += int(bad.sum())
            plane[bad] = low
    return count


def _usable(values: np.ndarray) -> np.ndarray:
    return np.abs(values) <= LARGEST  # False for NaN
