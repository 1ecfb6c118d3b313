"""Fit the vote, the verdict and the refusal on a fold that no network has seen, and write ``weights/`` with its manifest."""

from __future__ import annotations

import datetime
import json
import logging
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save
from tqdm import tqdm

from neurovision.classes import BY_KEY, CLASSES, FIRST_TUMOR
from neurovision.classifiers import build as build_classifier
from neurovision.ensemble.engine import Engine, classify_both_ways, load_engine, predict_both_ways, variable_key
from neurovision.ensemble.features import disagreement, pixel_features, tumor_threshold
from neurovision.ensemble.manifest import (
    FILE,
    File,
    Manifest,
    Network,
    Networks,
    OutOfDistributionModel,
    Training,
    VerdictFit,
    VerdictModel,
    Vote,
)
from neurovision.ensemble.out_of_distribution import OutOfDistribution, score
from neurovision.ensemble.verdict import FEATURES, type_probabilities, verdict_features
from neurovision.ensemble.voter import Voter
from neurovision.errors import DataError, WeightsMissing
from neurovision.files import write
from neurovision.scan.prepare import standardize
from neurovision.segmenters import build
from neurovision.training.dataset import Item, load_index, pack
from neurovision.training.fit import FINAL, OUT_OF_FOLD, phantom_pack
from neurovision.training.identity import patients_of

log = logging.getLogger(__name__)

MEMBERS = ("unet", "unetpp", "linknet", "unet_efficientnet", "dgnet")
CLASSIFIER = "efficientnetlite0"
CHUNK = 16
OUT_OF_DISTRIBUTION = "out_of_distribution.safetensors"
REFUSED, WARNED = 0.004, 0.02  # of real scans that no network saw: refused, and read with a warning
PIXELS_A_SLICE = 90
# The threshold that serves Dice best is half the Dice that can be reached (Lipton 2014, arXiv 1402.1892), not 0.5;
# weighing tumor pixels by (1 - t) / t puts the vote's 0.5 at t = 0.38.
TUMOR_WEIGHT = 1.6


