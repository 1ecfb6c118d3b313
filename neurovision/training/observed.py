"""What networks say of scans that they have not seen: the ground that vote and verdict are fitted on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from neurovision.classes import BACKGROUND, FIRST_TUMOR, SHIPPED, Classes
from neurovision.ensemble.engine import Engine
from neurovision.ensemble.features import Scene, disagreement, pixel_features
from neurovision.ensemble.looks import classify_both_ways, look_twice
from neurovision.ensemble.manifest import Networks
from neurovision.ensemble.verdict import verdict_features
from neurovision.errors import DataError
from neurovision.files import replacing
from neurovision.scan.prepare import standardize
from neurovision.training.dataset import Item, load_index, pack, pack_key
from neurovision.training.fit import phantom_pack, without
from neurovision.training.runs import Run, export_all, read_runs

log = logging.getLogger(__name__)

CHUNK = 16
PIXELS_A_SLICE = 180
# The threshold that serves Dice best is half the Dice that can be reached (Lipton 2014, arXiv 1402.1892), not 0.5;
# weighing tumor pixels by (1 - t) / t puts the trees' 0.5 at t = 0.44, which served the vote's fold better than 0.38.
TUMOR_WEIGHT = 1.25


@dataclass(frozen=True)
class Part:
    """A fold that the vote is fitted on, and the runs whose networks had not seen it.

    Attributes:
        fold: Which.
        runs: Of the members, then of the classifier if the set has one.
        items: The fold's scans.
    """

    fold: int
    runs: tuple[Run, ...]
    items: list[Item]


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
        owners: Index of its slice, or -1 of a phantom.
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
    """What the networks say of all parts' scans, one part after the other.

    Attributes:
        pixels: Sampled pixels.
        softmax: float16 ``(N, M, size, size, K)``, on disk.
        scenes: What the trees see of each slice beside the softmax.
        labels: uint8 ``(N, size, size)``, the truth.
        slices: The verdict's features of each slice, ``(N, V)``.
        answers: The classifiers' answers ``(N, K)``; None without one.
        features: The first part's classifier's features of that part's scans, ``(N1, F)``; None without one.
    """

    pixels: Pixels
    softmax: np.ndarray
    scenes: Scenes
    labels: np.ndarray
    slices: np.ndarray
    answers: np.ndarray | None
    features: np.ndarray | None


def parts_of(
    data: Path, runs: Path, names: Sequence[str], vote_fold: int, cross_fit: bool = False, limit: int | None = None
) -> list[Part]:
    """The folds that the vote is fitted on: ``vote_fold`` first.

    Args:
        data: The prepared folder.
        runs: Folder of the networks' runs.
        names: Networks, the classifier last.
        vote_fold: The fold that no network saw.
        cross_fit: Also take the folds that the networks were trained on, from runs that left one out each.
        limit: At most so many scans of each data set and fold, for a trial.

    Raises:
        WeightsMissing: A network has no finished run.
        DataError: A network saw a fold that it must not have seen, or the runs cannot be stacked together.
    """
    first = read_runs(data, runs, names, vote_fold)
    every = {vote_fold: first}
    for fold in first[0].folds if cross_fit else ():
        every[fold] = read_runs(data, without(runs, fold), names, fold, "--cross-fit")
        for run, other in zip(first, every[fold], strict=True):
            allowed = {*run.folds, vote_fold} - {fold}
            alike = all(getattr(other, what) == getattr(run, what) for what in ("size", "config", "classes", "sources"))
            if not alike or {*other.folds} != allowed:
                folds, sets = ", ".join(map(str, sorted(allowed))), ", ".join(run.sources)
                raise DataError(
                    f"{run.name} without fold {fold} is another network, or was trained on other folds than {folds} or other"
                    f" data sets than {sets}; train it again with --cross-fit."
                )
    sources = sorted({s for run in first for s in run.sources})
    return [Part(f, tuple(r), vote_items(data, sources, f, limit, first[0].classes)) for f, r in every.items()]


def asked_of(parts: Sequence[Part], classifies: bool, folder: Path) -> list[tuple[Networks, list[Item]]]:
    """Write each part's networks as they were before they saw its fold, into a folder of their own.

    Args:
        parts: Of :func:`parts_of`.
        classifies: Whether the last of each part's networks is the classifier.
        folder: Holds those folders.
    """
    found = []
    for part in parts:
        place = folder / str(part.fold)
        place.mkdir(parents=True)
        found.append((export_all(part.runs, classifies, place, refitted=False), part.items))
    return found


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
_FILES = ("ensemble/features.py", "ensemble/looks.py", "training/observed.py")
_CODE = b"".join((Path(__file__).parents[1] / f).read_bytes() for f in _FILES)


def observed_of(
    asked: Sequence[tuple[Networks, Sequence[Item]]], engine: Callable[[Networks], Engine], cache: Path
) -> Observed:
    """As :func:`observe`; kept in ``cache``, and taken from there where networks, scans and code are the same.

    Args:
        asked: Of :func:`asked_of`.
        engine: Gives what runs networks.
        cache: Folder.
    """
    items = [item for _, some in asked for item in some]
    size, file = asked[0][0].size, cache / "observed.npz"
    key = hashlib.sha256(_CODE)
    digests = [[n.sha256 for n in networks.networks] + [pack_key(some, size)] for networks, some in asked]
    key.update(json.dumps(digests).encode())
    if file.is_file():
        with np.load(file) as kept:
            found = dict(kept)
        if found.pop("key") == key.hexdigest():
            log.info("what the networks say of scans that they have not seen is at hand already")
            pixels = Pixels(*(found.pop(f.name) for f in fields(Pixels)))
            answers, features = (found.pop(name, None) for name in ("answers", "slice_features"))
            canvases, labels = pack(items, size, cache)
            softmax = np.load(cache / "softmax.npy", mmap_mode="r")
            scenes = Scenes(canvases, labels, answers)
            return Observed(pixels, softmax, scenes, np.asarray(labels), found["slices"], answers, features)
    file.unlink(missing_ok=True)  # the softmax beside it is about to be replaced
    observed = observe(asked, engine, cache)
    arrays = {**vars(observed.pixels), "slices": observed.slices}
    optional = {"answers": observed.answers, "slice_features": observed.features}
    arrays |= {name: array for name, array in optional.items() if array is not None}
    with replacing(file) as part, part.open("wb") as stream:
        np.savez(stream, key=np.array(key.hexdigest()), **arrays)
    return observed


def observe(
    asked: Sequence[tuple[Networks, Sequence[Item]]], engine: Callable[[Networks], Engine], cache: Path
) -> Observed:
    """Ask each part's networks about its scans and, for the vote, the last part's about some phantoms."""
    items = [item for _, some in asked for item in some]
    size, classes = asked[0][0].size, asked[0][0].classes
    pixels, labels = pack(items, size, cache)
    rng = np.random.default_rng(42)
    rows: list[tuple[np.ndarray, ...]] = []
    slices: list[np.ndarray] = []
    told: list[tuple[np.ndarray | None, np.ndarray | None]] = []
    kept: np.ndarray | None = None
    for networks, some in asked:
        start, classifies = len(slices), networks.classifier is not None
        runner, part = engine(networks), slice(start, start + len(some))
        told.append(classified(runner, pixels[part]) if classifies else (None, None))
        scenes = Scenes(pixels[part], labels[part], told[-1][0])
        for k, softmax in enumerate(_predictions(runner, pixels[part]), start):
            item, truth = items[k], labels[k]
            if kept is None:
                kept = np.lib.format.open_memmap(cache / "softmax.npy", "w+", np.float16, (len(items), *softmax.shape))
            kept[k] = softmax
            if not item.tumor or (item.mask is not None and item.typed):  # without mask or type pixels teach nothing
                rows.append(sample(softmax, truth, scenes[k - start], rng, k))
            masks = softmax[..., FIRST_TUMOR:].sum(-1) >= 0.5
            found = softmax.mean(0)[..., FIRST_TUMOR:].sum(-1)
            slices.append(verdict_features(found, masks.sum((1, 2)), disagreement(masks), scenes[k - start].answers))
    phantoms, phantom_labels = (a[::5] for a in phantom_pack(size, classes))  # of every kind
    drawn = Scenes(phantoms, phantom_labels, classified(runner, phantoms)[0] if classifies else None)
    for k, softmax in enumerate(_predictions(runner, phantoms)):
        rows.append(sample(softmax, phantom_labels[k], drawn[k], rng, -1))
    sampled = Pixels(*(np.concatenate(of) for of in zip(*rows, strict=True)))
    answers = np.concatenate([a for a, _ in told if a is not None]) if classifies else None
    every = Scenes(pixels, labels, answers)
    return Observed(sampled, np.asarray(kept), every, np.asarray(labels), np.stack(slices), answers, told[0][1])


def _predictions(engine: Engine, pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield softmax ``(M, size, size, K)``, slice by slice."""
    for first in tqdm(range(0, len(pixels), CHUNK), desc="out-of-fold predictions", unit="batch", disable=None):
        softmax = look_twice(engine, np.stack([standardize(p) for p in pixels[first : first + CHUNK]]))
        for k in range(softmax.shape[1]):
            yield softmax[:, k]


def classified(engine: Engine, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classifier's answers ``(N, K)`` and features ``(N, F)``."""
    parts = [
        classify_both_ways(engine, np.stack([standardize(p) for p in pixels[first : first + CHUNK]]))
        for first in tqdm(range(0, len(pixels), CHUNK), desc="whole slices", unit="batch", disable=None)
    ]
    return np.concatenate([a for a, _ in parts]), np.concatenate([f for _, f in parts])


def sample(
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
