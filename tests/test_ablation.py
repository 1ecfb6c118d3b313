"""The ablation table on tiny arrays: one member that sees the tumor, one that guesses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neurovision.errors import DataError
from neurovision.evaluation.ablation import EVERYTHING, FITTED, PLAIN, SOFTMAX, draw, measure, summarize, to_markdown
from neurovision.training.dataset import Item
from neurovision.training.observed import Observed, Pixels, Scenes, sample

SIZE, SLICES = 24, 24
NAMES = ("unet", "dgnet")


def softmax_of(tumor, kind):
    """Probabilities ``(H, W, 5)`` that put the rest on head."""
    found = np.zeros((*tumor.shape, 5), np.float32)
    found[..., kind], found[..., 1] = tumor, 1 - tumor
    return found


@pytest.fixture(scope="module")
def fold():
    """Two data sets, two slices a patient; the first member is nearly right, the second says noise."""
    rng = np.random.default_rng(0)
    items, labels, softmax = [], np.zeros((SLICES, SIZE, SIZE), np.uint8), []
    for k in range(SLICES):
        source, kind = (("figshare", 2), ("lgg", 3))[k % 2]
        labels[k, 2:-2, 2:-2] = 1
        labels[k, 6 : 10 + k % 5, 6:14] = kind
        right = np.clip((labels[k] > 1) * 0.8 + rng.normal(0.1, 0.05, (SIZE, SIZE)), 0, 1)
        softmax.append([softmax_of(right, kind), softmax_of(rng.random((SIZE, SIZE)), kind)])
        items.append(Item(source, str(k), Path(), Path(), "glioma", 3, f"p{k // 4}", "FLAIR"))
    maps, scenes = np.float16(softmax), Scenes(rng.random((SLICES, SIZE, SIZE)).astype(np.float32), labels, None)
    rows = [sample(maps[k].astype(np.float32), labels[k], scenes[k], rng, k) for k in range(SLICES)]
    pixels = Pixels(*(np.concatenate(part) for part in zip(*rows, strict=True)))
    empty = np.zeros((SLICES, 0))
    return Observed(pixels, maps, scenes, labels, empty, None, None), items


def test_every_way_is_measured_on_the_same_slices(fold, tmp_path):
    observed, items = fold
    chosen, lines = measure(observed, items, NAMES, every=1)
    fitted = [(name, crossed) for name in (FITTED, SOFTMAX, EVERYTHING) for crossed in (False, True)]
    assert [(line.name, line.crossed) for line in lines] == [("unet", None), ("dgnet", None), (PLAIN, None), *fitted]
    found = {(s["name"], s["cross_fitted"]): s for s in summarize(chosen, lines)}
    dice = {way: s["on"]["all"]["dice"]["value"] for way, s in found.items()}
    assert dice["unet", None] > 0.9 > 0.5 > dice["dgnet", None], "truth with noise against noise"
    assert dice[FITTED, True] > dice[PLAIN, None] and dice[EVERYTHING, True] > 0.9
    shipped = found[EVERYTHING, True]["on"]
    assert set(shipped) == {"all", "figshare", "lgg"} and shipped["figshare"]["difference"]["value"] == 0
    one = found["dgnet", None]["on"]["lgg"]
    assert one["dice"]["n"] == 12 and one["dice"]["clusters"] == 6 and one["dice"]["low"] < one["dice"]["high"]
    assert one["difference"]["value"] == pytest.approx(one["dice"]["value"] - shipped["lgg"]["dice"]["value"], abs=1e-5)
    assert one["difference"]["high"] < 0 and one["wilcoxon_p"] < 0.05
    result = {"about": {"folds": [3], "every": 1, "trial": False}, "lines": json.loads(json.dumps(list(found.values())))}
    page = to_markdown(result)
    assert page.count("trees on everything, cross-fitted, shipped") == 1, "it is not compared with itself"
    assert "12 of 6 patients" in page and "A trial" not in page
    assert draw(result, tmp_path / "ablation.png").stat().st_size > 5000


def test_a_block_without_tumors_is_refused(fold):
    observed, items = fold
    with pytest.raises(DataError, match="needs an annotated tumor slice"):
        measure(observed, items, NAMES, every=SLICES)
