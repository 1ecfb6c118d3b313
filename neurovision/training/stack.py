"""Fit the vote, the verdict and the refusal on a fold that no network has seen, and write ``weights/`` with its manifest."""

from __future__ import annotations

import datetime
import json
import logging
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    Provenance,
    Training,
    VerdictFit,
    VerdictModel,
    Vote,
    read_manifest,
)
from neurovision.ensemble.out_of_distribution import OutOfDistribution, score
from neurovision.ensemble.verdict import FEATURES, type_probabilities, verdict_features
from neurovision.ensemble.voter import Voter
from neurovision.errors import DataError, WeightsMissing
from neurovision.files import write
from neurovision.scan.prepare import standardize
from neurovision.segmenters import build, cards
from neurovision.training.dataset import Item, load_index, pack
from neurovision.training.fit import FINAL, OUT_OF_FOLD, phantom_pack
from neurovision.training.identity import patients_of
from neurovision.training.provenance import facts, license_of, strictest

log = logging.getLogger(__name__)

CLASSIFIER = "efficientnetlite0"
CHUNK = 16
OUT_OF_DISTRIBUTION = "out_of_distribution.safetensors"
REFUSED, WARNED = 0.004, 0.02  # of real scans that no network saw: refused, and read with a warning
PIXELS_A_SLICE = 90
# The threshold that serves Dice best is half the Dice that can be reached (Lipton 2014, arXiv 1402.1892), not 0.5;
# weighing tumor pixels by (1 - t) / t puts the vote's 0.5 at t = 0.38.
TUMOR_WEIGHT = 1.6


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: Where it is; its name is the network's.
        recipe: As ``run.json`` holds it.
        folds: What the weights that the vote is fitted on were trained on.
        refit_folds: What the shipped weights were trained on; empty where those are the same weights.
        sources: Data sets.
        license: The strictest of its data sets' terms.
        facts: ``scans``, ``scans_seen``, ``hardware``, ``seconds``, ``date`` and ``versions``, as far as they were recorded.
    """

    folder: Path
    recipe: dict[str, Any]
    folds: tuple[int, ...]
    refit_folds: tuple[int, ...]
    sources: tuple[str, ...]
    license: str
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """The network."""
        return self.folder.name

    @property
    def size(self) -> int:
        """Side of the canvas that it was last trained on, in pixels."""
        return int(self.recipe["phases"][-1]["size"])

    @property
    def trial(self) -> bool:
        """Whether its recipe was shortened."""
        return bool(self.recipe.get("trial"))

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of its builder, without those that fetch weights."""
        return {k: v for k, v in self.recipe["config"].items() if k != "encoder_weights"}

    @property
    def provenance(self) -> Provenance:
        """What the shipped weights learned from."""
        folds = self.refit_folds or self.folds
        return Provenance(sources=self.sources, folds=folds, license=self.license, **self.facts)

    def model(self, weights: str, size: int) -> keras.Model:
        """The network with the weights of one of its files."""
        keras.utils.clear_session()
        of_task = build if self.recipe.get("task", "segment") == "segment" else build_classifier
        model = of_task(self.name, (size, size, 1), **self.config)
        model.load_weights(self.folder / weights)
        return model


@dataclass(frozen=True)
class Observed:
    """What the networks say of the vote's fold.

    Attributes:
        pixels: Features, class and weight of sampled pixels.
        slices: The verdict's features of each slice, ``(N, V)``.
        shares: Each slice's probabilities of the types, ``(N, 3)``.
        tumors: Source, softmax and truth of every second tumor slice with a mask, for memory's sake.
        answers: The classifier's answers ``(N, 5)``; None without one.
        features: The classifier's features ``(N, F)``; None without one.
    """

    pixels: tuple[np.ndarray, np.ndarray, np.ndarray]
    slices: np.ndarray
    shares: np.ndarray
    tumors: list[tuple[str, np.ndarray, np.ndarray]]
    answers: np.ndarray | None
    features: np.ndarray | None


