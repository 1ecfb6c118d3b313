"""Fit the vote, the verdict and the refusal on what networks had not seen, and write ``weights/`` with its manifest."""

from __future__ import annotations

import datetime
import logging
import shutil
import time
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from neurovision.classes import FIRST_TUMOR, Classes
from neurovision.ensemble.engine import Engine, load_engine
from neurovision.ensemble.manifest import (
    FILE,
    File,
    Manifest,
    OutOfDistributionModel,
    Provenance,
    SequenceModel,
    Training,
    VerdictFit,
    VerdictModel,
    Vote,
    read_manifest,
)
from neurovision.ensemble.out_of_distribution import OutOfDistribution, score
from neurovision.ensemble.verdict import FEATURES
from neurovision.ensemble.voter import Blend, ManualVotingClassifier, Renamed, Voter
from neurovision.errors import DataError
from neurovision.files import write
from neurovision.training.augment import augment
from neurovision.training.calibrate import (
    FEWEST,
    CrossFitted,
    best_share,
    blocks_of,
    cross_fitted,
    fit_borderline,
    fit_intervals,
    fit_quality,
    fit_sequence,
)
from neurovision.training.clock import voting
from neurovision.training.dataset import LGG_CHANNELS, Item, load_index, pack
from neurovision.training.fit import phantom_pack
from neurovision.training.identity import patients_of
from neurovision.training.observed import Observed, Part, Pixels, asked_of, classified, observed_of, parts_of
from neurovision.training.provenance import facts, license_of, strictest
from neurovision.training.recipes import CLASSIFIER
from neurovision.training.runs import Run, export_all

log = logging.getLogger(__name__)

OUT_OF_DISTRIBUTION = "out_of_distribution.safetensors"
REFUSED, WARNED = 0.004, 0.02  # of real scans that no network saw: refused, and read with a warning
ALARM = 1.35  # what a false alarm costs against a miss where the threshold is chosen: most scans show no tumor
LEVEL_GROUND = 0.005  # thresholds that lose no more than this are as good as the best
SURE = 0.6  # probability from which the sequence is told


def stack(
    data: Path,
    runs: Path,
    out: Path,
    vote_fold: int,
    members: Sequence[str] | None = None,
    classifier: str | None = CLASSIFIER,
    limit: int | None = None,
    cross_fit: bool = False,
) -> Path:
    """Fit the vote, the verdict and the refusal, then export everything that serving needs.

    Networks must come from finished runs that left out ``vote_fold``: trees fitted on predictions for scans that a
    member was trained on would learn to trust its overfit. They are exported first and run by the engine that serves,
    both looks, so that what is fitted reads exactly what it will be given. Where a run went on to train on
    ``vote_fold`` too (``recipes.Phase.refit``), everything is fitted on its weights from before, and the later ones are
    shipped. Cross-fitting adds the folds that the networks were trained on, each as networks see it that were trained
    without it; the limits of the refusal still follow from ``vote_fold``, since features of two classifiers do not compare.

    Args:
        data: The prepared folder.
        runs: Folder of the networks' runs.
        out: The weights folder to write. Its files are replaced at the end, the manifest last.
        vote_fold: The fold that the vote is fitted on.
        members: Names, in the order of the vote's features; by default every segmenter whose card says that it votes.
        classifier: The whole-slice classifier, or None for a set without.
        limit: At most so many scans of each data set and fold, for a trial.
        cross_fit: Also fit on the folds that the networks were trained on; see :func:`observed.parts_of`.

    Returns:
        The manifest's path.

    Raises:
        WeightsMissing: A network has no finished run.
        DataError: A network saw a fold that it must not have seen, the runs cannot be stacked together, or a trial would
            take the place of whole weights.
    """
    started = time.perf_counter()
    names = list(members or voting())
    parts = parts_of(data, runs, [*names, *([classifier] if classifier else [])], vote_fold, cross_fit, limit)
    trial = limit is not None or any(run.trial for part in parts for run in part.runs)
    if trial and (out / FILE).is_file() and not read_manifest(out).training.trial:
        raise DataError(f"These are a trial's weights, and {out.name} holds whole ones; name another folder with --out.")
    every, items = parts[0].runs, [item for part in parts for item in part.items]
    size, sources = every[0].size, tuple(sorted({s for run in every for s in run.sources}))
    classes = every[0].classes
    cache = runs / "cache"
    reader = every[-1] if classifier else None
    staging, fitting = (_fresh(out.with_name(f".{out.name}-{what}")) for what in ("staging", "fitting"))
    asked = asked_of(parts, reader is not None, fitting)
    engine = load_engine(asked[0][0])
    observed = observed_of(asked, lambda networks: engine if networks is asked[0][0] else load_engine(networks), cache)
    vote = _fit_vote(observed.pixels, staging, len(names), classes)
    slices = _cross_fitted(observed, items, len(names))
    verdict, unseen = _fit_verdict(observed.slices, items)
    verdict = replace(verdict, mask_share=best_share(slices) if slices else None)
    promises = _promises(unseen, items, slices, verdict)
    limits, seen, sequence = None, None, None
    if reader is not None and observed.answers is not None and observed.features is not None:
        verdict = replace(verdict, type_weight=_type_weight(slices, observed.answers))
        seen = _seen(engine, data, reader, size, cache)
        limits = _limits(score(*seen, observed.answers[: len(observed.features)], observed.features), parts[0].items)
    networks = export_all(every, reader is not None, staging, refitted=True)
    shutil.rmtree(fitting)
    shipped = load_engine(networks)  # what it converts is published too
    if reader is not None:
        if reader.refit_folds:
            seen = _seen(shipped, data, reader, size, cache)
        sequence = _sequence(shipped, data, reader, size, cache, staging)
    training = _facts(parts, sources, trial)
    fitted = Provenance(
        sources=sources, folds=training.vote_folds, license=strictest(license_of(data, s) for s in sources),
        scans=len(items), **facts(time.perf_counter() - started),
    )  # fmt: skip
    manifest = Manifest(
        folder=staging, size=size, members=networks.members, classifier=networks.classifier, classes=classes,
        vote=replace(vote, provenance=fitted), verdict=replace(verdict, provenance=fitted), training=training,
        out_of_distribution=_outside(seen, limits, reader, staging), sequence=sequence, **promises,
        generator=read_manifest(out).generator if (out / FILE).is_file() else None,  # another command's
        patients=patients_of(load_index(data, sources, training.fitted_folds, classes=classes)),
    )  # fmt: skip
    write(staging / FILE, manifest.text())
    return _publish(staging, out)


