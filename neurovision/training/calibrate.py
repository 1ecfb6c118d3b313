"""Fit what a result promises on cross-fitted votes: expected Dice, intervals of size, the borderline, the sequence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from neurovision.classes import FIRST_TUMOR
from neurovision.ensemble.calibration import QUALITY, expected_dice, quality_features
from neurovision.ensemble.features import Scene, tumor_threshold
from neurovision.ensemble.manifest import BorderlineRule, IntervalModel, QualityModel, VerdictModel
from neurovision.ensemble.verdict import pixel_types
from neurovision.ensemble.voter import Voter
from neurovision.training.dataset import Item

log = logging.getLogger(__name__)

BLOCKS = 4
SHARES = tuple(float(s) for s in np.linspace(0.3, 0.9, 13))
LEVEL = 0.9  # of the intervals
FEWEST = 40  # tumor slices from which intervals and expected Dice are fitted
ENOUGH = 80  # slices of a sequence that earn it quantiles of its own
FEWEST_PATIENTS = 5  # of a data set, where it says how many it has, to have a say in the share
WIDEST = 0.10  # of scans may be borderline
WRONG = 0.01  # of the others, at most, if that can be reached


def blocks_of(items: Sequence[Item], count: int = BLOCKS) -> np.ndarray:
    """Share out the items of one fold so that a patient stands in one block: int ``(N,)`` in ``0 .. count - 1``.

    Where a data set names no patients, the scans of each type are cut in the order of their names, which in figshare is the
    order of the patients: at most ``count - 1`` patients of a type stand in two blocks. Cutting all types at once would
    leave blocks that hold the only scans of a type, and a vote fitted without one of them would never have seen it.
    """
    found = np.empty(len(items), int)
    groups: dict[tuple[str, str], list[int]] = {}
    for k, item in enumerate(items):
        groups.setdefault((item.source, "" if item.patient else item.label), []).append(k)
    for places in groups.values():
        names = sorted({items[k].patient or items[k].id for k in places})
        rank = {name: n * count // len(names) for n, name in enumerate(names)}
        for k in places:
            found[k] = rank[items[k].patient or items[k].id]
    return found


@dataclass(frozen=True)
class CrossFitted:
    """One tumor slice of the vote's fold as a vote sees it that was fitted without its block.

    Attributes:
        item: Which.
        place: Its index among the fold's.
        types: Share of each tumor type in the vote, ``(K - 2,)``.
        dice: Of the mask marked from each of SHARES.
        quality: Of :func:`~neurovision.ensemble.calibration.quality_features` at each of SHARES, ``(S, F)``.
        areas: Marked pixels at each of SHARES.
        truth: Annotated pixels.
    """

    item: Item
    place: int
    types: np.ndarray
    dice: np.ndarray
    quality: np.ndarray
    areas: np.ndarray
    truth: int


def cross_fitted(
    items: Sequence[Item],
    blocks: np.ndarray,
    voters: Callable[[int], Voter],
    softmax: Callable[[int], np.ndarray],
    scenes: Sequence[Scene],
    labels: np.ndarray,
) -> list[CrossFitted]:
    """Vote on every annotated tumor slice with the voter of its block.

    Args:
        items: Of the vote's fold.
        blocks: Of :func:`blocks_of`.
        voters: Gives the voter that was fitted without a block.
        softmax: Gives the members' softmax ``(M, size, size, K)`` of an item.
        scenes: One an item.
        labels: uint8 ``(N, size, size)``, the truth.
    """
    found = []
    for block in np.unique(blocks):
        voter = voters(int(block))
        for k in np.flatnonzero(blocks == block).tolist():
            if items[k].mask is None or not items[k].tumor:
                continue
            maps = softmax(k)
            vote = voter.vote_maps(maps[:, None], [scenes[k]])[0]
            found.append(_tried(items[k], k, vote, maps[..., FIRST_TUMOR:].sum(-1) >= 0.5, labels[k] >= FIRST_TUMOR))
    return found


def _tried(item: Item, place: int, vote: np.ndarray, members: np.ndarray, truth: np.ndarray) -> CrossFitted:
    tumor = vote[..., FIRST_TUMOR:].sum(-1)
    masks = [tumor >= tumor_threshold(tumor, share) for share in SHARES]
    areas = np.array([int(m.sum()) for m in masks])
    overlap = np.array([int((m & truth).sum()) for m in masks])
    return CrossFitted(
        item,
        place,
        pixel_types(vote),
        2 * overlap / np.maximum(areas + truth.sum(), 1),
        np.stack([quality_features(tumor, m, members) for m in masks]),
        areas,
        int(truth.sum()),
    )


def best_share(slices: Sequence[CrossFitted]) -> float:
    """The share of a slice's peak from which pixels are marked: what gives the best mean Dice of :func:`telling` slices."""
    kept = telling([s.item for s in slices])
    return SHARES[int(np.mean([s.dice for s, tells in zip(slices, kept, strict=True) if tells], 0).argmax())]


