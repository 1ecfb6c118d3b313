"""Several heads in one picture: a film of panels, a scanner's mosaic, three views side by side."""

from __future__ import annotations

import numpy as np

from neurovision.scan.prepare import foreground

GAP = 0.02  # of a line that may stand out where it runs between two heads
FILLED = 0.5  # of its panel that a head reaches across, at least, in either direction
SMALL = 0.25  # the same of heads without a skull, which lie amid their panels: see CENTERED
CENTERED = 0.12  # of its panel that a head's middle lies beside the panel's, at most
COVERED = 0.3  # of the box around it that a head covers, at least
PANELS = 0.6  # of the panels that show a head, at least: the last row may be half empty


def heads_of(gray: np.ndarray) -> tuple[int, int]:
    """Count the heads in a picture.

    They stand in rows and columns of about one size with air between them, and each fills most of its panel or lies in
    its middle, as parts of one head (two temporal lobes without a skull) do not.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].

    Returns:
        ``(rows, columns)`` of heads; ``(1, 1)`` of a picture of one, or of none.
    """
    mask = foreground(gray)
    rows, columns = _bands(mask.mean(1)), _bands(mask.mean(0))
    if len(rows) * len(columns) < 2:
        return (1, 1)
    if not all(_regular(bands, side) for bands, side in ((rows, mask.shape[0]), (columns, mask.shape[1]))):
        return (1, 1)
    covered = [mask[top:bottom, left:right].mean() for top, bottom in rows for left, right in columns]
    return (len(rows), len(columns)) if np.mean(np.array(covered) >= COVERED) >= PANELS else (1, 1)


def _regular(bands: list[tuple[int, int]], side: int) -> bool:
    """Whether runs of lines are what panels of one size show."""
    panel = side / len(bands)
    narrowest = min(end - start for start, end in bands)
    beside = max(abs((start + end) / 2 - (k + 0.5) * panel) for k, (start, end) in enumerate(bands))
    return narrowest >= FILLED * panel or (narrowest >= SMALL * panel and beside <= CENTERED * panel)


def _bands(share: np.ndarray) -> list[tuple[int, int]]:
    """Runs of lines that show something, without those far thinner than the widest: letters, scales."""
    shown = np.concatenate([[False], share > GAP, [False]])
    edges = np.flatnonzero(shown[1:] != shown[:-1])
    runs = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    widest = max((b - a for a, b in runs), default=0)
    return [(a, b) for a, b in runs if b - a >= 0.6 * widest]
