"""Run one claim again: split, train, predict, and hand over what every test scan came to."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from neurovision.classes import FIRST_TUMOR, SHIPPED
from neurovision.classifiers import build as build_classifier
from neurovision.ensemble.features import pixel_features
from neurovision.ensemble.voter import ManualVotingClassifier, Renamed
from neurovision.errors import DataError
from neurovision.scan.enhance import musica
from neurovision.scan.prepare import standardize
from neurovision.segmenters import build as build_segmenter
from neurovision.training.claims import Budget, Claim, Schedule, Split, claim
from neurovision.training.dataset import Item, load_index, pack
from neurovision.training.fit import Batches
from neurovision.training.fit_classifier import (
    RECIPES,
    WIDE,
    Labeled,
    best_threshold,
    fit_stages,
    jittered,
)
from neurovision.training.losses import CrossEntropyDice
from neurovision.training.recipes import Recipe
from neurovision.training.trainer import Plan, fit

log = logging.getLogger(__name__)

FOLDS = (1, 2, 3, 4)
BINS = 200  # of a pixel's probability
BATCH = 8


@dataclass(frozen=True)
class Trial:
    """What a run came to, case by case; a case is a test scan.

    Attributes:
        counts: float ``(N, 4)``: true positives, false positives, false negatives, true negatives; pixels of a
            segmenter's mask, one decision of a classifier.
        positive: float ``(N, B)``: how many tumor pixels (or 1 for a tumor scan) have a probability in each of B bins.
        negative: The same without a tumor.
        clusters: Whose each case is: a patient where they are known, else the scan itself.
        training: Scans that were trained on.
        seen: Scans seen, every epoch counted.
        seconds: Processor time of training alone, which other work on the machine does not lengthen.
        milliseconds: Processor time of one prediction, in a batch.
        parameters: Of the network.
        threshold: From which a case or pixel counts as tumor.
        unseen: The same of the second data set, where the claim names one.
        model: The trained network; None of a vote.
    """

    counts: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    clusters: list[str]
    training: int
    seen: int
    seconds: float
    milliseconds: float
    parameters: int
    threshold: float = 0.5
    unseen: Trial | None = None
    model: Any = field(default=None, compare=False)


def split_items(
    items: Sequence[Item], how: Split, budget: Budget, seed: int = 7
) -> tuple[list[Item], list[Item], list[Item]]:
    """Training, validation and test items.

    Args:
        items: Of one data set, folds 1 to 4.
        how: ``"patients"`` goes by folds; otherwise all are shuffled, 70, 15 and 15 %.
        budget: Cuts each part, at random.
        seed: Of the shuffling; the same for all claims, so that they are compared on the same scans.

    Raises:
        DataError: A part would be empty.
    """
    rng = np.random.default_rng(seed)
    shuffled = [items[k] for k in rng.permutation(len(items))]
    if how == "patients":
        parts = [[i for i in shuffled if i.fold in folds] for folds in ((1, 2), (3,), (4,))]
    else:
        first, second = round(0.7 * len(items)), round(0.85 * len(items))
        parts = [shuffled[:first], shuffled[first:second], shuffled[second:]]
    if not all(parts):
        raise DataError("A split needs scans in folds 1 to 4; prepare the data with 'neurovision data'.")
    limits = (budget.scans, budget.tests and budget.tests // 2, budget.tests)
    training, validation, test = (part[:limit] for part, limit in zip(parts, limits, strict=True))
    return training, validation, test


def run_claim(found: Claim, how: Split, budget: Budget, data: Path, out: Path) -> Trial:
    """Train as a claim says, and predict its test scans.

    Args:
        found: The claim.
        how: The split.
        budget: What it may cost.
        data: The prepared folder.
        out: Folder of all runs; a member of a vote leaves its probabilities there, and canvases are kept in ``cache/``.

    Raises:
        DataError: The data set lacks a part, or a vote's members have not been run at this split and budget.
    """
    keras.utils.set_random_seed(1)
    keras.utils.clear_session()
    if found.kind == "classifier":
        return _classifier(found, how, budget, data, out)
    if found.kind == "vote":
        return _vote(found, how, budget, data, out)
    return _segmenter(found, how, budget, data, out)


def probabilities_file(name: str, how: Split, budget: Budget, out: Path) -> Path:
    """Where a segmenter leaves its softmax of the validation and test scans."""
    return out / f"{name}-{how}-{budget.size}.npz"


def _marked(found: Claim, data: Path) -> list[Item]:
    """The scans of a claim's data set whose tumors, if any, are drawn: a set of one's own may have others too."""
    return [i for i in load_index(data, [found.source], FOLDS, classes=SHIPPED) if i.mask is not None or not i.tumor]


def _canvases(items: Sequence[Item], found: Claim, budget: Budget, out: Path) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = pack(items, budget.size, out / "cache")
    if found.musica:
        pixels = np.stack([musica(p) for p in pixels])
    return pixels, labels


def _classifier(found: Claim, how: Split, budget: Budget, data: Path, out: Path) -> Trial:
    items = load_index(data, [found.source], FOLDS, classes=SHIPPED)
    plan = RECIPES[found.model]
    limits = (budget.epochs, *(budget.tuning for _ in plan.stages[1:]))
    stages = tuple(
        replace(
            s, learning_rate=s.learning_rate * budget.rate, epochs=min(limit or s.epochs, s.epochs),
            jitter=s.jitter if found.augment else None,
        )
        for s, limit in zip(plan.stages, limits, strict=True)
    )  # fmt: skip
    plan = replace(plan, stages=stages)
    if how == "copies":
        training, validation = _copies(items, found, budget, out)
        test, clusters = validation, [str(k) for k in range(len(validation.tumor))]
    else:
        parts = split_items(items, how, budget)
        training, validation, test = (
            Labeled(_canvases(p, found, budget, out)[0], np.array([i.tumor for i in p])) for p in parts
        )
        clusters = [i.id for i in parts[2]]
    model = build_classifier(plan.name, (budget.size, budget.size, 1), **budget.config)
    started = time.process_time()
    seen, _ = fit_stages(model, plan, training, validation)
    seconds = time.process_time() - started
    checked = np.asarray(model.predict(validation.canvases(), verbose=0))[:, 0]
    started = time.process_time()
    probability = np.asarray(model.predict(test.canvases(), verbose=0))[:, 0]
    took = (time.process_time() - started) * 1000 / len(probability)
    threshold = best_threshold(validation.tumor, checked) if found.document == "E" else 0.5
    counts, positive, negative = _tally(test.tumor[:, None], probability[:, None], threshold)
    return Trial(
        counts, positive, negative, clusters, len(training.tumor), seen, seconds, took, model.count_params(), threshold,
        model=model,
    )  # fmt: skip


def _copies(items: Sequence[Item], found: Claim, budget: Budget, out: Path) -> tuple[Labeled, Labeled]:
    """The leaky way: enlarge first, then part at random, so that copies of one picture stand on both sides."""
    pixels, _ = _canvases(items, found, budget, out)
    tumor = np.array([i.tumor for i in items])
    rng = np.random.default_rng(7)
    copies = [jittered(p, rng, WIDE) for p in pixels]
    pixels, tumor = np.concatenate([pixels, np.stack(copies)]), np.tile(tumor, 2)
    order = rng.permutation(len(tumor))
    kept = round(0.8 * len(order))  # the document's validation_split is 0.2
    return Labeled(pixels[order[:kept]], tumor[order[:kept]]), Labeled(pixels[order[kept:]], tumor[order[kept:]])


def _tally(truth: np.ndarray, probability: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts ``(N, 4)`` and binned probabilities ``(N, BINS)`` of bool and float ``(N, ...)``."""
    truth, probability = truth.reshape(len(truth), -1), probability.reshape(len(truth), -1)
    said = probability >= threshold
    counts = np.stack([(truth & said).sum(1), (~truth & said).sum(1), (truth & ~said).sum(1), (~truth & ~said).sum(1)], 1)
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    sides = [
        np.stack([np.bincount(b[t == side], minlength=BINS) for b, t in zip(bins, truth, strict=True)])
        for side in (True, False)
    ]
    return counts.astype(float), sides[0].astype(float), sides[1].astype(float)


