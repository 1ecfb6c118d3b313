"""Unsupervised looks at a slice: K-means on position and intensity, watershed, morphological snakes.

They find areas, not diagnoses: nothing here knows what a tumor is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np

from neurovision.errors import ModelError
from neurovision.scan.prepare import head_mask

SIZE = 128
BLACK = 0.05  # intensities below count as exactly black, so that noise in air makes no clusters of its own
KS = tuple(range(2, 21))
SNAKES = ("chan-vese", "geodesic")

# By rising mean intensity: black, purple, blue, cyan, light blue, green, yellow, pink, orange, red.
COLORS = (
    (0, 0, 0), (128, 0, 128), (0, 0, 255), (0, 255, 255), (173, 216, 230),
    (0, 128, 0), (255, 255, 0), (255, 192, 203), (255, 165, 0), (255, 0, 0),
)  # fmt: skip


@dataclass(frozen=True)
class Clusters:
    """One K-means partition of a slice.

    Attributes:
        labels: uint8 ``(size, size)``, 0 is the darkest cluster.
        intensity: float64 ``(k,)``, mean intensity of each cluster from 0 to 255, rising.
        area: int64 ``(k,)``, pixels of each cluster on the grid.
        wcss: Sum of squared distances to the own center, within clusters.
        bcss: Sum of squared distances from the centers to the overall mean, each times its cluster's pixels.
    """

    labels: np.ndarray
    intensity: np.ndarray
    area: np.ndarray
    wcss: float
    bcss: float


@dataclass(frozen=True)
class ClusterScore:
    """How well one number of clusters fits.

    Attributes:
        k: Number of clusters.
        wcss: Within-cluster sum of squares; falls with k.
        bcss: Between-cluster sum of squares; wcss + bcss is the same for every k.
        silhouette: Mean silhouette in [-1, 1], higher is better.
        calinski_harabasz: Ratio of the mean squares between and within, higher is better.
    """

    k: int
    wcss: float
    bcss: float
    silhouette: float
    calinski_harabasz: float


def pixel_table(gray: np.ndarray, size: int = SIZE, position: float = 1.0) -> np.ndarray:
    """Each pixel's ``(x, y, intensity)``.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        size: The slice is resized to ``size`` x ``size``.
        position: Weight of x and y; 1 as in the source document, 0 clusters by intensity alone.

    Returns:
        float64 ``(size * size, 3)``, row by row: x and y in pixels of the grid times ``position``, intensity from 0 to
        255, those below BLACK being 0.
    """
    shrinks = min(gray.shape) > size
    small = cv2.resize(gray.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    small = np.where(small < BLACK, 0, small * 255)
    y, x = np.indices((size, size)) * position
    return np.stack([x, y, small], axis=-1).reshape(-1, 3).astype(np.float64)


def cluster(gray: np.ndarray, k: int = 10, size: int = SIZE, position: float = 1.0, seed: int = 0) -> Clusters:
    """Partition a slice by K-means on position and intensity.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        k: Number of clusters, 2 to 20; the source document settled on 10.
        size: Grid.
        position: See :func:`pixel_table`.
        seed: Same seed, same partition.

    Raises:
        ModelError: Another k.
    """
    if not KS[0] <= k <= KS[-1]:
        raise ModelError(f"K-means takes {KS[0]} to {KS[-1]} clusters; received {k}.")
    found = _fit(pixel_table(gray, size, position), k, seed)
    return Clusters(found.labels.reshape(size, size), found.intensity, found.area, found.wcss, found.bcss)


def _fit(table: np.ndarray, k: int, seed: int) -> Clusters:
    from sklearn.cluster import KMeans

    model = KMeans(k, n_init=3, random_state=seed).fit(table)
    order = np.argsort(model.cluster_centers_[:, 2], kind="stable")
    rank = np.empty(k, np.uint8)
    rank[order] = np.arange(k)
    labels = rank[model.labels_]
    centers, area = model.cluster_centers_[order], np.bincount(labels, minlength=k)
    bcss = float((area * ((centers - table.mean(0)) ** 2).sum(1)).sum())
    return Clusters(labels, centers[:, 2], area, float(model.inertia_), bcss)


def score_clusters(
    gray: np.ndarray,
    ks: Iterable[int] = KS,
    size: int = SIZE,
    position: float = 1.0,
    seed: int = 0,
    sample: int = 2000,
) -> tuple[ClusterScore, ...]:
    """Score a range of cluster numbers on one slice.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        ks: Numbers of clusters.
        size: Grid.
        position: See :func:`pixel_table`.
        seed: Of K-means and of the silhouette's sample.
        sample: Pixels that the silhouette, which compares all pairs, is estimated on.

    Raises:
        ModelError: A number below 2 or above 20.
    """
    from sklearn.metrics import silhouette_score

    table = pixel_table(gray, size, position)
    scores = []
    for k in ks:
        if not KS[0] <= k <= KS[-1]:
            raise ModelError(f"K-means takes {KS[0]} to {KS[-1]} clusters; received {k}.")
        c = _fit(table, k, seed)
        silhouette = silhouette_score(table, c.labels, sample_size=min(sample, len(table)), random_state=seed)
        ratio = (c.bcss / (k - 1)) / (c.wcss / (len(table) - k)) if c.wcss else math.inf
        scores.append(ClusterScore(k, c.wcss, c.bcss, float(silhouette), ratio))
    return tuple(scores)


def mean_scores(scores: Sequence[Sequence[ClusterScore]]) -> tuple[ClusterScore, ...]:
    """Average the scores of several slices, number by number.

    Raises:
        ModelError: No slice, or slices scored for different numbers.
    """
    if not scores or any([s.k for s in row] != [s.k for s in scores[0]] for row in scores):
        raise ModelError("Scores are averaged over at least one slice, all scored for the same numbers of clusters.")
    names = [f.name for f in fields(ClusterScore)][1:]
    return tuple(
        ClusterScore(column[0].k, *(float(np.mean([getattr(s, n) for s in column])) for n in names))
        for column in zip(*scores, strict=True)
    )


def paint_clusters(labels: np.ndarray, k: int) -> np.ndarray:
    """Color clusters by rising mean intensity.

    Args:
        labels: ``(H, W)`` of 0 to k - 1, darkest first.
        k: Number of clusters; 10 takes COLORS as they are, other numbers are spread evenly from black to red.

    Returns:
        uint8 ``(H, W, 3)`` RGB.
    """
    at = np.linspace(0, len(COLORS) - 1, k)
    palette = np.stack([np.interp(at, np.arange(len(COLORS)), channel) for channel in np.array(COLORS).T], axis=1)
    return np.rint(palette).astype(np.uint8)[labels]


def watershed_regions(gray: np.ndarray, regions: int = 80) -> np.ndarray:
    """Flood the smoothed slice's gradient from evenly spread places: fairly even areas, as an atlas of the slice.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        regions: Places over the whole picture; fewer lie inside the head.

    Returns:
        int32 ``(H, W)``: 0 outside the head, regions numbered from 1.
    """
    from skimage.filters import sobel
    from skimage.segmentation import relabel_sequential, watershed

    smooth = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), max(1.0, max(gray.shape) / 128))
    labels = watershed(sobel(smooth), markers=regions, mask=head_mask(gray))
    return relabel_sequential(labels)[0].astype(np.int32)


def snake(gray: np.ndarray, kind: str = "chan-vese", iterations: int = 40) -> np.ndarray:
    """Part brain from skull by a morphological snake (Marquez-Neila 2014, doi 10.1109/TPAMI.2013.106).

    The contour starts inside the scalp, 12 % of the head's width from its outline.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        kind: ``"chan-vese"`` parts bright from dark whatever the edges; ``"geodesic"`` grows to the next edge.
        iterations: Steps.

    Returns:
        bool ``(H, W)``, the inside, never outside the head.

    Raises:
        ModelError: An unknown kind.
    """
    from skimage.segmentation import (
        inverse_gaussian_gradient,
        morphological_chan_vese,
        morphological_geodesic_active_contour,
    )

    if kind not in SNAKES:
        raise ModelError(f"A snake is one of {', '.join(SNAKES)}; received {kind!r}.")
    mask = head_mask(gray)
    head = np.ones(gray.shape, bool) if mask is None else mask
    depth = cv2.distanceTransform(np.pad(head, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    start = depth > 0.12 * np.count_nonzero(head.any(0))
    plane = gray.astype(np.float64)
    if kind == "chan-vese":
        inside = morphological_chan_vese(plane, iterations, init_level_set=start, smoothing=3)
    else:
        speed = inverse_gaussian_gradient(plane, alpha=200, sigma=2)
        inside = morphological_geodesic_active_contour(speed, iterations, init_level_set=start, smoothing=1, balloon=1)
    return inside.astype(bool) & head
