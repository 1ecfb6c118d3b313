"""Who is in a scan, as digests: folds follow from them, and evaluation leaves out whoever weights were fitted on.

A patient's identity is a digest of the identifier, whichever data set names it. A picture of a data set that names no
patients has a descriptor in its place: which of 16 x 16 cells are brighter than the one to their left. It survives scaling
and recompression, so that copies are recognized. figshare's pictures are known by their number, which the authors' folds
go by.

``folds.json`` holds the folds in which the patients and pictures of the shipped weights' training stood.
``python -m neurovision.training.identity DATA`` writes it from a prepared folder.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from neurovision.ensemble.manifest import Manifest
from neurovision.files import write
from neurovision.training.dataset import Item, load_index

TABLE = Path(__file__).with_name("folds.json")
FOLDS = 5
CELLS, STEP = 16, 2  # of the descriptor: a side, and by how many of 255 levels a cell is brighter than its neighbor
TOLERANCE = 12  # bits of 256 by which copies differ: 99 % of pictures recompressed at 0.8 to 2.2 times their size, fewer
NUMBERED = "figshare"


def of_patient(patient: str) -> str:
    """Digest of a patient's identifier: 16 hex digits."""
    return hashlib.sha256(f"patient/{patient}".encode()).hexdigest()[:16]


def of_number(source: str, number: str) -> str:
    """Digest of a picture that its data set's authors numbered: 16 hex digits."""
    return hashlib.sha256(f"{source}/{number}".encode()).hexdigest()[:16]


def of_picture(gray: np.ndarray) -> str:
    """Descriptor of a picture: 64 hex digits.

    Args:
        gray: float32 ``(H, W)`` in [0, 1].
    """
    levels = Image.fromarray((gray * 255).astype(np.uint8))
    cells = np.asarray(levels.resize((CELLS + 1, CELLS), Image.Resampling.BOX)).astype(int)
    return np.packbits(cells[:, 1:] - cells[:, :-1] > STEP).tobytes().hex()


def identity(item: Item) -> str:
    """Of the patient where the data set names one, else of the picture."""
    if item.patient:
        return of_patient(item.patient)
    return of_number(item.source, item.id) if item.source == NUMBERED else of_picture(item.gray())


class Known:
    """Identities with their folds. Descriptors are found where they differ in no more than TOLERANCE bits."""

    def __init__(self, folds: Mapping[str, int]) -> None:
        self._folds = dict(folds)
        pictures = [name for name in folds if len(name) == 64]
        self._pictures = np.array([_bits(name) for name in pictures], bool).reshape(-1, CELLS * CELLS)
        self._folds_of_pictures = np.array([folds[name] for name in pictures], int)

    def fold(self, name: str) -> int | None:
        """The fold of an identity, the lower one where several are as near; None where it is not known."""
        if len(name) != 64 or not len(self._pictures):
            return self._folds.get(name)
        apart = (self._pictures != _bits(name)).sum(1)
        return int(self._folds_of_pictures[apart == apart.min()].min()) if apart.min() <= TOLERANCE else None

    def add(self, name: str, fold: int) -> None:
        """Remember one more."""
        self._folds[name] = fold
        if len(name) == 64:
            self._pictures = np.concatenate([self._pictures, _bits(name)[None]])
            self._folds_of_pictures = np.append(self._folds_of_pictures, fold)

    def assign(self, name: str) -> int:
        """The fold of an identity; one that is not known gets a fold by its digest and is remembered."""
        fold = self.fold(name)
        if fold is None:
            fold = hashlib.sha256(name.encode()).digest()[0] % FOLDS + 1
            self.add(name, fold)
        return fold


def _bits(name: str) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(name), np.uint8)).astype(bool)


def shipped() -> Known:
    """The patients and pictures of the shipped weights' training, but for figshare's numbers, whose folds are public."""
    return Known(_table())


@lru_cache(maxsize=1)
def _table() -> dict[str, int]:
    folds: dict[str, str] = json.loads(TABLE.read_text())
    return {name: int(fold) for fold, names in folds.items() for name in names.split()}


def patients_of(items: Iterable[Item]) -> dict[str, dict[int, frozenset[str]]]:
    """What :attr:`~neurovision.ensemble.manifest.Manifest.patients` holds: data set to fold to identities."""
    found: dict[str, dict[int, set[str]]] = {}
    for item in items:
        found.setdefault(item.source, {}).setdefault(item.fold, set()).add(identity(item))
    return {source: {k: frozenset(v) for k, v in sorted(folds.items())} for source, folds in sorted(found.items())}


def fitted_on(manifest: Manifest, items: Iterable[Item]) -> list[bool]:
    """Of each item, whether the set's members, classifier, vote or verdict were fitted on its patient or picture.

    A manifest that names its patients is believed. Of any other, the folds count: those of ``folds.json`` where it knows
    the patient or picture, else the item's own.
    """
    items = list(items)
    names = [identity(item) for item in items]
    if manifest.patients:
        known = Known(dict.fromkeys(manifest.fitted_on, 1))
        return [known.fold(name) is not None for name in names]
    known, fitted = shipped(), manifest.training.fitted_folds
    return [(known.fold(n) or i.fold) in fitted for n, i in zip(names, items, strict=True)]


def write_table(data: Path, out: Path = TABLE) -> Path:
    """Write ``folds.json`` from a prepared folder; where copies stand in several folds, the lowest counts."""
    folds: dict[str, int] = {}
    for item in load_index(data):
        if item.source != NUMBERED:
            name = identity(item)
            folds[name] = min(item.fold, folds.get(name, item.fold))
    by_fold = {str(k): " ".join(sorted(n for n, fold in folds.items() if fold == k)) for k in sorted(set(folds.values()))}
    write(out, json.dumps(by_fold, indent=1) + "\n")
    return out


if __name__ == "__main__":
    print(write_table(Path(sys.argv[1])))
