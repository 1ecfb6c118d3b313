"""K-means, its scores, watershed and snakes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from neurovision.errors import ModelError
from neurovision.scan import clusters
from neurovision.scan.phantom import phantom


@pytest.fixture(scope="module")
def gray() -> np.ndarray:
    return phantom("glioma", 3)[0].gray()


def test_pixel_table_by_hand() -> None:
    table = clusters.pixel_table(np.array([[0.02, 0.2], [0.4, 1.0]], np.float32), size=2)
    assert table == pytest.approx(np.array([[0, 0, 0], [1, 0, 51], [0, 1, 102], [1, 1, 255]], float), abs=1e-4)


def test_two_halves_by_hand() -> None:
    """Two even halves of 2 x 4 pixels: every sum can be worked out."""
    picture = np.zeros((4, 4), np.float32)
    picture[:, 2:] = 1.0
    found = clusters.cluster(picture, k=2, size=4)
    assert (found.labels == (picture > 0)).all()
    assert found.intensity.tolist() == [0.0, 255.0] and found.area.tolist() == [8, 8]
    # within: x differs by 0.5 from its center for all 16 pixels, y by 1.5 or 0.5 for 8 each
    assert found.wcss == pytest.approx(16 * 0.25 + 8 * 2.25 + 8 * 0.25)
    # between: each center is 1 pixel in x and 127.5 in intensity from the mean
    assert found.bcss == pytest.approx(16 * (1 + 127.5**2))


def test_scores_agree_with_scikit_learn(gray: np.ndarray) -> None:
    from sklearn.metrics import calinski_harabasz_score, silhouette_score

    table = clusters.pixel_table(gray, 32)
    total = ((table - table.mean(0)) ** 2).sum()
    scores = clusters.score_clusters(gray, ks=(2, 5, 10), size=32, sample=32 * 32)
    for score in scores:
        labels = clusters.cluster(gray, score.k, 32).labels.ravel()
        assert score.wcss + score.bcss == pytest.approx(total)
        assert score.calinski_harabasz == pytest.approx(calinski_harabasz_score(table, labels))
        assert score.silhouette == pytest.approx(silhouette_score(table, labels))
    assert scores[0].wcss > scores[1].wcss > scores[2].wcss


def test_labels_rise_with_intensity_and_repeat(gray: np.ndarray) -> None:
    found = clusters.cluster(gray, 10)
    assert found.labels.shape == (128, 128) and found.labels.max() == 9
    assert (np.diff(found.intensity) >= 0).all() and found.area.sum() == 128 * 128
    assert np.array_equal(found.labels, clusters.cluster(gray, 10).labels)


def test_without_position_clusters_are_intensity_bands(gray: np.ndarray) -> None:
    found = clusters.cluster(gray, 4, position=0.0)
    values = clusters.pixel_table(gray)[:, 2]
    bands = [values[found.labels.ravel() == c] for c in range(4)]
    assert all(a.max() <= b.min() for a, b in pairwise(bands))


def test_mean_scores() -> None:
    one, two = clusters.ClusterScore(2, 4.0, 8.0, 0.5, 100.0), clusters.ClusterScore(2, 2.0, 4.0, 0.25, 50.0)
    assert clusters.mean_scores([[one], [two]]) == (clusters.ClusterScore(2, 3.0, 6.0, 0.375, 75.0),)
    with pytest.raises(ModelError, match="same numbers"):
        clusters.mean_scores([[one], []])


def test_ten_clusters_take_the_ten_colors() -> None:
    labels = np.arange(10).reshape(2, 5)
    assert clusters.paint_clusters(labels, 10).reshape(-1, 3).tolist() == [list(c) for c in clusters.COLORS]
    assert clusters.paint_clusters(np.arange(4)[None], 4)[0].tolist() == [list(clusters.COLORS[i]) for i in (0, 3, 6, 9)]
    assert len(np.unique(clusters.paint_clusters(np.arange(20)[None], 20)[0], axis=0)) == 20


@pytest.mark.parametrize("k", [1, 21])
def test_numbers_out_of_range_are_refused(gray: np.ndarray, k: int) -> None:
    with pytest.raises(ModelError, match=f"received {k}"):
        clusters.cluster(gray, k)
    with pytest.raises(ModelError, match=f"received {k}"):
        clusters.score_clusters(gray, [k])


def test_watershed_covers_the_head_and_nothing_else(gray: np.ndarray) -> None:
    from neurovision.scan.prepare import head_mask

    regions = clusters.watershed_regions(gray)
    head = head_mask(gray)
    assert head is not None and np.array_equal(regions > 0, head)
    assert np.array_equal(np.unique(regions), np.arange(regions.max() + 1)) and regions.max() > 10


def test_snake_leaves_the_scalp_outside() -> None:
    study, truth = phantom("healthy", 2)
    inside = clusters.snake(study.gray())
    head = truth > 0
    rows, columns = np.nonzero(head)
    center = (int(rows.mean()), int(columns.mean()))
    assert inside[center[0] - 30, center[1]] and not inside[~head].any()
    assert 0.5 < inside.sum() / head.sum() < 0.9
    with pytest.raises(ModelError, match="chan-vese"):
        clusters.snake(study.gray(), "worm")
