"""Fit the screen for pictures that are upside down, negative or a CT: ``python -m neurovision.training.screen``.

CTs are drawn over the outlines of real heads, since no data set here has any.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from neurovision.ensemble.screen import FAULTS, FILE, SIDE, Screen, features_of, mirrored
from neurovision.files import write
from neurovision.scan.prepare import prepare
from neurovision.training.dataset import SOURCES, Item, data_root, load_index

FALSE_ALARMS = 0.004  # of real scans that the network has not seen, for each fault
HIDDEN, PENALTY, EPOCHS = 96, 0.3, 10


def features(items: Sequence[Item]) -> dict[str, np.ndarray]:
    """Features of scans upright, turned by half, as negatives, and of CTs drawn over them: each ``(N, F)``."""
    rng = np.random.default_rng(5)
    rows: dict[str, list[np.ndarray]] = {"upright": [], "upside down": [], "negative": [], "CT": []}
    for item in tqdm(items, desc="screen", unit="scan", disable=None):
        gray = item.gray()
        pixels = prepare(gray, SIDE).pixels
        rows["upright"].append(features_of(pixels))
        rows["upside down"].append(features_of(np.ascontiguousarray(pixels[::-1, ::-1])))
        rows["negative"].append(features_of(prepare(1 - gray, SIDE).pixels))
        rows["CT"].append(features_of(drawn_ct(pixels, rng)))
    return {k: np.stack(v) for k, v in rows.items()}


def drawn_ct(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A CT in the outline of a head: gray skin, bright skull, flat brain, sometimes bone or air within.

    Args:
        pixels: float32 ``(size, size)`` in [0, 1], a canvas.
        rng: Draws everything.
    """
    size = pixels.shape[0]
    mask = (cv2.GaussianBlur(pixels, (0, 0), 1) > 0.06).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8)).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    head = cv2.drawContours(np.zeros_like(mask), contours, -1, 1, -1) > 0
    depth = cv2.distanceTransform(np.pad(head.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    skin, skull = rng.uniform(0, 0.05) * size, rng.uniform(0.03, 0.09) * size
    tissue = (pixels - pixels[head].mean()) / max(float(pixels[head].std()), 0.05) if head.any() else pixels
    brain = rng.uniform(0.15, 0.45) + rng.uniform(0.02, 0.2) * np.clip(rng.choice((-1, 1)) * tissue, -2, 2) / 2
    image = np.where(head, brain, 0)
    image = np.where(head & (depth <= skin), rng.uniform(0.1, 0.4), image)
    image = np.where((depth > skin) & (depth <= skin + skull), rng.uniform(0.8, 1), image)
    for chance, bright in ((0.5, True), (0.4, False)):
        if rng.random() < chance:
            noise = cv2.GaussianBlur(rng.normal(0, 1, (size, size)).astype(np.float32), (0, 0), rng.uniform(2, 8))
            spots = head & (noise / noise.std() > rng.uniform(1, 2.2))
            image = np.where(spots, rng.uniform(0.6, 1) if bright else 0, image)
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), rng.uniform(0.3, 1))
    return np.clip(image + rng.normal(0, rng.uniform(0, 0.02), image.shape), 0, 1).astype(np.float32)


def fit(table: dict[str, np.ndarray], groups: np.ndarray, folds: np.ndarray) -> Screen:
    """Fit on all folds but the last; the limits come from the last, which the network has not seen.

    Args:
        table: Of :func:`features`.
        groups: Data set of each scan; they weigh alike.
        folds: Fold of each scan.
    """
    last = folds == folds.max()
    screen = _fitted(table, groups, ~last)
    unseen = _upright_scores(screen, {k: v[last] for k, v in table.items()})
    limits = [float(np.quantile(unseen[:, k], 1 - FALSE_ALARMS)) for k in range(len(FAULTS))]
    limits[1] = max(0.0, limits[1])  # negatives are told apart easily and need not use up their share of false alarms
    return replace(screen, limits=tuple(limits))


def _upright_scores(screen: Screen, table: dict[str, np.ndarray]) -> np.ndarray:
    found = screen.log_odds(table["upright"])
    found[:, 0] = (found[:, 0] - screen.log_odds(table["upside down"])[:, 0]) / 2
    return found


def _fitted(table: dict[str, np.ndarray], groups: np.ndarray, chosen: np.ndarray) -> Screen:
    from sklearn.neural_network import MLPClassifier

    members = [np.flatnonzero(chosen & (groups == g)) for g in np.unique(groups)]
    largest = max(len(m) for m in members)
    # Small data sets count up to three times, so that none is learned by its size.
    index = np.concatenate([m.repeat(int(np.clip(round(largest / 2 / max(1, len(m))), 1, 3))) for m in members])
    third = index[::3]
    kinds = (
        ("upright", index, (0, 0, 0)), ("upside down", index, (1, 0, 0)), ("negative", third, (0, 1, 0)),
        ("CT", third, (0, 0, 1)),
    )  # fmt: skip
    rows, targets = [], []
    for kind, where, target in kinds:
        rows += [table[kind][where], mirrored(table[kind][where])]
        targets += [np.tile(target, (2 * len(where), 1))]
    x, y = np.concatenate(rows).astype(np.float32), np.concatenate(targets)
    mean, scale = x.mean(0), x.std(0) + 0.01
    network = MLPClassifier(
        (HIDDEN,), alpha=PENALTY, max_iter=EPOCHS, batch_size=256, learning_rate_init=1.5e-3, random_state=0, tol=0
    ).fit((x - mean) / scale, y)
    (w1, w2), (b1, b2) = network.coefs_, network.intercepts_
    return Screen(mean, scale, (w1, b1), (w2, b2), (0.0, 0.0, 0.0))


def save(screen: Screen, path: Path = FILE) -> None:
    """Write a screen as float16."""
    from safetensors.numpy import save as packed

    named = {"mean": screen.mean, "scale": screen.scale, "w1": screen.hidden[0], "b1": screen.hidden[1]}
    named |= {"w2": screen.out[0], "b2": screen.out[1]}
    tensors = {k: np.ascontiguousarray(v, np.float16) for k, v in named.items()}
    write(path, packed(tensors, metadata={"limits": json.dumps([round(v, 4) for v in screen.limits])}))


def main() -> None:
    """Fit on folds 1 to 3 and write the file that ships."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=None, help="prepared scans; NEUROVISION_DATA by default")
    parser.add_argument("--folds", default="1,2,3")
    given = parser.parse_args()
    root = data_root(given.data)
    present = [s for s in SOURCES if (root / s / "index.csv").is_file()]
    items = load_index(root, present, [int(f) for f in given.folds.split(",")], ("FLAIR", "T1c"))
    screen = fit(features(items), np.array([i.source for i in items]), np.array([i.fold for i in items]))
    save(screen)
    print(FILE, screen.limits)


if __name__ == "__main__":
    main()
