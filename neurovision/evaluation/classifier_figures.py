"""History, confusion matrix and ROC of a classifier that ``neurovision fit-classifier`` trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from sklearn import metrics

from neurovision.ensemble.classify import FILE
from neurovision.errors import WeightsMissing
from neurovision.evaluation.figures import PALETTE, _axes, _save
from neurovision.evaluation.scores import auc


def draw_classifier(folder: Path) -> list[Path]:
    """Draw ``training_history.png``, ``confusion_matrix.png`` and ``roc_curve.png`` beside ``classifier.json``.

    Matrix and curve are of the validation fold, on which the threshold was chosen too: they flatter.

    Raises:
        WeightsMissing: The folder holds no finished classifier.
    """
    if not (folder / FILE).is_file() or not (folder / "validation.csv").is_file():
        raise WeightsMissing(f"No finished classifier is in {folder.name}/; train one with 'neurovision fit-classifier'.")
    threshold = float(json.loads((folder / FILE).read_text())["threshold"])
    truth, probability = np.loadtxt(folder / "validation.csv", delimiter=",", skiprows=1, unpack=True, ndmin=2)
    return [
        _history(folder),
        _confusion(truth > 0, probability >= threshold, folder / "confusion_matrix.png"),
        _roc(truth > 0, probability, threshold, folder / "roc_curve.png"),
    ]


def _history(folder: Path) -> Path:
    import pandas as pd

    stages = [pd.read_csv(f) for f in sorted(folder.glob("phase*/history.csv"))]
    history = pd.concat(stages, ignore_index=True)
    figure, axes = _axes(3, 3.6, 3.0)
    for axis, key in zip(axes, ("loss", "accuracy", "auc"), strict=True):
        axis.plot(history.index + 1, history[key], color=PALETTE[0], label="training")
        axis.plot(history.index + 1, history[f"val_{key}"], color=PALETTE[1], label="validation")
        for end in np.cumsum([len(s) for s in stages])[:-1]:
            axis.axvline(end + 0.5, color="#bbbbbb", lw=0.8)  # a new stage begins
        axis.set(xlabel="epoch", ylabel=key)
    axes[0].legend(fontsize=8)
    return _save(figure, folder / "training_history.png")


def _confusion(truth: np.ndarray, said: np.ndarray, path: Path) -> Path:
    counts = metrics.confusion_matrix(truth, said, labels=[False, True])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, (axis,) = _axes(1, 3.4, 3.2)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), n in np.ndenumerate(counts):
        axis.text(j, i, str(n), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
    axis.set_xticks([0, 1], ["no tumor", "tumor"])
    axis.set_yticks([0, 1], ["no tumor", "tumor"])
    axis.set(xlabel="said", ylabel="labeled", title=f"n = {len(truth)}")
    return _save(figure, path)


def _roc(truth: np.ndarray, probability: np.ndarray, threshold: float, path: Path) -> Path:
    false, true, _ = metrics.roc_curve(truth, probability)
    said = probability >= threshold
    figure, (axis,) = _axes(1, 3.6, 3.4)
    axis.plot(false, true, color=PALETTE[0], label=f"AUC {auc(truth, probability):.3f}, n = {len(truth)}")
    axis.plot(said[~truth].mean(), said[truth].mean(), "o", color=PALETTE[0], label=f"threshold {threshold:.2f}")
    axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=0.8)
    axis.set(xlabel="tumor-free scans called tumor", ylabel="tumor scans called tumor")
    axis.legend(loc="lower right", fontsize=8)
    return _save(figure, path)
