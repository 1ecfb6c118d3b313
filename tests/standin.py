"""An Analyzer without networks: bright tissue deep in the head is a tumor. Instant, and the same on every machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neurovision.ensemble.manifest import File, Manifest, Network, Training, VerdictFit, VerdictModel, Vote
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.voter import ManualVotingClassifier, Voter

NAMES = ("unet", "unetpp", "linknet", "unet_efficientnet", "dgnet")
SIZE = 128


class BrightEngine:
    """Each member calls tissue above its own brightness a tumor, so that the members differ a little."""

    device = "CPU"

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        y, x = np.mgrid[-1 : 1 : 1j * SIZE, -1 : 1 : 1j * SIZE]
        deep = (x / 0.68) ** 2 + (y / 0.8) ** 2 < 0.75
        out = np.zeros((len(NAMES), *canvases.shape, 5), np.float32)
        air = (canvases <= canvases.min((1, 2), keepdims=True) + 0.5).mean((1, 2), keepdims=True)
        enlarged = air < 0.2  # with less air in the picture, the same tissue stands out less from its mean
        for k in range(len(NAMES)):
            tumor = (canvases > np.where(enlarged, 1.2, 1.5) + 0.08 * k) & deep
            head = canvases > canvases.min((1, 2), keepdims=True) + 0.5
            out[k, ..., 0] = np.where(tumor | head, 0.02, 0.9)
            out[k, ..., 1] = np.where(tumor, 0.06, np.where(head, 0.9, 0.04))
            out[k, ..., 2] = np.where(tumor, 0.72 - 0.1 * k, 0.02)
            out[k, ..., 3] = np.where(tumor, 0.12 + 0.1 * k, 0.02)
            out[k, ..., 4] = np.where(tumor, 0.08, 0.02)
        return out / out.sum(-1, keepdims=True)


class MeanOfMembers:
    """Where the trees stand in the real vote."""

    classes_ = np.arange(5)

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        return features.reshape(len(features), len(NAMES), 5).mean(1)


def standin() -> Analyzer:
    """An Analyzer in the shape of the real one."""
    members = tuple(
        Network(name=n, file=f"{n}.safetensors", sha256="0" * 64, config={"width": 8}, parameters=1000) for n in NAMES
    )
    verdict = VerdictModel(
        features=tuple("abcde"), mean=(0,) * 5, scale=(1,) * 5, coefficients=(1.5, 0, 0, 0, 0), intercept=-4.0,
        threshold=0.4, fitted=VerdictFit(scans=176, sensitivity=0.95, false_alarms=0.08),
    )  # fmt: skip
    training = Training(
        date="2026-01-01", sources=("phantom",), member_folds=(1, 2), vote_fold=3, split="none: a stand-in", license="MIT"
    )
    vote = Vote(
        forest=File(file="forest.skops", sha256="0" * 64), boost=File(file="boost.ubj", sha256="0" * 64), pixels=0
    )
    manifest = Manifest(
        folder=Path("stand-in"), size=SIZE, members=members, vote=vote, verdict=verdict, training=training, digest="5" * 64
    )
    return Analyzer(manifest, BrightEngine(), Voter(ManualVotingClassifier([MeanOfMembers()], 5)))
