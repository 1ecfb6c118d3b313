"""One file with the canvases of a prepared folder, for training on a machine that has nothing else.

A zip archive: INDEX (JSON: format, side, terms of each data set, classes where it names some, and of each canvas source,
id, label, fold, patient, sequence and the SHA-256 of its two pictures), ``images/N.webp`` (the head crop, lossy) and
``labels/N.png`` (class indices, lossless). Canvases are patients' pictures: keep the file as the scans are kept.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from neurovision.classes import FIRST_TUMOR, SHIPPED, Classes
from neurovision.errors import DataError, ScanError
from neurovision.files import replacing
from neurovision.training.dataset import LGG_CHANNELS, Item, classes_of, load_index, sources_in
from neurovision.training.provenance import license_of

FORMAT, INDEX = 1, "index.json"
SIDE, QUALITY = 192, 80
FIELDS = ("source", "id", "label", "fold", "patient", "sequence")


@dataclass(frozen=True)
class PackedItem(Item):
    """A canvas of a packed file; ``image`` is the file, and so is ``mask`` where a tumor is drawn or there is none.

    Attributes:
        number: Its place in the file.
        side: Of the canvas as it is packed, in pixels.
        sums: SHA-256 of the canvas' and the labels' bytes.
    """

    number: int = 0
    side: int = SIDE
    sums: tuple[str, str] = ("", "")

    def digests(self) -> tuple[str, ...]:
        """As :meth:`Item.digests`."""
        return self.sums

    def gray(self) -> np.ndarray:
        """Refuse: the picture itself is not in the file.

        Raises:
            DataError: Always.
        """
        raise DataError(f"{self.image.name} holds canvases to train on and no pictures; name the prepared folder instead.")

    def canvas(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`Item.canvas`.

        Raises:
            DataError: ``size`` is larger than what is packed, or the file is damaged.
        """
        if size > self.side:
            raise DataError(f"{self.image.name} holds canvases of {self.side} px, not {size}; pack them with --size {size}.")
        archive = _opened(self.image)
        data = [archive.read(name) for name in _names(self.number)]
        if tuple(hashlib.sha256(d).hexdigest() for d in data) != self.sums:
            raise DataError(f"{self.image.name} is damaged at canvas {self.number}; copy it again.")
        values, labels = (np.asarray(cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_GRAYSCALE)) for d in data)
        pixels = values.astype(np.float32) / 255
        if size < self.side:
            pixels = np.asarray(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA))
            labels = np.asarray(cv2.resize(labels, (size, size), interpolation=cv2.INTER_NEAREST_EXACT))
        return pixels, np.where(labels >= FIRST_TUMOR, self.tumor_index, labels).astype(np.uint8)


def write_packed(
    root: Path, out: Path, side: int = SIDE, quality: int = QUALITY, folds: Sequence[int] | None = None
) -> int:
    """Pack a prepared folder, LGG in all its sequences.

    A picture without a head is left out.

    Args:
        root: The prepared folder.
        out: The file to write.
        side: Of the canvases, in pixels.
        quality: Of WebP, 1 to 100.
        folds: Which; None packs all.

    Returns:
        How many canvases it holds.

    Raises:
        DataError: The folder breaks a rule of ``load_index``.
    """
    rows: list[dict[str, Any]] = []
    items = load_index(root, folds=folds, sequences=tuple(LGG_CHANNELS))
    terms = {s: license_of(root, s) for s in sources_in(root)}
    classes = {s: c.to_json() for s in sources_in(root) if (c := classes_of(root, [s])) != SHIPPED}
    with replacing(out) as part, zipfile.ZipFile(part, "w") as archive:  # pictures do not deflate
        for item in tqdm(items, desc=f"canvases {side}", unit="scan", disable=None):
            try:
                pixels, labels = item.canvas(side)
            except ScanError:  # a slice above the head, for one
                continue
            gray = np.rint(pixels * 255).astype(np.uint8)
            data = [
                cv2.imencode(".webp", gray, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes(),
                cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes(),
            ]
            for name, bytes_ in zip(_names(len(rows)), data, strict=True):
                archive.writestr(name, bytes_)
            sums = [hashlib.sha256(d).hexdigest() for d in data]
            rows.append({**{f: getattr(item, f) for f in FIELDS}, "drawn": item.mask is not None, "sha256": sums})
        index = {"format": FORMAT, "side": side, "licenses": terms, "classes": classes, "items": rows}
        archive.writestr(INDEX, json.dumps(index), zipfile.ZIP_DEFLATED)
    return len(rows)


def packed_items(path: Path) -> list[PackedItem]:
    """What a packed file holds.

    Raises:
        DataError: It is no packed file, or one of another format.
    """
    found = _index(path)
    return [
        PackedItem(
            **{f: row[f] for f in FIELDS}, image=path, mask=path if row["drawn"] else None, number=number,
            side=found["side"], sums=tuple(row["sha256"]),
        )
        for number, row in enumerate(found["items"])
    ]  # fmt: skip


def packed_licenses(path: Path) -> dict[str, str]:
    """The terms of each data set."""
    return dict(_index(path)["licenses"])


def packed_classes(path: Path) -> dict[str, Classes]:
    """The classes of each data set that names some.

    Raises:
        ValueError: They break a rule.
    """
    return {source: Classes.from_json(raw) for source, raw in _index(path).get("classes", {}).items()}


def _index(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(_opened(path).read(INDEX))
    except (zipfile.BadZipFile, KeyError, ValueError) as e:
        raise DataError(f"{path.name} is no packed file; make one with 'neurovision data SCANS --pack {path.name}'.") from e
    if found.get("format") != FORMAT:
        raise DataError(f"{path.name} has format {found.get('format')}, not {FORMAT}; pack it anew with this version.")
    return found


def _names(number: int) -> Sequence[str]:
    return f"images/{number}.webp", f"labels/{number}.png"


@lru_cache(maxsize=1)
def _opened(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
