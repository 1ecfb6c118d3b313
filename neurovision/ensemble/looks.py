"""How the networks look at a canvas: twice, the whole of it and then closer; the classifier at it and its mirror image."""

from __future__ import annotations

import cv2
import numpy as np

from neurovision.classes import FIRST_TUMOR
from neurovision.ensemble.engine import Engine
from neurovision.scan.prepare import standardize

CLOSER = 1.5  # so many times the second look enlarges
RIM = 0.04  # of the canvas' side: within so much of its window's edge the second look counts less and less


def look_twice(engine: Engine, canvases: np.ndarray) -> np.ndarray:
    """Mean softmax of two looks: at whole canvases, and at the mirror image of what is most suspect of each, enlarged.

    From coarse to fine, as in cascades (Roth 2017, arXiv 1704.06382), with two changes: both looks are the same networks',
    which were trained on enlarged scans too, and where the second does not see, the first holds alone. Chosen on the vote's
    fold, which no member saw, over a second look at the whole mirror image.

    Args:
        engine: Runs the members.
        canvases: float32 ``(N, size, size)``, standardized.

    Returns:
        float32 ``(M, N, size, size, K)``, in memory ``(N, M, K, size, size)``.
    """
    size = canvases.shape[1]
    first = engine.predict(canvases)
    windows = [window(tumor, size) for tumor in first[..., FIRST_TUMOR:].sum(-1).mean(0)]
    near = np.stack([standardize(enlarged(c[w], size)[:, ::-1]) for c, w in zip(canvases, windows, strict=True)])
    second = engine.predict(near)
    planes = np.ascontiguousarray(first.transpose(1, 0, 4, 2, 3))
    closer = np.ascontiguousarray(second.transpose(1, 0, 4, 2, 3))
    share = _share(round(size / CLOSER), max(1, round(RIM * size)))
    for n, place in enumerate(windows):
        for one, other in zip(planes[n].reshape(-1, size, size), closer[n].reshape(-1, size, size), strict=True):
            seen = one[place]
            seen += share * (cv2.resize(other, share.shape)[:, ::-1] - seen)
    return planes.transpose(1, 0, 3, 4, 2)


def window(tumor: np.ndarray, size: int) -> tuple[slice, slice]:
    """Rows and columns that the second look sees: a square of ``size / CLOSER`` about what is most suspect.

    Args:
        tumor: ``(size, size)``, the first look's mean probability of a tumor.
        size: Of the canvas.

    Returns:
        About the middle of the canvas where nothing is suspect; never beyond it.
    """
    side = round(size / CLOSER)
    weight = tumor.astype(np.float64) ** 4 + 1e-6  # haze over half of the head counts less than one small tumor
    places = np.arange(size)
    middles = (weight.sum(1) @ places / weight.sum(), weight.sum(0) @ places / weight.sum())
    starts = [min(max(round(m - (side - 1) / 2), 0), size - side) for m in middles]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def enlarged(part: np.ndarray, size: int) -> np.ndarray:
    """A part of a canvas on a whole one."""
    return cv2.resize(np.ascontiguousarray(part), (size, size))


def _share(side: int, rim: int) -> np.ndarray:
    """How much the second look counts, float32 ``(side, side)``: half, and less near the edge of its window."""
    ramp = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)) / (rim + 1)
    weight = np.minimum(1, np.minimum.outer(ramp, ramp))
    return (weight / (1 + weight)).astype(np.float32)


def classify_both_ways(engine: Engine, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """:meth:`Engine.classify`, mean of canvases and of their mirror images."""
    both = engine.classify(np.concatenate([canvases, canvases[:, :, ::-1]]))
    answers, features = ((part[: len(canvases)] + part[len(canvases) :]) / 2 for part in both)
    return answers, features
