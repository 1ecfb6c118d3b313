"""Which precision the networks run in: decided on the processor that runs them, by what it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from neurovision.classes import FIRST_TUMOR, SHIPPED
from neurovision.ensemble.cache import kept, versions
from neurovision.ensemble.manifest import Networks
from neurovision.scan.phantom import KINDS, phantom
from neurovision.scan.prepare import label_grid, prepare, standardize

MOST_LABELS, MOST_DICE = 1e-3, 1e-3  # share of labels that bfloat16 may change, and shift of the mean Dice
FILE = "precision"


@dataclass(frozen=True)
class Change:
    """What bfloat16 changes on heads, in the labels of the members' mean.

    Attributes:
        labels: Share of pixels whose label changes.
        dice: By how much the tumors' mean Dice shifts, either way.
    """

    labels: float
    dice: float

    @property
    def allowed(self) -> bool:
        """Whether the networks may run in bfloat16."""
        return self.labels <= MOST_LABELS and self.dice < MOST_DICE


def computes_in_bfloat16(core: Any) -> bool:
    """Whether this processor does, by OpenVINO's word."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def precision_here(core: Any, model: Any, manifest: Networks, graph: Mapping[str, bytes]) -> str:
    """``"bf16"`` where the processor computes in it and the change is allowed, else ``"f32"``.

    The graph is the same for every processor, so one that was converted elsewhere, such as in a container's image, is
    measured here, once. That takes a few seconds, and none where the processor has float32 only.

    Args:
        core: OpenVINO's.
        model: The members' graph.
        manifest: Of the weights; what was measured is kept beside their folder.
        graph: The converted files, which ``model`` was read from.
    """
    if not computes_in_bfloat16(core):
        return "f32"

    def measure(folder: Path) -> None:
        change = bfloat16_change(core, model, manifest.size, len(manifest.classes))
        (folder / FILE).write_text("bf16" if change.allowed else "f32")

    rule = [str(manifest.size), str(MOST_LABELS), str(MOST_DICE)]
    facts = [*rule, *(sha256(data).hexdigest() for data in graph.values()), *versions("openvino")]
    return kept(manifest.folder, facts, [FILE], measure)[FILE].decode()


def bfloat16_change(core: Any, model: Any, size: int, classes: int = len(SHIPPED)) -> Change:
    """Run sixteen phantoms in float32 and in bfloat16 and compare the labels."""
    canvases, truths = [], []
    for kind in KINDS:
        for seed in range(900, 904):
            study, truth = phantom(kind, seed)
            canvas = prepare(study.gray(), size)
            canvases.append(standardize(canvas.pixels))
            truths.append(label_grid(canvas, truth >= FIRST_TUMOR, FIRST_TUMOR) >= FIRST_TUMOR)
    labels = []
    for hint in ("f32", "bf16"):
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        planes = compiled(np.stack(canvases)[..., None])[0]
        labels.append(planes.reshape(len(canvases), -1, classes, size, size).mean(1).argmax(1))
    return compare(labels[0], labels[1], truths)


def compare(before: Sequence[np.ndarray], after: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> Change:
    """What changes from some slices' labels to others.

    Args:
        before: Labels of each slice, ``(H, W)``.
        after: The other labels of the same slices.
        truths: bool ``(H, W)``, the tumors; a slice without one has no Dice.
    """
    changed = sum(int((b != a).sum()) for b, a in zip(before, after, strict=True))
    shifts = [
        _dice(a >= FIRST_TUMOR, truth) - _dice(b >= FIRST_TUMOR, truth)
        for b, a, truth in zip(before, after, truths, strict=True)
        if truth.any()
    ]
    return Change(changed / sum(b.size for b in before), abs(float(np.mean(shifts))))


def _dice(found: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))
