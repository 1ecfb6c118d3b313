"""The out-of-distribution score: how far a slice is from the scans that the networks were trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurovision.ensemble.manifest import Manifest
from neurovision.errors import WeightsTampered

SHRINKAGE = 0.03  # of the covariance towards a multiple of the identity; few scans, many features


@dataclass(frozen=True)
class OutOfDistribution:
    """A Gaussian over the classifier's features of real scans (Lee 2018, arXiv 1807.03888, one class for all scans).

    A picture is refused where its features are farther than any real scan's, or where the classifier, which also learned
    drawn pictures of nothing, answers "not a brain MRI".

    Attributes:
        mean: float32 ``(F,)``.
        whitening: float32 ``(F, F)``: the distance is the mean square of ``(x - mean) @ whitening``.
        refuse: Score from which a picture is refused.
        warn: Score from which a result carries a warning and a lower confidence.
    """

    mean: np.ndarray
    whitening: np.ndarray
    refuse: float
    warn: float

    @classmethod
    def fit(cls, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean ``(F,)`` and whitening ``(F, F)`` of real scans' features ``(N, F)``."""
        mean = features.mean(0)
        covariance = np.cov(features.astype(np.float64).T)
        even = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        values, vectors = np.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * even)
        return mean.astype(np.float32), (vectors / np.sqrt(values)).astype(np.float32)

    @classmethod
    def load(cls, manifest: Manifest) -> OutOfDistribution | None:
        """Read what the manifest names; None where it names nothing.

        Raises:
            WeightsError: The file is missing, not the shipped one, or not what it should be.
        """
        entry = manifest.out_of_distribution
        if entry is None:
            return None
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(manifest.read(entry))
            mean, whitening = arrays["mean"], arrays["whitening"]
        except (SafetensorError, KeyError) as e:
            raise WeightsTampered(f"{entry.file} does not hold an out-of-distribution model; fetch it again.") from e
        if mean.ndim != 1 or whitening.shape != (len(mean), len(mean)):
            raise WeightsTampered(f"{entry.file} holds arrays of other shapes than its model has; fetch it again.")
        return cls(mean, whitening, entry.refuse, entry.warn)

    def score(self, answers: np.ndarray, features: np.ndarray) -> np.ndarray:
        """See :func:`score`; float64 ``(N,)``."""
        return score(self.mean, self.whitening, answers, features)

    def doubt(self, value: float) -> float:
        """How much confidence a score takes away: 0 up to ``warn``, rising to 1 at ``refuse``."""
        return float(np.clip((value - self.warn) / max(self.refuse - self.warn, 1e-6), 0, 1))


def score(mean: np.ndarray, whitening: np.ndarray, answers: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Log of the features' distance, plus the log odds that the classifier gives to "not a brain MRI" where it is likely.

    Args:
        mean: ``(F,)``.
        whitening: ``(F, F)``.
        answers: ``(N, K)``; the last is that the picture is no brain MRI.
        features: ``(N, F)``.

    Returns:
        float64 ``(N,)``; about 0 for a typical scan.
    """
    distance = np.square((features - mean) @ whitening).mean(-1)
    outside = answers[:, -1].astype(np.float64)
    odds = np.log((outside + 1e-6) / (1 - outside + 1e-6))
    return np.log(np.maximum(distance, 1e-6)) + np.maximum(odds, 0)
