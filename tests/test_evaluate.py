"""The evaluation on drawn scans whose every figure is known, and the card that repeats it."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from neurovision.classes import SHIPPED
from neurovision.ensemble.manifest import File, Manifest, Network, Training, VerdictModel, Vote
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.results import Findings, MemberFinding, Verdict
from neurovision.errors import DataError
from neurovision.evaluation import card as cards
from neurovision.evaluation import evaluate as evaluating
from neurovision.evaluation import measure as measuring
from neurovision.evaluation import robustness
from neurovision.evaluation.card import write_card
from neurovision.evaluation.evaluate import evaluate, thin
from neurovision.evaluation.report import figure
from neurovision.scan.study import Study
from neurovision.training.dataset import load_index
from neurovision.training.identity import of_number, of_patient

GRAY = {"glioma": 200, "meningioma": 220, "pituitary": 240, "tumor": 200, "none": 0}
TUMOR = (slice(40, 60), slice(40, 50))  # 20 x 10 pixels
SIDE = 96


def draw(label: str, speck: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A gray disc with a bright box for a tumor: uint8 picture and bool truth; a speck is bright and healthy."""
    y, x = np.mgrid[:SIDE, :SIDE]
    picture = np.where((y - 48) ** 2 + (x - 48) ** 2 < 40**2, 100, 0).astype(np.uint8)
    truth = np.zeros((SIDE, SIDE), bool)
    if label != "none":
        picture[TUMOR], truth[TUMOR] = GRAY[label], True
    if speck:
        picture[30:36, 30:36] = 200
    return picture, truth


def write_source(root: Path, source: str, rows: list[dict[str, object]]) -> None:
    """One data set of a prepared folder; a row holds id, label, fold, and maybe patient and speck."""
    folder = root / source
    for sub in ("images", "masks"):
        (folder / sub).mkdir(parents=True)
    lines = []
    for row in rows:
        picture, truth = draw(str(row["label"]), bool(row.get("speck")))
        if source == "lgg":  # FLAIR shows the tumor, post-contrast T1 does not
            picture = np.stack([picture, picture, np.minimum(picture, 100)], -1)
        Image.fromarray(picture).save(folder / f"images/{row['id']}.png")
        line = {"id": row["id"], "image": f"images/{row['id']}.png", "label": row["label"], "fold": row["fold"]}
        line |= {"tumor": int(row["label"] != "none"), "patient": row.get("patient", ""), "mask": ""}
        if source in ("figshare", "lgg"):
            Image.fromarray((truth * 255).astype(np.uint8)).save(folder / f"masks/{row['id']}.png")
            line["mask"] = f"masks/{row['id']}.png"
        lines.append(line)
    names = [n for n in lines[0] if n != "patient" or source == "lgg"]
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)


def write_data(root: Path) -> Path:
    """A prepared folder: fold 4 of all four data sets, and a patient of fold 1."""
    write_source(root, "figshare", [{"id": f"fig{k}", "label": SHIPPED.keys[k % 3], "fold": 4} for k in range(6)])
    lgg = [
        {"id": f"TCGA_{p}_{k}", "patient": f"TCGA_{p}", "label": "glioma" if k < 2 else "none", "fold": 4}
        for p in "AB"
        for k in range(4)
    ]
    write_source(root, "lgg", [*lgg, {"id": "TCGA_C_1", "patient": "TCGA_C", "label": "glioma", "fold": 1}])
    write_source(root, "navoneel", [{"id": f"n{k}", "label": "tumor" if k % 2 else "none", "fold": 4} for k in range(4)])
    write_source(root, "healthy", [{"id": f"h{k}", "label": "none", "fold": 4, "speck": k == 0} for k in range(5)])
    return root


MANIFEST = Manifest(
    folder=Path(),
    size=160,
    members=tuple(
        Network(name=n, file=f"{n}.safetensors", sha256="ab" * 32, config={"width": 8}, parameters=1234)
        for n in ("unet", "dgnet")
    ),
    vote=Vote(forest=File(file="forest.skops", sha256="0" * 64), boost=File(file="boost.ubj", sha256="0" * 64), pixels=0),
    verdict=VerdictModel(features=(), mean=(), scale=(), coefficients=(), intercept=0, threshold=0.5),
    training=Training(
        date="2026-01-02", sources=("figshare", "healthy", "lgg", "navoneel"), member_folds=(1, 2), vote_fold=3,
        refitted={"unet": (1, 2, 3)}, split="whole folds by patient", license="CC BY-NC-SA 4.0",
    ),
    digest="f" * 64,
)  # fmt: skip


