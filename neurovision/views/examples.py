"""The example scans: procedural heads, so that anyone may look at them. ``python -m neurovision.views.examples``."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from neurovision import __version__
from neurovision.ensemble.cache import user_cache
from neurovision.scan.phantom import phantom

FOLDER = Path(__file__).parents[2] / "examples"  # of a checkout; an installed package has none


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


@cache
def examples_folder() -> Path:
    """Where the examples lie: the checkout's, else they are drawn once into the user's cache, else for this process."""
    drawn = user_cache() / f"examples-{__version__}"
    for folder in (FOLDER, drawn):
        if all((folder / example.file).is_file() for example in EXAMPLES):
            return folder
    try:
        drawn.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=drawn.parent, prefix=".examples-"))
    except OSError:  # read-only
        part = Path(tempfile.mkdtemp(prefix="neurovision-examples-"))
        write_examples(part)
        return part
    write_examples(part)
    part.chmod(0o755)
    try:
        part.rename(drawn)
    except OSError:  # another process was first
        shutil.rmtree(part)
    return drawn


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
