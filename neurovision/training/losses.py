"""Loss and score that segmenters are trained with."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from neurovision.classes import CLASSES, FIRST_TUMOR


@keras.saving.register_keras_serializable("neurovision")
class CrossEntropyDice(keras.losses.Loss):
    """Weighted sparse categorical cross-entropy plus one minus soft Dice, averaged over the tumor classes.

    Dice is taken per class over the whole batch (so that a slice without that class is no special case) after
    Milletari 2016, arXiv 1606.04797. Without class weights and per-class Dice the few tumor pixels leave the type
    almost unlearned.

    Args:
        class_weights: Weight of each class' pixels in the cross-entropy.
        dice: Weight of the Dice term; 0 leaves cross-entropy alone.

    Shape:
        ``y_true`` ``(N, H, W)`` integer classes; ``y_pred`` ``(N, H, W, K)`` probabilities.
    """

    def __init__(
        self, class_weights: tuple[float, ...] = (0.5, 1.0, 3.0, 3.0, 3.0), dice: float = 1.0, name: str = "ce_dice"
    ) -> None:
        super().__init__(name=name)
        self.class_weights = tuple(class_weights)
        self.dice = dice

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss, a scalar."""
        truth = ops.one_hot(ops.cast(y_true, "int32"), len(CLASSES))
        probabilities = ops.clip(ops.cast(y_pred, "float32"), 1e-7, 1.0)
        weights = ops.convert_to_tensor(self.class_weights, "float32")
        loss = -ops.mean(ops.sum(truth * weights * ops.log(probabilities), axis=-1))
        if self.dice:
            overlap = ops.sum(truth * probabilities, axis=(0, 1, 2))[FIRST_TUMOR:]
            total = ops.sum(truth + probabilities, axis=(0, 1, 2))[FIRST_TUMOR:]
            present = ops.cast(ops.sum(truth, axis=(0, 1, 2))[FIRST_TUMOR:] > 0, "float32")
            dice = (2 * overlap + 1) / (total + 1)
            loss += self.dice * ops.sum(present * (1 - dice)) / ops.maximum(ops.sum(present), 1)
        return loss

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"class_weights": self.class_weights, "dice": self.dice, "name": self.name}


@keras.saving.register_keras_serializable("neurovision")
class TumorDice(keras.metrics.Metric):
    """Dice of tumor (any type) against the rest, all pixels of an epoch pooled."""

    def __init__(self, name: str = "tumor_dice") -> None:
        super().__init__(name=name)
        self.overlap = self.add_weight(name="overlap", initializer="zeros")
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add one batch."""
        truth = ops.cast(ops.cast(y_true, "int32") >= FIRST_TUMOR, "float32")
        found = ops.cast(ops.argmax(y_pred, axis=-1) >= FIRST_TUMOR, "float32")
        self.overlap.assign_add(ops.sum(truth * found))
        self.total.assign_add(ops.sum(truth) + ops.sum(found))

    def result(self) -> Any:
        """Dice so far; 0 before the first tumor pixel."""
        return 2 * self.overlap / ops.maximum(self.total, 1.0)
