"""How far a slice is from the scans that the networks were trained on, by the classifier's own features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurovision.ensemble.verdict import ANSWERS
from neurovision.ensemble.weights import Manifest
from neurovision.errors import WeightsTampered

SHRINKAGE = 0.03  # of the covariance towards a multiple of the identity; few scans, many features


@dataclass(frozen=True)
class Familiar:
    """A Gaussian over the features of real scans (Lee 2018, arXiv 1807.03888, with one class for all scans).

    A picture is refused where its features are farther than any real scan's, or where the classifier itself, which also
    learned drawn pictures of nothing, says that it is no brain MRI.

    Attributes:
        mean: float32 ``(F,)``.
        whitening: float32 ``(F, F)``: the distance is the mean square of ``(x - mean) @ whitening``.
        refuse: Strangeness from which a picture is refused.
        warn: Strangeness from which its result is to be trusted less.
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
    def load(cls, manifest: Manifest) -> Familiar | None:
        """Read what the manifest names; None where it names nothing.

        Raises:
            WeightsError: The file is missing, not the shipped one, or not what it should be.
        """
        told = manifest.familiar
        if told is None:
            return None
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(manifest.path(told["file"], told["sha256"]).read_bytes())
            return cls(arrays["mean"], arrays["whitening"], float(told["refuse"]), float(told["warn"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as e:
            raise WeightsTampered("The file that tells real scans from other pictures is damaged; fetch it again.") from e

    def strangeness(self, answers: np.ndarray, features: np.ndarray) -> np.ndarray:
        """How strange pictures are, see :func:`strangeness`, ``(N,)``."""
        return strangeness(self.mean, self.whitening, answers, features)

    def doubt(self, strange: float) -> float:
        """How much less a result is worth: 0 for what is familiar, rising to 1 where pictures are refused."""
        return float(np.clip((strange - self.warn) / max(self.refuse - self.warn, 1e-6), 0, 1))


def strangeness(mean: np.ndarray, whitening: np.ndarray, answers: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Log of the features' distance, plus the log odds that the classifier gives to "not a brain MRI" where it is likely.

    Args:
        mean: ``(F,)``.
        whitening: ``(F, F)``.
        answers: ``(N, 5)`` in the order of ``verdict.ANSWERS``.
        features: ``(N, F)``.

    Returns:
        float64 ``(N,)``; about 0 for a typical scan.
    """
    distance = np.square((features - mean) @ whitening).mean(-1)
    alien = answers[:, len(ANSWERS) - 1].astype(np.float64)
    odds = np.log((alien + 1e-6) / (1 - alien + 1e-6))
    return np.log(np.maximum(distance, 1e-6)) + np.maximum(odds, 0)