def stack(
    data: Path,
    runs: Path,
    out: Path,
    vote_fold: int,
    members: Sequence[str] = MEMBERS,
    classifier: str | None = CLASSIFIER,
    limit: int | None = None,
) -> Path:
    """Fit the vote, the verdict and the refusal, then export everything that serving needs.

    Networks must come from finished runs that left out ``vote_fold``: trees fitted on predictions for scans that a
    member was trained on would learn to trust its overfit. They are exported first, for the largest canvas that one of
    them was last trained on, and run by the engine that serves, mirror image included, so that what is fitted reads
    exactly what it will be given. Where a run went on to train on ``vote_fold`` too (``recipes.Phase.refit``),
    everything is fitted on its weights from before, and the later ones are shipped.

    Args:
        data: The prepared folder.
        runs: Folder of the networks' runs.
        out: The weights folder to write. Its files are replaced at the end, the manifest last.
        vote_fold: The fold that the vote is fitted on.
        members: Names, in the order of the vote's features.
        classifier: The whole-slice classifier, or None for a set without.
        limit: At most so many scans of each data set, for a trial.

    Returns:
        The manifest's path.

    Raises:
        WeightsMissing: A network has no finished run.
        DataError: A network was trained on ``vote_fold`` from the start.
    """
    described = {name: _run_of(runs / name, vote_fold) for name in (*members, *([classifier] if classifier else []))}
    first = described[members[0]]
    size = max(int(run["recipe"]["phases"][-1]["size"]) for run in described.values())
    sources = sorted(first["sources"])
    refitted = {name for name, run in described.items() if "refit_folds" in run}
    staging = _fresh(out.with_name(f".{out.name}-staging"))
    fitting = _fresh(out.with_name(f".{out.name}-fitting")) if refitted else staging
    training = Training(
        date=datetime.date.today().isoformat(),
        sources=tuple(sources),
        member_folds=first["folds"],
        vote_fold=vote_fold,
        refitted={name: described[name]["refit_folds"] for name in sorted(refitted)},
        split="whole folds by patient; the vote and the verdict were fitted on scans that no network had seen",
        license="CC BY-NC-SA 4.0" if "lgg" in sources else "CC BY 4.0",
    )

    def exported(folder: Path, weights: dict[str, str]) -> Networks:
        """Write all networks into ``folder``."""
        entries = [_export(n, r, runs / n / weights.get(n, FINAL), size, folder) for n, r in described.items()]
        reader = entries.pop() if classifier else None
        return Networks(folder=folder, size=size, members=tuple(entries), classifier=reader)

    networks = exported(fitting, dict.fromkeys(refitted, OUT_OF_FOLD))
    engine = load_engine(networks)
    items = load_index(data, first["sources"], [vote_fold], ("FLAIR", "T1c"))
    if limit is not None:
        kept = [[i for i in items if i.source == s] for s in first["sources"]]
        items = [i for group in kept for i in group[:: max(1, len(group) // limit)]]
    pixels, labels = pack(items, size, runs / "cache")
    phantoms, phantom_labels = (a[::5] for a in phantom_pack(size))  # of every kind
    rng = np.random.default_rng(42)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    slices: list[np.ndarray] = []
    shares: list[np.ndarray] = []
    tumors: list[tuple[str, np.ndarray, np.ndarray]] = []  # every second slice with a mask, for memory's sake
    answers, features = _classified(engine, pixels) if classifier else (None, None)
    for k, (softmax, truth) in enumerate(_predictions(engine, pixels, labels)):
        if items[k].mask is not None or not items[k].tumor:  # a navoneel tumor has no mask: its pixels teach nothing
            rows.append(_sample(softmax, truth, rng))
        masks = softmax[..., FIRST_TUMOR:].sum(-1) >= 0.5
        mean = softmax.mean(0)
        said = None if answers is None else answers[k]
        found = mean[..., FIRST_TUMOR:].sum(-1)
        if items[k].mask is not None and items[k].tumor and (items[k].source, items[k].sequence) != ("lgg", "T1c") and k % 2:
            tumors.append((items[k].source, softmax.astype(np.float16), truth))
        slices.append(verdict_features(found, masks.sum((1, 2)), disagreement(masks), said))
        shares.append(np.array(list(type_probabilities(mean).values())))
    for softmax, truth in _predictions(engine, phantoms, phantom_labels):
        rows.append(_sample(softmax, truth, rng))
    table, targets, weights = (np.concatenate(part) for part in zip(*rows, strict=True))
    vote = _fit_vote(table, targets, weights, staging)
    verdict = _fit_verdict(np.stack(slices), items)
    outside = None
    if answers is not None and features is not None:
        verdict = replace(verdict, type_weight=_type_weight(np.stack(shares), answers, items))
        mean, whitening = _seen(engine, data, first, size, runs / "cache")
        limits = _limits(score(mean, whitening, answers, features))
    if refitted:
        networks = exported(staging, {})
        engine = load_engine(networks)
        shutil.rmtree(fitting)
        if classifier in refitted:
            mean, whitening = _seen(engine, data, first, size, runs / "cache")
    if answers is not None:
        write(staging / OUT_OF_DISTRIBUTION, save({"mean": mean, "whitening": whitening}))
        outside = OutOfDistributionModel.of(staging / OUT_OF_DISTRIBUTION, **limits)
    manifest = Manifest(
        folder=staging, size=size, members=networks.members, classifier=networks.classifier, vote=vote, verdict=verdict,
        training=training, out_of_distribution=outside,
        patients=patients_of(load_index(data, first["sources"], training.fitted_folds)),
    )  # fmt: skip
    verdict = replace(verdict, mask_share=_mask_share(Voter.load(manifest), tumors))
    write(staging / FILE, replace(manifest, verdict=verdict).text())
    return _publish(staging, out)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _publish(staging: Path, out: Path) -> Path:
    """Move a finished set to its place, the manifest last; what was converted from it comes along."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(staging.iterdir(), key=lambda p: p.name == FILE):
        if path.is_dir():
            shutil.copytree(path, out / path.name, dirs_exist_ok=True)
        else:
            write(out / path.name, path.read_bytes())
    shutil.rmtree(staging)
    return out / FILE


def _run_of(run: Path, vote_fold: int) -> dict[str, Any]:
    if not (run / FINAL).is_file():
        raise WeightsMissing(f"{run.name} has no finished run; train it with 'neurovision train {run.name}'.")
    described: dict[str, Any] = json.loads((run / "run.json").read_text())
    if vote_fold in described["folds"]:
        raise DataError(f"{run.name} was trained on fold {vote_fold}; the vote needs a fold that no member has seen.")
    return described


def _config(run: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in run["recipe"]["config"].items() if k != "encoder_weights"}


def _trained(name: str, run: dict[str, Any], weights: Path, size: int) -> keras.Model:
    keras.utils.clear_session()
    of_room = build if run["recipe"].get("task", "segment") == "segment" else build_classifier
    model = of_room(name, (size, size, 1), **_config(run))
    model.load_weights(weights)
    return model


def _predictions(engine: Engine, pixels: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield softmax ``(M, size, size, 5)`` and truth, slice by slice."""
    for first in tqdm(range(0, len(pixels), CHUNK), desc="out-of-fold predictions", unit="batch", disable=None):
        softmax = predict_both_ways(engine, np.stack([standardize(p) for p in pixels[first : first + CHUNK]]))
        for k in range(softmax.shape[1]):
            yield softmax[:, k], labels[first + k]


def _classified(engine: Engine, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classifier's answers ``(N, 5)`` and features ``(N, F)``."""
    parts = [
        classify_both_ways(engine, np.stack([standardize(p) for p in pixels[first : first + CHUNK]]))
        for first in tqdm(range(0, len(pixels), CHUNK), desc="whole slices", unit="batch", disable=None)
    ]
    return np.concatenate([a for a, _ in parts]), np.concatenate([f for _, f in parts])


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


def _fit_vote(features: np.ndarray, targets: np.ndarray, weights: np.ndarray, out: Path) -> Vote:
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
    return Vote(
        forest=File.of(out / "forest.skops"),
        boost=File.of(out / "boost.ubj"),
        members=tuple(_member_weights(features, targets, weights)),
        pixels=len(targets),
    )


def _member_weights(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> list[float]:
    """Each member's weight in their mean: least squares to tumor or none without negative weights; they sum to 1."""
    from scipy.optimize import nnls

    tumor = features.reshape(len(features), -1, len(CLASSES))[..., FIRST_TUMOR:].sum(-1)
    root = np.sqrt(weights)
    found = nnls(tumor * root[:, None], (targets >= FIRST_TUMOR) * root)[0]
    return [float(w) for w in found / found.sum()]


def _fit_verdict(rows: np.ndarray, items: Sequence[Item]) -> VerdictModel:
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
    return VerdictModel(
        features=FEATURES[: rows.shape[1]],
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        coefficients=tuple(model.coef_[0].tolist()),
        intercept=float(model.intercept_[0]),
        threshold=threshold,
        fitted=VerdictFit(
            scans=len(items), sensitivity=float(sensitivity[best]), false_alarms=min(1.0, float(alarms[best]))
        ),
    )


def _type_weight(shares: np.ndarray, answers: np.ndarray, items: Sequence[Item]) -> float:
    """How much the classifier counts against the masks for the type: what gives typed tumors the least log loss."""
    typed = np.array([i.label in BY_KEY for i in items])
    right = np.array([BY_KEY[i.label].index - FIRST_TUMOR if i.label in BY_KEY else 0 for i in items])
    groups = np.array([f"{i.source}/{i.label}" for i in items])
    weight = np.array([1 / (groups == g).sum() for g in groups]) * typed
    given = (answers[:, 1:-1] + 1e-6) / (answers[:, 1:-1] + 1e-6).sum(1, keepdims=True)

    def loss(w: float) -> float:
        blend = (shares + 1e-6) ** (1 - w) * given**w
        blend = blend / blend.sum(1, keepdims=True)
        return float(-(weight * np.log(blend[np.arange(len(blend)), right])).sum())

    return float(min(np.linspace(0, 1, 21), key=loss))


def _mask_share(voter: Voter, tumors: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> float:
    """The share of a slice's peak from which pixels are marked: what gives the best mean Dice, sources weighing alike.

    Args:
        voter: The fitted vote.
        tumors: Source, softmax ``(M, size, size, 5)`` and truth ``(size, size)`` of tumor slices.
    """
    tried = np.linspace(0.3, 0.9, 13)
    dice: dict[str, list[list[float]]] = {}
    for source, softmax, truth in tumors:
        found = voter.vote_maps(softmax[:, None].astype(np.float32))[0, ..., FIRST_TUMOR:].sum(-1)
        tumor = truth >= FIRST_TUMOR
        masks = [found >= tumor_threshold(found, share) for share in tried]
        dice.setdefault(source, []).append([2 * (m & tumor).sum() / max(1, m.sum() + tumor.sum()) for m in masks])
    return float(tried[np.mean([np.mean(rows, 0) for rows in dice.values()], 0).argmax()])


def _seen(engine: Engine, data: Path, run: dict[str, Any], size: int, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and whitening of the classifier's features on every second scan that it was trained on, and on phantoms."""
    seen = load_index(data, run["sources"], run["folds"], ("FLAIR", "T1c"))[::2]
    known = [pack(seen, size, cache)[0], phantom_pack(size)[0]]  # phantoms are heads too
    return OutOfDistribution.fit(np.concatenate([_classified(engine, canvases)[1] for canvases in known]))


def _limits(scores: np.ndarray) -> dict[str, float]:
    """From where a picture is refused or read with a warning, by scans that the classifier has not seen."""
    return {"refuse": float(np.quantile(scores, 1 - REFUSED)), "warn": float(np.quantile(scores, 1 - WARNED))}


def _export(name: str, run: dict[str, Any], weights: Path, size: int, out: Path) -> Network:
    """Write one network's variables as float16, and describe them."""
    model = _trained(name, run, weights, size)
    tensors = {
        variable_key(v): np.asarray(v, np.float32).astype(np.float16)
        for v in model.variables
        if v.dtype.startswith("float")
    }
    path = out / f"{name}.safetensors"
    write(path, save(tensors))
    entry: Network = Network.of(path, name=name, config=_config(run), parameters=int(model.count_params()))
    return entry