def _facts(parts: Sequence[Part], sources: tuple[str, ...], trial: bool) -> Training:
    """What is true of the whole set."""
    first, *crossed = parts
    return Training(
        date=datetime.date.today().isoformat(),
        sources=sources,
        member_folds=first.runs[0].folds,
        vote_fold=first.fold,
        crossed=tuple(part.fold for part in crossed),
        refitted={run.name: run.refit_folds for run in sorted(first.runs, key=lambda r: r.name) if run.refit_folds},
        split="whole folds; vote and verdict were fitted on what networks said of scans that they had not seen by then",
        license=strictest(run.license for run in first.runs),
        trial=trial,
    )


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


def _outside(
    seen: tuple[np.ndarray, np.ndarray] | None, limits: dict[str, float] | None, reader: Run | None, folder: Path
) -> OutOfDistributionModel | None:
    if seen is None or limits is None or reader is None:
        return None
    mean, whitening = seen
    write(folder / OUT_OF_DISTRIBUTION, save({"mean": mean, "whitening": whitening}))
    found: OutOfDistributionModel = OutOfDistributionModel.of(
        folder / OUT_OF_DISTRIBUTION, **limits, provenance=reader.provenance
    )
    return found


def _fit_vote(pixels: Pixels, out: Path, members: int, classes: Classes) -> Vote:
    """Fit the vote on all pixels and write its files."""
    from skops.io import dump

    if missing := [c.key for c in classes if c.index not in pixels.targets]:
        lacks = ", ".join(missing)
        raise DataError(f"The vote's fold must hold every class and lacks {lacks}; choose another fold or more scans.")
    log.info("fitting the vote on %d pixels", len(pixels.targets))
    forest, boost, weights = fit_parts(pixels, members, len(classes))
    dump(forest, out / "forest.skops", compression=zipfile.ZIP_DEFLATED, compresslevel=9)
    boost.save_model(out / "boost.ubj")
    return Vote(
        forest=File.of(out / "forest.skops"),
        boost=File.of(out / "boost.ubj"),
        members=tuple(weights),
        context=True,
        pixels=len(pixels.targets),
    )


