"""Loss and score that segmenters are trained with."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from neurovision.classes import FIRST_TUMOR


@keras.saving.register_keras_serializable("neurovision")
class CrossEntropyDice(keras.losses.Loss):
    """Weighted sparse categorical cross-entropy, plus one minus soft Dice, plus cross-entropy of the tumor's type.

    Dice (Milletari 2016, arXiv 1606.04797) is the mean of two: tumor of any type against the rest, and the mean over
    the tumor classes that the batch holds. Both pool the whole batch, so that a slice without tumor is no special
    case. The type's term asks, on annotated tumor pixels only and averaged slice by slice, which type it is *given*
    that there is a tumor: a tumor is 1 or 2 % of a slice, and plain cross-entropy leaves its type almost unlearned.
    A tumor whose type nobody noted counts in every term but those of the type.

    Args:
        class_weights: Weight of each class' pixels in the cross-entropy.
        dice: Weight of the Dice term; 0 leaves it out.
        kind: Weight of the type's term; 0 leaves it out.

    Shape:
        ``y_true`` ``(N, H, W)`` integer classes, K for a tumor of any type; ``y_pred`` ``(N, H, W, K)`` probabilities.
    """

    def __init__(
        self,
        class_weights: tuple[float, ...] = (0.5, 1.0, 3.0, 3.0, 3.0),
        dice: float = 1.0,
        kind: float = 0.3,
        name: str = "ce_dice",
    ) -> None:
        super().__init__(name=name)
        self.class_weights = tuple(class_weights)
        self.dice = dice
        self.kind = kind

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss, a scalar."""
        truth = ops.one_hot(ops.cast(y_true, "int32"), len(self.class_weights))
        probabilities = ops.clip(ops.cast(y_pred, "float32"), 1e-7, 1.0)
        weights = ops.convert_to_tensor(self.class_weights, "float32")
        tumor, found = truth[..., FIRST_TUMOR:], probabilities[..., FIRST_TUMOR:]
        untyped = ops.cast(ops.equal(ops.cast(y_true, "int32"), len(self.class_weights)), "float32")
        of_any = untyped * weights[FIRST_TUMOR] * ops.log(ops.clip(ops.sum(found, axis=-1), 1e-7, 1.0))
        loss = -ops.mean(ops.sum(truth * weights * ops.log(probabilities), axis=-1) + of_any)
        if self.dice:
            each = _soft_dice(tumor, found, axis=(0, 1, 2))
            present = ops.cast(ops.sum(tumor, axis=(0, 1, 2)) > 0, "float32")
            by_class = ops.sum(present * (1 - each)) / ops.maximum(ops.sum(present), 1)
            drawn = ops.sum(tumor, axis=-1) + untyped
            any_type = 1 - _soft_dice(drawn, ops.sum(found, axis=-1), axis=None)
            typed, some = ops.max(present), ops.cast(ops.max(drawn) > 0, "float32")
            loss += self.dice * some * (typed * by_class + any_type) / (1 + typed)
        if self.kind:
            given = found / ops.sum(found, axis=-1, keepdims=True)
            area = ops.sum(tumor, axis=(1, 2, 3))
            by_slice = -ops.sum(tumor * ops.log(given), axis=(1, 2, 3)) / ops.maximum(area, 1)
            loss += self.kind * ops.sum(by_slice) / ops.maximum(ops.sum(ops.cast(area > 0, "float32")), 1)
        return loss

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"class_weights": self.class_weights, "dice": self.dice, "kind": self.kind, "name": self.name}


def _soft_dice(truth: Any, found: Any, axis: Any) -> Any:
    """Soft Dice over ``axis``; the 1 keeps it defined and smooth where both are empty."""
    return (2 * ops.sum(truth * found, axis=axis) + 1) / (ops.sum(truth + found, axis=axis) + 1)


@keras.saving.register_keras_serializable("neurovision")
class TumorDice(keras.metrics.Metric):
    """Dice of tumor (any type) against the rest, all pixels of an epoch pooled."""

    def __init__(self, name: str = "tumor_dice") -> None:
        super().__init__(name=name)
        self.overlap = self.add_weight(name="overlap", initializer="zeros")
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add one batch."""
        truth = ops.cast(ops.cast(ops.convert_to_tensor(y_true), "int32") >= FIRST_TUMOR, "float32")
        found = ops.cast(ops.sum(y_pred[..., FIRST_TUMOR:], axis=-1) >= 0.5, "float32")
        self.overlap.assign_add(ops.sum(truth * found))
        self.total.assign_add(ops.sum(truth) + ops.sum(found))

    def result(self) -> Any:
        """Dice so far; 0 before the first tumor pixel."""
        return 2 * self.overlap / ops.maximum(self.total, 1.0)


@keras.saving.register_keras_serializable("neurovision")
class AllowedCrossEntropy(keras.losses.Loss):
    """Minus the log of the probability of all answers that a scan allows.

    A tumor whose type nobody noted allows every type: it teaches that there is one, and leaves the type open.

    Shape:
        ``y_true`` ``(N, K)`` of 0 and 1, the allowed answers; ``y_pred`` ``(N, K)`` probabilities.
    """

    def __init__(self, smooth: float = 0.05, name: str = "allowed_ce") -> None:
        super().__init__(name=name)
        self.smooth = smooth

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss ``(N,)``; a share ``smooth`` of it asks for an even spread, against overconfidence."""
        y_true, probabilities = ops.cast(y_true, "float32"), ops.clip(ops.cast(y_pred, "float32"), 1e-7, 1.0)
        allowed = -ops.log(ops.clip(ops.sum(y_true * probabilities, axis=-1), 1e-7, 1.0))
        return (1 - self.smooth) * allowed - self.smooth * ops.mean(ops.log(probabilities), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"smooth": self.smooth, "name": self.name}


def allowed_accuracy(y_true: Any, y_pred: Any) -> Any:
    """Share of scans whose likeliest answer is an allowed one, by scan, ``(N,)``; arguments as of AllowedCrossEntropy."""
    best = ops.one_hot(ops.argmax(y_pred, axis=-1), y_pred.shape[-1])
    return ops.sum(best * ops.cast(ops.convert_to_tensor(y_true), "float32"), axis=-1)
