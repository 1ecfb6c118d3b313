"""The verdict: tumor or no tumor, its calibrated probability, the type; and the refusal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from neurovision.classes import FIRST_TUMOR
from neurovision.ensemble.manifest import VerdictModel
from neurovision.scan.montage import heads_of
from neurovision.scan.prepare import Canvas

FEATURES = ("log_area", "peak", "top_mean", "members_positive", "disagreement", "classifier")
FAR = 6.0  # the classifier's log odds are taken no further than this: nothing is that certain


def verdict_features(
    tumor_map: np.ndarray, member_areas: np.ndarray, differ: float, answers: np.ndarray | None = None
) -> np.ndarray:
    """What the verdict's model reads of one slice, on the canvas' grid.

    Args:
        tumor_map: float32 ``(size, size)``, the members' mean probability of any tumor.
        member_areas: ``(M,)`` tumor pixels of each member on the grid.
        differ: Disagreement of the members.
        answers: float32 ``(K,)``, the classifier's: no tumor, each type, not a brain MRI; None where the set has none.

    Returns:
        float64 in the order of FEATURES, without the last where there are no answers: log of the tumor area in
        10,000ths of the grid, highest mean over 3 x 3 pixels, mean of the highest 200 in 25,600 pixels, share of members
        that find more than 20 in 25,600 pixels, disagreement, the classifier's log odds of a tumor.
    """
    size = tumor_map.shape[0]
    area = float((tumor_map >= 0.5).mean()) * 1e4
    windows = cv2.blur(np.ascontiguousarray(tumor_map, np.float32), (3, 3))[1:-1, 1:-1]
    count = max(1, round(200 * size * size / 25600))
    top = np.partition(tumor_map, tumor_map.size - count, axis=None)[-count:]
    positive = float((member_areas > 20 * size * size / 25600).mean())
    found = [math.log1p(area), float(windows.max()), float(top.mean()), positive, differ]
    if answers is not None:
        none, tumor = float(answers[0]), float(answers[1:-1].sum())
        found.append(float(np.clip(math.log((tumor + 1e-6) / (none + 1e-6)), -FAR, FAR)))
    return np.array(found)


def tumor_probability(features: np.ndarray, model: VerdictModel) -> float:
    """Logistic regression with the manifest's coefficients, in [0, 1]."""
    z = (features - np.asarray(model.mean)) / np.asarray(model.scale)
    return 1 / (1 + math.exp(-float(np.clip(z @ np.asarray(model.coefficients) + model.intercept, -30, 30))))


def pixel_types(probabilities: np.ndarray) -> np.ndarray:
    """Share of each tumor type in a vote: float64 ``(K - 2,)``, sum 1.

    Every pixel counts with the square of its tumor probability, so that faint haze over the head does not decide.

    Args:
        probabilities: float32 ``(size, size, K)``.
    """
    tumor = probabilities[..., FIRST_TUMOR:]
    total = (tumor * tumor.sum(-1, keepdims=True)).sum((0, 1)).astype(np.float64) + 1e-9
    return np.asarray(total / total.sum())


def type_probabilities(
    probabilities: np.ndarray, keys: Sequence[str], answers: np.ndarray | None = None, weight_of_answers: float = 0.0
) -> dict[str, float]:
    """Share of each tumor type in the vote, and in what the classifier makes of the whole slice.

    Args:
        probabilities: float32 ``(size, size, K)``, the vote.
        keys: Of the types, in the order of their classes.
        answers: float32 ``(K,)``, the classifier's, as of :func:`verdict_features`.
        weight_of_answers: Exponent of the classifier in a weighted geometric mean, in [0, 1].

    Returns:
        Key of the type to a probability, given that there is a tumor. They sum to 1.
    """
    total = pixel_types(probabilities)
    if answers is not None:
        given = (answers[1:-1] + 1e-6) / (answers[1:-1] + 1e-6).sum()
        total = (total + 1e-6) ** (1 - weight_of_answers) * given**weight_of_answers
        total /= total.sum()
    return {key: float(v) for key, v in zip(keys, total, strict=True)}


def retyped(probabilities: np.ndarray, types: dict[str, float]) -> np.ndarray:
    """Let what is known of the whole slice weigh each pixel's types, so that mask and likeliest type agree.

    The slice's types are a better prior than the vote's own share of them: pixels are corrected to it as a classifier's
    outputs are to new priors (Saerens 2002), within their probability of tumor, which stays what it was.

    Args:
        probabilities: float32 ``(size, size, K)``, the vote.
        types: Of :func:`type_probabilities`.

    Returns:
        float32 ``(size, size, K)``.
    """
    tumor = probabilities[..., FIRST_TUMOR:]
    weighed = tumor * (np.array(list(types.values())) / pixel_types(probabilities)).astype(np.float32)
    weighed *= tumor.sum(-1, keepdims=True) / np.maximum(weighed.sum(-1, keepdims=True), 1e-12)
    return np.concatenate([probabilities[..., :FIRST_TUMOR], weighed], axis=-1)


def refusal(gray: np.ndarray, canvas: Canvas, classified: bool = False) -> str | None:
    """Why a slice cannot be a readable brain MRI, in one sentence, or None.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        canvas: Its canvas.
        classified: A classifier looks at what passes here, so that more may pass: what is dim, and heads that do not
            stand out from the air.
    """
    darkest, brightest = np.percentile(gray, (0.5, 99.5))
    # Four levels of 256: the end slices of a volume are dim, but hardly that dim. A classifier may look at two.
    if brightest - darkest < (0.006 if classified else 0.015):
        return "The picture has almost no contrast; there is nothing to read."
    rows, columns = heads_of(gray)
    if rows * columns > 1:
        return (
            f"The picture shows several heads ({rows} x {columns}); cut one of them out, or export the slices as a series, "
            "and send that."
        )
    p = gray - gray.mean()
    smoothness = float((p[:, 1:] * p[:, :-1]).mean() / max((p * p).mean(), 1e-9))
    if smoothness < 0.3:
        return "The picture is noise rather than anatomy: neighboring pixels do not belong together."
    if not canvas.found and not classified:
        return "No head stands out from the background; a slice of a head MRI is needed."
    return None
