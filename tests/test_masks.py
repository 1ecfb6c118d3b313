"""Ground-truth masks are understood as what they are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from neurovision.scan.masks import read_mask
from neurovision.scan.phantom import phantom


def saved(folder: Path, values: np.ndarray) -> Path:
    cv2.imwrite(str(folder / "m.png"), values.astype(np.uint8))
    return folder / "m.png"


@pytest.mark.parametrize("known", [True, False])
def test_a_label_map_without_a_tumor_has_none(tmp_path: Path, known: bool):
    truth = phantom("healthy", 3)[1]  # 0 air, 1 head
    read = read_mask(saved(tmp_path, truth), truth.shape, int((truth > 0).sum()) if known else None)
    assert not read.tumor.any() and "no tumor" in read.meaning


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_of_two_values_is_a_mask(tmp_path: Path, value: int):
    truth = phantom("glioma", 3)[1]
    read = read_mask(saved(tmp_path, (truth > 1) * value), truth.shape, int((truth > 0).sum()))
    assert np.array_equal(read.tumor, truth > 1)


def test_a_label_map_with_a_tumor(tmp_path: Path):
    truth = phantom("meningioma", 3)[1]
    assert np.array_equal(read_mask(saved(tmp_path, truth), truth.shape).tumor, truth > 1)
