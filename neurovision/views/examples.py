"""The example scans: four de-identified slices under free licenses; ``examples/README.md`` names their sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples"  # of a checkout or a Space; an installed package has none


@dataclass(frozen=True)
class Example:
    """One shipped example.

    Attributes:
        file: Its name in FOLDER.
        title: What a reader sees.
    """

    file: str
    title: str


EXAMPLES = (
    Example("glioma.png", "Glioma"),
    Example("meningioma.png", "Meningioma"),
    Example("pituitary.png", "Pituitary tumor"),
    Example("no-tumor.png", "No tumor"),
)
CREDIT = (
    "Glioma, meningioma and pituitary tumor: Jun Cheng, brain tumor dataset, 2017, doi 10.6084/m9.figshare.1512427, CC BY"
    " 4.0, fold 4, which no network was trained on. No tumor: Masoud Nickparvar, Kaggle, 2021, CC0."
)


def examples() -> tuple[Example, ...]:
    """The examples that are here: all of them, or none."""
    return EXAMPLES if all((FOLDER / e.file).is_file() for e in EXAMPLES) else ()