class Reader:
    """Stands in for the ensemble: reads the drawn gray. Member ``unet`` is right, ``dgnet`` sees the upper half."""

    def __init__(self, manifest: Manifest = MANIFEST) -> None:
        self.manifest, self.engine, self.calls = manifest, SimpleNamespace(device="CPU"), 0

    def analyze(self, study: Study) -> Findings:
        self.calls += 1
        gray = study.gray()
        mask = np.zeros(gray.shape, np.uint8)
        for kind in SHIPPED.tumors:
            mask[np.rint(gray * 255) == GRAY[kind.key]] = kind.index
        half = mask.copy()
        half[50:] = 0
        positive = bool(mask.any())
        types = {k.key: float((mask == k.index).mean()) for k in SHIPPED.tumors}
        return Findings(
            source=study.source, picture=gray, mask=mask, tumor_map=(mask > 0).astype(np.float32),
            uncertainty=np.zeros(gray.shape, np.float32), verdict=Verdict.of(0.9 if positive else 0.1, 0.5, types),
            members=tuple(MemberFinding(n, int((m > 0).sum()), None, m, n) for n, m in (("unet", mask), ("dgnet", half))),
            timing_ms={"total": 1.0},
        )  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    """The stand-in, and no figures: they take the time."""
    stand_in = Reader()
    monkeypatch.setattr(Analyzer, "load", classmethod(lambda cls, weights, engine: stand_in))
    monkeypatch.setattr(evaluating, "draw_all", lambda *args: [])
    return stand_in


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run, figures included."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Analyzer, "load", classmethod(lambda cls, weights, engine: Reader()))
        run(write_data(root / "data"), root)
    return root / "out"


@pytest.fixture
def result(out: Path) -> dict:
    return json.loads((out / "evaluation.json").read_text())


def run(data: Path, tmp_path: Path, **options: object) -> dict:
    path = evaluate(data, 4, tmp_path / "out", work=tmp_path / "work", **{"robustness": False, **options})
    return json.loads(path.read_text())


def test_robustness_compares_with_the_unchanged_slice(data: Path):
    items = [i for i in load_index(data, ["figshare"], [4]) if i.tumor][:3]
    found = robustness.measure_robustness(Reader(), items)
    assert found["n"] == 3 and found["clean"]["dice"]["value"] == 1.0 and set(found["changes"]) == set(robustness.CHANGES)
    turned = found["changes"]["shifted"]["mild"]
    assert turned["dice"]["value"] == pytest.approx(turned["against_clean"], abs=1e-4)
    assert turned["dice"]["value"] > 0.9  # the truth moves with the picture
    assert found["changes"]["darker"]["strong"]["dice"]["value"] < 0.5  # this reader knows one gray only


def test_what_cuts_the_tumor_away_has_no_dice():
    picture, truth = (a.astype(np.float32) for a in draw("glioma"))
    cut, left = robustness.crop(picture / 255, truth > 0, 0.6)
    assert cut.shape == left.shape == (38, SIDE) and not left.any()


def test_every_figure_of_drawn_scans(result: dict):
    assert result["scans"]["figshare"] == {"n": 6, "with_tumor": 6, "patients": None, "rejected": 0}
    assert result["scans"]["lgg"]["patients"] == 2  # the third patient is in another fold
    figshare = result["masks"]["figshare"]
    assert figshare["unet"]["dice"]["value"] == figshare["vote"]["dice"]["value"] == 1.0
    half = figshare["dgnet"]  # 100 of 200 pixels, all of them right
    assert half["dice"]["value"] == pytest.approx(2 / 3, abs=1e-5)
    assert (half["precision"]["value"], half["recall"]["value"], half["iou"]["value"]) == (1.0, 0.5, 0.5)
    assert half["hd95"]["value"] == 10.0 and half["hd95_undefined"] == 0
    assert half["dice"]["n"] == half["dice"]["clusters"] == 6
    lgg = result["masks"]["lgg"]
    assert lgg["vote"]["dice"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 4, "clusters": 2, "median": 1.0}
    assert lgg["dgnet"]["patient_dice"]["value"] == pytest.approx(2 / 3, abs=1e-5)
    assert result["masks"]["lgg_t1c"]["vote"]["dice"]["value"] == 0.0  # nothing shows there
    assert result["masks"]["lgg_t1c"]["vote"]["hd95_undefined"] == 4
    assert "navoneel" not in result["masks"]  # nobody drew its tumors
    assert result["by_class"]["figshare"]["pituitary"]["vote"]["typed_dice"]["value"] == 1.0
    free = result["tumor_free"]["healthy"]
    assert (free["n"], free["called_tumor"]["value"]) == (5, 0.2)
    assert free["mask_over_30_px"]["vote"]["value"] == 0.2  # the speck has 36 pixels
    assert result["type"]["figshare"]["confusion"] == [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]
    assert result["type"]["lgg_t1c"]["with_misses"]["value"] == 0.0
    verdict = result["verdict"]["navoneel"]
    assert [verdict[k]["value"] for k in ("auc", "accuracy", "sensitivity", "specificity")] == [1.0] * 4
    assert verdict["ece"]["value"] == pytest.approx(0.1)
    assert result["verdict"]["figshare"]["auc"]["value"] is None  # no tumor-free slice
    assert result["verdict"]["all"]["n"] == 6 + 8 + 4 + 5  # post-contrast slices are not counted twice
    best = result["vote_against_best"]["figshare"]
    assert (best["best_member"], best["difference"]["value"], best["wilcoxon_p"]) == ("unet", 0.0, 1.0)
    assert lgg["dgnet"]["patient_dice"]["lowest"] == pytest.approx(2 / 3, abs=1e-5)
    pooled = result["vote_against_best_by_patient"]
    assert "figshare" not in pooled and (pooled["lgg"]["vote_dice"], pooled["lgg"]["difference"]["n"]) == (1.0, 2)
    assert result["failures"]["lgg_t1c"]["missed"]["value"] == 1.0
    assert result["about"]["left_out"] == {}


