"""Several heads in one picture are not read as one."""

from __future__ import annotations

import numpy as np
import pytest
from standin import standin

from neurovision.scan.montage import heads_of
from neurovision.scan.phantom import KINDS, phantom, phantom_volume
from neurovision.scan.study import Source, Study


def film(rows: int, columns: int, gap: int = 0, ground: float = 0.0, left_out: int = 0) -> np.ndarray:
    """Panels of one head's slices; the last ones stay empty."""
    slices = phantom_volume("glioma", 2, 96, rows * columns + 4)[0]
    panels = [np.pad(slices.gray(k + 2), gap, constant_values=ground) for k in range(rows * columns)]
    for k in range(left_out):
        panels[-1 - k] = np.full_like(panels[0], ground)
    lines = [np.concatenate(panels[r * columns : (r + 1) * columns], 1) for r in range(rows)]
    return np.concatenate(lines, 0).astype(np.float32)


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (1, 2), (2, 1), (3, 3), (1, 3), (5, 5)])
@pytest.mark.parametrize("gap", [0, 6, 60])  # the last as of heads without a skull, amid their panels
def test_heads_are_counted(rows: int, columns: int, gap: int):
    assert heads_of(film(rows, columns, gap)) == (rows, columns)


def test_a_row_may_be_half_empty():
    assert heads_of(film(3, 3, left_out=2)) == (3, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_one_head_is_one(kind: str):
    for seed in range(4):
        assert heads_of(phantom(kind, seed)[0].gray()) == (1, 1)


def test_two_lobes_without_a_skull_are_one_head():
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    lobes = (np.hypot((np.abs(x) - 0.35) / 0.22, y / 0.3) < 1).astype(np.float32)
    assert heads_of(lobes) == (1, 1)


def test_a_montage_is_refused_with_a_sentence():
    pixels = film(2, 2, 4)[None, ..., None]
    found = standin().analyze(Study(pixels, Source("film.png", "PNG")))
    assert found.status == "rejected" and "several heads (2 x 2)" in str(found.reason)


def test_real_scans_show_one_head(scans):
    from neurovision.training.dataset import load_index

    assert np.mean([heads_of(i.gray()) == (1, 1) for i in load_index(scans)[::97]]) > 0.99