def _segmenter(found: Claim, how: Split, budget: Budget, data: Path, out: Path) -> Trial:
    schedule = found.schedule
    assert schedule is not None
    parts = split_items(_marked(found, data), how, budget)
    (pixels, labels), (checks, check_labels), (tests, test_labels) = (_canvases(p, found, budget, out) for p in parts)
    model = build_segmenter(found.model, (budget.size, budget.size, 1), **budget.config)
    weights = found.class_weights
    if weights is None:  # each side of the mask weighs alike
        share = float((labels >= FIRST_TUMOR).mean())
        weights = (0.5 / (1 - share),) * FIRST_TUMOR + (0.5 / share,) * len(SHIPPED.tumors)
    loss = CrossEntropyDice(weights, found.dice, kind=0.0)
    recipe = Recipe(
        found.model, batch=BATCH, epoch_scans=len(pixels), mix={found.source: 1.0}, augment=1.0 if found.augment else 0.0
    )
    batches = Batches({found.source: (pixels, labels)}, recipe, 1)
    started = time.process_time()
    epochs = _train(model, schedule, budget, batches, (_standard(checks), np.asarray(check_labels)), loss)
    seconds = time.process_time() - started
    started = time.process_time()
    softmax = _softmax(model, tests)
    took = (time.process_time() - started) * 1000 / len(tests)
    np.savez_compressed(
        probabilities_file(found.name, how, budget, out),
        validation=_softmax(model, checks).astype(np.float16), test=softmax.astype(np.float16),
    )  # fmt: skip
    cost = (len(pixels), epochs * len(batches) * BATCH, seconds, took, model.count_params())
    unseen = None
    if found.unseen is not None:
        others = [i for i in load_index(data, [found.unseen], [4], ("T1c",)) if i.tumor][: budget.tests]
        other_pixels, other_labels = _canvases(others, found, budget, out)
        unseen = _measured(_softmax(model, other_pixels), other_labels, others, cost)
    return _measured(softmax, test_labels, parts[2], cost, unseen, model)