def telling(items: Sequence[Item]) -> np.ndarray:
    """Which tumor slices the share is chosen by, bool ``(N,)``; each counts the same.

    LGG's post-contrast ones do not, since their mask is FLAIR's, nor does a data set of fewer than FEWEST_PATIENTS: many
    slices of two patients, on which every share does badly, would decide for all. Where that leaves none, all count.
    """
    patients: dict[str, set[str | None]] = {}
    for i in items:
        patients.setdefault(i.source, set()).add(i.patient)
    few = {source for source, names in patients.items() if None not in names and len(names) < FEWEST_PATIENTS}
    found = np.array([i.source not in few and (i.source, i.sequence) != ("lgg", "T1c") for i in items], bool)
    return found if found.any() else np.ones(len(items), bool)


def fit_quality(slices: Sequence[CrossFitted], share: float) -> QualityModel:
    """Ridge regression of the Dice; its correlation is taken over blocks of a second cross-validation."""
    from scipy.stats import spearmanr
    from sklearn.linear_model import Ridge

    at = SHARES.index(share)
    rows, dice = np.stack([s.quality[at] for s in slices]), np.array([s.dice[at] for s in slices])
    mean, scale = rows.mean(0), np.maximum(rows.std(0), 1e-3)
    z = (rows - mean) / scale
    blocks = blocks_of([s.item for s in slices])
    unseen = np.empty(len(dice))
    for block in np.unique(blocks):
        inside = blocks == block
        unseen[inside] = Ridge(1.0).fit(z[~inside], dice[~inside]).predict(z[inside])
    model = Ridge(1.0).fit(z, dice)
    correlation = float(spearmanr(unseen, dice).statistic) if np.ptp(unseen) and np.ptp(dice) else 0.0
    return QualityModel(
        features=QUALITY, mean=tuple(map(float, mean)), scale=tuple(map(float, scale)),
        coefficients=tuple(map(float, model.coef_)), intercept=float(model.intercept_),
        correlation=correlation, scans=len(dice),
    )  # fmt: skip


def fit_intervals(slices: Sequence[CrossFitted], share: float, quality: QualityModel) -> IntervalModel | None:
    """Conformal quantiles of the log ratio of true to marked area, and of patients' volumes; None of fewer than FEWEST.

    A slice on which nothing is marked has no ratio and is left out: its report gives no area either. So is one whose tumor
    is smaller than a pixel of the grid, and LGG's post-contrast sequence, whose mask is FLAIR's.
    """
    at = SHARES.index(share)
    kept = [s for s in slices if s.areas[at] and s.truth and (s.item.source, s.item.sequence) != ("lgg", "T1c")]
    if len(kept) < FEWEST:
        return None
    ratios = np.log([s.truth / s.areas[at] for s in kept])
    doubt = np.array([1 - expected_dice(s.quality[at], quality) for s in kept])
    fitted = np.polyfit(doubt, np.abs(ratios), 1)
    slope, base = max(float(fitted[0]), 0.0), max(float(fitted[1]), 0.02)  # a spread is positive, and grows with doubt
    scores = ratios / (base + slope * doubt)
    groups = {"": np.ones(len(kept), bool)}
    for sequence in {s.item.sequence_title for s in kept} - {None}:
        inside = np.array([s.item.sequence_title == sequence for s in kept])
        if inside.sum() >= ENOUGH:
            groups[str(sequence)] = inside
    tail = (1 - LEVEL) / 2
    volumes = _volumes(kept, at)
    enough = len(volumes) >= 2 / (1 - LEVEL) - 1
    return IntervalModel(
        level=LEVEL, base=base, slope=slope,
        low={g: _conformal(scores[inside], tail) for g, inside in groups.items()},
        high={g: -_conformal(-scores[inside], tail) for g, inside in groups.items()},
        volume=-_conformal(-np.abs(np.log(volumes)), 1 - LEVEL) if enough else None,
        scans=len(kept), patients=len(volumes),
    )  # fmt: skip


