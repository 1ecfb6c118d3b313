"""Proposed masks that a person accepted: a data set of their own, never mixed with ground truth.

``accepted/`` stands beside the data sets of a prepared folder and has their form, with three more columns in
``index.csv``: ``mask_by`` (the model that drew the mask), ``accepted_by`` (the person) and ``date``. It is not among
SOURCES: nothing is measured on it, and training reads it only when it is told to.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from neurovision.classes import ANY_TUMOR, NO_TUMOR, Classes
from neurovision.errors import DataError
from neurovision.files import write
from neurovision.training.dataset import ACCEPTED, Item, every_class, load_index

COLUMNS = ("id", "image", "label", "fold", "tumor", "mask", "patient", "mask_by", "accepted_by", "date")
FOLDS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Acceptance:
    """What a person says when accepting a mask.

    Attributes:
        label: The tumor's type, a class of the prepared folder's data sets.
        fold: 1 to 5; all scans of a patient stand in one fold.
        patient: A pseudonym, the same for all scans of the patient; never a name.
        accepted_by: Who accepts.
        mask_by: Which model drew the mask.

    Raises:
        DataError: A value that breaks these rules.
    """

    label: str
    fold: int
    patient: str
    accepted_by: str
    mask_by: str

    def __post_init__(self) -> None:
        if self.fold not in FOLDS:
            raise DataError(f"A fold is 1 to 5; received {self.fold}.")
        if self.label in (NO_TUMOR, ANY_TUMOR):
            raise DataError(f"A label names the tumor's type; received {self.label!r}.")
        for what, value in (("patient", self.patient), ("person", self.accepted_by), ("model", self.mask_by)):
            if not value.strip() or any(c in value for c in "\r\n"):
                raise DataError(f"An accepted mask names its {what} in one line; received {value!r}.")


def accept(gray: np.ndarray, mask: np.ndarray, said: Acceptance, root: Path) -> str:
    """Add one picture with its mask to ``root / "accepted"``; the index is replaced last, so that it is never half.

    The files are named by a digest of the picture: no name of a file or a person is copied.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
        mask: bool ``(H, W)``.
        said: What the person says.
        root: The prepared folder.

    Returns:
        The new item's id.

    Raises:
        DataError: A label that is no class, an empty mask or one of another size, a picture that was accepted before, or a
            patient that stands in another fold of this folder.
    """
    known = every_class(root).keys
    if said.label not in known:
        raise DataError(f"A label is one of {', '.join(known)}; received {said.label!r}.")
    if mask.shape != gray.shape or not mask.any():
        raise DataError("A mask that is accepted has its picture's size and marks at least one pixel.")
    levels = np.rint(np.clip(gray, 0, 1) * 255).astype(np.uint8)
    name = hashlib.sha256(repr(levels.shape).encode() + levels.tobytes()).hexdigest()[:16]
    folder = root / ACCEPTED
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # two people may accept at once
        rows = _rows(folder / "index.csv")
        if any(r["id"] == name for r in rows):
            raise DataError("This picture was accepted before; remove its row from accepted/index.csv to accept it anew.")
        _check_fold(root, said)
        image, drawn = f"images/{name}.png", f"masks/{name}.png"
        write(folder / image, _png(levels))
        write(folder / drawn, _png(mask.astype(np.uint8) * 255))
        rows.append(
            {
                "id": name, "image": image, "label": said.label, "fold": str(said.fold), "tumor": "1", "mask": drawn,
                "patient": said.patient.strip(), "mask_by": said.mask_by.strip(), "accepted_by": said.accepted_by.strip(),
                "date": datetime.date.today().isoformat(),
            }
        )  # fmt: skip
        write(folder / "index.csv", _csv(rows))
    return name


def accepted_items(root: Path, folds: Sequence[int], classes: Classes) -> list[Item]:
    """The accepted masks of some folds; there may be none."""
    if not (root / ACCEPTED / "index.csv").is_file():
        return []
    return [i for i in load_index(root, [ACCEPTED], classes=classes) if i.fold in folds]


def _check_fold(root: Path, said: Acceptance) -> None:
    """A patient may be known from any data set of the folder."""
    for source in sorted(p.parent.name for p in root.glob("*/index.csv")):
        for row in _rows(root / source / "index.csv"):
            if row.get("patient") == said.patient.strip() and int(row["fold"]) != said.fold:
                raise DataError(
                    f"This patient stands in fold {row['fold']} of {source}; a patient belongs to one fold."
                )


def _rows(index: Path) -> list[dict[str, Any]]:
    if not index.is_file():
        return []
    with index.open(newline="") as file:
        return list(csv.DictReader(file))


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()