def _measured(
    softmax: np.ndarray, labels: np.ndarray, items: Sequence[Item], cost: tuple[int, int, float, float, int],
    unseen: Trial | None = None, model: Any = None,
) -> Trial:  # fmt: skip
    counts, positive, negative = _tally(np.asarray(labels) >= FIRST_TUMOR, softmax[..., FIRST_TUMOR:].sum(-1), 0.5)
    training, seen, seconds, milliseconds, parameters = cost
    return Trial(
        counts, positive, negative, [i.patient or i.id for i in items], training, seen, seconds, milliseconds, parameters,
        unseen=unseen, model=model,
    )  # fmt: skip


def _standard(pixels: np.ndarray) -> np.ndarray:
    return np.stack([standardize(p) for p in pixels])[..., None]


def _softmax(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(_standard(pixels), batch_size=BATCH, verbose=0), np.float32)


def _train(
    model: keras.Model, schedule: Schedule, budget: Budget, batches: Batches, checks: tuple[np.ndarray, np.ndarray],
    loss: keras.losses.Loss,
) -> int:  # fmt: skip
    """Train the frozen phase, where there is one, then the rest; returns the epochs that were run."""
    limit = budget.epochs or 10**6
    phases = [(True, min(schedule.frozen, max(1, limit // 3)))] if schedule.frozen else []
    phases.append((False, min(schedule.epochs, limit)))
    run = 0
    for frozen, epochs in phases:
        for nested in (x for x in model.layers if isinstance(x, keras.Model)):
            nested.trainable = not frozen
        plan = Plan(
            epochs, schedule.rate * budget.rate, "exponential" if schedule.decay < 1 else "constant", decay=schedule.decay,
            weight_decay=schedule.weight_decay, patience=schedule.patience, plateau=5 if schedule.plateau else None,
            validation_batch=BATCH,
        )  # fmt: skip
        run += fit(model, batches, checks, plan, loss).epochs
    return run


def _vote(found: Claim, how: Split, budget: Budget, data: Path, out: Path) -> Trial:
    """Random forest and XGBoost over the members' probabilities, fitted on the validation scans."""
    from sklearn.ensemble import RandomForestClassifier
    from xgboost import XGBClassifier

    validation, test = [], []
    for name in found.model.split("+"):
        file = probabilities_file(name, how, claim(name).budget("full" if budget is found.full else "small"), out)
        if not file.is_file():
            raise DataError(f"{found.name} votes over {name}, which has not been run with the split {how!r}; run it first.")
        with np.load(file, allow_pickle=False) as arrays:
            validation.append(_on_grid(arrays["validation"], budget.size))
            test.append(_on_grid(arrays["test"], budget.size))
    _, checked, tested = split_items(_marked(found, data), how, budget)
    labels, test_labels = (np.asarray(pack(part, budget.size, out / "cache")[1]) for part in (checked, tested))
    rng = np.random.default_rng(42)
    rows, targets = [], []
    for k, truth in enumerate(labels):
        flat = np.where(truth == SHIPPED.untyped, FIRST_TUMOR, truth).reshape(-1)  # only tumor or none is measured
        tumor, rest = np.flatnonzero(flat >= FIRST_TUMOR), np.flatnonzero(flat < FIRST_TUMOR)
        chosen = np.concatenate([tumor[:: max(1, len(tumor) // 100)], rng.choice(rest, 300, replace=False)])
        rows.append(pixel_features(np.stack([v[k] for v in validation]))[chosen])
        targets.append(flat[chosen])
    features, truth = np.concatenate(rows), np.concatenate(targets)
    started = time.process_time()
    kinds, dense = np.unique(truth, return_inverse=True)  # XGBoost wants 0, 1, 2, ... without a gap
    forest = RandomForestClassifier(n_estimators=100, n_jobs=1, random_state=42, min_samples_leaf=5).fit(features, truth)
    boost = XGBClassifier(objective="multi:softprob", eval_metric="mlogloss", n_jobs=1, random_state=42)
    boost.fit(features, dense)
    seconds = time.process_time() - started
    vote = ManualVotingClassifier([forest, Renamed(boost, kinds)], len(SHIPPED))
    started = time.process_time()
    softmax = np.stack([
        vote.predict_proba(pixel_features(np.stack([t[k] for t in test]))).reshape(*test_labels.shape[1:], -1)
        for k in range(len(tested))
    ])  # fmt: skip
    took = (time.process_time() - started) * 1000 / len(tested)
    return _measured(softmax, test_labels, tested, (len(checked), len(checked), seconds, took, 0))


def _on_grid(softmax: np.ndarray, size: int) -> np.ndarray:
    """Members read canvases of several sizes; the vote needs float32 ``(N, size, size, 5)`` of all."""
    return np.stack([cv2.resize(p.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR) for p in softmax])
