"""The vote: a random forest and gradient-boosted trees on every pixel's 25 probabilities, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from neurovision.classes import CLASSES
from neurovision.ensemble.features import label_map
from neurovision.ensemble.weights import Manifest
from neurovision.errors import WeightsTampered

CERTAIN = 0.995  # a pixel on which every member gives the same class at least this much skips the trees


class Classifier(Protocol):
    """What scikit-learn and XGBoost share."""

    @property
    def classes_(self) -> np.ndarray:
        """The class of each column."""

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Probabilities ``(P, K)``."""


class ManualVotingClassifier:
    """Soft vote of classifiers that are fitted already: the mean of their probabilities.

    scikit-learn's ``VotingClassifier`` would fit them again; this only averages.
    """

    def __init__(self, classifiers: Sequence[Classifier]) -> None:
        self.classifiers = tuple(classifiers)

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Mean probabilities, float32 ``(P, 5)``; a class that a classifier never saw gets 0 from it."""
        total = np.zeros((len(features), len(CLASSES)), np.float32)
        for classifier in self.classifiers:
            total[:, classifier.classes_.astype(int)] += classifier.predict_proba(features)
        return total / len(self.classifiers)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Class indices, uint8 ``(P,)``."""
        return label_map(self.predict_proba(features))


class Voter:
    """The vote over whole pictures."""

    def __init__(self, classifier: ManualVotingClassifier) -> None:
        self.classifier = classifier

    @classmethod
    def load(cls, manifest: Manifest) -> Voter:
        """Load both classifiers after checking their digests. Nothing is unpickled.

        Raises:
            WeightsError: A file is missing, not the shipped one, or holds a type that a forest does not need.
        """
        from xgboost import XGBClassifier

        boost = XGBClassifier()
        boost.load_model(manifest.path(**manifest.vote["boost"]))
        boost.set_params(n_jobs=1)
        return cls(ManualVotingClassifier([_load_forest(manifest), boost]))

    def vote(self, features: np.ndarray, everywhere: bool = False) -> np.ndarray:
        """Probabilities of every pixel.

        Pixels on which all members agree with at least CERTAIN take the members' mean instead of the trees';
        a test on real scans shows that no label changes.

        Args:
            features: float32 ``(P, M * 5)``.
            everywhere: Ask the trees for every pixel.

        Returns:
            float32 ``(P, 5)``.
        """
        members = features.reshape(len(features), -1, len(CLASSES))
        mean = members.mean(1)
        if everywhere:
            return self.classifier.predict_proba(features)
        certain = (members.min(1) >= CERTAIN).any(1)
        open_pixels = np.flatnonzero(~certain)
        if len(open_pixels):
            mean[open_pixels] = self.classifier.predict_proba(features[open_pixels])
        return mean


def _load_forest(manifest: Manifest) -> Any:
    """Read the forest with skops, which builds only the types that it is told to trust."""
    from skops.io import load
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        forest = load(manifest.path(**manifest.vote["forest"]), trusted=["sklearn.tree._tree.Tree"])
    except UntrustedTypesFoundException as e:
        raise WeightsTampered("The forest's file holds types that a forest does not need; fetch it again.") from e
    forest.set_params(n_jobs=1)  # bit for bit repeatable, and faster than threads on a slice
    return forest
