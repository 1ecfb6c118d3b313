"""Folds follow from who is in a scan: copies are recognized, and no data set's order decides."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from standin import standin

from neurovision.scan.images import read_image
from neurovision.scan.phantom import KINDS, phantom
from neurovision.training.dataset import Item, load_index
from neurovision.training.identity import (
    TABLE,
    Known,
    fitted_on,
    identity,
    of_patient,
    of_picture,
    patients_of,
    shipped,
    write_table,
)
from neurovision.training.originals import prepare_originals

DATA = os.environ.get("NEUROVISION_DATA")
scans = pytest.mark.skipif(DATA is None, reason="needs NEUROVISION_DATA")


def recompressed(gray: np.ndarray, scale: float, quality: int) -> np.ndarray:
    picture = Image.fromarray(np.rint(gray * 255).astype(np.uint8))
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    return read_image(data.getvalue(), "x.jpg").gray()


def test_a_copy_is_recognized_and_another_head_is_not():
    heads = [phantom(kind, seed)[0].gray() for kind in KINDS for seed in range(3)]
    known = Known({of_picture(head): k % 4 + 1 for k, head in enumerate(heads)})
    for k, head in enumerate(heads):
        for scale, quality in ((1.0, 70), (0.8, 90), (1.7, 80)):
            assert known.fold(of_picture(recompressed(head, scale, quality))) == k % 4 + 1
    assert known.fold(of_picture(phantom("glioma", 77)[0].gray())) is None
    assert known.fold(of_patient("somebody")) is None


def test_what_is_not_known_gets_a_fold_that_its_copies_share():
    known, head = Known({}), phantom("glioma", 5)[0].gray()
    fold = known.assign(of_picture(head))
    assert 1 <= fold <= 5 and known.assign(of_picture(recompressed(head, 1.3, 75))) == fold
    assert Known({}).assign(of_picture(head)) == fold  # of the picture alone, not of what came before
    folds = {known.assign(of_patient(f"p{k}")) for k in range(60)}
    assert folds == {1, 2, 3, 4, 5}


def test_folds_of_prepared_originals_do_not_depend_on_who_else_is_there(tmp_path: Path):
    def prepare(name: str, patients: list[str]) -> dict[str, int]:
        for patient in patients:
            folder = tmp_path / name / "kaggle_3m" / patient
            folder.mkdir(parents=True)
            for suffix in ("_1.tif", "_1_mask.tif"):
                Image.fromarray(np.zeros((16, 16, 3) if "mask" not in suffix else (16, 16), np.uint8)).save(
                    folder / f"{patient}{suffix}"
                )
        prepare_originals(tmp_path / name, tmp_path / f"{name}-out")
        with (tmp_path / f"{name}-out" / "lgg" / "index.csv").open(newline="") as file:
            return {row["patient"]: int(row["fold"]) for row in csv.DictReader(file)}

    names = [f"TCGA_ZZ_{k:04d}" for k in range(8)]
    everybody, few = prepare("all", names), prepare("few", names[3:6])
    assert few == {p: everybody[p] for p in names[3:6]} and len(set(everybody.values())) > 1


def test_the_table_holds_digests_only():
    text = TABLE.read_text()
    assert set(text) <= set("0123456789abcdef \n{}\":,") and "TCGA" not in text
    assert {len(name) for name in text.replace('"', " ").replace(",", " ").split()} >= {16, 64}


@scans
def test_the_table_gives_the_folds_that_the_weights_were_trained_on(tmp_path: Path):
    """Of every patient and picture; a copy of a picture counts in the lowest of the folds that hold it."""
    assert write_table(Path(str(DATA)), tmp_path / "folds.json").read_text() == TABLE.read_text()
    known, moved = shipped(), []
    for item in load_index(Path(str(DATA))):
        if item.source == "figshare":
            continue
        fold = known.fold(identity(item))
        assert fold == item.fold or (item.patient is None and fold is not None), item.source
        if fold != item.fold:
            moved.append(item)
    assert len(moved) < 60 and {i.source for i in moved} <= {"navoneel", "healthy"}


@scans
def test_weights_without_patients_are_judged_by_the_table():
    manifest = standin().manifest  # folds 1 to 3
    items = load_index(Path(str(DATA)), ["lgg"])
    wrong = [Item(i.source, i.id, i.image, i.mask, i.label, 4, i.patient, i.sequence) for i in items]
    assert fitted_on(manifest, wrong) == [i.fold != 4 for i in items]
    named = patients_of(i for i in items if i.fold in (1, 2, 3))
    assert set(named) == {"lgg"} and [len(v) for v in named["lgg"].values()] == [25, 25, 25]