def test_pictures_and_names_of_patients_stay_out(out: Path, result: dict):
    assert {p.name for p in out.iterdir()} == {"evaluation.json", "evaluation.md", *result["figures"]}
    assert set(result["figures"]) == {
        "dice.png", "type-confusion.png", "verdict-roc.png", "verdict-reliability.png", "uncertainty.png",
    }  # fmt: skip
    text = (out / "evaluation.json").read_text() + (out / "evaluation.md").read_text()
    assert not re.search(r"TCGA_[A-C]|fig\d|\bh\d\b", text)
    assert str(out.parent) not in text


def test_failures_are_drawn_only_when_asked_and_only_elsewhere(data: Path, tmp_path: Path, reader: Reader):
    for inside in (tmp_path / "out", tmp_path / "out" / "bad"):
        with pytest.raises(DataError, match="show patients"):
            run(data, tmp_path, failures=inside)
    run(data, tmp_path, failures=tmp_path / "bad", sources=["healthy"])
    assert [p.name for p in (tmp_path / "bad").iterdir()] == ["healthy-free-1.png"]  # the one false alarm


def test_the_report_repeats_the_file(out: Path, result: dict):
    text = (out / "evaluation.md").read_text()
    for source in result["masks"].values():
        for model, scores in source.items():
            name = f"**{model}**" if model in ("vote", "verdict") else model
            dice = scores["dice"]
            assert f"| {name} | {figure(dice)} | {dice['median']:.3f} | {figure(scores['iou'])} |" in text
    for name in result["figures"]:
        assert f"({name})" in text
    assert "empty" in text and result["about"]["command"] in text


def test_an_interrupted_run_goes_on(data: Path, tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluating, "measure_refusal", lambda analyzer, scans: {})
    first = run(data, tmp_path)
    n = reader.calls
    assert n == 6 + 2 * 8 + 4 + 5
    rows = next((tmp_path / "work").iterdir())
    whole = rows.read_text()
    rows.write_text(whole[: int(len(whole) * 0.6)])  # cut off in the middle of a row
    assert run(data, tmp_path) == first
    assert n < reader.calls < 2 * n
    again = reader.calls
    run(data, tmp_path)
    assert reader.calls == again
    reader.manifest = replace(MANIFEST, digest="f" * 12 + "e" * 52)  # other weights under the same short name
    run(data, tmp_path)
    assert reader.calls == again + n
    monkeypatch.setattr(measuring, "_code_digest", lambda: "other code")
    run(data, tmp_path)
    assert reader.calls == again + 2 * n


def test_a_fold_that_was_fitted_on_is_refused(data: Path, tmp_path: Path, reader: Reader):
    reader.manifest = replace(MANIFEST, training=replace(MANIFEST.training, vote_fold=4))
    with pytest.raises(DataError, match="took part in fitting these weights"):
        run(data, tmp_path)


def test_patients_that_the_manifest_names_are_left_out_and_counted(data: Path, tmp_path: Path, reader: Reader):
    """Whatever fold the folder gives them: here patient A and two of figshare's numbers, who stood in fold 2."""
    fitted = {"lgg": {2: {of_patient("TCGA_A")}}, "figshare": {2: {of_number("figshare", f"fig{k}") for k in range(2)}}}
    reader.manifest = replace(MANIFEST, patients=fitted)
    result = run(data, tmp_path)
    assert result["about"]["left_out"] == {"figshare": 2, "lgg": 8}
    assert (result["scans"]["figshare"]["n"], result["scans"]["lgg"]["n"]) == (4, 4)
    text = (tmp_path / "out" / "evaluation.md").read_text()
    assert "took part in fitting: 2 of figshare, 8 of LGG" in text
    seen_elsewhere = replace(MANIFEST, patients={"lgg": {5: {of_patient("TCGA_A")}}})  # in a fold that no part was fitted on
    assert not seen_elsewhere.fitted_on


