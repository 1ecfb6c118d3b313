"""Data sets of one's own: a folder with pictures or volumes, masks and a CSV becomes a prepared data set."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from neurovision.classes import ANY_TUMOR, FIRST_TUMOR, NO_TUMOR, SHIPPED, Classes
from neurovision.errors import DataError, ScanError
from neurovision.files import replacing, write
from neurovision.scan.masks import read_mask
from neurovision.scan.prepare import prepare
from neurovision.scan.read import read
from neurovision.scan.study import Study
from neurovision.training.dataset import CLASSES, NAME, SOURCES
from neurovision.training.provenance import ABOUT, NOT_STATED

COLUMNS = ("image", "mask", "label", "patient", "fold", "sequence")  # only ``image`` is needed
REPORT = "report.json"
FREE = 3  # of a volume's slices without a tumor, every so many is kept
CHECKED = 64  # side of the canvas by which a slice is found to show a head


@dataclass(frozen=True)
class Report:
    """What was found in a folder.

    Attributes:
        scans: Pictures and slices that were prepared.
        with_tumor: Of these, with a tumor.
        patients: Different patients named.
        folds: Fold to scans.
        labels: Label to scans.
        sizes: ``"H x W"`` to scans, the commonest five.
        spacing: ``"row x column mm"`` to volumes and pictures, the commonest five; ``"unknown"`` where a file does not say.
        copies: Pictures that are near-copies of another; they stand in its fold.
        empty_masks: Scans whose mask marks nothing.
        left_out: File to the reason that it was left out.
    """

    scans: int
    with_tumor: int
    patients: int
    folds: dict[int, int]
    labels: dict[str, int]
    sizes: dict[str, int]
    spacing: dict[str, int]
    copies: int
    empty_masks: int
    left_out: dict[str, str]

    def lines(self) -> list[str]:
        """The report as text."""
        lines = [
            f"{self.scans} scans, {self.with_tumor} with a tumor, {self.patients or 'no'} patients named",
            "labels: " + _counted(self.labels),
            "folds: " + _counted(self.folds),
            "sizes: " + _counted(self.sizes),
            "spacing: " + _counted(self.spacing),
            f"near-copies: {self.copies}; empty masks: {self.empty_masks}; left out: {len(self.left_out)}",
        ]
        return lines + [f"  {name}: {why}" for name, why in self.left_out.items()]


@dataclass(frozen=True)
class _Slice:
    """One picture to be written: float32 ``(H, W)`` in [0, 1], bool mask or None, and its row."""

    id: str
    gray: np.ndarray
    mask: np.ndarray | None
    label: str
    patient: str
    fold: int | None
    sequence: str
    spacing: str


def is_own(folder: Path) -> bool:
    """Whether a folder holds a CSV that lists images."""
    return _csv_of(folder) is not None


def prepare_own(
    folder: Path, out: Path, name: str, license: str = NOT_STATED, classes: Sequence[str] = ()
) -> Report:
    """Write a folder as the prepared data set ``out / name``, in the form that training reads, with a report.

    The CSV has a row a scan and the columns of COLUMNS, of which only ``image`` is needed. An image is a picture, a NIfTI
    file, or a DICOM file or folder; its mask is a picture of 0 and 255 or of class values for a picture, and a NIfTI file
    of 0 and 1 or of class values for a volume. Volumes are cut into slices: all that show a tumor, and every FREE-th of
    the others. Without a label the mask decides; a tumor of a type that nobody notes is ``tumor``, or the class where there
    is one only. Without a fold,
    patients are spread over five folds, pictures without a patient by what they show, so that near-copies stay together.

    Args:
        folder: Where the CSV is; its paths start there.
        out: The prepared folder.
        name: Of the data set: lower-case letters, digits, ``-`` and ``_``.
        license: The data's terms, which weights trained on them keep to.
        classes: Keys of the tumor classes, in the order of their values in a mask, from 2 up. Without any, those that the
            folder's CLASSES describes, or SHIPPED.

    Raises:
        DataError: The CSV breaks these rules, the name is taken, or nothing could be read.
    """
    if not re.fullmatch(NAME, name) or name in SOURCES:
        raise DataError(
            f"A data set's name has up to 40 lower-case letters, digits, - and _ and is none of {', '.join(SOURCES)}; "
            f"received {name!r}."
        )
    target = out / name
    if (target / "index.csv").is_file():
        raise DataError(f"{target} is there already; give another name, or remove it to prepare it anew.")
    chosen = _chosen(folder, classes)
    rows = _rows(folder, chosen)
    for part in ("images", "masks"):
        (target / part).mkdir(parents=True, exist_ok=True)
    left_out: dict[str, str] = {}
    folds = _Folds()
    written: list[dict[str, Any]] = []
    sizes: Counter[str] = Counter()
    spacings: Counter[str] = Counter()
    used: set[str] = set()
    empty = 0
    for row in tqdm(rows, desc=name, unit="scan", disable=None):
        try:
            for found in _slices(folder, row, chosen):
                key = found.id
                while key in used:
                    key += "_"
                used.add(key)
                fold = folds.of(found)
                mask = ""
                if found.mask is not None:
                    mask = f"masks/{key}.png"
                    Image.fromarray(found.mask.astype(np.uint8) * 255).save(target / mask)
                    empty += not found.mask.any()
                Image.fromarray(np.rint(found.gray * 255).astype(np.uint8)).save(target / "images" / f"{key}.png")
                sizes[f"{found.gray.shape[0]} x {found.gray.shape[1]}"] += 1
                spacings[found.spacing] += 1
                written.append({
                    "id": key, "image": f"images/{key}.png", "label": found.label, "fold": fold,
                    "tumor": int(found.label != NO_TUMOR), "mask": mask, "patient": found.patient,
                    "sequence": found.sequence,
                })  # fmt: skip
        except ScanError as e:
            left_out[row["image"]] = str(e)
    if not written:
        raise DataError(f"Nothing in {folder.name} could be read: {next(iter(left_out.values()), 'the CSV has no rows')}")
    report = Report(
        len(written), sum(r["tumor"] for r in written), len({r["patient"] for r in written if r["patient"]}),
        dict(sorted(Counter(int(r["fold"]) for r in written).items())), dict(Counter(str(r["label"]) for r in written)),
        dict(sizes.most_common(5)), dict(spacings.most_common(5)), folds.copies, empty, left_out,
    )  # fmt: skip
    if chosen != SHIPPED:
        write(target / CLASSES, json.dumps(chosen.to_json(), indent=1) + "\n")
    write(target / ABOUT, json.dumps({"license": license}) + "\n")
    write(target / REPORT, json.dumps(asdict(report), indent=1) + "\n")
    with replacing(target / "index.csv") as index, index.open("w", newline="") as file:  # last: without it all is made again
        writer = csv.DictWriter(file, list(written[0]))
        writer.writeheader()
        writer.writerows(written)
    return report


class _Folds:
    """Gives every patient, and every group of near-copies without a patient, one fold of five."""

    def __init__(self) -> None:
        from neurovision.training.identity import Known

        self._patients: dict[str, int] = {}
        self._pictures = Known({})
        self._groups = self.copies = 0

    def of(self, found: _Slice) -> int:
        """The fold of a slice.

        Raises:
            DataError: A patient stands in two folds.
        """
        from neurovision.training.identity import of_picture

        if not found.patient:
            descriptor = of_picture(found.gray)
            before = self._pictures.fold(descriptor)
            self.copies += before is not None
            if found.fold is not None and before not in (None, found.fold):
                raise DataError(f"{found.id} is a near-copy of a picture of fold {before}; put both into one fold.")
            if before is not None:
                return before
            fold = found.fold or _spread(self._groups)
            self._groups += 1
            self._pictures.add(descriptor, fold)
            return fold
        fold = found.fold or self._patients.get(found.patient) or _spread(len(self._patients))
        if self._patients.setdefault(found.patient, fold) != fold:
            raise DataError(
                f"Patient {found.patient} stands in folds {self._patients[found.patient]} and {fold}; a patient belongs to "
                "one fold."
            )
        return fold


def _spread(number: int) -> int:
    return number % 5 + 1


def _csv_of(folder: Path) -> Path | None:
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8-sig") as file:
            if "image" in next(csv.reader(file), []):
                return path
    return None


def _chosen(folder: Path, keys: Sequence[str]) -> Classes:
    """The classes that are asked for, else those that the folder describes, else SHIPPED.

    Raises:
        DataError: They break a rule, or are given both ways.
    """
    file = folder / CLASSES
    if keys and file.is_file():
        raise DataError(f"{folder.name} holds a {CLASSES}, which describes its classes; leave --class out, or the file.")
    try:
        if keys:
            return Classes.of(keys)
        return Classes.from_json(json.loads(file.read_bytes())) if file.is_file() else SHIPPED
    except ValueError as e:
        raise DataError(f"The classes cannot be used: {e}.") from e


def _rows(folder: Path, classes: Classes) -> list[dict[str, str]]:
    path = _csv_of(folder)
    if path is None:
        raise DataError(f"{folder.name} holds no CSV with a column 'image'; its other columns are {', '.join(COLUMNS[1:])}.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(file)]
    root = folder.resolve()
    for number, row in enumerate(rows, 2):
        where = f"{path.name}, line {number}"
        if row.get("label", "") not in ("", *classes.labels):
            raise DataError(
                f"{where}: a label is one of {', '.join(classes.labels)}; received {row['label']!r}. Name your own classes "
                f"with --class, or describe them in {CLASSES}."
            )
        if row.get("label", "") not in ("", NO_TUMOR, ANY_TUMOR) and not row.get("mask"):
            raise DataError(
                f"{where}: a tumor of a named type needs a mask, and {row['label']} has none; give one, or write 'tumor'."
            )
        if not re.fullmatch(r"|[1-9][0-9]?", row.get("fold", "")):
            raise DataError(f"{where}: a fold is a number from 1 to 99, or nothing; received {row['fold']!r}.")
        for column in ("image", "mask"):
            if not row.get(column):
                continue
            file_ = (folder / row[column]).resolve()
            if not file_.is_relative_to(root):
                raise DataError(f"{where}: {column}s lie in {folder.name}; received a path that leads out of it.")
            if not file_.exists():
                raise DataError(f"{where}: there is no {row[column]}.")
        if not row.get("image"):
            raise DataError(f"{where}: a row names its image.")
    return rows


def _slices(folder: Path, row: dict[str, str], classes: Classes) -> Iterator[_Slice]:
    """The pictures of one row."""
    file = folder / row["image"]
    study = read(file)
    mask = folder / row["mask"] if row.get("mask") else None
    stem = re.sub(r"[^A-Za-z0-9-]+", "_", row["image"].split(".")[0]).removeprefix("images_")
    fold = int(row["fold"]) if row.get("fold") else None
    patient = row.get("patient", "") or (stem if study.n_slices > 1 else "")
    sequence = row.get("sequence", "") or study.source.sequence or ""
    spacing = "unknown" if study.spacing is None else f"{study.spacing[1]:.2f} x {study.spacing[2]:.2f} mm"
    labels = None if mask is None else _label_map(mask, study, classes)
    for k in range(study.n_slices):
        plane = None if labels is None else labels[k]
        tumor = None if plane is None else plane > 0
        label = _label(row.get("label", ""), plane, classes)
        if study.n_slices > 1:
            if label == NO_TUMOR and k % FREE:
                continue
            try:
                prepare(study.gray(k), CHECKED)
            except ScanError:  # a slice above or below the head
                continue
        name = f"{stem}_{k + 1:03d}" if study.n_slices > 1 else stem
        yield _Slice(name, study.gray(k), tumor, label, patient, fold, sequence, spacing)


def _label(label: str, plane: np.ndarray | None, classes: Classes) -> str:
    """The label of a slice: what the row says of its tumor, or what the mask's values say."""
    if plane is None:
        return label or NO_TUMOR
    if not plane.any():
        return NO_TUMOR
    if label not in ("", NO_TUMOR, ANY_TUMOR):
        return label
    if len(classes.tumors) == 1:
        return label if label == ANY_TUMOR else classes.keys[0]
    commonest = int(np.bincount(plane[plane > 0].astype(int)).argmax())
    return classes.keys[commonest - FIRST_TUMOR] if FIRST_TUMOR <= commonest < len(classes) else ANY_TUMOR


