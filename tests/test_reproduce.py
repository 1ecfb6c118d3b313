"""Running a claim again: splits, scores by hand, and the page, on phantoms."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from neurovision.cli import app
from neurovision.errors import DataError, ModelError
from neurovision.evaluation import reproduce as module
from neurovision.evaluation.reproduce import DOCUMENTS, SHOWN, binned_auc, pooled, read, render, reproduce, slice_scores
from neurovision.scan.phantom import phantom
from neurovision.training import trial
from neurovision.training.claims import CLAIMS, Budget, claim
from neurovision.training.dataset import load_index
from neurovision.training.fit_classifier import RECIPES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen phantoms in four folds, as figshare (with masks), navoneel (without) and a set of one's own (both)."""
    root = tmp_path_factory.mktemp("data")
    for source in ("figshare", "navoneel", "clinic"):
        for part in ("images", "masks"):
            (root / source / part).mkdir(parents=True)
        with (root / source / "index.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "image", "label", "fold", "tumor", "mask"])
            for k in range(16):
                kind = "glioma" if source == "figshare" or k % 8 < 4 else "healthy"
                study, truth = phantom(kind, k, 96)
                Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8)).save(root / source / "images" / f"{k}.png")
                Image.fromarray(np.where(truth > 1, 255, 0).astype(np.uint8)).save(root / source / "masks" / f"{k}.png")
                label = kind if source == "figshare" else "tumor" if kind == "glioma" else "none"
                mask = f"masks/{k}.png" if source == "figshare" or (source == "clinic" and k >= 4) else ""
                rows.writerow([k, f"images/{k}.png", label, 1 + k % 4, int(label != "none"), mask])
    return root


def test_claims_are_complete() -> None:
    names = [c.name for c in CLAIMS]
    assert len(set(names)) == len(names) and {c.document for c in CLAIMS} == set(DOCUMENTS)
    from neurovision import classifiers, segmenters

    for c in CLAIMS:
        assert "patients" in c.splits and all(0 <= v <= 1 for v in c.claimed.values())
        assert set(c.claimed) <= set(SHOWN["classifier" if c.kind == "classifier" else "segmenter"])
        assert c.against is None or names.index(c.against) < names.index(c.name)
        if c.kind == "classifier":
            assert classifiers.card(RECIPES[c.model].name)
        elif c.kind == "segmenter":
            assert c.full.size == segmenters.card(c.model).size or c.source == "lgg"
        else:
            assert all(claim(m).kind == "segmenter" for m in c.model.split("+"))
    with pytest.raises(ModelError, match="e-custom-cnn"):
        claim("nope")


def test_deeplab_schedules_are_the_documents() -> None:
    def listed(version: int) -> tuple[float, ...]:
        s = claim(f"b-deeplabv3plus-v{version}").schedule
        assert s is not None
        return (s.epochs, s.rate, s.decay, s.weight_decay, s.patience or 0)

    assert [listed(v) for v in (1, 2, 3)] == [
        (10, 1e-4, 1, 0, 0), (100, 1e-4, 0.9, 0.01, 5), (100, 1e-5, 0.99, 0.001, 5)
    ]  # fmt: skip


def test_splits(prepared: Path) -> None:
    items = load_index(prepared, ["figshare"], trial.FOLDS)
    training, validation, test = trial.split_items(items, "patients", Budget(64))
    assert [{i.fold for i in part} for part in (training, validation, test)] == [{1, 2}, {3}, {4}]
    parts = trial.split_items(items, "slices", Budget(64))
    assert [len(p) for p in parts] == [11, 3, 2]
    assert len({i.id for p in parts for i in p}) == 16 and {i.fold for i in parts[0]} == {1, 2, 3, 4}
    cut = trial.split_items(items, "patients", Budget(64, scans=3, tests=2))
    assert [len(p) for p in cut] == [3, 1, 2] and cut[0] == training[:3]
    with pytest.raises(DataError, match="folds 1 to 4"):
        trial.split_items([i for i in items if i.fold < 3], "patients", Budget(64))


def test_scores_by_hand() -> None:
    counts = np.array([[3, 1, 2, 94], [0, 4, 0, 96]], float)
    found = pooled(counts, np.array([[1, 1], [1, 0]], float))
    assert found["dice"] == pytest.approx([6 / (6 + 5 + 2), 6 / 9]) and found["iou"] == pytest.approx([0.3, 0.5])
    assert found["accuracy"] == pytest.approx([193 / 200, 0.97]) and found["recall"] == pytest.approx([0.6, 0.6])
    assert found["binary_iou"] == pytest.approx([(0.3 + 190 / 197) / 2, (0.5 + 94 / 97) / 2])
    each = slice_scores(counts, "segmenter")
    assert each[0] == pytest.approx(6 / 9) and np.isnan(each[1])
    assert slice_scores(np.array([[1, 0, 0, 0], [0, 1, 0, 0.0]]), "classifier").tolist() == [1, 0]