def stack(
    data: Path,
    runs: Path,
    out: Path,
    vote_fold: int,
    members: Sequence[str] | None = None,
    classifier: str | None = CLASSIFIER,
    limit: int | None = None,
) -> Path:
    """Fit the vote, the verdict and the refusal, then export everything that serving needs.

    Networks must come from finished runs that left out ``vote_fold``: trees fitted on predictions for scans that a
    member was trained on would learn to trust its overfit. They are exported first and run by the engine that serves,
    mirror image included, so that what is fitted reads exactly what it will be given. Where a run went on to train on
    ``vote_fold`` too (``recipes.Phase.refit``), everything is fitted on its weights from before, and the later ones are
    shipped.

    Args:
        data: The prepared folder.
        runs: Folder of the networks' runs.
        out: The weights folder to write. Its files are replaced at the end, the manifest last.
        vote_fold: The fold that the vote is fitted on.
        members: Names, in the order of the vote's features; by default every segmenter whose card says that it votes.
        classifier: The whole-slice classifier, or None for a set without.
        limit: At most so many scans of each data set, for a trial.

    Returns:
        The manifest's path.

    Raises:
        WeightsMissing: A network has no finished run.
        DataError: A network was trained on ``vote_fold`` from the start, the runs cannot be stacked together, or a
            trial would take the place of whole weights.
    """
    started = time.perf_counter()
    names = list(members or voting())
    every = read_runs(data, runs, [*names, *([classifier] if classifier else [])], vote_fold)
    trial = limit is not None or any(run.trial for run in every)
    if trial and (out / FILE).is_file() and not read_manifest(out).training.trial:
        raise DataError(f"These are a trial's weights, and {out.name} holds whole ones; name another folder with --out.")
    size, sources = every[0].size, tuple(sorted({s for run in every for s in run.sources}))
    cache = runs / "cache"
    reader = every[-1] if classifier else None
    staging = _fresh(out.with_name(f".{out.name}-staging"))
    fitting = _fresh(out.with_name(f".{out.name}-fitting")) if any(r.refit_folds for r in every) else staging
    engine = load_engine(_export_all(every, reader, size, fitting, refitted=False))
    items = vote_items(data, sources, vote_fold, limit)
    observed = observe(engine, items, size, cache, reader is not None)
    vote = _fit_vote(*observed.pixels, staging)
    verdict = _fit_verdict(observed.slices, items)
    limits, seen = None, None
    if reader is not None and observed.answers is not None and observed.features is not None:
        verdict = replace(verdict, type_weight=_type_weight(observed.shares, observed.answers, items))
        seen = _seen(engine, data, reader, size, cache)
        limits = _limits(score(*seen, observed.answers, observed.features))
    networks = _export_all(every, reader, size, staging, refitted=True)
    if fitting != staging:
        shutil.rmtree(fitting)
        shipped = load_engine(networks)  # what it converts is published too
        if reader is not None and reader.refit_folds:
            seen = _seen(shipped, data, reader, size, cache)
    fitted = Provenance(
        sources=sources, folds=(vote_fold,), license=strictest(license_of(data, s) for s in sources), scans=len(items),
        **facts(time.perf_counter() - started),
    )  # fmt: skip
    training = _facts(every, sources, vote_fold, trial)
    manifest = Manifest(
        folder=staging, size=size, members=networks.members, classifier=networks.classifier,
        vote=replace(vote, provenance=fitted), verdict=replace(verdict, provenance=fitted), training=training,
        out_of_distribution=_outside(seen, limits, reader, staging),
        patients=patients_of(load_index(data, sources, training.fitted_folds)),
    )  # fmt: skip
    share = _mask_share(Voter.load(manifest), observed.tumors)
    write(staging / FILE, replace(manifest, verdict=replace(manifest.verdict, mask_share=share)).text())
    return _publish(staging, out)


def voting() -> list[str]:
    """The segmenters whose cards say that they vote."""
    return [c.name for c in cards() if c.votes]


def read_runs(data: Path, runs: Path, names: Sequence[str], vote_fold: int) -> list[Run]:
    """The finished runs of these networks, which fit together.

    Raises:
        WeightsMissing: A network has no finished run.
        DataError: A network was trained on ``vote_fold`` from the start, or the networks read canvases of different sizes
            or were trained on different folds.
    """
    found = [_run_of(data, runs / name, vote_fold) for name in names]
    for what, of in (("canvases of side", "size"), ("folds", "folds")):
        groups: dict[Any, list[str]] = {}
        for run in found:
            groups.setdefault(getattr(run, of), []).append(run.name)
        if len(groups) > 1:
            told = "; ".join(f"{', '.join(who)}: {_words(value)}" for value, who in groups.items())
            raise DataError(
                f"Networks that are stacked were trained on {what} alike; received {told}. Train those that differ again."
            )
    return found


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _facts(runs: Sequence[Run], sources: tuple[str, ...], vote_fold: int, trial: bool) -> Training:
    """What is true of the whole set."""
    return Training(
        date=datetime.date.today().isoformat(),
        sources=sources,
        member_folds=runs[0].folds,
        vote_fold=vote_fold,
        refitted={run.name: run.refit_folds for run in sorted(runs, key=lambda r: r.name) if run.refit_folds},
        split="whole folds; the vote and the verdict were fitted on scans that no network had seen by then",
        license=strictest(run.license for run in runs),
        trial=trial,
    )