def fit_parts(pixels: Pixels, members: int, count: int) -> tuple[Any, Any, list[float]]:
    """A random forest, gradient-boosted trees and the members' weights in their mean.

    Args:
        pixels: What they learn from; classes that it lacks are left out of ``classes_``.
        members: How many networks there are.
        count: How many classes each tells apart.
    """
    from sklearn.ensemble import RandomForestClassifier
    from xgboost import XGBClassifier

    weights = pixels.weights / pixels.weights.mean()
    forest = RandomForestClassifier(100, random_state=42, n_jobs=-1, min_samples_leaf=30, max_leaf_nodes=600)
    forest.fit(pixels.features, pixels.targets, sample_weight=weights)
    boost = XGBClassifier(
        objective="multi:softprob", n_estimators=100, max_depth=5, learning_rate=0.1, colsample_bytree=0.5,
        random_state=42, eval_metric="mlogloss",
    )  # fmt: skip
    boost.fit(pixels.features, np.searchsorted(forest.classes_, pixels.targets), sample_weight=weights)
    said = pixels.features[:, : members * count].reshape(-1, members, count)
    return forest, boost, _member_weights(said, pixels.targets, weights)


def _cross_fitted(observed: Observed, items: Sequence[Item], members: int) -> list[CrossFitted]:
    """Vote on each tumor slice of the fold with a vote that was fitted without its patient."""
    blocks, count = blocks_of(items), observed.softmax.shape[-1]

    def voter(block: int) -> Voter:
        log.info("fitting the vote without block %d of %d", block + 1, int(blocks.max()) + 1)
        kept = observed.pixels.without(np.flatnonzero(blocks == block))
        forest, boost, weights = fit_parts(kept, members, count)
        forest.set_params(n_jobs=1)  # the voter asks from every core
        parts = [forest, Renamed(boost, forest.classes_), Blend(weights, count)]
        return Voter(ManualVotingClassifier(parts, count), context=True)

    def softmax(k: int) -> np.ndarray:
        return observed.softmax[k].astype(np.float32)

    return cross_fitted(items, blocks, voter, softmax, observed.scenes, observed.labels)


def _promises(
    probabilities: np.ndarray, items: Sequence[Item], slices: Sequence[CrossFitted], verdict: VerdictModel
) -> dict[str, Any]:
    """The manifest's sections on what a result promises; none where too few slices are at hand.

    Args:
        probabilities: The verdict's, of each item, cross-fitted.
        items: Of the vote's fold.
        slices: Cross-fitted votes on those with a tumor.
        verdict: As fitted.
    """
    if len(slices) < FEWEST or verdict.mask_share is None:
        return {}
    quality = fit_quality(slices, verdict.mask_share)
    truth, weights = _weighed(items)
    return {
        "quality": quality,
        "intervals": fit_intervals(slices, verdict.mask_share, quality),
        "borderline": fit_borderline(probabilities, truth, weights, verdict),
    }


def _sequence(engine: Engine, data: Path, run: Run, size: int, cache: Path, folder: Path) -> SequenceModel | None:
    """Fit the head that tells the sequence on what the shipped classifier was trained on, and write it."""
    items = load_index(data, run.sources, run.refit_folds or run.folds, tuple(LGG_CHANNELS), run.classes)
    named = [k for k, i in enumerate(items) if i.sequence is not None]
    pixels = pack(items, size, cache)[0]
    # LGG fills a sequence that a patient lacks with a copy of FLAIR.
    flair = {i.id: k for k, i in enumerate(items) if (i.source, i.sequence) == ("lgg", "FLAIR")}

    def copied(k: int) -> bool:
        item = items[k]
        return item.source == "lgg" and item.sequence != "FLAIR" and np.allclose(pixels[k], pixels[flair[item.id]], atol=0.1)

    kept = [k for k in named if not copied(k)]
    told = [str(items[k].sequence_title) for k in kept]
    if len(set(told)) < 2:
        return None
    weights = _by_root([f"{items[k].source}/{sequence}" for k, sequence in zip(kept, told, strict=True)])
    kernel, bias, sequences = fit_sequence(classified(engine, pixels[kept])[1], told, weights)
    path = folder / "sequence.safetensors"
    write(path, save({"kernel": kernel, "bias": bias}))
    found: SequenceModel = SequenceModel.of(path, sequences=sequences, sure=SURE, provenance=run.provenance)
    return found


def _member_weights(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> list[float]:
    """Each member's weight in their mean: least squares to tumor or none without negative weights; they sum to 1.

    Args:
        features: float32 ``(P, M, K)``, the members' probabilities.
        targets: Class of each pixel.
        weights: What each pixel stands for.
    """
    from scipy.optimize import nnls

    tumor = features[..., FIRST_TUMOR:].sum(-1)
    root = np.sqrt(weights)
    found = nnls(tumor * root[:, None], (targets >= FIRST_TUMOR) * root)[0]
    return [float(w) for w in found / found.sum()]


def _by_root(groups: Sequence[str]) -> np.ndarray:
    """Weights ``(N,)`` with which a group counts with the root of its size.

    Neither does the largest decide alone, nor do a dozen slices of one patient count as much as hundreds.
    """
    _, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1 / np.sqrt(sizes[which]))