def test_tally_and_its_auc_equal_those_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    truth, probability = rng.random((4, 50)) < 0.3, np.round(rng.random((4, 50)), 2) * 0.99
    counts, positive, negative = trial._tally(truth, probability, 0.5)
    assert counts.sum(1).tolist() == [50] * 4 and counts[:, 0].sum() == (truth & (probability >= 0.5)).sum()
    found = binned_auc(positive, negative, np.array([[1, 1, 1, 1], [2, 0, 0, 1.0]]))
    assert found[0] == pytest.approx(roc_auc_score(truth.ravel(), probability.ravel()), abs=2e-3)
    rows = [0, 0, 3]
    assert found[1] == pytest.approx(roc_auc_score(truth[rows].ravel(), probability[rows].ravel()), abs=2e-3)


@pytest.mark.slow
def test_claims_run_are_kept_and_rendered(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cnn = replace(claim("e-custom-cnn"), small=Budget(32, {"width": 2}, epochs=1, tuning=1))
    unet = replace(claim("a-unet"), small=Budget(32, {"width": 2}, scans=4, tests=4, epochs=1))
    vote = replace(claim("a-vote"), model="a-unet+a-unet", small=Budget(32, scans=4, tests=4), against="a-unet")
    claims = (cnn, unet, vote)
    monkeypatch.setattr("neurovision.training.claims.CLAIMS", claims)
    monkeypatch.setattr(module, "CLAIMS", claims)
    monkeypatch.setattr(module, "_pointing", lambda *_: {"scans": 1, "hits": 0.0, "share": 0.1, "chance": 0.1})
    results, page, runs = tmp_path / "r.jsonl", tmp_path / "r.md", tmp_path / "runs"
    names = [c.name for c in claims]
    reproduce(names, prepared, runs, results, page, splits=["patients"])
    reproduce(["e-custom-cnn"], prepared, runs, results, page, splits=["copies"])
    lines = read(results)
    assert [r["name"] for r in lines] == [*names, "e-custom-cnn"]
    assert lines[0]["training"] == 8 and lines[0]["scans_seen"] == 16 and lines[3]["training"] == 26
    assert set(lines[1]["scores"]) == set(SHOWN["segmenter"])
    assert lines[2]["against"]["name"] == "a-unet" and lines[2]["n"] == 4 and lines[2]["against"]["difference"]["n"] <= 4
    text = page.read_text()
    assert "| Custom CNN | by patient | small | 8 | 4 | accuracy | 0.752 |" in text and "shuffled copies" in text
    reproduce(names, prepared, runs, results, page, splits=["patients"])  # nothing is left to do
    assert len(read(results)) == len(lines)
    with pytest.raises(DataError, match="run it first"):
        reproduce(["a-vote"], prepared, tmp_path / "other", results, page, splits=["slices"])


@pytest.mark.slow
def test_a_data_set_of_ones_own_takes_the_place_of_the_documents(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scans whose tumors nobody drew train and test a classifier only, and the documents' own results stay as they are."""
    cnn = replace(claim("e-custom-cnn"), small=Budget(32, {"width": 2}, epochs=1, tuning=1))
    unet = replace(claim("a-unet"), small=Budget(32, {"width": 2}, epochs=1))
    vote = replace(claim("a-vote"), model="a-unet+a-unet", small=Budget(32), against=None)
    monkeypatch.setattr("neurovision.training.claims.CLAIMS", (cnn, unet, vote))
    monkeypatch.setattr(module, "CLAIMS", (cnn, unet, vote))
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "e-custom-cnn", "a-unet", "a-vote", "--data", str(prepared), "--split", "patients"]
    done = CliRunner().invoke(app, [*words, "--source", "clinic"])
    assert done.exit_code == 0, done.output
    own = tmp_path / "runs" / "reproduce" / "clinic"
    lines = read(own / "reproduction.jsonl")
    assert [(r["name"], r["source"], r["n"]) for r in lines] == [
        ("e-custom-cnn", "clinic", 4), ("a-unet", "clinic", 3), ("a-vote", "clinic", 3)
    ]  # fmt: skip
    assert lines[0]["pointing"]["scans"] == 1 and lines[1]["training"] == 6
    assert "on the data set clinic" in (own / "reproduction.md").read_text() and not (tmp_path / "docs").exists()


def test_the_page_is_what_its_results_say() -> None:
    lines = read(ROOT / "docs" / "reproduction.jsonl")
    assert (ROOT / "docs" / "reproduction.md").read_text() == render(lines)
    assert json.dumps(lines).find("TCGA") < 0  # no patient's identifier