def test_a_rejected_scan_counts_as_empty_and_apart(
    data: Path, tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
):
    analyze = Reader.analyze

    def refuse_meningioma(self: Reader, study: Study) -> Findings:
        found = analyze(self, study)
        if not (found.mask == SHIPPED.by_key["meningioma"].index).any():
            return found
        return replace(
            found, reason="x", verdict=None, members=(), mask=np.zeros_like(found.mask),
        )  # fmt: skip

    monkeypatch.setattr(Reader, "analyze", refuse_meningioma)
    result = run(data, tmp_path)
    assert result["scans"]["figshare"]["rejected"] == 2
    assert result["masks"]["figshare"]["unet"]["dice"]["value"] == pytest.approx(4 / 6, abs=1e-5)
    assert result["verdict"]["figshare"]["n"] == 4
    assert result["type"]["figshare"]["accuracy"]["value"] == pytest.approx(4 / 6, abs=1e-5)


def test_a_mask_of_another_size_is_refused(data: Path, tmp_path: Path, reader: Reader):
    Image.fromarray(np.zeros((50, 60), np.uint8)).save(data / "figshare/masks/fig2.png")
    with pytest.raises(DataError, match="mask of fig2 is 60 x 50, its picture 96 x 96"):
        run(data, tmp_path)


def test_a_trial_takes_scans_from_everywhere(data: Path):
    items = load_index(data, ("figshare", "lgg", "navoneel", "healthy"), [4], ("FLAIR", "T1c"))
    few = thin(items, 3)
    assert [i.id for i in few if i.source == "figshare"] == ["fig0", "fig2", "fig5"]
    assert len(few) == 3 * 5
    assert thin(items, None) == items
    assert thin(items, 100) == items or sorted(map(str, thin(items, 100))) == sorted(map(str, items))


def test_the_card_repeats_the_files(out: Path, result: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import ModelCard

    monkeypatch.setattr(cards, "load_manifest", lambda folder: MANIFEST)
    path = write_card(None, out / "evaluation.json", tmp_path / "MODEL_CARD.md")
    card = ModelCard.load(path)
    assert card.data.license == "cc-by-nc-sa-4.0"
    values = {(r.dataset_type, r.metric_name): r.metric_value for r in card.data.eval_results}
    for source, models in result["masks"].items():
        assert values[source, "Dice, tumor slices"] == models["vote"]["dice"]["value"]
    assert values["lgg", "Dice per patient, slices pooled"] == result["masks"]["lgg"]["vote"]["patient_dice"]["value"]
    assert values["navoneel", "AUC of the verdict"] == 1.0
    assert values["figshare", "Tumor type"] == 1.0
    lines = {cells[0]: cells[1:] for cells in table_rows(card.text, "The vote's mask", 6)}
    assert lines["figshare"][1] == figure(result["masks"]["figshare"]["vote"]["dice"])
    assert lines["LGG, FLAIR alone"][2] == figure(result["masks"]["lgg"]["vote"]["patient_dice"])
    verdict = {cells[0]: cells[1:] for cells in table_rows(card.text, "The verdict:", 7)}
    assert verdict["healthy"][4] == "80.0 % " + verdict["healthy"][4].partition(" % ")[2]  # 4 of 5 tumor-free
    assert verdict["all"][1] == figure(result["verdict"]["all"]["auc"])
    assert "offered under" in card.text.replace("\n", " ") and "none stated" in card.text
    assert all(m.sha256[:12] in card.text for m in MANIFEST.members)


def table_rows(text: str, after: str, columns: int) -> list[list[str]]:
    """Cells of the table that follows a sentence."""
    lines = text[text.index(after) :].split("\n\n")[1].splitlines()[2:]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert all(len(r) == columns for r in rows)
    return rows


def test_a_card_without_lgg_has_no_non_commercial_terms(result: dict):
    free = replace(MANIFEST.training, sources=("figshare", "healthy", "navoneel"), license="CC BY 4.0")
    text = cards.card(replace(MANIFEST, training=free), result)
    assert "license: cc-by-4.0" in text and "NonCommercial" not in text and "CC BY-NC-SA" not in text
    assert "TCGA-LGG" not in text


@pytest.mark.parametrize("what", ["missing", "other weights", "trial"])
def test_a_card_is_refused_for_figures_that_are_not_its_own(
    what: str, data: Path, tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cards, "load_manifest", lambda folder: replace(MANIFEST, digest="f" * 64))
    if what == "other weights":
        reader.manifest = replace(MANIFEST, digest="e" * 64)
    if what != "missing":
        run(data, tmp_path, limit=2 if what == "trial" else None)
    with pytest.raises(DataError, match="neurovision evaluate"):
        write_card(None, tmp_path / "out" / "evaluation.json", tmp_path / "card.md")