def vote_items(data: Path, sources: Sequence[str], vote_fold: int, limit: int | None) -> list[Item]:
    """The scans that the vote is fitted on."""
    items = load_index(data, sources, [vote_fold], ("FLAIR", "T1c"))
    if limit is None:
        return items
    kept = [[i for i in items if i.source == s] for s in sources]
    return [i for group in kept for i in group[:: max(1, len(group) // limit)]]


def observe(engine: Engine, items: Sequence[Item], size: int, cache: Path, classifies: bool) -> Observed:
    """Ask the networks about the vote's fold and, for the vote, some phantoms."""
    pixels, labels = pack(items, size, cache)
    rng = np.random.default_rng(42)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    slices, shares, tumors = [], [], []
    answers, features = _classified(engine, pixels) if classifies else (None, None)
    for k, (softmax, truth) in enumerate(_predictions(engine, pixels, labels)):
        item = items[k]
        if not item.tumor or (item.mask is not None and item.label in BY_KEY):  # without mask or type pixels teach nothing
            rows.append(_sample(softmax, truth, rng))
        masks = softmax[..., FIRST_TUMOR:].sum(-1) >= 0.5
        mean = softmax.mean(0)
        found = mean[..., FIRST_TUMOR:].sum(-1)
        if item.mask is not None and item.tumor and (item.source, item.sequence) != ("lgg", "T1c") and k % 2:
            tumors.append((item.source, softmax.astype(np.float16), truth))
        said = None if answers is None else answers[k]
        slices.append(verdict_features(found, masks.sum((1, 2)), disagreement(masks), said))
        shares.append(np.array(list(type_probabilities(mean).values())))
    phantoms, phantom_labels = (a[::5] for a in phantom_pack(size))  # of every kind
    for softmax, truth in _predictions(engine, phantoms, phantom_labels):
        rows.append(_sample(softmax, truth, rng))
    table, targets, weights = (np.concatenate(part) for part in zip(*rows, strict=True))
    return Observed((table, targets, weights), np.stack(slices), np.stack(shares), tumors, answers, features)


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


def _run_of(data: Path, run: Path, vote_fold: int) -> Run:
    if not (run / FINAL).is_file():
        raise WeightsMissing(f"{run.name} has no finished run; train it with 'neurovision train {run.name}'.")
    told: dict[str, Any] = json.loads((run / "run.json").read_text())
    if vote_fold in told["folds"]:
        raise DataError(f"{run.name} was trained on fold {vote_fold}; the vote needs a fold that no member has seen.")
    sources = tuple(sorted(told["sources"]))
    terms = strictest(license_of(data, s) for s in sources)
    folds, refit = (tuple(sorted(told.get(key, ()))) for key in ("folds", "refit_folds"))
    return Run(run, told["recipe"], folds, refit, sources, terms, told.get("facts", {}))


def _export_all(runs: Sequence[Run], reader: Run | None, size: int, folder: Path, refitted: bool) -> Networks:
    """Write all networks into ``folder``: the shipped weights, or those from before any phase that refits."""
    entries = [_export(run, FINAL if refitted or not run.refit_folds else OUT_OF_FOLD, size, folder) for run in runs]
    classifier = entries.pop() if reader is not None else None
    return Networks(folder=folder, size=size, members=tuple(entries), classifier=classifier)


def _outside(
    seen: tuple[np.ndarray, np.ndarray] | None, limits: dict[str, float] | None, reader: Run | None, folder: Path
) -> OutOfDistributionModel | None:
    if seen is None or limits is None or reader is None:
        return None
    mean, whitening = seen
    write(folder / OUT_OF_DISTRIBUTION, save({"mean": mean, "whitening": whitening}))
    found: OutOfDistributionModel = OutOfDistributionModel.of(folder / OUT_OF_DISTRIBUTION, **limits)
    return found


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


def _seen(engine: Engine, data: Path, run: Run, size: int, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and whitening of the classifier's features on every second scan that it was trained on, and on phantoms."""
    seen = load_index(data, run.sources, run.folds, ("FLAIR", "T1c"))[::2]
    known = [pack(seen, size, cache)[0], phantom_pack(size)[0]]  # phantoms are heads too
    return OutOfDistribution.fit(np.concatenate([_classified(engine, canvases)[1] for canvases in known]))


def _limits(scores: np.ndarray) -> dict[str, float]:
    """From where a picture is refused or read with a warning, by scans that the classifier has not seen."""
    return {"refuse": float(np.quantile(scores, 1 - REFUSED)), "warn": float(np.quantile(scores, 1 - WARNED))}


def _export(run: Run, weights: str, size: int, out: Path) -> Network:
    """Write one network's variables as float16, and describe them."""
    model = run.model(weights, size)
    tensors = {
        variable_key(v): np.asarray(v, np.float32).astype(np.float16)
        for v in model.variables
        if v.dtype.startswith("float")
    }
    path = out / f"{run.name}.safetensors"
    write(path, save(tensors))
    entry: Network = Network.of(
        path, name=run.name, config=run.config, parameters=int(model.count_params()), provenance=run.provenance
    )
    return entry
