"""The shipped ensemble from a Study to Findings, and the command line around it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import stored_output
from PIL import Image
from typer.testing import CliRunner

from neurovision.classes import FIRST_TUMOR
from neurovision.cli import app
from neurovision.commands.options import EngineChoice
from neurovision.ensemble.engine import ENGINES, OpenVinoEngine, ReferenceEngine
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.precision import Change, bfloat16_change, compare, computes_in_bfloat16
from neurovision.scan.phantom import KINDS, phantom, phantom_volume
from neurovision.scan.study import Source, Study
from neurovision.training.dataset import load_index

KEYS = {
    "status", "reason", "verdict", "tumor_probability", "tumor_type", "type_probabilities", "regions", "models",
    "disagreement", "timing_ms", "weights", "source",
}  # fmt: skip


def save(folder, name, kind="glioma", seed=4):
    study, truth = phantom(kind, seed)
    Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8)).save(folder / name)
    return truth


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


class TestAnalyzer:
    @pytest.mark.parametrize("kind", KINDS[1:])
    def test_finds_the_phantoms_tumors(self, analyzer, kind):
        """Phantoms were part of training with other seeds; here the mask must fit and the verdict be right."""
        scores = []
        for seed in range(3):
            study, truth = phantom(kind, seed)
            findings = analyzer.analyze(study)
            found, true = findings.mask >= FIRST_TUMOR, truth >= FIRST_TUMOR
            scores.append(2 * (found & true).sum() / max((found.sum() + true.sum()), 1))
            assert findings.positive
        assert np.mean(scores) > 0.6

    def test_calls_healthy_phantoms_healthy(self, analyzer):
        assert sum(not analyzer.analyze(phantom("healthy", s)[0]).positive for s in range(4)) >= 3

    def test_findings_are_in_the_files_geometry(self, analyzer):
        study, _ = phantom("meningioma", 2, 300)
        wide = Study(np.ascontiguousarray(study.pixels[:, 20:280]), study.source)
        f = analyzer.analyze(wide)
        for plane in (f.mask, f.tumor_map, f.uncertainty, *(m.mask for m in f.members)):
            assert plane.shape == (260, 300)
        assert f.mask.dtype == np.uint8 and set(np.unique(f.mask)) <= set(range(5))
        assert f.overlay().shape == (260, 300, 3)
        assert f.uncertainty.min() >= 0 and f.uncertainty.max() <= 1
        assert sum(f.verdict.types.values()) == pytest.approx(1)
        assert len(f.members) == 5 and f.weights == analyzer.manifest.digest[:12]
        assert set(json.loads(json.dumps(f.to_json()))) >= KEYS

    def test_spacing_gives_square_millimeters(self, analyzer):
        study, _ = phantom("glioma", 4)
        f = analyzer.analyze(Study(study.pixels, study.source, (None, 0.5, 0.5)))
        assert f.regions and f.regions[0].area_mm2 == pytest.approx(f.regions[0].area_px / 4)

    def test_noise_is_rejected(self, analyzer):
        noise = np.random.default_rng(1).random((1, 200, 200, 1)).astype(np.float32)
        f = analyzer.analyze(Study(noise, Source("noise", "array")))
        assert f.status == "rejected" and f.verdict is None and f.reason and not f.mask.any()

    def test_slices_of_a_volume_equal_single_slices(self, analyzer):
        study, _ = phantom_volume("glioma", 1, 96, 11)
        together = list(analyzer.analyze_slices(study))
        assert [f.slice_index for f in together] == list(range(11))
        alone = analyzer.analyze(study, 5)
        assert (alone.mask != together[5].mask).mean() < 1e-3

    def test_no_such_slice(self, analyzer):
        with pytest.raises(IndexError, match="no slice 3"):
            analyzer.analyze(phantom("healthy", 0)[0], 3)

    def test_engine_agrees_with_the_reference_in_float32(self, analyzer):
        canvases = np.random.default_rng(0).normal(size=(2, analyzer.manifest.size, analyzer.manifest.size))
        canvases = canvases.astype(np.float32)
        reference = ReferenceEngine(analyzer.manifest).predict(canvases)
        assert np.abs(reference - OpenVinoEngine(analyzer.manifest, "f32").predict(canvases)).max() < 5e-3

    def test_output_is_the_stored_one(self, analyzer):
        """Within what another processor or bfloat16 changes."""
        stored = json.loads(stored_output.FILE.read_text())
        assert stored["weights"] == analyzer.manifest.digest, "other weights ship: run python -m tests.stored_output"
        given = stored_output.output(analyzer)
        for before, after in zip(stored["scans"], given["scans"], strict=True):
            masks = [stored_output.unpacked(scan.pop("mask")) for scan in (before, after)]
            assert (masks[0] != masks[1]).mean() <= 1e-3
            types = [scan.pop("type_probabilities") for scan in (before, after)]
            assert types[1] == pytest.approx(types[0], abs=0.02)
            assert after == pytest.approx(before, abs=0.02)


class TestPrecision:
    def test_change_by_hand(self):
        truths = [np.zeros((10, 10), bool), np.zeros((5, 20), bool)]
        truths[0][:2] = True  # the second slice has no tumor, and so no Dice
        before = [np.where(truth, 3, 1) for truth in truths]
        after = [labels.copy() for labels in before]
        after[0][1, 5:] = 1  # 15 of 20 found
        after[1][0, 0] = 0
        change = compare(before, after, truths)
        assert change.labels == pytest.approx(6 / 200)
        assert change.dice == pytest.approx(1 - 30 / 35)
        assert compare(after, before, truths).dice == pytest.approx(change.dice)

    @pytest.mark.parametrize(("labels", "dice", "allowed"), [(0.001, 0.0, True), (0.0011, 0.0, False), (0.0, 0.001, False)])
    def test_the_rule(self, labels, dice, allowed):
        assert Change(labels, dice).allowed == allowed

    def test_bfloat16_runs_where_heads_allow_it(self, analyzer):
        core = analyzer.engine._core
        here = computes_in_bfloat16(core) and bfloat16_change(core, analyzer.engine._model, analyzer.manifest.size).allowed
        assert analyzer.engine.precision == ("bf16" if here else "f32")

    @pytest.mark.slow
    def test_votes_on_real_heads_keep_the_rule(self, analyzer, scans):
        """The check sees phantoms and the members' mean; here the masks that people get of patients are compared."""
        if analyzer.engine.precision != "bf16":
            pytest.skip("the networks run in float32 here")
        plain = Analyzer(analyzer.manifest, OpenVinoEngine(analyzer.manifest, "f32"), analyzer.voter)
        items = [i for i in load_index(scans, ["figshare", "lgg"], [4]) if i.tumor]
        before, after, truths = [], [], []
        for item in items[:: len(items) // 40]:
            study = Study(item.gray()[None, ..., None], Source(item.id, "array"))
            before.append(plain.analyze(study).mask)
            after.append(analyzer.analyze(study).mask)
            truths.append(item.truth())
        assert compare(before, after, truths).allowed


class TestPredict:
    def test_writes_the_three_files_of_each_scan(self, tmp_path):
        truth = save(tmp_path, "scan.png")
        (tmp_path / "more").mkdir()
        save(tmp_path / "more", "scan.png", "healthy")
        result = run("predict", tmp_path / "scan.png", tmp_path / "more", "--out", tmp_path / "out")
        assert result.exit_code == 0, result.output
        names = {p.name for p in (tmp_path / "out").iterdir()}
        first = f"{tmp_path.name}_scan"  # two files of one name take their folders' names
        assert names == {f"{s}.{e}" for s in (first, "more_scan") for e in ("json", "mask.png", "overlay.png")}
        findings = json.loads((tmp_path / "out" / f"{first}.json").read_text())
        assert set(findings) >= KEYS and findings["status"] == "ok" and findings["verdict"] in ("tumor", "no tumor")
        assert 0 <= findings["tumor_probability"] <= 1
        assert {m["name"] for m in findings["models"]} == {"unet", "unetpp", "linknet", "unet_efficientnet", "dgnet"}
        mask = np.asarray(Image.open(tmp_path / "out" / f"{first}.mask.png"))
        assert mask.dtype == np.uint8 and mask.shape == truth.shape and mask.max() <= 4
        assert np.asarray(Image.open(tmp_path / "out" / f"{first}.overlay.png")).shape == (*truth.shape, 3)

    def test_a_bad_file_is_named_and_the_rest_goes_on(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"not a picture")
        save(tmp_path, "b.png")
        result = run("predict", tmp_path / "a.png", tmp_path / "b.png", "--out", tmp_path / "out")
        assert result.exit_code == 1
        assert "a.png: this is not a readable" in result.stderr and "Traceback" not in result.output
        assert json.loads((tmp_path / "out" / "a.json").read_text())["status"] == "unread"
        assert (tmp_path / "out" / "b.mask.png").is_file()
        assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.json", "b.json", "b.mask.png", "b.overlay.png"}

    def test_usage_errors_exit_with_two(self, tmp_path):
        assert run("predict").exit_code == 2
        assert run("predict", tmp_path, "--engine", "warp", "--out", tmp_path).exit_code == 2

    def test_an_empty_folder_is_said(self, tmp_path):
        result = run("predict", tmp_path, "--out", tmp_path / "out")
        assert result.exit_code == 1 and "no scan" in result.stderr


def test_models_lists_what_ships():
    rows = json.loads(run("models", "--json").stdout)
    voting = [r for r in rows if r["votes"]]
    assert len(voting) == 5 and all(r["weights"] and r["parameters"] for r in voting)
    assert {"r2attunet", "attention_unet"} <= {r["name"] for r in rows}
    table = run("models").stdout
    assert all(r["title"] in table for r in rows)


def test_engine_names_stand_once():
    assert tuple(e.value for e in EngineChoice) == ENGINES


def test_help_is_instant_because_nothing_heavy_is_imported():
    import subprocess
    import sys

    code = (
        "import sys; import neurovision.cli; "
        "print([m for m in ('keras','tensorflow','gradio','sklearn','xgboost','cv2') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_a_hundred_real_scans_in_one_call(scans, tmp_path):
    files = sorted((scans / "figshare" / "images").iterdir())[::48][:50]
    files += sorted((scans / "lgg" / "images").iterdir())[::48][:50]
    result = run("predict", *files, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.glob("*.json"))) == len(files) == 100
