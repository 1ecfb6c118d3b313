"""Fit the vote, the verdict and the refusal on a fold that no network has seen, and write ``weights/`` with its manifest."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save
from tqdm import tqdm

from neurovision.classes import BACKGROUND, FIRST_TUMOR, SHIPPED, Classes
from neurovision.classifiers import build as build_classifier
from neurovision.ensemble.engine import Engine, load_engine, variable_key
from neurovision.ensemble.features import Scene, disagreement, pixel_features
from neurovision.ensemble.looks import classify_both_ways, look_twice
from neurovision.ensemble.manifest import (
    FILE,
    File,
    Manifest,
    Network,
    Networks,
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
from neurovision.ensemble.verdict import FEATURES, verdict_features
from neurovision.ensemble.voter import Blend, ManualVotingClassifier, Renamed, Voter
from neurovision.errors import DataError, WeightsMissing
from neurovision.files import replacing, write
from neurovision.scan.prepare import standardize
from neurovision.segmenters import build
from neurovision.training.augment import augment
from neurovision.training.calibrate import (
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
from neurovision.training.dataset import LGG_CHANNELS, Item, load_index, pack, pack_key
from neurovision.training.fit import FINAL, OUT_OF_FOLD, phantom_pack
from neurovision.training.identity import patients_of
from neurovision.training.provenance import facts, license_of, strictest
from neurovision.training.recipes import CLASSIFIER

log = logging.getLogger(__name__)

CHUNK = 16
OUT_OF_DISTRIBUTION = "out_of_distribution.safetensors"
REFUSED, WARNED = 0.004, 0.02  # of real scans that no network saw: refused, and read with a warning
PIXELS_A_SLICE = 180
ALARM = 1.35  # what a false alarm costs against a miss where the threshold is chosen: most scans show no tumor
LEVEL_GROUND = 0.005  # thresholds that lose no more than this are as good as the best
FEWEST = 40  # tumor slices from which intervals and expected Dice are fitted
SURE = 0.6  # probability from which the sequence is told
# The threshold that serves Dice best is half the Dice that can be reached (Lipton 2014, arXiv 1402.1892), not 0.5;
# weighing tumor pixels by (1 - t) / t puts the trees' 0.5 at t = 0.44, which served the vote's fold better than 0.38.
TUMOR_WEIGHT = 1.25


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
        classes: What it tells apart.
    """

    folder: Path
    recipe: dict[str, Any]
    folds: tuple[int, ...]
    refit_folds: tuple[int, ...]
    sources: tuple[str, ...]
    license: str
    facts: dict[str, Any]
    classes: Classes = SHIPPED

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
class Scenes(Sequence[Scene]):
    """The scenes of packed canvases, made when they are asked for.

    Attributes:
        pixels: float32 ``(N, size, size)``, canvases.
        labels: uint8 ``(N, size, size)``; what is not air is head.
        answers: The classifier's ``(N, K)``; None without one.
    """

    pixels: np.ndarray
    labels: np.ndarray
    answers: np.ndarray | None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, k: Any) -> Any:
        answers = None if self.answers is None else self.answers[k]
        return Scene(standardize(self.pixels[k]), self.labels[k] != BACKGROUND.index, answers)


@dataclass(frozen=True)
class Pixels:
    """Pixels that the trees learn from.

    Attributes:
        features: float32 ``(P, F)``.
        targets: Class of each.
        weights: What each stands for.
        owners: Index of its slice among the fold's, or -1 of a phantom.
    """

    features: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    owners: np.ndarray

    def without(self, slices: np.ndarray) -> Pixels:
        """Those of other slices, phantoms included."""
        kept = ~np.isin(self.owners, slices)
        return Pixels(self.features[kept], self.targets[kept], self.weights[kept], self.owners[kept])


