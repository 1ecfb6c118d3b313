"""Fit the screen for pictures that are upside down, negative or a CT: ``python -m neurovision.training.screen``.

CTs are drawn over the outlines of real heads, since no data set here has any. Sequences that are rare in the data are made
up for the network that tells the way up: grays go through random curves.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from neurovision.ensemble.screen import (
    FAULTS,
    FILE,
    SIDE,
    TENSORS,
    Network,
    Screen,
    features_of,
    mirrored,
    turned_features,
)
from neurovision.errors import ScanError
from neurovision.files import write
from neurovision.scan.prepare import prepare
from neurovision.training.dataset import SOURCES, Item, data_root, load_index

log = logging.getLogger(__name__)

FALSE_ALARMS = {"upside down": 0.012, "negative": 0.0005, "CT": 0.0003}  # of real scans that the networks have not seen
HIDDEN, PENALTY, EPOCHS = 96, 0.3, 10  # of the network for negatives and CTs
WIDE, DECAY, ROUNDS, BATCH = 128, 0.06, 14, 256  # of the one for the way up
REDRAWN = 2  # times that each scan is shown to it in other grays and a little turned
MOST = 6  # times that a small data set counts
KINDS = ("upright", "negative", "CT", *(f"redrawn {k}" for k in range(REDRAWN)))


def canvases(items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray, list[Item]]:
    """Read scans in which a head stands out.

    Returns:
        Their canvases, uint8 ``(N, SIDE, SIDE)``; the canvases of the same as negatives; which items they are of: a slice
        above the head, which no reader takes, is not among them.
    """
    plain, negative, read = [], [], []
    for item in tqdm(items, desc="scans", unit="scan", disable=None):
        try:
            gray = item.gray()
        except ScanError as e:
            log.warning("%s/%s is left out: %s", item.source, item.id, e)
            continue
        canvas = prepare(gray, SIDE)
        if canvas.found:
            read.append(item)
            plain.append((canvas.pixels * 255).round().astype(np.uint8))
            negative.append((prepare(1 - gray, SIDE).pixels * 255).round().astype(np.uint8))
    return np.stack(plain), np.stack(negative), read


def features(plain: np.ndarray, negative: np.ndarray) -> dict[str, np.ndarray]:
    """Features of canvases, of negatives, of CTs drawn over the canvases, and of canvases redrawn.

    Args:
        plain: Of :func:`canvases`.
        negative: The same.

    Returns:
        KINDS to ``(N, F)``.
    """
    rng = np.random.default_rng(5)
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for stored, inverted in zip(tqdm(plain, desc="features", unit="scan", disable=None), negative, strict=True):
        pixels = stored.astype(np.float32) / 255
        rows["upright"].append(features_of(pixels))
        rows["negative"].append(features_of(inverted.astype(np.float32) / 255))
        rows["CT"].append(features_of(drawn_ct(pixels, rng)))
        for k in range(REDRAWN):
            rows[f"redrawn {k}"].append(features_of(redrawn(pixels, rng)))
    return {kind: np.stack(found) for kind, found in rows.items()}


def redrawn(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A canvas, float32 ``(size, size)`` in [0, 1], turned, stretched and moved a little, its grays along a random curve."""
    middle = (pixels.shape[0] - 1) / 2
    turn = cv2.getRotationMatrix2D((middle, middle), rng.uniform(-14, 14), rng.uniform(0.88, 1.05))
    turn[1] *= rng.uniform(0.93, 1.07)
    turn[:, 2] += rng.uniform(-0.03, 0.03, 2) * pixels.shape[0]
    moved = np.clip(cv2.warpAffine(pixels, turn, pixels.shape[::-1]), 0, 1)
    levels = np.linspace(0, 1, 6)
    curve = (levels * rng.integers(2) + np.append(0, rng.uniform(0, 1, 5))) / 2
    if rng.random() < 0.4:
        curve = levels ** rng.uniform(0.7, 1.4)
    return np.interp(moved, levels, curve).astype(np.float32)


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
    """Fit on all folds but the last; the limits come from the last, which the networks have not seen.

    Args:
        table: Of :func:`features`.
        groups: Data set of each scan; they weigh alike, as far as MOST allows.
        folds: Fold of each scan.
    """
    last = folds == folds.max()
    known = np.flatnonzero(~last)
    sizes = {g: int((groups[known] == g).sum()) for g in np.unique(groups[known])}
    times = [round(np.clip(max(sizes.values()) / 2 / sizes[g], 1, MOST)) for g in groups[known]]
    index = known.repeat(times)
    screen = Screen(_upside_down(table, index), _kinds(table, index), (0.0, 0.0, 0.0))
    unseen = screen.log_odds(table["upright"][last])
    limits = [float(np.quantile(unseen[:, k], 1 - FALSE_ALARMS[fault])) for k, fault in enumerate(FAULTS)]
    limits[1] = max(0.0, limits[1])  # negatives are told apart easily
    for k, fault in enumerate(FAULTS[1:], 1):
        found = screen.log_odds(table[fault][last])[:, k] > limits[k]
        log.info("%s: %.3f of the last fold told", fault, found.mean())
    log.info("upside down: %.3f of the last fold told", (-unseen[:, 0] > limits[0]).mean())
    return replace(screen, limits=tuple(limits))


