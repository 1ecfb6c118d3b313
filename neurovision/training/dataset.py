"""Scans for training and evaluation: the index of a prepared folder, and canvases packed for speed.

A prepared folder holds one subfolder a data set (see SOURCES), each with ``index.csv`` (``id,image,label,fold,tumor,mask``
and, where they are known, ``patient`` and ``sequence``), ``images/`` and ``masks/``.
``neurovision data`` makes one from the original downloads.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from neurovision.classes import ANY_TUMOR, BACKGROUND, NO_TUMOR, SHIPPED, Classes
from neurovision.errors import DataError, ScanError
from neurovision.files import replacing
from neurovision.machine import cores
from neurovision.scan.images import read_image
from neurovision.scan.prepare import label_grid, prepare

log = logging.getLogger(__name__)

SOURCES = ("figshare", "lgg", "navoneel", "healthy", "brats", "ms")
ACCEPTED = "accepted"  # the data set of masks that people accepted
NAME = "[a-z0-9][a-z0-9_-]{0,39}"  # of a data set of one's own
CLASSES = "classes.json"  # in the folder of a data set of one's own: its classes, where they are not SHIPPED
TUMOR_FREE = ("healthy", "ms")  # of SOURCES; they bring no class along
LGG_CHANNELS = {"T1": 0, "FLAIR": 1, "T1c": 2}  # of the color pictures that hold three sequences
# What canvases are made by, as this process loaded it: other code makes other packs.
_CODE = b"".join((Path(__file__).parents[1] / "scan" / f).read_bytes() for f in ("images.py", "prepare.py"))


@dataclass(frozen=True)
class Item:
    """One gray picture with its truth.

    Attributes:
        source: The data set.
        id: The picture's name there.
        image: Its file.
        mask: The annotated tumor's file, 0 or 255, or None where only the whole picture is labeled.
        label: Key of the tumor's class, ``"tumor"`` (type unknown) or ``"none"``.
        fold: 1 to 5; whole patients stand in one fold.
        patient: Identifier, or None where the data set gives none.
        sequence: ``"T1"``, ``"T1c"``, ``"T2"`` or ``"FLAIR"``, or None where the data set does not say. Of LGG's color
            pictures it is the channel that is read.
        classes: By which the truth is drawn. A label that is none of them is a tumor of unknown type.
    """

    source: str
    id: str
    image: Path
    mask: Path | None
    label: str
    fold: int
    patient: str | None = None
    sequence: str | None = None
    classes: Classes = SHIPPED

    @property
    def sequence_title(self) -> str | None:
        """The sequence as headers are read, see ``scan.sequence``."""
        return "T1 post-contrast" if self.sequence == "T1c" else self.sequence

    @property
    def tumor(self) -> bool:
        """Whether the picture shows a tumor."""
        return self.label != NO_TUMOR

    def gray(self) -> np.ndarray:
        """Read the picture: float32 ``(H, W)`` in [0, 1], through the reader that also serves users."""
        study = read_image(self.image.read_bytes(), self.image.name)
        if self.source == "lgg" and self.sequence is not None and study.pixels.shape[3] == 3:
            return study.pixels[0, ..., LGG_CHANNELS[self.sequence]]
        return study.gray()

    def truth(self) -> np.ndarray | None:
        """Read the tumor's mask, bool ``(H, W)``; None where the picture has none to read."""
        if self.mask is None:
            return None
        with Image.open(self.mask, formats=("PNG",)) as picture:
            return np.asarray(picture.convert("L")) > 127

    def digests(self) -> tuple[str, ...]:
        """SHA-256 of the files that it is made from."""
        return tuple(hashlib.sha256(p.read_bytes()).hexdigest() for p in (self.image, self.mask) if p is not None)

    def canvas(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Prepare it as serving would, and draw its truth on the same grid.

        Returns:
            The canvas, float32 ``(size, size)`` in [0, 1], and uint8 ``(size, size)`` of class indices.

        Raises:
            DataError: A mask of another size than its picture.
        """
        gray = self.gray()
        truth = self.truth()
        if truth is None:
            truth = np.zeros(gray.shape, bool)
        if truth.shape != gray.shape:
            raise DataError(
                f"Data set {self.source}: the mask of {self.id} is {truth.shape[1]} x {truth.shape[0]}, "
                f"its picture {gray.shape[1]} x {gray.shape[0]}."
            )
        canvas = prepare(gray, size)
        return canvas.pixels, label_grid(canvas, truth, self.tumor_index)

    @property
    def tumor_index(self) -> int:
        """Class of the annotated tumor, or ``classes.untyped``."""
        return self.classes.index_of(self.label)

    @property
    def typed(self) -> bool:
        """Whether the tumor is of a class."""
        return self.label in self.classes.by_key


def data_root(path: Path | str | None = None) -> Path:
    """The prepared folder or packed file: ``path``, or what the environment variable NEUROVISION_DATA names.

    Raises:
        DataError: Neither is given, or it is not there.
    """
    chosen = path or os.environ.get("NEUROVISION_DATA")
    if not chosen:
        raise DataError("Training needs scans: give --data, or set NEUROVISION_DATA to a prepared folder.")
    root = Path(chosen)
    if not root.exists():
        raise DataError(f"The data folder {root} does not exist.")
    return root


def sources_in(root: Path) -> tuple[str, ...]:
    """The data sets that a prepared folder holds: those of SOURCES in their order, then one's own by name.

    What people accepted is not among them; it is asked for by itself.

    Raises:
        DataError: It holds none.
    """
    if root.is_file():
        there = sorted({i.source for i in _packed(root)})
    else:
        there = sorted(p.parent.name for p in root.glob("*/index.csv"))
    own = [s for s in there if s not in SOURCES and s != ACCEPTED and re.fullmatch(NAME, s)]
    found = (*(s for s in SOURCES if s in there), *own)
    if not found:
        raise DataError(f"The folder {root} holds no data set with an index.csv; make one with 'neurovision data'.")
    return found


def classes_of(root: Path, sources: Iterable[str]) -> Classes:
    """The classes of some data sets together: those of the first and what the others have besides, in order.

    A data set of one's own names its classes in CLASSES; one that has no such file has those of SHIPPED, like SOURCES.

    Raises:
        DataError: A file of classes cannot be read, or two data sets describe one class differently.
    """
    found: Classes | None = None
    for source in sources:
        if source in (*TUMOR_FREE, ACCEPTED):
            continue
        try:
            own = _named(root, source)
            found = own if found is None else found.joined(own)
        except ValueError as e:
            raise DataError(f"Data set {source}: {CLASSES} does not fit, {e}; correct it.") from e
    return found or SHIPPED


def _named(root: Path, source: str) -> Classes:
    if root.is_file():
        from neurovision.training.packed import packed_classes

        return packed_classes(root).get(source, SHIPPED)
    file = root / source / CLASSES
    return Classes.from_json(json.loads(file.read_bytes())) if file.is_file() else SHIPPED


def every_class(root: Path) -> Classes:
    """The classes of all that a prepared folder holds."""
    return classes_of(root, sorted(p.parent.name for p in root.glob("*/index.csv")))


def load_index(
    root: Path,
    sources: Sequence[str] | None = None,
    folds: Iterable[int] | None = None,
    sequences: Sequence[str] = ("FLAIR",),
    classes: Classes | None = None,
) -> list[Item]:
    """Read and check the indices of a prepared folder.

    Args:
        root: The prepared folder, or a packed file.
        sources: Which data sets; all that are there where None.
        folds: Keep only these; None keeps all.
        sequences: LGG's sequences; each becomes an item of its own.
        classes: By which the truth is drawn; those of the data sets by default, see :func:`classes_of`.

    Raises:
        DataError: No index, an unknown label, a patient in two folds, a missing file, or a fold with nothing in it.
    """
    wanted = None if folds is None else set(folds)
    items: list[Item] = []
    sources = sources_in(root) if sources is None else sources
    drawn = classes_of(root, sources) if classes is None else classes
    if root.is_file():
        chosen = [replace(i, classes=drawn) for i in _packed(root) if i.source in sources]
        items = [i for i in chosen if i.source != "lgg" or i.sequence in sequences]
    for source in [] if root.is_file() else sources:
        index = root / source / "index.csv"
        if not index.is_file():
            raise DataError(f"Data set {source} needs {index}; make it with 'neurovision data'.")
        with index.open(newline="") as file:
            rows = list(csv.DictReader(file))
        known = every_class(root) if source == ACCEPTED else classes_of(root, [source])
        items += _items(source, root / source, rows, sequences, known, drawn)
    _check_patients(items)
    if wanted is not None:
        for source in sources:
            there = {i.fold for i in items if i.source == source}
            if missing := wanted - there:
                raise DataError(f"Data set {source} has nothing in fold {', '.join(map(str, sorted(missing)))}.")
        items = [i for i in items if i.fold in wanted]
    for item in items:
        for path in (item.image, item.mask):
            if path is not None and not path.is_file():
                raise DataError(f"Data set {item.source} lists {path.name} for {item.id}, but the file is not there.")
    return items


def _packed(path: Path) -> Sequence[Item]:
    from neurovision.training.packed import packed_items

    return packed_items(path)


def _items(
    source: str, folder: Path, rows: list[dict[str, str]], sequences: Sequence[str], known: Classes, drawn: Classes
) -> list[Item]:
    items = []
    for row in rows:
        if row["label"] not in known.labels:
            raise DataError(f"Data set {source}: {row['id']} has the unknown label {row['label']!r}.")
        mask = folder / row["mask"] if row.get("mask") else None
        if row["label"] in known.keys and row["label"] != ANY_TUMOR and mask is None:
            raise DataError(f"Data set {source}: {row['id']} is labeled {row['label']} but has no mask.")
        for sequence in sequences if source == "lgg" else (None,):
            image, fold = folder / row["image"], int(row["fold"])
            shown = sequence or row.get("sequence") or ("T1c" if source == "figshare" else None)
            patient = row.get("patient") or None
            items.append(Item(source, row["id"], image, mask, row["label"], fold, patient, shown, drawn))
    return items


def _check_patients(items: list[Item]) -> None:
    folds: dict[tuple[str, str], int] = {}
    for item in items:
        if item.patient is not None and folds.setdefault((item.source, item.patient), item.fold) != item.fold:
            raise DataError(
                f"Data set {item.source}: patient {item.patient} stands in folds {folds[item.source, item.patient]} and "
                f"{item.fold}; a patient belongs to one fold."
            )


def pack(items: Sequence[Item], size: int, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Canvases of many items, kept on disk by a digest of the pictures and masks that they were made from.

    Of two calls for the same canvases at once, one makes them and the other waits.

    A picture that cannot be read, a slice above the head for one, is named in a warning and stands as an empty canvas.

    Returns:
        Memory-mapped float32 ``(N, size, size)`` in [0, 1] and uint8 ``(N, size, size)``.
    """
    folder = cache / pack_key(items, size)
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{folder.name}.lock"):
        if not (folder / "labels.npy").is_file():
            _make_pack(items, size, folder)
    return np.load(folder / "pixels.npy", mmap_mode="r"), np.load(folder / "labels.npy", mmap_mode="r")


def pack_key(items: Sequence[Item], size: int) -> str:
    """What a pack of these items goes by: it follows from every picture, mask and label, and from the code."""
    key = hashlib.sha256(_CODE)
    for i in items:
        index = "" if i.tumor_index == SHIPPED.index_of(i.label) else f"/{i.tumor_index}"
        key.update(f"{i.source}/{i.id}/{i.sequence}/{i.label}/{' '.join(i.digests())}{index}\n".encode())
    return f"{key.hexdigest()[:16]}-{size}"


def _make_pack(items: Sequence[Item], size: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.float32, (len(items), size, size))
    labels = np.empty((len(items), size, size), np.uint8)

    def make(k: int) -> None:
        try:
            pixels[k], labels[k] = items[k].canvas(size)
        except ScanError as e:  # a slice above the head, for one
            log.warning("%s/%s is taken as an empty canvas: %s", items[k].source, items[k].id, e)
            pixels[k], labels[k] = 0, BACKGROUND.index

    with ThreadPoolExecutor(cores()) as threads:  # decoding lets other threads run
        made = threads.map(make, range(len(items)))
        for _ in tqdm(made, desc=f"canvases {size}", unit="scan", total=len(items), disable=None):
            pass
    pixels.flush()
    with replacing(folder / "labels.npy") as part:  # last, so that a half-made pack is made again
        np.save(part, labels)