@dataclass(frozen=True)
class Observed:
    """What the networks say of the vote's fold.

    Attributes:
        pixels: Sampled pixels.
        softmax: float16 ``(N, M, size, size, K)``, on disk.
        scenes: What the trees see of each slice beside the softmax.
        labels: uint8 ``(N, size, size)``, the truth.
        slices: The verdict's features of each slice, ``(N, V)``.
        answers: The classifier's answers ``(N, K)``; None without one.
        features: The classifier's features ``(N, F)``; None without one.
    """

    pixels: Pixels
    softmax: np.ndarray
    scenes: Scenes
    labels: np.ndarray
    slices: np.ndarray
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
    both looks, so that what is fitted reads exactly what it will be given. Where a run went on to train on
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
    classes = every[0].classes
    cache = runs / "cache"
    reader = every[-1] if classifier else None
    staging = _fresh(out.with_name(f".{out.name}-staging"))
    fitting = _fresh(out.with_name(f".{out.name}-fitting")) if any(r.refit_folds for r in every) else staging
    asked = export_all(every, reader, size, fitting, refitted=False)
    engine = load_engine(asked)
    items = vote_items(data, sources, vote_fold, limit, classes)
    observed = observed_of(asked, lambda: engine, items, cache)
    vote = _fit_vote(observed.pixels, staging, len(names), classes)
    slices = _cross_fitted(observed, items, len(names))
    verdict, unseen = _fit_verdict(observed.slices, items)
    verdict = replace(verdict, mask_share=best_share(slices) if slices else None)
    promises = _promises(unseen, items, slices, verdict)
    limits, seen, sequence = None, None, None
    if reader is not None and observed.answers is not None and observed.features is not None:
        verdict = replace(verdict, type_weight=_type_weight(slices, observed.answers))
        seen = _seen(engine, data, reader, size, cache)
        limits = _limits(score(*seen, observed.answers, observed.features), items)
    networks = export_all(every, reader, size, staging, refitted=True)
    if fitting != staging:
        shutil.rmtree(fitting)
        shipped = load_engine(networks)  # what it converts is published too
        if reader is not None and reader.refit_folds:
            seen = _seen(shipped, data, reader, size, cache)
        engine = shipped
    if reader is not None:
        sequence = _sequence(engine, data, reader, size, cache, staging)
    fitted = Provenance(
        sources=sources, folds=(vote_fold,), license=strictest(license_of(data, s) for s in sources), scans=len(items),
        **facts(time.perf_counter() - started),
    )  # fmt: skip
    training = _facts(every, sources, vote_fold, trial)
    manifest = Manifest(
        folder=staging, size=size, members=networks.members, classifier=networks.classifier, classes=classes,
        vote=replace(vote, provenance=fitted), verdict=replace(verdict, provenance=fitted), training=training,
        out_of_distribution=_outside(seen, limits, reader, staging), sequence=sequence, **promises,
        generator=read_manifest(out).generator if (out / FILE).is_file() else None,  # another command's
        patients=patients_of(load_index(data, sources, training.fitted_folds, classes=classes)),
    )  # fmt: skip
    write(staging / FILE, manifest.text())
    return _publish(staging, out)


def read_runs(data: Path, runs: Path, names: Sequence[str], vote_fold: int) -> list[Run]:
    """The finished runs of these networks, which fit together.

    Raises:
        WeightsMissing: A network has no finished run.
        DataError: A network was trained on ``vote_fold`` from the start, or the networks read canvases of different sizes,
            were trained on different folds or tell different classes apart.
    """
    found = [_run_of(data, runs / name, vote_fold) for name in names]
    for what, of in (("canvases of side", "size"), ("folds", "folds"), ("classes", "classes")):
        groups: dict[Any, list[str]] = {}
        for run in found:
            groups.setdefault(getattr(run, of), []).append(run.name)
        if len(groups) > 1:
            each = "; ".join(f"{', '.join(who)}: {_words(value)}" for value, who in groups.items())
            raise DataError(
                f"Networks that are stacked were trained on {what} alike; received {each}. Train those that differ again."
            )
    return found


def _words(value: Any) -> str:
    value = value.keys if isinstance(value, Classes) else value
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


