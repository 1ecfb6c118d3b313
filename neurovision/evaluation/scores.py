"""Scores of masks, verdicts and probabilities, with their intervals.

**Empty masks.** Truth and prediction both empty: nothing to score, NaN, left out of every mean (as nnU-Net does;
counting it as 1 would flatter a data set full of tumor-free slices). One of the two empty: 0 for overlap and boundary
scores, infinity for HD95, which means leave out and count apart. Pixel accuracy is defined for every mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy import stats
from scipy.ndimage import binary_erosion, distance_transform_edt, label  # type: ignore[attr-defined]  # named at run time
from sklearn import metrics

MASK_SCORES = ("dice", "iou", "precision", "recall", "f1", "hd95", "boundary_f1", "pixel_accuracy")
Values: TypeAlias = Sequence[float] | np.ndarray
Flags: TypeAlias = Sequence[bool] | np.ndarray

TOUCHING = np.ones((3, 3), bool)  # pixels that touch, also at a corner, are one lesion


@dataclass(frozen=True)
class Counts:
    """Pixels of a prediction by their truth; counts of several slices add up to their pooled score.

    Attributes:
        tp: Tumor found.
        fp: Tumor claimed where there is none.
        fn: Tumor missed.
        tn: The rest.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @classmethod
    def of(cls, truth: np.ndarray, predicted: np.ndarray) -> Counts:
        """Count two bool masks of one shape.

        Raises:
            ValueError: Another type, or two shapes.
        """
        _check(truth, predicted)
        tp = int(np.count_nonzero(truth & predicted))
        fp, fn = int(np.count_nonzero(predicted)) - tp, int(np.count_nonzero(truth)) - tp
        return cls(tp, fp, fn, truth.size - tp - fp - fn)

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    def _share(self, part: int, whole: int) -> float:
        if self.tp + self.fp + self.fn == 0:
            return float("nan")
        return part / whole if whole else 0.0

    @property
    def dice(self) -> float:
        """Twice the overlap over the sum of both areas."""
        return self._share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """Overlap over union."""
        return self._share(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Share of the claimed pixels that are tumor."""
        return self._share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the tumor's pixels that are claimed."""
        return self._share(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; on masks it equals Dice."""
        p, r = self.precision, self.recall
        return 2 * p * r / (p + r) if p + r != 0 else 0.0

    @property
    def pixel_accuracy(self) -> float:
        """Share of all pixels that are right; near 1 for any mask of a small tumor, so never read it alone."""
        return (self.tp + self.tn) / (self.tp + self.fp + self.fn + self.tn)


def _check(truth: np.ndarray, predicted: np.ndarray) -> None:
    if truth.dtype != bool or predicted.dtype != bool or truth.shape != predicted.shape:
        raise ValueError(
            f"Masks to compare are bool and of one shape; received {truth.dtype} {truth.shape} and "
            f"{predicted.dtype} {predicted.shape}."
        )


def outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of a bool ``(H, W)`` mask that share an edge with the outside; the picture's border is outside."""
    return mask & ~binary_erosion(mask)


def _outline_distances(truth: np.ndarray, predicted: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every outline pixel of each mask, neither empty, to the other's outline."""
    rows, columns = (np.flatnonzero((truth | predicted).any(axis)) for axis in (1, 0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))  # holds both outlines: nothing changes
    a, b = outline(np.pad(truth[window], 1)), outline(np.pad(predicted[window], 1))
    to_b = distance_transform_edt(~b, sampling=spacing)[a]
    to_a = distance_transform_edt(~a, sampling=spacing)[b]
    return to_b, to_a


def hd95(truth: np.ndarray, predicted: np.ndarray, spacing: Sequence[float] = (1.0, 1.0)) -> float:
    """95 % Hausdorff distance: the larger of the two directed 95th percentiles between outlines.

    Follows Maier-Hein et al., "Metrics reloaded", 2024; others pool both directions and get smaller values.

    Args:
        truth: bool ``(H, W)``.
        predicted: bool ``(H, W)``.
        spacing: Distance of pixel centers ``(row, column)``; the result is in its unit, pixels by default.

    Returns:
        NaN where both are empty, infinity where one is.
    """
    _check(truth, predicted)
    if not (truth.any() and predicted.any()):
        return float("inf") if truth.any() or predicted.any() else float("nan")
    return float(max(np.percentile(d, 95) for d in _outline_distances(truth, predicted, spacing)))


def boundary_f1(
    truth: np.ndarray, predicted: np.ndarray, tolerance: float = 2.0, spacing: Sequence[float] = (1.0, 1.0)
) -> float:
    """F1 of outline pixels that lie within a tolerance of the other outline (Csurka et al., BMVC 2013).

    Args:
        truth: bool ``(H, W)``.
        predicted: bool ``(H, W)``.
        tolerance: In the unit of ``spacing``.
        spacing: Distance of pixel centers ``(row, column)``.

    Returns:
        In [0, 1]; NaN where both are empty, 0 where one is.
    """
    _check(truth, predicted)
    if not (truth.any() and predicted.any()):
        return 0.0 if truth.any() or predicted.any() else float("nan")
    to_predicted, to_truth = _outline_distances(truth, predicted, spacing)
    recall, precision = float((to_predicted <= tolerance).mean()), float((to_truth <= tolerance).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mask_scores(
    truth: np.ndarray, predicted: np.ndarray, spacing: Sequence[float] = (1.0, 1.0), tolerance: float = 2.0
) -> dict[str, float]:
    """All of MASK_SCORES for two bool ``(H, W)`` masks; ``spacing`` and ``tolerance`` as in :func:`boundary_f1`."""
    counts = Counts.of(truth, predicted)
    return {
        "dice": counts.dice,
        "iou": counts.iou,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "hd95": hd95(truth, predicted, spacing),
        "boundary_f1": boundary_f1(truth, predicted, tolerance, spacing),
        "pixel_accuracy": counts.pixel_accuracy,
    }


@dataclass(frozen=True)
class LesionScores:
    """Several tumors of one slice, scored apart.

    Attributes:
        dice: Of each annotated lesion with all predicted ones that touch it, in the order of their first pixels.
        found: How many of them reach a Dice of FOUND.
        false_positives: Predicted lesions that touch no annotated one.
        lesion_dice: Sum of ``dice`` over annotated lesions plus false positives (BraTS 2023); NaN with neither.
    """

    dice: tuple[float, ...]
    found: int
    false_positives: int
    lesion_dice: float


FOUND = 0.1


def lesion_scores(truth: np.ndarray, predicted: np.ndarray, smallest: int = 1) -> LesionScores:
    """Score connected lesions one by one, so that a large one does not hide that a small one was missed.

    Args:
        truth: bool ``(H, W)``.
        predicted: bool ``(H, W)``.
        smallest: Predicted lesions of fewer pixels that touch no annotated one are not counted as false.
    """
    _check(truth, predicted)
    real, n_real = label(truth, TOUCHING)
    claimed, n_claimed = label(predicted, TOUCHING)
    areas = np.bincount(claimed.ravel(), minlength=n_claimed + 1)
    dice = []
    touched: set[int] = set()
    for k in range(1, n_real + 1):
        lesion = real == k
        here = np.setdiff1d(claimed[lesion], [0])
        touched.update(here.tolist())
        dice.append(Counts.of(lesion, np.isin(claimed, here)).dice)
    false = sum(int(areas[k] >= smallest) for k in range(1, n_claimed + 1) if k not in touched)
    total = len(dice) + false
    return LesionScores(
        tuple(dice), sum(d >= FOUND for d in dice), false, float(sum(dice) / total) if total else float("nan")
    )


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval.

    Attributes:
        value: The figure.
        low: Lower end; NaN where there is nothing to resample.
        high: Upper end.
        n: How many values it rests on.
        clusters: How many independent units were resampled (patients, or slices where patients are unknown).
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite becomes None."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {**{k: _plain(v) for k, v in ends.items()}, "n": self.n, "clusters": self.clusters}


def _plain(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    clusters: Sequence[object],
    strata: Sequence[object] | None = None,
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval by resampling whole clusters with replacement (Field and Welsh, 2007).

    Slices of one patient resemble each other, so patients are drawn, not slices. Where a data set does not tell its
    patients every slice stands for itself, and the interval is too narrow: say so beside it.

    Args:
        statistic: Takes weights, float ``(R, n)``: how often each of R draws holds each position; returns ``(R,)``,
            NaN where a draw leaves it undefined.
        clusters: For each position, whose it is.
        strata: For each position, a group whose number of clusters stays fixed (the data set).
        rounds: Resamplings.
        level: Coverage.
        seed: Same seed, same interval.
    """
    n = len(clusters)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    layers = ["" for _ in clusters] if strata is None else strata
    named = sorted({(str(layer), str(cluster)) for layer, cluster in zip(layers, clusters, strict=True)})
    number = {name: k for k, name in enumerate(named)}
    whose = np.array([number[str(layer), str(cluster)] for layer, cluster in zip(layers, clusters, strict=True)])
    value = float(statistic(np.ones((1, n)))[0])
    if not np.isfinite(value) or len(named) < 2:
        return Interval(value, float("nan"), float("nan"), n, len(named))
    rng = np.random.default_rng(seed)
    times = np.empty((rounds, len(named)))
    for layer in sorted({name[0] for name in named}):
        at = np.array([k for k, name in enumerate(named) if name[0] == layer])
        drawn = rng.integers(0, len(at), (rounds, len(at))) + len(at) * np.arange(rounds)[:, None]
        times[:, at] = np.bincount(drawn.ravel(), minlength=rounds * len(at)).reshape(rounds, -1)
    low, high = np.nanpercentile(statistic(times[:, whose]), (50 - 50 * level, 50 + 50 * level))
    return Interval(value, float(low), float(high), n, len(named))


def mean_interval(values: Values, clusters: Sequence[object] | None = None) -> Interval:
    """Mean of the finite values; each stands for itself where ``clusters`` is None."""
    numbers = np.asarray(values, float)
    kept = np.flatnonzero(np.isfinite(numbers))
    names = range(len(numbers)) if clusters is None else clusters
    return bootstrap(lambda w: w @ numbers[kept] / w.sum(1), [names[int(k)] for k in kept])


def share_interval(flags: Values, clusters: Sequence[object] | None = None) -> Interval:
    """Share of ones among 0, 1 and NaN (left out).

    Where all are alike every resample is too, and the bootstrap would promise certainty: then the interval is
    Clopper and Pearson's (1934), with clusters for trials.
    """
    found = mean_interval(flags, clusters)
    if found.clusters < 1 or found.value not in (0.0, 1.0):
        return found
    exact = stats.binomtest(round(found.value) * found.clusters, found.clusters).proportion_ci(0.95)
    return Interval(found.value, float(exact.low), float(exact.high), found.n, found.clusters)


@dataclass(frozen=True)
class Paired:
    """Two methods on the same cases.

    Attributes:
        difference: Mean of first minus second, with its interval.
        p_value: Two-sided Wilcoxon signed-rank test over clusters' mean differences.
        better: Share of clusters in which the first is better, ties not counted.
    """

    difference: Interval
    p_value: float
    better: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"difference": self.difference.to_json(), "wilcoxon_p": self.p_value, "better_share": _plain(self.better)}


def paired(
    first: Values, second: Values, clusters: Sequence[object] | None = None
) -> Paired:
    """Compare two methods case by case; cases that either leaves undefined are left out."""
    difference = np.asarray(first, float) - np.asarray(second, float)
    names = np.arange(len(difference)).tolist() if clusters is None else list(clusters)
    finite = np.flatnonzero(np.isfinite(difference))
    kept = [names[i] for i in finite]
    sums: dict[object, list[float]] = {}
    for name, value in zip(kept, difference[finite], strict=True):
        sums.setdefault(name, []).append(float(value))
    by_cluster = np.array([np.mean(v) for v in sums.values()])
    moved = by_cluster[by_cluster != 0]
    p = float(stats.wilcoxon(moved).pvalue) if len(moved) else 1.0
    return Paired(mean_interval(difference, names), p, float((moved > 0).mean()) if len(moved) else float("nan"))


@dataclass(frozen=True)
class Rates:
    """A yes/no decision against its truth; NaN where the truth has no such case.

    Attributes:
        accuracy: Share of right decisions.
        sensitivity: Share of the positive cases called positive.
        specificity: Share of the negative cases called negative.
    """

    accuracy: float
    sensitivity: float
    specificity: float


def rates(truth: Flags, decided: Flags) -> Rates:
    """Accuracy, sensitivity and specificity of decisions."""
    (tn, fp), (fn, tp) = metrics.confusion_matrix(np.asarray(truth, bool), np.asarray(decided, bool), labels=[False, True])
    return Rates(
        float((tp + tn) / max(tp + tn + fp + fn, 1)),
        float(tp / (tp + fn)) if tp + fn else float("nan"),
        float(tn / (tn + fp)) if tn + fp else float("nan"),
    )


def auc(truth: Flags, probability: Values) -> float:
    """Area under the ROC; NaN where the truth is all one class."""
    t = np.asarray(truth, bool)
    return float(metrics.roc_auc_score(t, np.asarray(probability, float))) if t.any() and not t.all() else float("nan")


class Weighted:
    """The verdict's figures under many weightings of the same cases at once, as :func:`bootstrap` asks for them.

    Args:
        truth: ``(n,)`` yes or no.
        probability: ``(n,)`` in [0, 1].
    """

    def __init__(self, truth: Flags, probability: Values) -> None:
        self.truth, self.probability = np.asarray(truth, bool), np.asarray(probability, float)
        self._order = np.argsort(self.probability, kind="stable")
        ranked = self.probability[self._order]
        self._starts = np.flatnonzero(np.diff(ranked, prepend=-np.inf))  # of equal probabilities

    def _by_threshold(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight of positives and negatives ``(R, T)`` at each distinct probability, rising."""
        ranked, truth = weights[:, self._order], self.truth[self._order]
        return np.add.reduceat(ranked * truth, self._starts, 1), np.add.reduceat(ranked * ~truth, self._starts, 1)

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """Share of pairs in the right order, ties half."""
        positive, negative = self._by_threshold(weights)
        below = np.cumsum(negative, 1) - negative / 2
        with np.errstate(invalid="ignore"):
            return (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))

    def false_alarms_at(self, sensitivity: float, weights: np.ndarray) -> np.ndarray:
        """Smallest share of negative cases called positive at a threshold that reaches ``sensitivity``."""
        positive, negative = (np.cumsum(side[:, ::-1], 1) for side in self._by_threshold(weights))
        with np.errstate(invalid="ignore"):
            reached = (positive / positive[:, -1:] >= sensitivity - 1e-12).argmax(1)
            false = negative[np.arange(len(weights)), reached] / negative[:, -1]
        return np.where(positive[:, -1] > 0, false, np.nan)

    def ece(self, weights: np.ndarray, bins: int = 10) -> np.ndarray:
        """Expected calibration error, as :func:`reliability` defines it."""
        inside = np.eye(bins)[_bins(self.probability, bins)]
        return np.abs(weights @ (inside * (self.probability - self.truth)[:, None])).sum(1) / weights.sum(1)


def _bins(probability: np.ndarray, bins: int) -> np.ndarray:
    return np.clip(np.digitize(probability, np.linspace(0, 1, bins + 1)) - 1, 0, bins - 1)


@dataclass(frozen=True)
class Reliability:
    """Probabilities in bins of equal width, against what came true.

    Attributes:
        edges: ``(B + 1,)`` from 0 to 1.
        counts: ``(B,)`` cases.
        predicted: ``(B,)`` mean probability, NaN in an empty bin.
        observed: ``(B,)`` share that came true, NaN in an empty bin.
        ece: Expected calibration error (Guo et al., ICML 2017): mean of their distance, weighted by cases.
    """

    edges: np.ndarray
    counts: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    ece: float


def reliability(truth: Flags, probability: Values, bins: int = 10) -> Reliability:
    """Bin probabilities of a yes/no truth; 1.0 belongs to the last bin."""
    p, t = np.asarray(probability, float), np.asarray(truth, float)
    edges = np.linspace(0, 1, bins + 1)
    which = _bins(p, bins)
    counts = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(which, p, bins) / counts
        observed = np.bincount(which, t, bins) / counts
    ece = float(np.nansum(counts * np.abs(predicted - observed)) / len(p)) if len(p) else float("nan")
    return Reliability(edges, counts, predicted, observed, ece)


def error_by_decile(uncertainty: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether uncertainty means something: error rate in tenths of rising uncertainty.

    Args:
        uncertainty: float ``(P,)``.
        wrong: bool ``(P,)``.

    Returns:
        ``(10,)`` highest uncertainty and ``(10,)`` error rate of each tenth.
    """
    order = np.argsort(uncertainty, kind="stable")
    tenths = np.array_split(order, 10)
    return np.array([uncertainty[t].max() for t in tenths]), np.array([wrong[t].mean() for t in tenths])