def _upside_down(table: dict[str, np.ndarray], index: np.ndarray) -> Network:
    """Which of a picture and the same turned by 180° stands upside down: the network sees both."""
    import keras

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    shown = [table["upright"], *(table[f"redrawn {k}"] for k in range(REDRAWN))]
    some = shown[0][index]
    mean = (some + mirrored(some) + turned_features(some) + turned_features(mirrored(some))).mean(0) / 4
    scale = some.std(0) + 0.05
    core = keras.Sequential(
        [
            keras.Input((len(mean),)), keras.layers.Dropout(0.15), keras.layers.Dense(WIDE, activation="relu"),
            keras.layers.Dropout(0.3), keras.layers.Dense(1, use_bias=False),
        ]
    )  # fmt: skip
    upright, turned = keras.Input((len(mean),)), keras.Input((len(mean),))
    model = keras.Model([upright, turned], core(turned) - core(upright))
    steps = ROUNDS * 2 * len(index) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(1.5e-3, steps)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=DECAY), keras.losses.BinaryCrossentropy(from_logits=True)
    )
    for _ in tqdm(range(steps), desc="way up", unit="step", disable=None):
        chosen, look = rng.choice(index, BATCH), rng.integers(len(shown), size=BATCH)
        x = np.stack([shown[k][i] for k, i in zip(look, chosen, strict=True)])
        x = mirrored(x) if rng.random() < 0.5 else x
        model.train_on_batch([(x - mean) / scale, (turned_features(x) - mean) / scale], np.ones((BATCH, 1)))
    w1, b1, w2 = (np.asarray(w) for w in core.get_weights())
    return Network(mean, scale, (w1, b1), (w2, np.zeros(1, np.float32)))


def _kinds(table: dict[str, np.ndarray], index: np.ndarray) -> Network:
    """Whether a picture is a negative, or a CT."""
    from sklearn.neural_network import MLPClassifier

    rows, targets = [], []
    for kind, where, target in (("upright", index, (0, 0)), ("negative", index[::3], (1, 0)), ("CT", index[::3], (0, 1))):
        rows += [table[kind][where], mirrored(table[kind][where])]
        targets += [np.tile(target, (2 * len(where), 1))]
    x, y = np.concatenate(rows), np.concatenate(targets)
    mean, scale = x.mean(0), x.std(0) + 0.01
    network = MLPClassifier(
        (HIDDEN,), alpha=PENALTY, max_iter=EPOCHS, batch_size=256, learning_rate_init=1.5e-3, random_state=0, tol=0
    ).fit((x - mean) / scale, y)
    (w1, w2), (b1, b2) = network.coefs_, network.intercepts_
    return Network(mean, scale, (w1, b1), (w2, b2))


def save(screen: Screen, path: Path = FILE) -> None:
    """Write a screen as float16."""
    from safetensors.numpy import save as packed

    tensors: dict[str, np.ndarray] = {}
    for name in ("upside_down", "kinds"):
        network: Network = getattr(screen, name)
        values = (network.mean, network.scale, *network.hidden, *network.out)
        tensors |= {f"{name}.{k}": np.ascontiguousarray(v, np.float16) for k, v in zip(TENSORS, values, strict=True)}
    write(path, packed(tensors, metadata={"limits": json.dumps([round(v, 4) for v in screen.limits])}))


def main() -> None:
    """Fit on folds 1 to 3 and write the file that ships."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=None, help="prepared scans; NEUROVISION_DATA by default")
    parser.add_argument("--folds", default="1,2,3")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    root = data_root(given.data)
    present = [s for s in SOURCES if (root / s / "index.csv").is_file()]
    items = load_index(root, present, [int(f) for f in given.folds.split(",")], ("FLAIR", "T1c"))
    plain, negative, found = canvases(items)
    screen = fit(features(plain, negative), np.array([i.source for i in found]), np.array([i.fold for i in found]))
    save(screen)
    print(FILE, screen.limits)


if __name__ == "__main__":
    main()
