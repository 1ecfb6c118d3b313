"""Train one whole-image classifier by its recipe: the head first, then more of the network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from neurovision.classifiers import build, card
from neurovision.ensemble.classify import FILE
from neurovision.ensemble.engine import variable_key
from neurovision.errors import DataError, ModelError
from neurovision.files import write
from neurovision.scan.prepare import standardize
from neurovision.training.dataset import load_index, pack
from neurovision.training.provenance import facts, license_of, strictest
from neurovision.training.trainer import Plan, fit, open_run, record

LOSSES = ("bce", "dice", "focal")


@dataclass(frozen=True)
class Jitter:
    """Ranges of a classifier's random changes; everything is drawn evenly from plus or minus the range.

    Attributes:
        rotation: Degrees.
        shift: Share of the side, along rows and along columns.
        shear: Share of the side.
        zoom: Around 1.
        brightness: Factor around 1.
    """

    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0


@dataclass(frozen=True)
class Stage:
    """A stretch of training.

    Attributes:
        epochs: At most this many.
        learning_rate: At its start.
        decay: The rate is multiplied by this every ``trainer.DECAY_STEPS`` steps, continuously; 1 keeps it.
        encoder_layers: Last layers of the encoder that train too; None trains all of them.
        jitter: Random changes, a horizontal flip among them; None for none.
    """

    epochs: int
    learning_rate: float
    decay: float = 1.0
    encoder_layers: int | None = 0
    jitter: Jitter | None = None


@dataclass(frozen=True)
class ClassifierRecipe:
    """How one classifier is trained.

    Attributes:
        name: The classifier.
        stages: Run in order.
        batch: Scans a step.
        weight_decay: Decoupled, as in AdamW; 0 is plain Adam.
        patience: Epochs without a better validation AUC after which a stage ends; None runs all epochs.
        optimizer: One of ``trainer.OPTIMIZERS``.
        loss: One of LOSSES.
    """

    name: str
    stages: tuple[Stage, ...]
    batch: int = 16
    weight_decay: float = 0.0
    patience: int | None = 5
    optimizer: str = "adam"
    loss: str = "bce"


_GENTLE = Jitter(rotation=15, shift=0.05, zoom=0.05, brightness=0.05)
WIDE = Jitter(rotation=10, shift=0.05, shear=0.05, zoom=0.1)
_HEAD_THEN_30 = (Stage(20, 3e-4), Stage(15, 3e-5, encoder_layers=30, jitter=_GENTLE))


def _decayed(rate: float, decay: float, fine_tune: float, more: int = 10) -> tuple[Stage, ...]:
    return (Stage(30, rate, decay, jitter=WIDE), Stage(more, fine_tune, encoder_layers=None, jitter=WIDE))


# As the source documents list them; where they give no number of epochs, that of their other networks stands.
RECIPES = {
    "custom_cnn": ClassifierRecipe("custom_cnn", _HEAD_THEN_30),
    "two_branch_resnet50": ClassifierRecipe("two_branch_resnet50", _HEAD_THEN_30, batch=8),
    "resnet50_v1": ClassifierRecipe("resnet50_v1", _decayed(1e-4, 0.9, 1e-5)),
    "resnet50_v2": ClassifierRecipe("resnet50_v2", _decayed(1e-6, 0.9, 1e-6), weight_decay=1e-5),
    "efficientnetv2l_v1": ClassifierRecipe("efficientnetv2l", _decayed(1e-4, 0.9, 1e-5)),
    "efficientnetv2l_v2": ClassifierRecipe("efficientnetv2l", _decayed(1e-5, 0.85, 1e-6), patience=None),
    "convnextbase_v1": ClassifierRecipe("convnextbase", _decayed(1e-4, 0.9, 1e-5), weight_decay=1e-5),
    "convnextbase_v2": ClassifierRecipe("convnextbase", _decayed(1e-5, 0.85, 1e-6), weight_decay=1e-5),
    # The document describes its third variant in words alone, "slower rate, more decay, after augmentation": a tenth of the
    # second one's rate and ten times the first one's weight decay here.
    "convnextbase_v3": ClassifierRecipe("convnextbase", _decayed(1e-6, 0.85, 1e-7), weight_decay=1e-4),
    "vgg16": ClassifierRecipe("vgg16", _HEAD_THEN_30),
    "vit": ClassifierRecipe("vit", _HEAD_THEN_30),
}


@dataclass(frozen=True)
class Labeled:
    """Canvases and whether each shows a tumor.

    Attributes:
        pixels: float32 ``(N, size, size)`` in [0, 1].
        tumor: bool ``(N,)``.
    """

    pixels: np.ndarray
    tumor: np.ndarray

    def __post_init__(self) -> None:
        if self.tumor.all() or not self.tumor.any():
            raise DataError("A classifier needs scans with and without a tumor, for training and for validation.")

    def canvases(self) -> np.ndarray:
        """What networks read: float32 ``(N, size, size, 1)``, standardized."""
        return np.stack([standardize(p) for p in self.pixels])[..., None]


def jittered(pixels: np.ndarray, rng: np.random.Generator, jitter: Jitter) -> np.ndarray:
    """Change one canvas, float32 ``(size, size)`` in [0, 1], at random; uncovered pixels repeat the nearest."""
    size = pixels.shape[0]

    def draw(reach: float) -> float:
        return float(rng.uniform(-reach, reach))

    matrix = cv2.getRotationMatrix2D((size / 2 - 0.5, size / 2 - 0.5), draw(jitter.rotation), 1 + draw(jitter.zoom))
    matrix[0, 1] += draw(jitter.shear)
    matrix[:, 2] += draw(jitter.shift) * size, draw(jitter.shift) * size
    moved = cv2.warpAffine(np.ascontiguousarray(pixels), matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
    moved = moved[:, ::-1] if rng.random() < 0.5 else moved
    return np.clip(moved * (1 + draw(jitter.brightness)), 0, 1).astype(np.float32)


def best_threshold(truth: np.ndarray, probability: np.ndarray) -> float:
    """The threshold with the best balanced accuracy; among equals the one nearest to 0.5.

    Args:
        truth: bool ``(N,)`` with both classes.
        probability: float ``(N,)``.

    Raises:
        DataError: Only one class is there.
    """
    if truth.all() or not truth.any():
        raise DataError("A threshold needs scans with and without a tumor; received one kind only.")
    values = np.unique(probability)
    candidates = np.concatenate([[0.5], (values[:-1] + values[1:]) / 2])
    positive = probability[None] >= candidates[:, None]
    balanced = (positive[:, truth].mean(1) + 1 - positive[:, ~truth].mean(1)) / 2
    best = candidates[balanced >= balanced.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


class _Batches(keras.utils.PyDataset):
    """Every scan once an epoch, in a new order, changed anew."""

    def __init__(self, scans: Labeled, batch: int, jitter: Jitter | None, seed: int) -> None:
        super().__init__()
        self.pixels, self.tumor = scans.pixels, scans.tumor
        self.batch, self.jitter, self.seed, self.epoch = batch, jitter, seed, 0

    def __len__(self) -> int:
        return -(-len(self.pixels) // self.batch)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.pixels))
        chosen = order[index * self.batch : (index + 1) * self.batch]
        rng = np.random.default_rng([self.seed, self.epoch, index])
        drawn = [self.pixels[k] if self.jitter is None else jittered(self.pixels[k], rng, self.jitter) for k in chosen]
        return np.stack([standardize(p) for p in drawn])[..., None], self.tumor[chosen].astype(np.float32)[:, None]


def fit_classifier(
    recipe: str,
    data: Path,
    folds: Sequence[int],
    validation_fold: int,
    out: Path,
    sources: Sequence[str] = ("navoneel",),
    size: int | None = None,
    config: dict[str, Any] | None = None,
    epochs: int | None = None,
    seed: int = 1,
    verbose: int = 1,
) -> dict[str, Any]:
    """Train or resume, choose the threshold on the validation fold, write weights and description.

    Args:
        recipe: A name in RECIPES.
        data: The prepared folder.
        folds: Folds that are trained on; where patients are known, whole patients stand in one fold.
        validation_fold: A fold that only early stopping and the threshold look at.
        out: Folder to write.
        sources: Data sets; their labels become tumor or no tumor.
        size: Side of the canvas; the published one by default.
        config: Arguments of the builder, such as ``{"encoder": "efficientnetlite0"}`` for the compact variant.
        epochs: Shortens every stage to at most this many.
        seed: Of initialization, order and random changes.
        verbose: Keras' verbosity.

    Returns:
        What ``classifier.json`` holds: name, config, size, file, sha256, threshold, recipe and the validation scores.

    Raises:
        ModelError: An unknown recipe.
        DataError: The folds overlap, a side of the split has one class only, or the folder holds a run with other options.
    """
    if recipe not in RECIPES:
        raise ModelError(f"No classifier recipe is called {recipe!r}; choose one of {', '.join(RECIPES)}.")
    if validation_fold in folds:
        raise DataError(f"Fold {validation_fold} is trained on and cannot validate; choose another.")
    plan, config = shortened(RECIPES[recipe], epochs), dict(config or {})
    size = size or card(plan.name).size
    described = {
        "recipe": {"name": recipe, **asdict(plan)}, "folds": list(folds), "validation_fold": validation_fold,
        "sources": list(sources), "seed": seed, "size": size, "config": config,
    }  # fmt: skip
    finished = (out / FILE).is_file()
    open_run(out, described, finished)
    if finished:
        kept: dict[str, Any] = json.loads((out / FILE).read_text())
        return kept
    items = [load_index(data, sources, part) for part in (folds, [validation_fold])]
    training, validation = (
        Labeled(pack(part, size, out.parent / "cache")[0], np.array([i.tumor for i in part])) for part in items
    )
    keras.utils.set_random_seed(seed)
    keras.utils.clear_session()
    model = build(plan.name, (size, size, 1), **config)
    seen, seconds = fit_stages(model, plan, training, validation, out, seed, verbose)
    probability = np.asarray(model.predict(validation.canvases(), verbose=0))[:, 0]
    threshold = best_threshold(validation.tumor, probability)
    answers = np.stack([validation.tumor, probability], 1)
    np.savetxt(out / "validation.csv", answers, "%.6g", ",", header="tumor,probability", comments="")
    terms = strictest(license_of(data, s) for s in sources)
    record(out, license=terms, scans=len(training.tumor), scans_seen=seen, **facts(seconds))
    return _write(model, plan, recipe, config, size, threshold, _scores(validation.tumor, probability, threshold), out)


def shortened(plan: ClassifierRecipe, epochs: int | None) -> ClassifierRecipe:
    """The recipe with at most ``epochs`` a stage; None leaves it alone."""
    if epochs is None:
        return plan
    return replace(plan, stages=tuple(replace(s, epochs=min(epochs, s.epochs)) for s in plan.stages))


def fit_stages(
    model: keras.Model,
    plan: ClassifierRecipe,
    training: Labeled,
    validation: Labeled,
    out: Path | None = None,
    seed: int = 1,
    verbose: int = 0,
) -> tuple[int, float]:
    """Train a built classifier stage by stage; classes weigh alike.

    Args:
        model: To train, in place.
        plan: Stages, optimizer, loss.
        training: What it learns from.
        validation: What early stopping looks at.
        out: Where each stage's history and state go, ``phase0`` and so on, to resume from; None keeps none.
        seed: Of order and random changes.
        verbose: Keras' verbosity.

    Returns:
        How many scans were seen, every epoch counted, and the seconds that it took.
    """
    checks = (validation.canvases(), validation.tumor.astype(np.float32)[:, None])
    share = len(training.tumor) / 2
    weights = {0: share / float((~training.tumor).sum()), 1: share / float(training.tumor.sum())}
    seen, seconds = 0, 0.0
    for number, stage in enumerate(plan.stages):
        _thaw(model, stage.encoder_layers)
        loop = Plan(
            stage.epochs, stage.learning_rate, "exponential" if stage.decay < 1 else "constant", decay=stage.decay,
            optimizer=plan.optimizer, weight_decay=plan.weight_decay, watched="val_auc", patience=plan.patience,
        )  # fmt: skip
        batches = _Batches(training, plan.batch, stage.jitter, seed + number)
        folder = None if out is None else out / f"phase{number}"
        fitted = fit(model, batches, checks, loop, _loss(plan.loss), _metrics(), folder, weights, verbose)
        seen, seconds = seen + fitted.epochs * len(training.tumor), seconds + fitted.seconds
    return seen, seconds


def _loss(name: str) -> keras.losses.Loss:
    """Cross-entropy, Dice over the batch's probabilities, or focal loss (Lin 2017, arXiv 1708.02002)."""
    kinds = {
        "bce": keras.losses.BinaryCrossentropy,
        "dice": keras.losses.Dice,
        "focal": keras.losses.BinaryFocalCrossentropy,
    }
    if name not in kinds:
        raise ModelError(f"A loss is one of {', '.join(LOSSES)}; received {name!r}.")
    return kinds[name]()


