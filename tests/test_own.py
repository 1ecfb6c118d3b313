"""Data sets of one's own: pictures and volumes with masks and a CSV, prepared, checked and trained on."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from neurovision.classes import SHIPPED
from neurovision.cli import app
from neurovision.errors import DataError
from neurovision.scan.phantom import phantom, phantom_volume
from neurovision.training.dataset import load_index, sources_in
from neurovision.training.own import is_own, prepare_own

Rows = Callable[..., Path]


def levels(gray: np.ndarray) -> np.ndarray:
    return np.rint(gray * 255).astype(np.uint8)


@pytest.fixture
def listed(tmp_path: Path) -> Rows:
    """Writes a CSV of rows into ``tmp_path / "mine"``."""
    folder = tmp_path / "mine"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)

    def write(rows: list[dict[str, Any]]) -> Path:
        names = list(dict.fromkeys(k for r in rows for k in r))
        with (folder / "scans.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
        return folder

    return write


def picture(folder: Path, seed: int, kind: str = "glioma", values: int = 255) -> dict[str, Any]:
    """A phantom with its mask, and its row."""
    study, truth = phantom(kind, seed, 96)
    Image.fromarray(levels(study.gray())).save(folder / "images" / f"{seed}.png")
    row = {"image": f"images/{seed}.png", "mask": ""}
    if kind != "healthy":
        Image.fromarray(((truth > 1) * np.uint8(values)).astype(np.uint8)).save(folder / "masks" / f"{seed}.png")
        row["mask"] = f"masks/{seed}.png"
    return row


def test_pictures_become_a_data_set(listed: Rows, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    rows = [{**picture(mine, seed), "label": "tumor", "patient": f"p{seed // 2}"} for seed in range(12)]
    rows += [{**picture(mine, 50 + k, "healthy"), "label": "none", "patient": f"h{k}"} for k in range(5)]
    rows.append({**picture(mine, 70, values=3), "patient": "m"})  # a class value and no label: a meningioma
    folder = listed(rows)
    assert is_own(folder) and not is_own(tmp_path)
    report = prepare_own(folder, tmp_path / "data", "clinic", "CC BY-NC 4.0")
    assert report.scans == 18 and report.with_tumor == 13 and report.patients == 12 and not report.left_out
    assert report.labels == {"tumor": 12, "none": 5, "meningioma": 1} and report.sizes == {"96 x 96": 18}
    assert set(report.folds) == {1, 2, 3, 4, 5}
    assert sources_in(tmp_path / "data") == ("clinic",)
    items = load_index(tmp_path / "data")  # which refuses a patient in two folds
    assert len(items) == 18 and {i.source for i in items} == {"clinic"}
    typed = next(i for i in items if i.label == "meningioma")
    assert set(np.unique(typed.canvas(64)[1])) == {0, 1, 3}
    assert items[0].canvas(64)[1].max() == SHIPPED.untyped  # a tumor whose type nobody noted
    written = json.loads((tmp_path / "data" / "clinic" / "report.json").read_text())
    assert written["scans"] == 18 and written["copies"] == 0
    from neurovision.training.provenance import license_of

    assert license_of(tmp_path / "data", "clinic") == "CC BY-NC 4.0"


def test_near_copies_stand_in_one_fold(listed: Rows, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    rows = [picture(mine, seed) for seed in (1, 2, 3, 4)]
    with Image.open(mine / "images" / "1.png") as first:
        first.resize((80, 80), Image.Resampling.BOX).save(mine / "images" / "copy.png")
    rows.append({"image": "images/copy.png", "label": "tumor"})
    report = prepare_own(listed(rows), tmp_path / "data", "clinic")
    folds = {i.id: i.fold for i in load_index(tmp_path / "data")}
    assert report.copies == 1 and folds["copy"] == folds["1"] and len(set(folds.values())) == 4


def test_volumes_are_sliced_with_their_masks(listed: Rows, tmp_path: Path) -> None:
    import nibabel

    mine = tmp_path / "mine"
    volume, truth = phantom_volume("glioma", 1)
    lps = volume.affine if volume.affine is not None else np.diag([5.0, 1.0, 1.0, 1.0])
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps  # NIfTI's own axes
    for name, voxels in (("scan", volume.pixels[..., 0]), ("mask", (truth > 1).astype(np.float32))):
        nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), affine), mine / f"{name}.nii.gz")
    half = affine.copy()
    half[:3, 1:3] /= 2  # the same mask on voxels half as wide, as another program would write it
    fine = np.repeat(np.repeat((truth > 1).astype(np.int16), 2, 1), 2, 2)
    half[:3, 3] -= half[:3, 1:3].sum(1) / 2
    nibabel.save(nibabel.Nifti1Image(fine, half), mine / "fine.nii.gz")
    rows = [
        {"image": "scan.nii.gz", "mask": "mask.nii.gz", "label": "glioma", "fold": 2},
        {"image": "scan.nii.gz", "mask": "fine.nii.gz", "label": "glioma", "fold": 2},
    ]
    report = prepare_own(listed(rows), tmp_path / "data", "volumes")
    items = load_index(tmp_path / "data")
    shown = [k for k in range(len(truth)) if (truth[k] > 1).any()]
    tumors = [i for i in items if i.tumor]
    assert report.patients == 1 and {i.fold for i in items} == {2} and {i.label for i in items} == {"glioma", "none"}
    assert len(tumors) == 2 * len(shown)
    areas = sorted(int((truth[k] > 1).sum()) for k in shown)
    for part in (tumors[: len(shown)], tumors[len(shown) :]):
        assert sorted(int(i.truth().sum()) for i in part) == areas
        assert all(i.gray().shape == i.truth().shape for i in part)


def test_what_breaks_a_rule_is_named(listed: Rows, tmp_path: Path) -> None:
    mine, data = tmp_path / "mine", tmp_path / "data"
    row = picture(mine, 1)
    for change, message in (
        ({"label": "cat"}, "line 2: a label is one of none, tumor, glioma"),
        ({"fold": "0"}, "a fold is a number from 1 to 99"),
        ({"image": "images/none.png"}, r"there is no images/none\.png"),
        ({"image": "../secret.png"}, "leads out of it"),
        ({"image": ""}, "names its image"),
        ({"label": "glioma", "mask": ""}, "line 2: a tumor of a named type needs a mask"),
    ):
        with pytest.raises(DataError, match=message):
            prepare_own(listed([{**row, **change}]), data, "clinic")
    two = [{**row, "patient": "a", "fold": 1}, {**picture(mine, 2), "patient": "a", "fold": 2}]
    with pytest.raises(DataError, match="Patient a stands in folds 1 and 2"):
        prepare_own(listed(two), data, "clinic")
    for name in ("Clinic", "figshare", "a/b", ""):
        with pytest.raises(DataError, match="data set's name"):
            prepare_own(listed([row]), data, name)
    (mine / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    report = prepare_own(listed([row, {"image": "images/broken.png", "label": "none"}]), data, "clinic")
    assert report.scans == 1 and list(report.left_out) == ["images/broken.png"]
    with pytest.raises(DataError, match="is there already"):
        prepare_own(listed([row]), data, "clinic")
    assert load_index(data)[0].label == "tumor"


def test_the_command_reports_what_it_found(listed: Rows, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    rows = [{**picture(mine, seed), "label": "glioma", "patient": f"p{seed}"} for seed in range(5)]
    result = CliRunner().invoke(app, ["data", str(listed(rows)), "--out", str(tmp_path / "data")], catch_exceptions=False)
    assert result.exit_code == 0 and "5 scans, 5 with a tumor, 5 patients named" in result.output
    assert result.output.count("mine ") == 5  # a line a fold


def test_groups_and_answers_of_ones_own_scans(listed: Rows, tmp_path: Path) -> None:
    from neurovision.training.fit import allowed_types, group_of, limited

    mine = tmp_path / "mine"
    rows = [{**picture(mine, 1), "label": "tumor"}, {**picture(mine, 2, "healthy"), "label": "none"}]
    rows.append({"image": picture(mine, 3)["image"], "label": "tumor"})  # without its mask
    prepare_own(listed(rows), tmp_path / "data", "clinic")
    items = load_index(tmp_path / "data")
    assert [group_of(i) for i in items] == ["own_tumor", "own_free", "unmarked"]
    assert len(limited(items, 2)) == 2
    answers = allowed_types(np.array([[0, 1, 5]], np.uint8), "own_tumor", 5)
    assert answers.tolist() == [0, 1, 1, 1, 0]  # a tumor of any type


@pytest.mark.slow
def test_a_network_trains_on_it(listed: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurovision.training import fit
    from neurovision.training.recipes import recipe

    monkeypatch.setattr(fit, "PHANTOMS", 4)
    mine = tmp_path / "mine"
    rows = [{**picture(mine, seed), "label": "tumor", "patient": f"p{seed}"} for seed in range(10)]
    prepare_own(listed(rows), tmp_path / "data", "clinic")
    short = recipe("dgnet").shortened(epochs=1, size=64, batch=4, limit=4)
    short = type(short)(**{**short.__dict__, "phases": short.phases[:1], "epoch_scans": 8, "config": {"width": 2}})
    final = fit.train(short, tmp_path / "data", (1, 2), 3, tmp_path / "runs" / "dgnet", verbose=0)
    told = json.loads((tmp_path / "runs" / "dgnet" / "run.json").read_text())
    assert final.is_file() and told["sources"] == ["clinic"] and told["recipe"]["trial"] and told["facts"]["scans_seen"] == 8


def test_an_evaluation_calls_it_by_its_name() -> None:
    from neurovision.evaluation.summary import TITLES, data_title

    assert data_title("clinic") == "clinic" and data_title("lgg") == TITLES["lgg"]