def _weighed(items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
    """Which items show a tumor, and weights that sum to 1 for tumors and for the others; see :func:`_by_root`."""
    truth = np.array([i.tumor for i in items])
    weights = _by_root([f"{i.source}/{i.tumor}" for i in items])
    for side in (truth, ~truth):
        weights[side] /= weights[side].sum()
    return truth, weights


def _fit_verdict(rows: np.ndarray, items: Sequence[Item]) -> tuple[VerdictModel, np.ndarray]:
    """Logistic regression on slices, and the threshold that costs least; see :func:`_weighed` and ALARM.

    The threshold is chosen on probabilities that were fitted without the slice's block of patients, which come along.
    """
    from sklearn.linear_model import LogisticRegression

    truth, weights = _weighed(items)
    mean, scale = rows.mean(0), np.maximum(rows.std(0), 0.05)  # a feature that hardly varies must not decide
    z, counts = (rows - mean) / scale, weights * len(items) / 2
    model = LogisticRegression(C=1.0).fit(z, truth, sample_weight=counts)
    score, blocks = model.predict_proba(z)[:, 1], blocks_of(items)
    for block in np.unique(blocks):
        others = blocks != block
        if len(np.unique(truth[others])) == 2:  # a handful of slices may leave nothing to compare with
            part = LogisticRegression(C=1.0).fit(z[others], truth[others], sample_weight=counts[others])
            score[~others] = part.predict_proba(z[~others])[:, 1]
    tried = np.unique(np.round(score, 3))
    sensitivity = np.array([weights[truth] @ (score[truth] >= t) for t in tried]) / weights[truth].sum()
    alarms = np.array([weights[~truth] @ (score[~truth] >= t) for t in tried]) / weights[~truth].sum()
    gain = sensitivity - ALARM * alarms
    plateau = np.flatnonzero(gain >= gain.max() - LEVEL_GROUND)
    middle = (tried[plateau[0]] + tried[plateau[-1]]) / 2  # of what is as good as the best, so that chance decides less
    best = int(plateau[np.abs(tried[plateau] - middle).argmin()])
    threshold = float(tried[best])
    fitted = VerdictModel(
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
    return fitted, score


def _type_weight(slices: Sequence[CrossFitted], answers: np.ndarray) -> float:
    """How much the classifier counts against the vote for the type: what gives typed tumors the least log loss."""
    typed = [s for s in slices if s.item.typed]
    if not typed:
        return 0.0
    right = np.array([s.item.tumor_index - FIRST_TUMOR for s in typed])
    groups = np.array([f"{s.item.source}/{s.item.label}" for s in typed])
    weight = np.array([1 / (groups == g).sum() for g in groups])
    voted = np.stack([s.types for s in typed]) + 1e-6
    given = answers[[s.place for s in typed]][:, 1:-1] + 1e-6
    given /= given.sum(1, keepdims=True)

    def loss(w: float) -> float:
        blend = voted ** (1 - w) * given**w
        blend /= blend.sum(1, keepdims=True)
        return float(-(weight * np.log(blend[np.arange(len(blend)), right])).sum())

    return float(min(np.linspace(0, 1, 21), key=loss))


def _seen(engine: Engine, data: Path, run: Run, size: int, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and whitening of the classifier's features on scans that it was trained on.

    That is every second of them, as many whose contrast was redrawn as in training, and phantoms: these are heads too.
    """
    seen = load_index(data, run.sources, run.folds, tuple(LGG_CHANNELS), run.classes)
    pixels, labels = pack(seen, size, cache)
    rng = np.random.default_rng(7)
    redrawn = np.stack([augment(pixels[k], labels[k], rng, 1.0, 1.0)[0] for k in range(1, len(seen), 4)])
    known = [pixels[::2], redrawn, phantom_pack(size, run.classes)[0]]
    return OutOfDistribution.fit(np.concatenate([classified(engine, canvases)[1] for canvases in known]))


def _limits(scores: np.ndarray, items: Sequence[Item]) -> dict[str, float]:
    """From where a picture is refused or read with a warning, by scans that the classifier has not seen.

    Data sets and sequences weigh alike, so that the commonest do not set the limit for the others.
    """
    groups = np.array([f"{i.source}/{i.sequence}" for i in items])
    weights = np.array([1 / (groups == group).sum() for group in groups])
    order = np.argsort(scores)
    below = np.cumsum(weights[order]) / weights.sum()
    at = [float(scores[order][min(int(np.searchsorted(below, 1 - share)), len(order) - 1)]) for share in (REFUSED, WARNED)]
    return {"refuse": at[0], "warn": at[1]}
