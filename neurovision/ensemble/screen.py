"""Pictures that look like a head and are read wrongly all the same: upside down, negative, or a CT.

Two small networks over histograms of oriented gradients (Dalal 2005) answer for a canvas; ``python -m
neurovision.training.screen`` fits them and their limits on scans that no test reads, and writes the file beside this one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from neurovision.scan.study import Study

FILE = Path(__file__).with_name("screen.safetensors")
SIDE, CELLS, BINS, SMALL = 96, 8, 12, 12  # pixels of a canvas, cells a side, directions, side of the coarse picture
SECTORS, BONE, BRAIN = 36, 0.95, 0.6  # directions from the head's middle; least of the bone's gray, most of the brain's
FAULTS = ("upside down", "negative", "CT")
TENSORS = ("mean", "scale", "w1", "b1", "w2", "b2")
SENTENCES = {
    "upside down": "The head seems to stand upside down: turn it by 180°, face or forehead up, and read it again.",
    "negative": "The picture seems to be a negative: air is brighter than tissue. Invert it, and send it again.",
    "CT": "The picture looks like a CT: bright bone, and no fat around it. The networks read MRI only.",
}


@dataclass(frozen=True)
class Network:
    """One hidden layer over features of a canvas.

    Attributes:
        mean: float32 ``(F,)`` of the features.
        scale: float32 ``(F,)``, their deviation.
        hidden: float32 ``(F, H)`` and its offsets ``(H,)``.
        out: float32 ``(H, K)`` and its offsets ``(K,)``.
    """

    mean: np.ndarray
    scale: np.ndarray
    hidden: tuple[np.ndarray, np.ndarray]
    out: tuple[np.ndarray, np.ndarray]

    def answers(self, features: np.ndarray) -> np.ndarray:
        """Log odds ``(N, K)`` of features ``(N, F)``, the mean over mirror images."""
        return np.asarray((self._one(features) + self._one(mirrored(features))) / 2)

    def _one(self, features: np.ndarray) -> np.ndarray:
        x = (features - self.mean) / self.scale
        return np.asarray(np.maximum(x @ self.hidden[0] + self.hidden[1], 0) @ self.out[0] + self.out[1])


@dataclass(frozen=True)
class Screen:
    """The fitted networks.

    Attributes:
        upside_down: Of one answer; half its difference between a picture and the same turned by 180° counts.
        kinds: Of two answers, a negative and a CT.
        limits: Log odds from which each of FAULTS is told.
    """

    upside_down: Network
    kinds: Network
    limits: tuple[float, ...]

    @classmethod
    @lru_cache(maxsize=1)
    def load(cls) -> Screen:
        """Read the file that ships beside this module."""
        from safetensors import safe_open

        with safe_open(FILE, "numpy") as file:
            limits = tuple(json.loads(file.metadata()["limits"]))
            networks = []
            for name in ("upside_down", "kinds"):
                mean, scale, w1, b1, w2, b2 = (file.get_tensor(f"{name}.{k}").astype(np.float32) for k in TENSORS)
                networks.append(Network(mean, scale, (w1, b1), (w2, b2)))
        return cls(networks[0], networks[1], limits)

    def log_odds(self, features: np.ndarray) -> np.ndarray:
        """Of each of FAULTS, ``(N, 3)``, of features ``(N, F)``; what does not depend on the way up cancels out."""
        turn = (self.upside_down.answers(features) - self.upside_down.answers(turned_features(features))) / 2
        return np.concatenate([turn, self.kinds.answers(features)], 1)

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """Log odds of each fault, ``(3,)``, of one canvas, float32 ``(size, size)`` in [0, 1]."""
        return np.asarray(self.log_odds(features_of(pixels)[None])[0])

    def faults(self, pixels: np.ndarray) -> tuple[str, ...]:
        """Which of FAULTS a canvas has."""
        told = self.scores(pixels) > self.limits
        return tuple(f for f, t in zip(FAULTS, told, strict=True) if t or (f == "CT" and bone_is_white(pixels)))


def features_of(pixels: np.ndarray) -> np.ndarray:
    """Directions of edges in 8 x 8 cells, each by its neighborhood's strength, and the coarse picture.

    Args:
        pixels: float32 ``(size, size)`` in [0, 1], a canvas.

    Returns:
        float32 ``(CELLS * CELLS * BINS + SMALL * SMALL,)``.
    """
    picture = cv2.resize(pixels.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    picture = cv2.GaussianBlur(np.rint(picture * 255) / np.float32(255), (0, 0), 1.0)
    size, angle = cv2.cartToPolar(cv2.Sobel(picture, cv2.CV_32F, 1, 0), cv2.Sobel(picture, cv2.CV_32F, 0, 1))
    place = angle * (BINS / (2 * np.pi))
    low = np.floor(place)
    share = place - low
    cell = np.arange(SIDE) // (SIDE // CELLS)
    cells = (cell[:, None] * CELLS + cell[None]) * BINS
    first, second = low.astype(int) % BINS, (low.astype(int) + 1) % BINS
    count = CELLS * CELLS * BINS
    total = np.bincount((cells + first).ravel(), (size * (1 - share)).ravel(), count)
    total += np.bincount((cells + second).ravel(), (size * share).ravel(), count)
    histogram = (total / (SIDE // CELLS) ** 2).reshape(CELLS, CELLS, BINS).astype(np.float32)
    strength = cv2.blur(np.sqrt((histogram**2).sum(-1)), (3, 3)) + 0.02
    coarse = cv2.resize(picture, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    return np.concatenate([(histogram / strength[..., None]).ravel(), 4 * coarse.ravel()]).astype(np.float32)


def bone_is_white(pixels: np.ndarray) -> bool:
    """Whether white bone runs around a head of which nothing deep inside is as bright, as a CT's brain window has it.

    Args:
        pixels: float32 ``(size, size)`` in [0, 1], a canvas.
    """
    picture = cv2.resize(pixels.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    mask = (cv2.GaussianBlur(picture, (0, 0), 1) > 0.06).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8)).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    head = cv2.drawContours(np.zeros_like(mask), contours, -1, 1, -1)
    depth = cv2.distanceTransform(np.pad(head, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    rim, deep = np.argwhere((depth > 0) & (depth < SIDE / 8)), picture[depth > SIDE / 7]
    if deep.size < 50:
        return False
    down, across = (rim - np.argwhere(head).mean(0)).T
    sector = ((np.arctan2(down, across) / (2 * np.pi) + 0.5) * SECTORS).astype(int) % SECTORS
    brightest = np.zeros(SECTORS)
    np.maximum.at(brightest, sector, picture[tuple(rim.T)])
    return bool(np.percentile(brightest, 10) > BONE and np.percentile(deep, 99) < BRAIN)


def mirrored(features: np.ndarray) -> np.ndarray:
    """Features ``(N, F)`` of the mirror images, left and right exchanged."""
    count = CELLS * CELLS * BINS
    histogram = features[:, :count].reshape(-1, CELLS, CELLS, BINS)[:, :, ::-1]
    histogram = histogram[..., (BINS // 2 - np.arange(BINS)) % BINS]
    coarse = features[:, count:].reshape(-1, SMALL, SMALL)[:, :, ::-1]
    return np.concatenate([histogram.reshape(len(features), -1), coarse.reshape(len(features), -1)], 1)


def turned_features(features: np.ndarray) -> np.ndarray:
    """Features ``(N, F)`` of the pictures turned by 180°."""
    count = CELLS * CELLS * BINS
    histogram = features[:, :count].reshape(-1, CELLS, CELLS, BINS)[:, ::-1, ::-1]
    histogram = histogram[..., (np.arange(BINS) + BINS // 2) % BINS]
    coarse = features[:, count:].reshape(-1, SMALL, SMALL)[:, ::-1, ::-1]
    return np.concatenate([histogram.reshape(len(features), -1), coarse.reshape(len(features), -1)], 1)


def is_upside_down(study: Study) -> bool:
    """Whether a study's heads stand upside down: by the mean over its slices that show a head."""
    from neurovision.scan.prepare import prepare

    screen = Screen.load()
    chosen = np.unique(np.linspace(0, study.n_slices - 1, min(study.n_slices, 24)).astype(int))
    canvases = [prepare(study.gray(int(k)), SIDE, study.pixel_shape) for k in chosen]
    scores = [screen.scores(c.pixels)[0] for c in canvases if c.found]
    return bool(scores) and float(np.mean(scores)) > screen.limits[0]


def turned(study: Study) -> Study:
    """The study with every slice turned by half, for a person who says that it stands upside down.

    Geometry goes along. What ties the slices to a file's own voxels or to a DICOM header does not: results are for
    looking at.
    """
    height, width = study.pixels.shape[1:3]
    affine = study.affine
    if affine is not None:
        flip = np.diag([1.0, -1.0, -1.0, 1.0])
        flip[1, 3], flip[2, 3] = height - 1, width - 1
        affine = affine @ flip
    return replace(
        study, pixels=np.ascontiguousarray(study.pixels[:, ::-1, ::-1]), affine=affine, headers=None, grid=None,
        warnings=(*study.warnings, "The slices were turned by 180° before they were read."),
    )  # fmt: skip