def vote_items(
    data: Path, sources: Sequence[str], vote_fold: int, limit: int | None, classes: Classes = SHIPPED
) -> list[Item]:
    """The scans that the vote is fitted on."""
    items = load_index(data, sources, [vote_fold], ("FLAIR", "T1c"), classes)
    if limit is None:
        return items
    kept = [[i for i in items if i.source == s] for s in sources]
    return [i for group in kept for i in group[:: max(1, len(group) // limit)]]


# What is observed follows from these files, as this process loaded them, beside networks and scans.
_FILES = ("ensemble/features.py", "ensemble/looks.py", "training/stack.py")
_CODE = b"".join((Path(__file__).parents[1] / f).read_bytes() for f in _FILES)


def observed_of(networks: Networks, engine: Callable[[], Engine], items: Sequence[Item], cache: Path) -> Observed:
    """As :func:`observe`; kept in ``cache``, and taken from there where networks, scans and code are the same.

    Args:
        networks: What is asked, of :func:`export_all`.
        engine: Gives what runs them.
        items: Of :func:`vote_items`.
        cache: Folder.
    """
    size, file = networks.size, cache / "observed.npz"
    key = hashlib.sha256(_CODE)
    key.update(json.dumps([n.sha256 for n in networks.networks] + [pack_key(items, size)]).encode())
    if file.is_file():
        with np.load(file) as kept:
            found = dict(kept)
        if found.pop("key") == key.hexdigest():
            log.info("what the networks say of the fold is at hand already")
            pixels = Pixels(*(found.pop(f.name) for f in fields(Pixels)))
            answers, features = (found.pop(name, None) for name in ("answers", "slice_features"))
            canvases, labels = pack(items, size, cache)
            softmax = np.load(cache / "softmax.npy", mmap_mode="r")
            scenes = Scenes(canvases, labels, answers)
            return Observed(pixels, softmax, scenes, np.asarray(labels), found["slices"], answers, features)
    file.unlink(missing_ok=True)  # the softmax beside it is about to be replaced
    observed = observe(engine(), items, size, cache, networks.classifier is not None, networks.classes)
    arrays = {**vars(observed.pixels), "slices": observed.slices}
    optional = {"answers": observed.answers, "slice_features": observed.features}
    arrays |= {name: array for name, array in optional.items() if array is not None}
    with replacing(file) as part, part.open("wb") as stream:
        np.savez(stream, key=np.array(key.hexdigest()), **arrays)
    return observed


def observe(
    engine: Engine, items: Sequence[Item], size: int, cache: Path, classifies: bool, classes: Classes = SHIPPED
) -> Observed:
    """Ask the networks about the vote's fold and, for the vote, some phantoms."""
    pixels, labels = pack(items, size, cache)
    rng = np.random.default_rng(42)
    rows: list[tuple[np.ndarray, ...]] = []
    slices = []
    answers, features = _classified(engine, pixels) if classifies else (None, None)
    scenes = Scenes(pixels, labels, answers)
    kept: np.ndarray | None = None
    for k, softmax in enumerate(_predictions(engine, pixels)):
        item, truth = items[k], labels[k]
        if kept is None:
            kept = np.lib.format.open_memmap(cache / "softmax.npy", "w+", np.float16, (len(items), *softmax.shape))
        kept[k] = softmax
        if not item.tumor or (item.mask is not None and item.typed):  # without mask or type pixels teach nothing
            rows.append(_sample(softmax, truth, scenes[k], rng, k))
        masks = softmax[..., FIRST_TUMOR:].sum(-1) >= 0.5
        found = softmax.mean(0)[..., FIRST_TUMOR:].sum(-1)
        said = None if answers is None else answers[k]
        slices.append(verdict_features(found, masks.sum((1, 2)), disagreement(masks), said))
    phantoms, phantom_labels = (a[::5] for a in phantom_pack(size, classes))  # of every kind
    drawn = Scenes(phantoms, phantom_labels, _classified(engine, phantoms)[0] if classifies else None)
    for k, softmax in enumerate(_predictions(engine, phantoms)):
        rows.append(_sample(softmax, phantom_labels[k], drawn[k], rng, -1))
    sampled = Pixels(*(np.concatenate(part) for part in zip(*rows, strict=True)))
    return Observed(sampled, np.asarray(kept), scenes, np.asarray(labels), np.stack(slices), answers, features)


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
    described: dict[str, Any] = json.loads((run / "run.json").read_text())
    if vote_fold in described["folds"]:
        raise DataError(f"{run.name} was trained on fold {vote_fold}; the vote needs a fold that no member has seen.")
    sources = tuple(sorted(described["sources"]))
    terms = strictest(license_of(data, s) for s in sources)
    classes = Classes.from_json(described["classes"]) if "classes" in described else SHIPPED
    folds, refit = (tuple(sorted(described.get(key, ()))) for key in ("folds", "refit_folds"))
    return Run(run, described["recipe"], folds, refit, sources, terms, described.get("facts", {}), classes)


def export_all(runs: Sequence[Run], reader: Run | None, size: int, folder: Path, refitted: bool) -> Networks:
    """Write all networks into ``folder``: the shipped weights, or those from before any phase that refits."""
    entries = [_export(run, FINAL if refitted or not run.refit_folds else OUT_OF_FOLD, size, folder) for run in runs]
    classifier = entries.pop() if reader is not None else None
    return Networks(folder=folder, size=size, members=tuple(entries), classifier=classifier, classes=runs[0].classes)


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


def _predictions(engine: Engine, pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield softmax ``(M, size, size, K)``, slice by slice."""
    for first in tqdm(range(0, len(pixels), CHUNK), desc="out-of-fold predictions", unit="batch", disable=None):
        softmax = look_twice(engine, np.stack([standardize(p) for p in pixels[first : first + CHUNK]]))
        for k in range(softmax.shape[1]):
            yield softmax[:, k]


def _classified(engine: Engine, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classifier's answers ``(N, K)`` and features ``(N, F)``."""
    parts = [
        classify_both_ways(engine, np.stack([standardize(p) for p in pixels[first : first + CHUNK]]))
        for first in tqdm(range(0, len(pixels), CHUNK), desc="whole slices", unit="batch", disable=None)
    ]
    return np.concatenate([a for a, _ in parts]), np.concatenate([f for _, f in parts])


def _sample(
    softmax: np.ndarray, truth: np.ndarray, scene: Scene, rng: np.random.Generator, owner: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw pixels of one slice: tumor, doubtful and easy ones alike, each weighted by what its stratum stands for."""
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
    index = np.sort(np.concatenate(chosen))
    order = np.argsort(np.concatenate(chosen), kind="stable")
    where = np.zeros(truth.size, bool)
    where[index] = True
    features = pixel_features(softmax, where.reshape(truth.shape), scene)
    return features, flat[index], np.concatenate(weights)[order], np.full(len(index), owner)


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
    kernel, bias, sequences = fit_sequence(_classified(engine, pixels[kept])[1], told, weights)
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
    return OutOfDistribution.fit(np.concatenate([_classified(engine, canvases)[1] for canvases in known]))


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
