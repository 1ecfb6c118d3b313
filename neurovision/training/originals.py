"""Prepare the original downloads: what users have on disk becomes the folders that training reads."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from neurovision.errors import DataError
from neurovision.files import replacing
from neurovision.scan.images import read_image
from neurovision.scan.names import PICTURES
from neurovision.training.identity import of_patient, of_picture, shipped

FIGSHARE_TYPES = {1: "meningioma", 2: "glioma", 3: "pituitary"}


@dataclass(frozen=True)
class Original:
    """One picture of a download: uint8 ``(H, W)`` or ``(H, W, 3)``, bool mask ``(H, W)`` or None."""

    id: str
    pixels: np.ndarray
    mask: np.ndarray | None
    label: str
    fold: int
    patient: str = ""


def prepare_originals(source: Path, out: Path) -> list[str]:
    """Find the known downloads below a folder and write each as a prepared data set.

    Recognized by what they hold: figshare's ``*.mat`` with ``cvind.mat``, ``kaggle_3m``, folders ``yes`` and ``no``,
    a folder ``notumor``.

    Args:
        source: A folder that holds one or more downloads, unpacked.
        out: Folder to write; a data set that is there already is left alone.

    Returns:
        Names of the data sets found.

    Raises:
        DataError: Nothing known is there, or a file breaks its data set's form.
    """
    readers = {"figshare": _figshare, "lgg": _lgg, "navoneel": _navoneel, "healthy": _healthy}
    found = []
    for name, reader in readers.items():
        originals = reader(source)
        if originals is None:
            continue
        found.append(name)
        if not (out / name / "index.csv").is_file():
            _write(originals, out / name)
    if not found:
        raise DataError(
            f"{source.name} holds none of: figshare's .mat files with cvind.mat, kaggle_3m, the folders yes and no, notumor."
        )
    return found


def _write(originals: Iterator[Original], folder: Path) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    rows = []
    for o in tqdm(originals, desc=folder.name, unit="scan", disable=None):
        Image.fromarray(o.pixels).save(folder / "images" / f"{o.id}.png")
        mask = ""
        if o.mask is not None:
            if o.mask.shape != o.pixels.shape[:2]:
                raise DataError(f"Data set {folder.name}: the mask of {o.id} has another size than its picture.")
            mask = f"masks/{o.id}.png"
            Image.fromarray(o.mask.astype(np.uint8) * 255).save(folder / mask)
        row = {"id": o.id, "image": f"images/{o.id}.png", "label": o.label, "fold": o.fold}
        rows.append({**row, "tumor": int(o.label != "none"), "mask": mask, "patient": o.patient or None})
    fields = ["id", "image", "label", "fold", "tumor", "mask"]
    if any(r["patient"] for r in rows):
        fields.insert(2, "patient")
    with replacing(folder / "index.csv") as part, part.open("w", newline="") as file:  # last: without it all is made again
        writer = csv.DictWriter(file, fields, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _figshare(source: Path) -> Iterator[Original] | None:
    index = next(source.rglob("cvind.mat"), None)
    files = {int(p.stem): p for p in source.rglob("*.mat") if p.stem.isdigit()}
    if index is None or not files:
        return None
    return _figshare_items(index, files)


def _figshare_items(index: Path, files: dict[int, Path]) -> Iterator[Original]:
    """The authors' own folds, one entry a file number; patient identifiers stay in the files."""
    import h5py
    from scipy.io import loadmat

    if h5py.is_hdf5(index):
        with h5py.File(index) as file:
            folds = np.asarray(file["cvind"]).ravel()
    else:
        folds = np.asarray(loadmat(index)["cvind"]).ravel()
    for number in sorted(files):
        if number > len(folds):
            raise DataError(f"cvind.mat knows {len(folds)} files; {files[number].name} has no fold.")
        try:
            with h5py.File(files[number]) as file:
                record = file["cjdata"]
                pixels = np.asarray(record["image"]).T.astype(np.float32)  # MATLAB stores columns first
                mask = np.asarray(record["tumorMask"]).T > 0
                label = FIGSHARE_TYPES[int(np.asarray(record["label"]).ravel()[0])]
        except (OSError, KeyError) as e:
            raise DataError(f"{files[number].name} is not one of figshare's cjdata records.") from e
        low, high = np.percentile(pixels, (0, 99.9))
        gray = np.clip((pixels - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)
        yield Original(f"{number:04d}", gray, mask, label, int(folds[number - 1]))


def _lgg(source: Path) -> Iterator[Original] | None:
    root = source if source.name == "kaggle_3m" else next(source.rglob("kaggle_3m"), None)
    return None if root is None else _lgg_items(root)


def _lgg_items(root: Path) -> Iterator[Original]:
    known = shipped()
    for patient in sorted(p for p in root.iterdir() if p.is_dir()):
        fold = known.assign(of_patient(patient.name))
        for mask_file in sorted(patient.glob("*_mask.tif")):
            image_file = mask_file.with_name(mask_file.name.replace("_mask", ""))
            if not image_file.is_file():
                raise DataError(f"kaggle_3m: {mask_file.name} has no picture beside it.")
            with Image.open(image_file) as picture, Image.open(mask_file) as mask_picture:
                pixels = np.asarray(picture.convert("RGB"))
                mask = np.asarray(mask_picture.convert("L")) > 127
            label = "glioma" if mask.any() else "none"
            yield Original(image_file.stem, pixels, mask, label, fold, patient.name)


def _navoneel(source: Path) -> Iterator[Original] | None:
    yes = next((p for p in source.rglob("yes") if p.is_dir() and (p.parent / "no").is_dir()), None)
    return None if yes is None else _folder_items({"tumor": yes, "none": yes.parent / "no"})


def _healthy(source: Path) -> Iterator[Original] | None:
    folders = [p for p in source.rglob("notumor") if p.is_dir()]
    return None if not folders else _folder_items({f"none{k or ''}": p for k, p in enumerate(sorted(folders))})


def _folder_items(folders: dict[str, Path]) -> Iterator[Original]:
    """Pictures labeled by their folder; copies, also rescaled ones, share a fold."""
    known = shipped()
    for key, folder in folders.items():
        label = key.rstrip("0123456789")
        for file in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES):
            gray = read_image(file.read_bytes(), file.name).gray()
            name = "".join(c if c.isalnum() else "_" for c in file.stem)
            levels = (gray * 255).round().astype(np.uint8)
            yield Original(f"{key}_{name}", levels, None, label, known.assign(of_picture(gray)))
