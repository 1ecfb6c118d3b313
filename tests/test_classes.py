"""Classes are data: a set of one's own is prepared, trained, stacked, read, reported and shown by its own names."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_builder import stored, write_series
from PIL import Image
from pydicom import dcmread
from typer.testing import CliRunner

import neurovision.views.ui  # noqa: F401 - before Gradio: it switches the calls home off
from neurovision.classes import FIRST_TUMOR, GREEN, SHIPPED, Classes
from neurovision.cli import app
from neurovision.ensemble.manifest import read_manifest
from neurovision.ensemble.weights import DEFAULT
from neurovision.errors import DataError
from neurovision.scan.phantom import phantom
from neurovision.training.dataset import CLASSES, classes_of, load_index
from neurovision.training.own import prepare_own
from neurovision.training.packed import write_packed
from neurovision.training.recipes import Phase, Recipe

METASTASIS = Classes.of(["metastasis"])
SHIPPED_WORDS = ("glioma", "meningioma", "pituitary")


def write_own(folder: Path, label: str, count: int = 10, size: int = 96) -> Path:
    """As many pictures with a tumor as without one, of five folds, and the CSV that lists them."""
    rows = []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for k in range(2 * count):
        study, truth = phantom("meningioma" if k < count else "healthy", k, size)
        Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8)).save(folder / "images" / f"{k}.png")
        Image.fromarray((truth >= FIRST_TUMOR).astype(np.uint8) * 255).save(folder / "masks" / f"{k}.png")
        rows.append({
            "image": f"images/{k}.png", "mask": f"masks/{k}.png", "label": label if k < count else "none",
            "patient": f"p{k}", "fold": k % 5 + 1,
        })  # fmt: skip
    with (folder / "scans.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_the_shipped_set_is_the_default() -> None:
    assert [(c.index, c.key) for c in SHIPPED] == [
        (0, "background"), (1, "head"), (2, "glioma"), (3, "meningioma"), (4, "pituitary")
    ]  # fmt: skip
    assert read_manifest(DEFAULT).classes == SHIPPED
    manifest = read_manifest(DEFAULT)
    told = {k: v for k, v in replace(manifest, classes=METASTASIS).to_json().items() if k != "digest"}
    assert type(manifest).from_json(told, manifest.folder).classes == METASTASIS


def test_a_set_describes_what_is_not_said_and_is_read_back() -> None:
    (metastasis,) = METASTASIS.tumors
    assert metastasis.title == "Metastasis" and metastasis.color == GREEN and metastasis.color_name == "green"
    assert metastasis.code is not None and metastasis.code.value == "128462008"
    named = Classes.from_json([{"key": "metastasis"}, {"key": "low_grade", "color": [0, 114, 178]}, {"key": "other"}])
    assert [t.title for t in named.tumors] == ["Metastasis", "Low grade", "Other"]
    assert len({t.color for t in named.tumors}) == 3 and {t.code.value for t in named.tumors[1:]} == {"108369006"}  # type: ignore[union-attr]
    assert Classes.from_json(json.loads(json.dumps(named.to_json()))) == named


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "1 to 8 classes"),
        ([{"key": f"k{n}"} for n in range(9)], "1 to 8 classes"),
        ([{"key": "a"}, {"key": "a"}], "stands once"),
        ([{"key": "tumor"}, {"key": "glioma"}], "stands alone"),
        ([{"key": "none"}], "none of background, head and none"),
        ([{"key": "../x"}], "lower-case letters"),
        ([{"key": "a", "title": "<b>"}], "plain characters"),
        ([{"key": "a", "title": "x" * 65}], "plain characters"),
        ([{"key": "a", "color": [0, 0, 256]}], "three numbers from 0 to 255"),
        ([{"key": "a", "color": "red"}], "three numbers from 0 to 255"),
        ([{"key": "a", "code": {"value": "1" * 17, "meaning": "x"}}], "at most 16"),
        ([{"key": "a", "code": "1"}], "a value, a meaning"),
        ([{"key": "a", "size": 1}], "received 'size'"),
        ([7], "a list of objects"),
        ({"key": "a"}, "a list of objects"),
    ],
)
def test_a_set_that_breaks_a_rule_is_refused(raw: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classes.from_json(raw)


def test_sets_are_joined_in_order() -> None:
    own = Classes.of(["lymphoma", "metastasis"])
    both = SHIPPED.joined(own)
    assert both.keys == (*SHIPPED.keys, "lymphoma", "metastasis") and both.tumors[:3] == SHIPPED.tumors
    assert len({t.color for t in both.tumors}) == 5
    assert SHIPPED.joined(Classes.of(["tumor"])) == SHIPPED == Classes.of(["tumor"]).joined(SHIPPED)
    assert SHIPPED.joined(Classes.from_json([{"key": "x", "color": [230, 159, 0]}])).tumors[3].color not in (
        t.color for t in SHIPPED.tumors
    )
    with pytest.raises(ValueError, match="another title or code"):
        SHIPPED.joined(Classes.from_json([{"key": "glioma", "title": "Astrocytoma"}]))


def test_a_data_set_says_its_classes(tmp_path: Path) -> None:
    mine, data = write_own(tmp_path / "mine", "metastasis", 2), tmp_path / "data"
    with pytest.raises(DataError, match=r"none, tumor, glioma.*'metastasis'.*--class"):
        prepare_own(mine, data, "plain")
    prepare_own(mine, data, "clinic", classes=["metastasis"])
    assert classes_of(data, ["clinic"]) == METASTASIS
    tumor = load_index(data, ["clinic"])[0]
    assert set(np.unique(tumor.canvas(64)[1])) == {0, 1, 2}
    others = load_index(data, ["clinic"], classes=SHIPPED)[0]  # as weights see it that do not know the class
    assert not others.typed and others.canvas(64)[1].max() == SHIPPED.untyped
    prepare_own(write_own(tmp_path / "typed", "glioma", 2), data, "typed")
    assert not (data / "typed" / CLASSES).is_file()
    assert classes_of(data, ["typed", "clinic"]).keys == (*SHIPPED.keys, "metastasis")
    assert load_index(data, ["typed", "clinic"])[-4].tumor_index == 5
    described = [{"key": "metastasis", "title": "Filia", "color": [1, 2, 3]}]
    (mine / CLASSES).write_text(json.dumps(described))
    prepare_own(mine, data, "other")
    assert classes_of(data, ["other"]).tumors[0].title == "Filia"
    with pytest.raises(DataError, match=r"other: classes.json does not fit, the class metastasis has another title"):
        classes_of(data, ["clinic", "other"])
    with pytest.raises(DataError, match="leave --class out"):
        prepare_own(mine, data, "twice", classes=["metastasis"])


def test_a_plain_tumor_is_a_class_where_it_is_the_only_one(tmp_path: Path) -> None:
    mine = write_own(tmp_path / "mine", "", 2)  # without labels: the masks say which show a tumor
    report = prepare_own(mine, tmp_path / "data", "plain", classes=["tumor"])
    assert report.labels == {"tumor": 2, "none": 2}
    items = load_index(tmp_path / "data")
    assert [i.tumor_index for i in items[:2]] == [2, 2] and items[0].typed and len(items[0].classes) == 3


def test_a_packed_file_keeps_the_classes(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "scans.zip"
    prepare_own(write_own(tmp_path / "mine", "metastasis", 1), data, "clinic", classes=["metastasis"])
    write_packed(data, file, 64)
    assert classes_of(file, ["clinic"]) == METASTASIS
    tumor = load_index(file)[0]
    assert tumor.tumor_index == 2 and set(np.unique(tumor.canvas(64)[1])) == {0, 1, 2}
    assert load_index(file, classes=SHIPPED)[0].canvas(64)[1].max() == SHIPPED.untyped


def test_a_recipe_learns_as_many_classes_as_there_are() -> None:
    assert Recipe("unet").learning(5) == Recipe("unet")
    three = Recipe("unet", {"width": 2}).learning(3)
    assert three.config == {"width": 2, "classes": 3} and three.class_weights == (0.5, 1.0, 3.0)
    seven = Recipe("efficientnetlite0", {"answers": 5}, task="type").learning(7)
    assert seven.config == {"answers": 7} and len(seven.class_weights) == 7


def tiny(name: str) -> Recipe:
    """What trains in seconds, and learns that a tumor is bright."""
    if name == "efficientnetlite0":
        phases, mix = (Phase(64, 1, 1e-3),), {"strange": 0.2, "phantom": 0.1}
        return Recipe(name, {"answers": 5}, phases, batch=8, epoch_scans=32, mix=mix, task="type", own=0.7, randomize=0.4)
    return Recipe(name, {"width": 4}, (Phase(64, 8, 4e-3),), batch=4, epoch_scans=64, schedule="cosine", warmup=0.1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of its own for the class "metastasis", by the commands that make one."""
    root = tmp_path_factory.mktemp("own")
    write_own(root / "mine", "metastasis", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neurovision.training.recipes.recipe", tiny)
        patch.setattr("neurovision.training.stack.voting", lambda: ["unet", "dgnet"])
        patch.setattr("neurovision.training.fit.PHANTOMS", 8)
        patch.setattr("neurovision.training.fit.STRANGE", 8)
        where = ["--data", str(root / "data"), "--runs", str(root / "runs")]
        for command in (
            ["data", str(root / "mine"), "--out", str(root / "data"), "--name", "clinic", "--class", "metastasis"],
            *(["train", name, *where, "--epochs", "8"] for name in ("unet", "dgnet", "efficientnetlite0")),
            ["stack", *where, "--out", str(root / "weights")],
        ):
            done = CliRunner().invoke(app, command, catch_exceptions=False)
            assert done.exit_code == 0, done.output
    return root / "weights"


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a DICOM file, ``head.dcm``: one of the heads that the vote was fitted on."""
    folder = tmp_path_factory.mktemp("scan") / "head"
    study, _ = phantom("meningioma", 7, 96)
    affine = np.array([[0, 0, 2.0, -96], [0, 2.0, 0, -96], [5.0, 0, 0, 0], [0, 0, 0, 1]])
    write_series(folder, stored(study), affine)[0].rename(folder / "head.dcm")
    return folder


@pytest.mark.slow
def test_ones_own_class_reaches_every_output(weights: Path, scan: Path, tmp_path: Path) -> None:
    manifest = read_manifest(weights)
    assert manifest.classes == METASTASIS and manifest.training.trial
    assert [m.config["classes"] for m in manifest.members] == [3, 3]
    assert manifest.classifier is not None and manifest.classifier.config["answers"] == 3
    arguments = ["predict", str(scan), "--out", str(tmp_path), "--weights", str(weights), "--report", "pdf"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "head.json").read_text())
    assert found["type_probabilities"] == {"metastasis": 1.0} and {m["tumor_type"] for m in found["models"]} <= {
        "metastasis", None
    }  # fmt: skip
    assert found["regions"][0]["type"] == "metastasis"
    with Image.open(tmp_path / "head.mask.png") as mask:
        assert set(np.unique(np.asarray(mask))) == {0, 1, 2}
    (segment,) = dcmread(tmp_path / "head.seg.dcm").SegmentSequence
    code = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("128462008", "SCT") and segment.SegmentLabel == "Metastasis"
    assert "128462008" in str(dcmread(tmp_path / "head.sr.dcm"))
    import pypdfium2

    pages = [page.get_textpage().get_text_range() for page in pypdfium2.PdfDocument(tmp_path / "head.pdf")]
    printed = " ".join(" ".join(pages).split())
    assert "one class of tumors (Metastasis)" in printed
    said = done.output + json.dumps(found) + printed
    assert not [word for word in SHIPPED_WORDS if word in said.lower()]


@pytest.mark.slow
def test_ones_own_class_reaches_the_page(weights: Path, scan: Path) -> None:
    import gradio as gr

    from neurovision.ensemble.pipeline import Analyzer
    from neurovision.scan.read import read_files
    from neurovision.views.ui.models import limits_html
    from neurovision.views.ui.read import Tab
    from neurovision.views.ui.room import Room

    room = Room(lambda: Analyzer.load(weights))
    room.open()
    with gr.Blocks():
        tab = Tab(room)
    shown = tab.open_study(read_files(tuple(scan.iterdir()), "head"), [], lambda *_, **__: None)  # type: ignore[arg-type]
    case, _, verdict, viewer, lesions = shown[:5]
    assert verdict["state"] in ("tumor", "borderline")
    assert viewer["classes"] == [{"index": 2, "title": "Metastasis", "color": GREEN}]
    assert "#009e73" in viewer["legend"] and "Metastasis" in viewer["legend"] and "Metastasis" in lesions
    assert "<b>Metastasis</b>, the only type" in verdict["html"] and "Metastasis" in viewer["alt"]
    assert case.findings.overlay(1.0)[case.findings.mask == 2].tolist()[0] == list(GREEN)
    assert "Metastasis only" in limits_html(case.volume.classes)
    assert not [word for word in SHIPPED_WORDS if word in str(shown[2:]).lower()]


@pytest.mark.slow
def test_runs_of_other_classes_are_not_stacked_together(weights: Path, tmp_path: Path) -> None:
    from neurovision.training.runs import read_runs

    for name in ("unet", "dgnet"):
        shutil.copytree(weights.parent / "runs" / name, tmp_path / name)
    told = json.loads((tmp_path / "dgnet" / "run.json").read_text())
    assert told["classes"] == METASTASIS.to_json()
    (tmp_path / "dgnet" / "run.json").write_text(json.dumps({**told, "classes": Classes.of(["lymphoma"]).to_json()}))
    with pytest.raises(DataError, match="classes alike; received unet: metastasis; dgnet: lymphoma"):
        read_runs(weights.parent / "data", tmp_path, ["unet", "dgnet"], 3)
