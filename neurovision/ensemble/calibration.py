"""What a result promises: the outline's expected Dice, an interval of the size, a borderline verdict, the sequence.

Everything here is fitted by ``training.calibrate`` on votes that were cross-fitted: no slice was predicted by a network or
a tree that had seen its patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurovision.classes import FIRST_TUMOR
from neurovision.ensemble.features import peaks
from neurovision.ensemble.manifest import BorderlineRule, IntervalModel, Manifest, QualityModel, SequenceModel
from neurovision.errors import WeightsTampered

QUALITY = ("peak", "inside", "members_dice", "lowest_dice", "log_area", "members_positive")
OTHER = "other"  # of a sequence that the networks were not trained on, or that the head cannot tell


def quality_features(tumor: np.ndarray, marked: np.ndarray, members: np.ndarray) -> np.ndarray:
    """What the expected Dice is read from, on the canvas' grid.

    Args:
        tumor: float32 ``(size, size)``, the vote's probability of any tumor.
        marked: bool ``(size, size)``, the pixels that are marked.
        members: bool ``(M, size, size)``, the members' masks.

    Returns:
        float64 in the order of QUALITY: the vote's peak, its mean over the marked pixels, the members' mean and lowest Dice
        with what is marked, log of the marked area in 10,000ths of the grid, share of the members that mark anything.
    """
    area = int(marked.sum())
    inside = float(tumor[marked].mean()) if area else 0.0
    overlap = (members & marked).sum((1, 2))
    dice = 2 * overlap / np.maximum(members.sum((1, 2)) + area, 1)
    positive = float(members.any((1, 2)).mean())
    share = np.log1p(1e4 * area / tumor.size)
    return np.array([float(peaks(tumor)), inside, float(dice.mean()), float(dice.min()), float(share), positive])


def expected_dice(features: np.ndarray, model: QualityModel) -> float:
    """The Dice that the outline can be expected to have against an expert's, in [0, 1]."""
    z = (features - np.asarray(model.mean)) / np.asarray(model.scale)
    return float(np.clip(z @ np.asarray(model.coefficients) + model.intercept, 0, 1))


def area_interval(area: float, quality: float, sequence: str | None, model: IntervalModel) -> tuple[float, float]:
    """The interval in which the true area lies in ``model.level`` of cases, in the unit of ``area``.

    Split-conformal calibration of the log ratio of true to marked area, in units of a spread that grows as the expected
    Dice falls (Lei 2018, doi 10.1080/01621459.2017.1307116), each sequence with its own quantiles (Mondrian).

    Args:
        area: The marked area, above 0.
        quality: The expected Dice.
        sequence: As the picture or the header tells it, or None.
        model: Of the manifest.
    """
    spread = model.base + model.slope * (1 - quality)
    key = sequence if sequence in model.low else ""
    return area * float(np.exp(model.low[key] * spread)), area * float(np.exp(model.high[key] * spread))


def volume_interval(volume: float, model: IntervalModel) -> tuple[float, float] | None:
    """The same of a volume, from the absolute log ratio of patients' volumes; None where none was calibrated."""
    if model.volume is None:
        return None
    factor = float(np.exp(model.volume))
    return volume / factor, volume * factor


def is_borderline(probability: float, rule: BorderlineRule) -> bool:
    """Whether a probability lies where the verdict is wrong too often to be stated plainly."""
    return rule.low <= probability < rule.high


@dataclass(frozen=True)
class SequenceHead:
    """Softmax regression of the classifier's features on the sequence.

    Attributes:
        kernel: float32 ``(F, K)``.
        bias: float32 ``(K,)``.
        model: Names, and when the head is sure.
    """

    kernel: np.ndarray
    bias: np.ndarray
    model: SequenceModel

    @classmethod
    def load(cls, manifest: Manifest) -> SequenceHead | None:
        """Read what the manifest names; None where it names nothing.

        Raises:
            WeightsError: The file is missing, not the shipped one, or not what it should be.
        """
        if manifest.sequence is None:
            return None
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(manifest.read(manifest.sequence))
            return cls(arrays["kernel"].astype(np.float32), arrays["bias"].astype(np.float32), manifest.sequence)
        except (SafetensorError, KeyError) as e:
            raise WeightsTampered("The file that tells the sequence is damaged; fetch it again.") from e

    def tell(self, features: np.ndarray) -> list[str]:
        """The sequence of each of ``(N, F)`` features, OTHER where the head is not sure."""
        scores = features @ self.kernel + self.bias
        odds = np.exp(scores - scores.max(1, keepdims=True))
        shares = odds / odds.sum(1, keepdims=True)
        best = shares.argmax(1)
        return [
            self.model.sequences[k] if share[k] >= self.model.sure else OTHER for k, share in zip(best, shares, strict=True)
        ]


def tumor_of(probabilities: np.ndarray) -> np.ndarray:
    """Probability of any tumor: ``(..., K)`` to ``(...)``."""
    return np.asarray(probabilities[..., FIRST_TUMOR:].sum(-1))