def _metrics() -> list[keras.metrics.Metric]:
    return [
        keras.metrics.BinaryAccuracy(name="accuracy"),
        keras.metrics.AUC(name="auc"),
        keras.metrics.BinaryIoU(name="binary_iou"),
    ]


def _thaw(model: keras.Model, encoder_layers: int | None) -> None:
    """Let the head and the last layers of the encoder train; a network without encoder trains as a whole."""
    nested = [x for x in model.layers if isinstance(x, keras.Model)]
    for encoder in nested:
        frozen = 0 if encoder_layers is None else len(encoder.layers) - encoder_layers
        for index, layer in enumerate(encoder.layers):
            layer.trainable = index >= frozen


def _scores(truth: np.ndarray, probability: np.ndarray, threshold: float) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

    found = probability >= threshold
    return {
        "scans": len(truth),
        "auc": float(roc_auc_score(truth, probability)),
        "accuracy": float(accuracy_score(truth, found)),
        "balanced_accuracy": float(balanced_accuracy_score(truth, found)),
        "balanced_accuracy_at_half": float(balanced_accuracy_score(truth, probability >= 0.5)),
        "binary_iou": binary_iou(truth, probability >= 0.5),
    }


def binary_iou(truth: np.ndarray, found: np.ndarray) -> float:
    """Keras' ``BinaryIoU`` of whole-picture decisions, as the source document reports it: the mean over both classes.

    An odd figure: a picture's class is no region, so nothing overlaps. It is accuracy told differently: with classes
    of one size and errors of both kinds alike, accuracy ``a`` gives ``a / (2 - a)``. The document's 0.84 beside an
    accuracy of 96.87 % (which gives 0.94) therefore cannot come from the same decisions.

    Args:
        truth: bool ``(N,)``.
        found: bool ``(N,)``.
    """
    each = [(truth & found).sum() / max((truth | found).sum(), 1), (~truth & ~found).sum() / max((~truth | ~found).sum(), 1)]
    return float(np.mean(each))


def _write(
    model: keras.Model,
    plan: ClassifierRecipe,
    recipe: str,
    config: dict[str, Any],
    size: int,
    threshold: float,
    scores: dict[str, float],
    out: Path,
) -> dict[str, Any]:
    from safetensors.numpy import save

    data = save({variable_key(v): np.asarray(v, np.float32) for v in model.variables if v.dtype.startswith("float")})
    file = f"{plan.name}.safetensors"
    write(out / file, data)
    described = {
        "name": plan.name,
        "config": {k: v for k, v in config.items() if k != "encoder_weights"},
        "size": size,
        "file": file,
        "sha256": hashlib.sha256(data).hexdigest(),
        "threshold": threshold,
        "recipe": {"name": recipe, **asdict(plan)},
        "validation": scores,
    }
    write(out / FILE, json.dumps(described, indent=1))
    return described