def _conformal(scores: np.ndarray, tail: float) -> float:
    """The lower ``tail`` quantile with the correction for finite samples: no more than ``tail`` of new scores lie below."""
    rank = int(np.floor((len(scores) + 1) * tail))
    return float(np.sort(scores)[max(rank - 1, 0)])


def _volumes(slices: Sequence[CrossFitted], at: int) -> np.ndarray:
    """True over marked volume of each patient's FLAIR, over the slices that show tumor."""
    sums: dict[str, np.ndarray] = {}
    for s in slices:
        if s.item.patient is not None and s.item.sequence == "FLAIR" and s.item.source == "lgg":
            sums[s.item.patient] = sums.get(s.item.patient, np.zeros(2)) + np.array([s.truth, s.areas[at]])
    return np.array([true / marked for true, marked in sums.values()])


def fit_borderline(
    probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray, verdict: VerdictModel
) -> BorderlineRule:
    """The narrowest band around the threshold outside of which WRONG of the verdicts are wrong, or else the widest allowed.

    Args:
        probabilities: ``(N,)``, the verdict's.
        truth: bool ``(N,)``, whether there is a tumor.
        weights: ``(N,)``, so that sources weigh alike.
        verdict: Its threshold.
    """
    odds = np.log(np.clip(probabilities, 1e-6, 1 - 1e-6) / np.clip(1 - probabilities, 1e-6, 1))
    middle = float(np.log(verdict.threshold / (1 - verdict.threshold)))
    distance = np.abs(odds - middle)
    wrong = (probabilities >= verdict.threshold) != truth
    weights = weights / weights.sum()
    best = 0.0
    for reach in np.sort(distance):
        inside = distance < reach
        if weights[inside].sum() > WIDEST:
            break
        best = float(reach)
        if weights[~inside & wrong].sum() <= WRONG * weights[~inside].sum():
            break
    inside = distance < best
    low, high = (float(1 / (1 + np.exp(-(middle + side * best)))) for side in (-1, 1))
    rate = float(weights[inside].sum())
    return BorderlineRule(
        low=low, high=high, rate=rate,
        errors_inside=float(weights[inside & wrong].sum() / max(rate, 1e-9)),
        errors_outside=float(weights[~inside & wrong].sum() / max(1 - rate, 1e-9)),
    )  # fmt: skip


def fit_sequence(
    features: np.ndarray, sequences: Sequence[str], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Softmax regression of the classifier's features ``(N, F)`` on the sequence.

    Args:
        features: Of scans that the classifier was trained on.
        sequences: Of each.
        weights: ``(N,)``, what each counts.

    Returns:
        Kernel ``(F, K)`` and bias ``(K,)`` on features as they are, and the sequences in that order.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(0), features.std(0) + 1e-3
    model = LogisticRegression(C=0.1, max_iter=400)
    model.fit((features - mean) / scale, sequences, sample_weight=weights / weights.mean())
    kernel, bias = model.coef_.T / scale[:, None], model.intercept_
    if len(model.classes_) == 2:  # scikit-learn gives the log odds of the second alone
        kernel, bias = (np.concatenate([-half, half], -1) / 2 for half in (kernel, bias))
    return kernel.astype(np.float32), (bias - mean @ kernel).astype(np.float32), tuple(map(str, model.classes_))
