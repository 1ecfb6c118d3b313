"""Drift: how far what comes in, and what is said of it, has moved from the data that the networks were trained on.

Only counts are kept: for every figure a histogram over fixed bins, never a value of one scan. Two histograms are
compared by the population stability index (Siddiqi, Credit Risk Scorecards, 2006): below 0.1 alike, above 0.25 another
population. ``python -m neurovision.evaluation.drift DATA`` writes the training set's counts to ``drift.json``.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from neurovision.classes import HEAD
from neurovision.ensemble.results import Findings

REFERENCE = Path(__file__).with_name("drift.json")
LEAST = 50  # slices before an index means anything
_SEQUENCES = ("T1", "T1 post-contrast", "FLAIR", "T2", "unknown", "other")
_TENTHS = tuple(f"{k / 10:.1f}" for k in range(10))
# Every figure and the names of its bins; tenths are numbered by their lower edge.
FIGURES: dict[str, tuple[str, ...]] = {
    "intensity": _TENTHS,  # median of the head, 0 to 1
    "head_area": _TENTHS,  # share of the picture
    "sequence": _SEQUENCES,
    "verdict": ("tumor", "borderline", "no tumor", "rejected"),
    "tumor_probability": _TENTHS,
    "disagreement": _TENTHS,
}
# Of these the training set has no comparable counts: pictures that were exported for training carry no sequence.
WITHOUT_REFERENCE = ("sequence",)
Counts = dict[str, dict[str, int]]


def figures(findings: Findings) -> dict[str, str]:
    """The bin of each figure that one slice falls into; a rejected slice has only a verdict and a sequence."""
    sequence, verdict = findings.source.sequence or "unknown", findings.verdict
    bins = {
        "verdict": "rejected" if verdict is None else verdict.state,
        "sequence": sequence if sequence in _SEQUENCES else "other",
    }
    head = findings.mask >= HEAD.index
    if verdict is not None and head.any():
        bins["intensity"] = _tenth(float(np.median(findings.picture[head])))
        bins["head_area"] = _tenth(float(head.mean()))
        bins["tumor_probability"] = _tenth(verdict.probability)
        bins["disagreement"] = _tenth(findings.disagreement)
    return bins


def _tenth(value: float) -> str:
    return _TENTHS[min(9, max(0, int(value * 10)))]


class Tally:
    """Histograms of what was analyzed since the program started; safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counts = {figure: dict.fromkeys(bins, 0) for figure, bins in FIGURES.items()}

    def note(self, findings: Findings) -> None:
        """Count one slice."""
        bins = figures(findings)
        with self._lock:
            for figure, which in bins.items():
                self._counts[figure][which] += 1

    def counts(self) -> Counts:
        """A copy of the histograms."""
        with self._lock:
            return {figure: dict(bins) for figure, bins in self._counts.items()}

    def drift(self, reference: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
        """The stability index of every figure with LEAST counts on both sides."""
        counts = self.counts()
        return {
            figure: stability(counts[figure], reference[figure])
            for figure in FIGURES
            if figure in reference
            and sum(counts[figure].values()) >= LEAST
            and sum(reference[figure].values()) >= LEAST
        }


def stability(counts: Mapping[str, int], reference: Mapping[str, int]) -> float:
    """Population stability index of two histograms: the sum of (p - q) ln(p / q) over the reference's bins.

    Half a count is added to every bin, so that an empty one gives no infinity.
    """
    bins = list(reference)
    p = np.array([counts.get(b, 0) + 0.5 for b in bins])
    q = np.array([reference[b] + 0.5 for b in bins])
    p, q = p / p.sum(), q / q.sum()
    return float(sum(float(a - b) * math.log(a / b) for a, b in zip(p, q, strict=True)))


def load_reference(path: Path = REFERENCE) -> Counts:
    """The training set's counts, or an empty mapping where there are none."""
    try:
        counts = json.loads(path.read_text())["counts"]
        return {f: {b: int(counts[f].get(b, 0)) for b in bins} for f, bins in FIGURES.items() if f in counts}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
