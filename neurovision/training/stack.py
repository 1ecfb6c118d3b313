"""Fit the vote and the verdict on a fold that no member has seen, and write ``weights/`` with its manifest."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from neurovision.classes import CLASSES, FIRST_TUMOR
from neurovision.ensemble.engine import variable_key
from neurovision.ensemble.features import disagreement, label_map, pixel_features
from neurovision.ensemble.verdict import FEATURES, verdict_features
from neurovision.errors import DataError, WeightsMissing
from neurovision.scan.prepare import standardize
from neurovision.segmenters import build
from neurovision.training.dataset import Item, load_index, pack
from neurovision.training.fit import phantom_pack

log = logging.getLogger(__name__)

MEMBERS = ("unet", "unetpp", "linknet", "unet_efficientnet", "dgnet")
PIXELS_A_SLICE = 90
# The threshold that serves Dice best is half the Dice that can be reached (Lipton 2014, arXiv 1402.1892), not 0.5;
# weighing tumor pixels by (1 - t) / t puts the vote's 0.5 at t = 0.38.
TUMOR_WEIGHT = 1.6


def stack(
    data: Path, runs: Path, out: Path, vote_fold: int, members: Sequence[str] = MEMBERS, limit: int | None = None
) -> Path:
    """Fit the vote and the verdict, then export everything that serving needs.

    Members must come from finished runs that left out ``vote_fold``: trees fitted on predictions for scans that a
    member was trained on would learn to trust its overfit.

    Args:
        data: The prepared folder.
        runs: Folder of the members' runs.
        out: The weights folder to write.
        vote_fold: The fold that the vote is fitted on.
        members: Names, in the order of the vote's features.
        limit: At most so many scans of each data set, for a trial.

    Returns:
        The manifest's path.

    Raises:
        WeightsMissing: A member has no finished run.
        DataError: A member was trained on ``vote_fold``.
    """
    described = [_run_of(runs / name, vote_fold) for name in members]
    size = int(described[0]["recipe"]["phases"][-1]["size"])
    models = [_trained(name, run, runs / name, size) for name, run in zip(members, described, strict=True)]
    items = load_index(data, described[0]["sources"], [vote_fold], ("FLAIR", "T1c"))
    if limit is not None:
        kept = [[i for i in items if i.source == s] for s in described[0]["sources"]]
        items = [i for group in kept for i in group[:: max(1, len(group) // limit)]]
    pixels, labels = pack(items, size, runs / "cache")
    phantoms, phantom_labels = (a[::5] for a in phantom_pack(size))  # of every kind
    rng = np.random.default_rng(42)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    slices: list[np.ndarray] = []
    for softmax, truth, item in _predictions(models, pixels, labels, items):
        if item.mask is not None or not item.tumor:  # a navoneel tumor has no mask: its pixels teach nothing
            rows.append(_sample(softmax, truth, rng))
        slices.append(_verdict_row(softmax))
    for softmax, truth, _ in _predictions(models, phantoms, phantom_labels, [None] * len(phantoms)):
        rows.append(_sample(softmax, truth, rng))
    features, targets, weights = (np.concatenate(part) for part in zip(*rows, strict=True))
    out.mkdir(parents=True, exist_ok=True)
    vote = _fit_vote(features, targets, weights, out)
    verdict = _fit_verdict(np.stack(slices), items)
    entries = [_export(m, n, r, out) for m, n, r in zip(models, members, described, strict=True)]
    sources = sorted(described[0]["sources"])
    manifest = {
        "size": size,
        "members": entries,
        "vote": vote,
        "verdict": verdict,
        "training": {
            "date": datetime.date.today().isoformat(),
            "sources": sources,
            "member_folds": described[0]["folds"],
            "vote_fold": vote_fold,
            "split": "whole folds by patient; the vote and the verdict saw no scan that a member was trained on",
            "license": "CC BY-NC-SA 4.0" if "lgg" in sources else "CC BY 4.0",
        },
    }
    part = out / "manifest.part"
    part.write_text(json.dumps(manifest, indent=1) + "\n")
    part.rename(out / "manifest.json")
    return out / "manifest.json"


def _run_of(run: Path, vote_fold: int) -> dict[str, Any]:
    if not (run / "final.weights.h5").is_file():
        raise WeightsMissing(f"{run.name} has no finished run; train it with 'neurovision train {run.name}'.")
    described: dict[str, Any] = json.loads((run / "run.json").read_text())
    if vote_fold in described["folds"]:
        raise DataError(f"{run.name} was trained on fold {vote_fold}; the vote needs a fold that no member has seen.")
    return described


def _config(run: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in run["recipe"]["config"].items() if k != "encoder_weights"}


def _trained(name: str, run: dict[str, Any], folder: Path, size: int) -> keras.Model:
    keras.utils.clear_session()
    model = build(name, (size, size, 1), **_config(run))
    model.load_weights(folder / "final.weights.h5")
    return model


def _predictions(models: list[keras.Model], pixels: np.ndarray, labels: np.ndarray, items: Sequence[Any]) -> Any:
    """Yield softmax ``(M, size, size, 5)``, truth and item, slice by slice."""
    chunk = 32
    for first in tqdm(range(0, len(pixels), chunk), desc="out-of-fold predictions", unit="batch", disable=None):
        batch = np.stack([standardize(p) for p in pixels[first : first + chunk]])[..., None]
        softmax = np.stack([np.asarray(m.predict_on_batch(batch), np.float32) for m in models])
        for k in range(len(batch)):
            yield softmax[:, k], labels[first + k], items[first + k]


def _sample(
    softmax: np.ndarray, truth: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw pixels of one slice: tumor, doubtful and easy ones alike, each weighted by what its stratum stands for."""
    features = pixel_features(softmax)
    flat = truth.reshape(-1)
    doubtful = (softmax[..., FIRST_TUMOR:].sum(-1).max(0) > 0.1).reshape(-1)
    strata = [flat >= FIRST_TUMOR, (flat < FIRST_TUMOR) & doubtful, (flat < FIRST_TUMOR) & ~doubtful]
    chosen, weights = [], []
    for stratum in strata:
        where = np.flatnonzero(stratum)
        take = min(len(where), PIXELS_A_SLICE // len(strata))
        if take:
            chosen.append(rng.choice(where, take, replace=False))
            weights.append(np.full(take, len(where) / take * (TUMOR_WEIGHT if flat[where[0]] >= FIRST_TUMOR else 1)))
    index = np.concatenate(chosen)
    return features[index], flat[index], np.concatenate(weights)


def _verdict_row(softmax: np.ndarray) -> np.ndarray:
    masks = label_map(softmax) >= FIRST_TUMOR
    return verdict_features(softmax.mean(0)[..., FIRST_TUMOR:].sum(-1), masks.sum((1, 2)), disagreement(masks))


def _fit_vote(features: np.ndarray, targets: np.ndarray, weights: np.ndarray, out: Path) -> dict[str, Any]:
    from sklearn.ensemble import RandomForestClassifier
    from skops.io import dump
    from xgboost import XGBClassifier

    log.info("fitting the vote on %d pixels", len(targets))
    weights = weights / weights.mean()
    forest = RandomForestClassifier(100, random_state=42, n_jobs=-1, min_samples_leaf=30, max_leaf_nodes=600)
    forest.fit(features, targets, sample_weight=weights)
    dump(forest, out / "forest.skops", compression=zipfile.ZIP_DEFLATED, compresslevel=9)
    boost = XGBClassifier(
        objective="multi:softprob", n_estimators=100, max_depth=5, learning_rate=0.1, random_state=42, eval_metric="mlogloss"
    )
    boost.fit(features, targets, sample_weight=weights)
    boost.save_model(out / "boost.ubj")
    if sorted(np.unique(targets)) != [c.index for c in CLASSES]:
        raise DataError("The vote's fold must hold all five classes; choose another fold or more scans.")
    return {
        "forest": {"file": "forest.skops", "sha256": _sha256(out / "forest.skops")},
        "boost": {"file": "boost.ubj", "sha256": _sha256(out / "boost.ubj")},
        "pixels": len(targets),
    }


def _fit_verdict(rows: np.ndarray, items: Sequence[Item]) -> dict[str, Any]:
    """Logistic regression on slices; sources weigh alike within tumor and no tumor, so that none is learned by size."""
    from sklearn.linear_model import LogisticRegression

    truth = np.array([i.tumor for i in items])
    groups = np.array([f"{i.source}/{i.tumor}" for i in items])
    weights = np.zeros(len(items))
    for group in np.unique(groups):
        same_truth = {g for g, t in zip(groups, truth, strict=True) if t == truth[groups == group][0]}
        weights[groups == group] = 1 / ((groups == group).sum() * len(same_truth))
    mean, scale = rows.mean(0), np.maximum(rows.std(0), 0.05)  # a feature that hardly varies must not decide
    model = LogisticRegression(C=1.0).fit((rows - mean) / scale, truth, sample_weight=weights * len(items) / 2)
    score = model.predict_proba((rows - mean) / scale)[:, 1]
    # Balanced accuracy, sources weighing alike; a rate of its own is read off the table that evaluate writes.
    tried = np.unique(np.round(score, 3))
    sensitivity = np.array([weights[truth] @ (score[truth] >= t) for t in tried]) / weights[truth].sum()
    alarms = np.array([weights[~truth] @ (score[~truth] >= t) for t in tried]) / weights[~truth].sum()
    best = int((sensitivity - alarms).argmax())
    threshold = float(tried[best])
    return {
        "features": list(FEATURES),
        "mean": mean.tolist(),
        "scale": scale.tolist(),
        "coefficients": model.coef_[0].tolist(),
        "intercept": float(model.intercept_[0]),
        "threshold": threshold,
        "fitted": {
            "scans": len(items),
            "sensitivity": float(sensitivity[best]),
            "false_alarms": float(alarms[best]),
        },
    }


def _export(model: keras.Model, name: str, run: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write one member's variables as float16; a file of the same name is replaced only when the new one is whole."""
    from safetensors.numpy import save

    tensors = {
        variable_key(v): np.asarray(v, np.float32).astype(np.float16)
        for v in model.variables
        if v.dtype.startswith("float")
    }
    part = out / f"{name}.part"
    part.write_bytes(save(tensors))
    path = part.rename(out / f"{name}.safetensors")
    return {
        "name": name,
        "file": path.name,
        "sha256": _sha256(path),
        "config": _config(run),
        "parameters": int(model.count_params()),
        "scores": {},
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
