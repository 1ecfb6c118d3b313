"""Searching settings: both kinds, resumed, in a table; and one real trial."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurovision.errors import ModelError
from neurovision.training.fit_classifier import Labeled
from neurovision.training.search import COLUMNS, GRID, RATES, SPACE, classifier_trial, search

pytest.importorskip("optuna", reason="needs the extra 'search'")


class Asked:
    """Remembers what it was asked; likes rates near 1e-3 and dropout 0.2."""

    def __init__(self) -> None:
        self.settings: list[dict[str, Any]] = []

    def __call__(self, chosen: dict[str, Any]) -> dict[str, float]:
        self.settings.append(chosen)
        return {"auc": 1 - abs(np.log10(chosen["rate"]) + 3) / 4 - chosen["dropout"] / 10, "accuracy": 0.5}


def test_the_space_is_the_documents() -> None:
    assert RATES == (1e-5, 1e-2) and set(SPACE["optimizer"]) == {"adam", "rmsprop", "sgd"}
    assert SPACE["dropout"] == (0.2, 0.3, 0.4, 0.5) and SPACE["dense"] == (128, 256, 512) and SPACE["batch"] == (16, 32, 64)
    assert set(SPACE["loss"]) == {"dice", "bce", "focal"}
    assert np.prod([len(v) for v in GRID.values()]) == 1296


@pytest.mark.parametrize("how", ["random", "grid"])
def test_a_stopped_search_goes_on_and_repeats_nothing(how: str, tmp_path: Path) -> None:
    first, second = Asked(), Asked()
    search(first, tmp_path, how, trials=3)
    page = search(second, tmp_path, how, trials=8)
    assert (len(first.settings), len(second.settings)) == (3, 5)
    tried = [tuple(s.values()) for s in first.settings + second.settings]
    assert len(set(tried)) == 8
    for setting in first.settings + second.settings:
        assert RATES[0] <= setting["rate"] <= RATES[1] and all(setting[k] in v for k, v in SPACE.items())
    with (tmp_path / "search.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 8
    values = [float(r["auc"]) for r in rows]
    assert values == sorted(values, reverse=True) and float(rows[0]["accuracy"]) == 0.5
    assert len(page.read_text().splitlines()) == 10
    third = Asked()
    search(third, tmp_path, how, trials=8)
    assert not third.settings


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModelError, match=r"neurovision\[search\]"):
        search(Asked(), tmp_path)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'random' or 'grid'"):
        search(Asked(), tmp_path, "clever")
    search(Asked(), tmp_path, trials=1, settings={"size": 64})
    with pytest.raises(ModelError, match="other settings"):
        search(Asked(), tmp_path, trials=2, settings={"size": 96})


def test_one_trial_trains_and_scores() -> None:
    rng = np.random.default_rng(0)
    tumor = np.arange(12) % 2 == 0
    pixels = rng.uniform(0, 0.3, (12, 32, 32)).astype(np.float32)
    pixels[tumor, 8:16, 8:16] = 1
    scans = Labeled(pixels, tumor)
    setting = {"rate": 1e-3, "optimizer": "rmsprop", "dropout": 0.2, "dense": 128, "batch": 16, "loss": "focal"}
    scores = classifier_trial(scans, scans, epochs=1, encoder="efficientnetlite0", weights=None)(setting)
    assert set(scores) == {"auc", "accuracy"} and all(0 <= v <= 1 for v in scores.values())
