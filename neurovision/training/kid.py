"""How far generated pictures are from real ones: the kernel inception distance on another network's features.

The distance of Binkowski 2018 (arXiv 1801.01401) is defined on Inception's features. Its weights come from a server at
run time; here the features are those of the compact ImageNet encoder that also starts the segmenters, which its package
carries. Values compare with each other, not with those of other projects.
"""

from __future__ import annotations

import cv2
import numpy as np

from neurovision.scan.prepare import standardize
from neurovision.segmenters._encoders import encode

ENCODER = "efficientnetlite0"
SIZE = 128


class Features:
    """The encoder's coarsest map, averaged over the picture: 320 numbers a picture."""

    def __init__(self) -> None:
        import keras

        inputs = keras.Input((SIZE, SIZE, 1))
        self._model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(encode(inputs, ENCODER, "imagenet")[-1]))

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Features of float32 ``(N, H, W)`` in [0, 1]: float64 ``(N, 320)``."""
        grown = [standardize(cv2.resize(p, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)) for p in pictures]
        return np.asarray(self._model.predict(np.stack(grown)[..., None], batch_size=32, verbose=0), np.float64)


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel ``(x y / d + 1) ** 3``.

    Args:
        first: float64 ``(N, d)``, N at least 2.
        second: float64 ``(M, d)``, M at least 2.

    Returns:
        About 0, and possibly a little below, where both come from one distribution.
    """
    n, m, d = len(first), len(second), first.shape[1]
    own, other = (first @ first.T / d + 1) ** 3, (second @ second.T / d + 1) ** 3
    across = (first @ second.T / d + 1) ** 3
    within = (own.sum() - np.trace(own)) / (n * (n - 1)) + (other.sum() - np.trace(other)) / (m * (m - 1))
    return float(within - 2 * across.mean())
