"""What becomes of Dice and verdict when a slice is noisy, blurred, dark, coarse, compressed, turned, cut or shifted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from neurovision.classes import FIRST_TUMOR
from neurovision.ensemble.pipeline import Analyzer
from neurovision.evaluation.measure import known_truth
from neurovision.evaluation.scores import Counts, mean_interval, share_interval
from neurovision.scan.study import Source, Study
from neurovision.training.dataset import Item

Pair = tuple[np.ndarray, np.ndarray]
STRENGTHS = ("mild", "medium", "strong")


def noise(gray: np.ndarray, truth: np.ndarray, level: float) -> Pair:
    """Rician noise of deviation ``level``, as a magnitude image has it (Gudbjartsson 1995)."""
    rng = np.random.default_rng(int(gray.size))
    real, imaginary = rng.normal(0, level, (2, *gray.shape))
    return np.hypot(gray + real, imaginary), truth


def blur(gray: np.ndarray, truth: np.ndarray, level: float) -> Pair:
    """Gaussian blur; ``level`` is its deviation in pixels of a 256 x 256 slice."""
    return cv2.GaussianBlur(gray, (0, 0), level * max(gray.shape) / 256), truth


def gamma(gray: np.ndarray, truth: np.ndarray, level: float) -> Pair:
    """``gray ** level``."""
    return np.power(gray, level), truth


def low_resolution(gray: np.ndarray, truth: np.ndarray, level: float) -> Pair:
    """Sampled ``level`` times more coarsely, and back."""
    height, width = gray.shape
    small = cv2.resize(gray, (round(width / level), round(height / level)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), truth


def jpeg(gray: np.ndarray, truth: np.ndarray, level: float) -> Pair:
    """JPEG of quality ``level``."""
    _, coded = cv2.imencode(".jpg", np.rint(gray * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, int(level)])
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), np.float32) / 255, truth


def rotation(gray: np.ndarray, truth: np.ndarray, level: float) -> Pair:
    """Turned by ``level`` degrees."""
    height, width = gray.shape
    return _warp(gray, truth, cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), level, 1.0))


def shift(gray: np.ndarray, truth: np.ndarray, level: float) -> Pair:
    """Moved right and down by a share ``level`` of each side, part of the head may leave the picture."""
    height, width = gray.shape
    return _warp(gray, truth, np.array([[1, 0, level * width], [0, 1, level * height]]))


def crop(gray: np.ndarray, truth: np.ndarray, level: float) -> Pair:
    """A share ``level`` of the rows cut off at the bottom, as where the field of view ends."""
    rows = round(gray.shape[0] * (1 - level))
    return np.ascontiguousarray(gray[:rows]), np.ascontiguousarray(truth[:rows])


def window(gray: np.ndarray, truth: np.ndarray, level: float) -> Pair:
    """A display window that saturates a share ``level`` of the tissue at each end."""
    low, high = np.quantile(gray[gray > 0.02], (level, 1 - level)) if (gray > 0.02).any() else (0.0, 1.0)
    return np.clip((gray - low) / max(float(high - low), 1e-6), 0, 1), truth


def _warp(gray: np.ndarray, truth: np.ndarray, matrix: np.ndarray) -> Pair:
    size = (gray.shape[1], gray.shape[0])
    turned = cv2.warpAffine(truth.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
    return cv2.warpAffine(gray, matrix, size, flags=cv2.INTER_LINEAR), turned > 0


CHANGES: dict[str, tuple[Callable[[np.ndarray, np.ndarray, float], Pair], tuple[float, float, float]]] = {
    "noise": (noise, (0.02, 0.05, 0.10)),
    "blur": (blur, (0.7, 1.5, 2.5)),
    "darker": (gamma, (1.25, 1.6, 2.2)),
    "brighter": (gamma, (0.8, 0.62, 0.45)),
    "low resolution": (low_resolution, (1.5, 2.5, 4.0)),
    "JPEG": (jpeg, (75, 40, 15)),
    "rotation": (rotation, (5, 15, 30)),
    "shifted": (shift, (0.03, 0.08, 0.15)),
    "cropped": (crop, (0.05, 0.10, 0.20)),
    "window": (window, (0.01, 0.03, 0.08)),
}


def measure_robustness(analyzer: Analyzer, items: Sequence[Item]) -> dict[str, Any]:
    """Dice and sensitivity of tumor slices under each of CHANGES at each strength, against the clean slice.

    Args:
        analyzer: The loaded ensemble.
        items: Slices with an annotated tumor, of patients that nothing was fitted on.

    Returns:
        ``{"n", "clean": {...}, "changes": {name: {strength: {"level", "dice", "against_clean", "sensitivity"}}}}``, with
        intervals as ``scores`` makes them; ``against_clean`` is the ratio of the mean Dices.
    """
    pairs = [(gray, truth) for item in items if (truth := known_truth(item, (gray := item.gray()).shape)) is not None]
    clusters = [f"{i.source}/{i.patient or i.id}" for i in items]
    clean = [_said(analyzer, gray, truth) for gray, truth in tqdm(pairs, desc="clean", unit="scan", disable=None)]
    clean_dice = float(np.mean([dice for dice, _ in clean]))
    changes: dict[str, Any] = {}
    for name, (change, levels) in CHANGES.items():
        changes[name] = {}
        for strength, level in zip(STRENGTHS, levels, strict=True):
            bar = tqdm(pairs, desc=f"{strength} {name}", unit="scan", disable=None)
            said = [_said(analyzer, *change(gray, truth, level)) for gray, truth in bar]
            dice = [d for d, _ in said]
            changes[name][strength] = {
                "level": level,
                "dice": mean_interval(dice, clusters).to_json(),
                "against_clean": round(float(np.nanmean(dice)) / max(clean_dice, 1e-9), 4),
                "sensitivity": share_interval([p for _, p in said], clusters).to_json(),
            }
    return {
        "n": len(pairs),
        "clean": {
            "dice": mean_interval([d for d, _ in clean], clusters).to_json(),
            "sensitivity": share_interval([p for _, p in clean], clusters).to_json(),
        },
        "changes": changes,
    }


def _said(analyzer: Analyzer, gray: np.ndarray, truth: np.ndarray) -> tuple[float, bool]:
    """Dice (NaN where the change cut the tumor away) and whether the verdict is tumor."""
    pixels = np.clip(gray, 0, 1).astype(np.float32)[None, ..., None]
    findings = analyzer.analyze(Study(np.ascontiguousarray(pixels), Source("scan", "array")))
    dice = Counts.of(truth, findings.mask >= FIRST_TUMOR).dice if truth.any() else float("nan")
    return dice, findings.positive
