"""Which precision the networks run in: decided on the processor that runs them, by what it changes."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from neurovision.classes import CLASSES
from neurovision.ensemble.cache import kept, versions
from neurovision.scan.phantom import KINDS, phantom
from neurovision.scan.prepare import prepare, standardize

TOLERANCE = 3e-4  # share of pixels whose likeliest class bfloat16 may change; the vote's labels follow
FILE = "precision"


def computes_in_bfloat16(core: Any) -> bool:
    """Whether this processor does, by OpenVINO's word."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def precision(core: Any, model: Any, size: int, weights: Path, graph: Mapping[str, bytes]) -> str:
    """``"bf16"`` where the processor computes in it and no more than TOLERANCE of the labels change, else ``"f32"``.

    The graph is the same for every processor, so one that was converted elsewhere, such as in a container's image, is
    measured here, once. That takes a few seconds, and none where the processor has float32 only.

    Args:
        core: OpenVINO's.
        model: The members' graph.
        size: Of the canvas.
        weights: The weights folder; what was measured is kept beside it.
        graph: The converted files, which ``model`` was read from.
    """
    if not computes_in_bfloat16(core):
        return "f32"

    def measure(folder: Path) -> None:
        (folder / FILE).write_text("bf16" if changed_labels(core, model, size) <= TOLERANCE else "f32")

    facts = [str(size), str(TOLERANCE), *(sha256(data).hexdigest() for data in graph.values()), *versions("openvino")]
    return kept(weights, facts, [FILE], measure)[FILE].decode()


def changed_labels(core: Any, model: Any, size: int) -> float:
    """Share of the pixels of eight phantoms whose likeliest class, by the members' mean, differs in bfloat16."""
    heads = [phantom(kind, seed)[0].gray() for kind in KINDS for seed in (900, 901)]
    canvases = np.stack([standardize(prepare(head, size).pixels) for head in heads])[..., None]
    labels = []
    for hint in ("f32", "bf16"):
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        planes = compiled(canvases)[0]
        labels.append(planes.reshape(len(heads), -1, len(CLASSES), size, size).mean(1).argmax(1))
    return float((labels[0] != labels[1]).mean())
