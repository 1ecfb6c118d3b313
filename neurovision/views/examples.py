"""The example scans: procedural heads, so that anyone may look at them. ``python -m neurovision.views.examples``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from neurovision.scan.phantom import phantom

FOLDER = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Example:
    """One shipped example.

    Attributes:
        file: Its name in FOLDER.
        title: What a reader sees.
        kind: The phantom's kind.
        seed: Below 1000: training drew its phantoms from 1000 on.
        sequence: ``"T1"`` or ``"FLAIR"``.
    """

    file: str
    title: str
    kind: str
    seed: int
    sequence: str = "T1"


EXAMPLES = (
    Example("glioma.png", "Glioma T1", "glioma", 4),
    Example("meningioma.png", "Meningioma T1", "meningioma", 9),
    Example("pituitary.png", "Pituitary T1", "pituitary", 5),
    Example("glioma-flair.png", "Glioma FLAIR", "glioma", 6, "FLAIR"),
    Example("healthy.png", "Healthy T1", "healthy", 4),
)


def write_examples(folder: Path = FOLDER) -> list[Path]:
    """Draw every example as an 8-bit PNG of 256 x 256 pixels; the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for example in EXAMPLES:
        study, _ = phantom(example.kind, example.seed, sequence=example.sequence)
        paths.append(folder / example.file)
        Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8)).save(paths[-1], optimize=True)
    return paths


if __name__ == "__main__":
    for path in write_examples():
        print(path.name)