def _label_map(mask: Path, study: Study, classes: Classes) -> np.ndarray:
    """A mask as uint8 ``(S, H, W)``: 0 without a tumor, the class' value where values are classes, else 1.

    Raises:
        ScanError: The mask cannot be read or does not fit the scan.
    """
    if study.n_slices == 1 and not mask.name.lower().endswith((".nii", ".nii.gz")):
        shape = study.pixels.shape[1:3]
        tumor = read_mask(mask, (shape[0], shape[1]), classes=len(classes)).tumor
        with Image.open(mask) as picture:
            values = np.asarray(picture)
        typed = values.ndim == 2 and values.dtype == np.uint8 and FIRST_TUMOR <= int(values.max()) < len(classes)
        return np.where(tumor, values if typed else 1, 0).astype(np.uint8)[None]
    return _classes_of(_voxels_on(mask, study), len(classes))


def _classes_of(values: np.ndarray, count: int) -> np.ndarray:
    high = int(values.max(initial=0))
    if FIRST_TUMOR <= high < count:
        return np.where(values >= FIRST_TUMOR, values, 0).astype(np.uint8)
    return (values > high / 2).astype(np.uint8) if high else np.zeros(values.shape, np.uint8)


def _voxels_on(mask: Path, study: Study) -> np.ndarray:
    """The values of a NIfTI mask at the study's own voxels, ``(S, H, W)``: the nearest, by patient coordinates.

    Raises:
        DataError: The mask is no NIfTI file, or neither its shape nor its coordinates say how it lies on the scan.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nibabel.load(mask)
        values = np.asarray(image.dataobj)
    except (ImageFileError, OSError, ValueError) as e:
        raise DataError(f"{mask.name}: the mask of a volume is a NIfTI file; this one cannot be read.") from e
    values = np.rint(values.reshape(values.shape[:3]) if values.ndim > 3 else values).astype(np.int16)
    if study.grid is not None and values.shape == study.grid.shape:
        return study.grid.to_slices(values)
    if study.affine is None or values.ndim != 3:
        raise DataError(f"{mask.name}: the mask has another shape than its scan, and the scan does not say how it lies.")
    to_mask = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine)) @ study.affine  # LPS is minus RAS
    slices, height, width = study.pixels.shape[:3]
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    out = np.zeros((slices, height, width), np.int16)
    for k in range(slices):
        index = np.stack([np.full(rows.shape, k), rows, columns, np.ones(rows.shape)], -1).reshape(-1, 4) @ to_mask.T
        at = np.rint(index[:, :3]).astype(int)
        inside = ((at >= 0) & (at < values.shape)).all(1)
        out[k].reshape(-1)[inside] = values[tuple(at[inside].T)]
    return out


def _counted(counts: dict[Any, int]) -> str:
    return ", ".join(f"{key} ({count})" for key, count in counts.items()) or "none"


