"""Losses by hand, data that break rules, and a whole tiny training."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from neurovision.errors import DataError, WeightsMissing
from neurovision.scan.phantom import phantom
from neurovision.scan.prepare import standardize
from neurovision.training import dataset
from neurovision.training.augment import augment
from neurovision.training.dataset import SOURCES, data_root, load_index, pack


@pytest.fixture
def folder(tmp_path):
    """A prepared folder of phantoms: two scans of each kind a fold, three folds."""
    root = tmp_path / "data"
    kinds = {
        "figshare": ("glioma", "meningioma", "pituitary"), "lgg": ("glioma", "none"), "navoneel": ("tumor", "none"),
        "healthy": ("none",), "brats": ("glioma", "none"), "ms": ("none",),
    }  # fmt: skip
    seed = 0
    for source in SOURCES:
        rows = []
        for part in ("images", "masks"):
            (root / source / part).mkdir(parents=True)
        for fold in (1, 2, 3):
            for label in kinds[source] * 2:
                seed += 1
                study, truth = phantom({"none": "healthy", "tumor": "glioma"}.get(label, label), seed, 96)
                gray = np.rint(study.gray() * 255).astype(np.uint8)
                image = f"images/{seed}.png"
                Image.fromarray(np.dstack([gray // 2, gray, gray]) if source == "lgg" else gray).save(root / source / image)
                mask = ""
                if source in ("figshare", "lgg", "brats"):
                    mask = f"masks/{seed}.png"
                    Image.fromarray((truth > 1).astype(np.uint8) * 255).save(root / source / mask)
                row = {"id": seed, "image": image, "patient": f"p{seed}", "label": label, "fold": fold, "mask": mask}
                rows.append(row | ({"sequence": "T2"} if source in ("brats", "ms") else {}))
        with (root / source / "index.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return root


def rewrite(folder, source, change):
    path = folder / source / "index.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


class TestLoss:
    def value(self, truth, probabilities, **options):
        from neurovision.training.losses import CrossEntropyDice

        loss = CrossEntropyDice((1.0,) * 5, **options)
        return float(loss(np.array(truth)[None, None], np.array(probabilities, np.float32)[None, None]))

    def test_perfect_is_zero_and_worst_is_large(self):
        right = np.eye(5)[[0, 2]]
        assert self.value([0, 2], right) == pytest.approx(0, abs=1e-5)
        assert self.value([0, 2], np.eye(5)[[2, 0]]) > 10

    def test_by_hand(self):
        half = [[0.5, 0.5, 0, 0, 0], [0, 0.5, 0.5, 0, 0]]
        entropy = -np.log(0.5)
        dice = (2 * 0.5 + 1) / (0.5 + 1 + 1)  # the same for any type and for the one class that is there
        assert self.value([0, 2], half, dice=0.0, kind=0.0) == pytest.approx(entropy, rel=1e-5)
        assert self.value([0, 2], half, kind=0.0) == pytest.approx(entropy + 1 - dice, rel=1e-4)

    def test_the_type_counts_on_tumor_pixels_alone(self):
        doubtful = [[1, 0, 0, 0, 0], [0, 0.6, 0.1, 0.3, 0]]
        plain, typed = (self.value([0, 2], doubtful, kind=k) for k in (0.0, 1.0))
        assert typed - plain == pytest.approx(-np.log(0.1 / 0.4), rel=1e-4)

    def test_a_tumor_of_any_type_asks_for_no_type(self):
        doubtful = [[1, 0, 0, 0, 0], [0, 0.6, 0.1, 0.3, 0]]  # 0.4 for a tumor, whichever
        assert self.value([0, 5], doubtful, dice=0.0) == pytest.approx(-np.log(0.4) / 2, rel=1e-4)
        dice = (2 * 0.4 + 1) / (0.4 + 1 + 1)
        assert self.value([0, 5], doubtful) == pytest.approx(-np.log(0.4) / 2 + 1 - dice, rel=1e-4)

    def test_without_a_tumor_only_cross_entropy_is_left(self):
        half = [[0.5, 0, 0.5, 0, 0]] * 2
        assert self.value([0, 0], half) == pytest.approx(-np.log(0.5), rel=1e-5)

    def test_class_weights_count(self):
        from neurovision.training.losses import CrossEntropyDice

        y, p = np.full((1, 1, 1), 2), np.full((1, 1, 1, 5), 0.2, np.float32)
        one, three = (CrossEntropyDice((1, 1, w, 1, 1), dice=0, kind=0)(y, p) for w in (1, 3))
        assert float(three) == pytest.approx(3 * float(one), rel=1e-5)

    def test_an_open_type_teaches_that_there_is_a_tumor(self):
        from neurovision.training.losses import AllowedCrossEntropy, allowed_accuracy

        said = np.array([[0.1, 0.2, 0.3, 0.35, 0.05]], np.float32)
        for allowed, share in (([0, 1, 1, 1, 0], 0.85), ([0, 0, 0, 1, 0], 0.35), ([0, 0, 0, 0, 1], 0.05)):
            truth = np.array([allowed], np.float32)
            assert float(AllowedCrossEntropy(0.0)(truth, said)) == pytest.approx(-np.log(share), rel=1e-5)
        assert [float(allowed_accuracy(np.eye(5)[[k]], said)[0]) for k in range(5)] == [0, 0, 0, 1, 0]

    def test_fused_operations_is_keras_normalization(self):
        import keras

        from neurovision.training.trainer import fused_operations

        x = np.random.default_rng(0).normal(2, 3, (4, 8, 8, 3)).astype(np.float32)
        y = np.random.default_rng(1).normal(0, 1, x.shape).astype(np.float32)
        found = []
        for fused in (False, True):
            keras.utils.set_random_seed(1)
            layer = keras.layers.BatchNormalization(momentum=0.9)
            model = keras.Sequential([keras.Input(x.shape[1:]), layer])
            model.compile("sgd", "mse")
            if fused:
                with fused_operations():
                    loss = model.train_on_batch(x, y)
            else:
                loss = model.train_on_batch(x, y)
            found.append([np.asarray(loss), *(np.asarray(v) for v in layer.variables if v.dtype == "float32")])
        count = x[..., 0].size
        found[0][-1] = 0.9 + (found[0][-1] - 0.9) * count / (count - 1)  # the fused variance is without bias
        for plain, quick in zip(*found, strict=True):
            np.testing.assert_allclose(plain, quick, rtol=1e-4)

    def test_score_pools_pixels(self):
        from neurovision.training.losses import TumorDice

        score = TumorDice()
        score.update_state(np.array([[[2, 2, 1]]]), np.eye(5)[[3, 1, 1]][None, None])
        assert float(score.result()) == pytest.approx(2 * 1 / (2 + 1))


class TestAugment:
    def test_strength_zero_changes_nothing(self):
        p, t = np.random.default_rng(0).random((32, 32)).astype(np.float32), np.eye(32, dtype=np.uint8)
        a, b = augment(p, t, np.random.default_rng(1), 0)
        assert a is p and b is t

    def test_range_type_and_labels_stay(self):
        study, truth = phantom("glioma", 1, 96)
        for seed in range(30):
            p, t = augment(study.gray(), truth, np.random.default_rng(seed))
            assert p.dtype == np.float32 and p.min() >= 0 and p.max() <= 1
            assert t.dtype == np.uint8 and set(np.unique(t)) <= {0, 1, 2}

    def test_picture_and_truth_move_together(self):
        marks = np.zeros((64, 64), np.float32)
        marks[20:40, 30:45] = 1
        for seed in range(20):
            p, t = augment(marks, (marks * 2).astype(np.uint8), np.random.default_rng(seed))
            both = ((p > 0.3) & (t > 0)).sum()
            assert both > 0.85 * max((t > 0).sum(), 1)


class TestIndex:
    def test_reads_all_sources(self, folder):
        items = load_index(folder)
        assert {i.source for i in items} == set(SOURCES)
        assert len(load_index(folder, ["lgg"], sequences=("FLAIR", "T1c"))) == 2 * len(load_index(folder, ["lgg"]))

    def test_one_sequence_of_a_color_picture(self, folder):
        t1, flair = (load_index(folder, ["lgg"], sequences=(s,))[0].gray() for s in ("T1", "FLAIR"))
        assert t1.max() < 0.6 * flair.max()

    def test_a_patient_in_two_folds_is_refused(self, folder):
        rewrite(folder, "lgg", lambda rows: [r.update(patient="same") for r in rows])
        with pytest.raises(DataError, match="patient same stands in folds"):
            load_index(folder)

    def test_an_empty_fold_is_refused(self, folder):
        with pytest.raises(DataError, match="nothing in fold 7"):
            load_index(folder, folds=[1, 7])

    def test_a_missing_file_is_named(self, folder):
        next((folder / "figshare" / "masks").iterdir()).unlink()
        with pytest.raises(DataError, match="not there"):
            load_index(folder)

    def test_a_tumor_without_a_mask_is_refused(self, folder):
        rewrite(folder, "figshare", lambda rows: rows[0].update(mask=""))
        with pytest.raises(DataError, match="has no mask"):
            load_index(folder)

    def test_an_unknown_label_is_refused(self, folder):
        rewrite(folder, "healthy", lambda rows: rows[0].update(label="cat"))
        with pytest.raises(DataError, match="'cat'"):
            load_index(folder)

    def test_a_mask_of_another_size_is_refused(self, folder):
        item = load_index(folder, ["figshare"])[0]
        Image.new("L", (50, 40)).save(item.mask)
        with pytest.raises(DataError, match="50 x 40"):
            item.canvas(64)

    def test_no_data_folder(self, monkeypatch, tmp_path):
        monkeypatch.delenv("NEUROVISION_DATA", raising=False)
        with pytest.raises(DataError, match="NEUROVISION_DATA"):
            data_root()
        with pytest.raises(DataError, match="does not exist"):
            data_root(tmp_path / "none")

    def test_packs_are_kept(self, folder, tmp_path, monkeypatch):
        items = load_index(folder, ["figshare"], [1])
        pixels, labels = pack(items, 64, tmp_path / "cache")
        assert pixels.shape == (6, 64, 64) and set(np.unique(labels)) == {0, 1, 2, 3, 4}

        def remade(*_):
            raise AssertionError("canvases were made again")

        monkeypatch.setattr(dataset.Item, "canvas", remade)
        again, kept = pack(items, 64, tmp_path / "cache")
        assert np.array_equal(pixels, again) and np.array_equal(labels, kept)

    def test_a_corrected_mask_makes_a_new_pack(self, folder, tmp_path):
        items = load_index(folder, ["figshare"], [1])
        _, before = pack(items, 64, tmp_path / "cache")
        with Image.open(items[0].mask) as picture:
            mask = np.asarray(picture).copy()
        mask[:, mask.any(0).nonzero()[0].mean().astype(int) :] = 0  # half of the tumor was drawn by mistake
        Image.fromarray(mask).save(items[0].mask)
        _, after = pack(items, 64, tmp_path / "cache")
        assert (after[0] >= 2).sum() < 0.7 * (before[0] >= 2).sum() and np.array_equal(before[1:], after[1:])

    def test_two_first_packs_at_once_make_one(self, folder, tmp_path, monkeypatch):
        items = load_index(folder, ["figshare"], [1])
        made, plain = [], dataset.Item.canvas

        def counted(item, size):
            made.append(item.id)
            return plain(item, size)

        monkeypatch.setattr(dataset.Item, "canvas", counted)
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda _: pack(items, 64, tmp_path / "cache"), range(3)))
        assert sorted(made) == sorted(i.id for i in items)
        assert all(np.array_equal(p, found[0][0]) and np.array_equal(y, found[0][1]) for p, y in found)

    def test_real_folds_keep_patients_apart(self, scans):
        items = load_index(scans, ["lgg"])
        folds = {}
        for i in items:
            folds.setdefault(i.patient, set()).add(i.fold)
        assert len(folds) == 100 and all(len(f) == 1 for f in folds.values())


def first_kernel(path):
    with h5py.File(path) as file:
        return file["layers/conv2d/vars/0"][...]


class TestTraining:
    def recipe(self, epochs=1):
        from neurovision.training.recipes import Phase, Recipe

        phases = (Phase(32, epochs, 1e-3), Phase(48, 1, 1e-3), Phase(48, 1, 1e-3, refit=True))
        return Recipe("unet", {"width": 2}, phases, batch=4, epoch_scans=16, schedule="cosine", warmup=0.1)

    @pytest.mark.slow
    def test_trains_resumes_and_stacks(self, folder, tmp_path, monkeypatch):
        """One tiny member through training, a killed run's resumption, the vote, and serving; then with a classifier."""
        from neurovision.ensemble.engine import KerasEngine, load_engine
        from neurovision.ensemble.pipeline import Analyzer
        from neurovision.ensemble.weights import load_manifest
        from neurovision.training import fit, stack
        from neurovision.training.identity import fitted_on
        from neurovision.training.recipes import Phase, recipe

        runs = tmp_path / "runs"
        monkeypatch.setattr(fit, "PHANTOMS", 8)
        saved = fit.save_weights

        def killed(model, path):
            if path.name.startswith("phase1"):
                raise KeyboardInterrupt
            saved(model, path)

        monkeypatch.setattr(fit, "save_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            fit.train(self.recipe(), folder, (1, 2), 3, runs / "unet", verbose=0)
        first = (runs / "unet" / "phase0.weights.h5").stat().st_mtime_ns
        assert not (runs / "unet" / "final.weights.h5").exists()
        monkeypatch.setattr(fit, "save_weights", saved)
        final = fit.train(self.recipe(), folder, (1, 2), 3, runs / "unet", verbose=0)
        assert final.is_file() and (runs / "unet" / "phase0.weights.h5").stat().st_mtime_ns == first
        assert (runs / "unet" / "history.png").is_file()
        with (runs / "unet" / "history.csv").open() as file:
            assert len(list(csv.DictReader(file))) == 3
        before = runs / "unet" / fit.OUT_OF_FOLD
        ends = [first_kernel(runs / "unet" / f"phase{k}.weights.h5") for k in range(3)]
        np.testing.assert_array_equal(first_kernel(before), ends[1])
        np.testing.assert_array_equal(first_kernel(final), ends[2])
        loaded = []

        def keras_engine(manifest):  # converting takes longer than all else here
            loaded.append([m.sha256 for m in manifest.members])
            return KerasEngine(manifest)

        monkeypatch.setattr(stack, "load_engine", keras_engine)
        with pytest.raises(DataError, match="was trained on fold 2"):
            stack.stack(folder, runs, tmp_path / "weights", 2, ["unet"])
        stack.stack(folder, runs, tmp_path / "weights", 3, ["unet"], None)
        manifest = load_manifest(tmp_path / "weights")
        assert manifest.training.member_folds == (1, 2) and manifest.training.refitted == {"unet": (1, 2, 3)}
        figshare = load_index(folder, ["figshare"])
        assert fitted_on(manifest, figshare) == [i.fold < 4 for i in figshare]
        assert loaded[0] != loaded[1] == [m.sha256 for m in manifest.members], "fitted on the first, shipped the second"
        assert not list(tmp_path.glob(".weights-*"))
        findings = Analyzer.load(tmp_path / "weights", "keras").analyze(phantom("glioma", 0)[0])
        assert findings.status == "ok" and [m.name for m in findings.members] == ["unet"]

        monkeypatch.setattr(fit, "STRANGE", 8)
        with pytest.raises(WeightsMissing, match="dgnet has no finished run"):
            stack.stack(folder, runs, tmp_path / "weights", 3)
        reader = replace(recipe("efficientnetlite0"), phases=(Phase(48, 1, 1e-3, "depthwise"),), epoch_scans=24, batch=4)
        reader = replace(reader, config={"answers": 5})
        fit.train(reader, folder, (1, 2), 3, runs / "efficientnetlite0", verbose=0)
        stack.stack(folder, runs, tmp_path / "weights", 3, ["unet"])
        analyzer = Analyzer.load(tmp_path / "weights", "openvino")
        told = analyzer.manifest
        assert told.size == 48 and told.networks[-1].provenance.license == "CC BY-NC-SA 4.0"
        assert told.vote.provenance.folds == (3,) and told.verdict.provenance.hardware
        assert told.classifier is not None and told.out_of_distribution is not None and len(told.verdict.coefficients) == 6
        assert told.out_of_distribution.warn <= told.out_of_distribution.refuse
        canvases = np.random.default_rng(0).normal(size=(3, 48, 48)).astype(np.float32)
        fast, plain = (e.classify(canvases) for e in (analyzer.engine, load_engine(told, "reference")))
        for a, b in zip(fast, plain, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3)
        assert fast[0].shape == (3, 5) and fast[0].sum(1) == pytest.approx(1, abs=1e-4)
        assert analyzer.analyze(phantom("glioma", 0)[0]).status in ("ok", "rejected")

    def test_runs_that_do_not_fit_together_are_not_stacked(self, folder, tmp_path):
        """Sizes, folds and terms of every run count, the classifier's too."""
        from neurovision.training import fit, stack
        from neurovision.training.observed import Part
        from neurovision.training.runs import read_runs

        def finished(name, size=160, folds=(1, 2), sources=("figshare",)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / fit.FINAL).touch()
            told = {"recipe": {"config": {}, "phases": [{"size": size}]}, "folds": folds, "sources": sources}
            (tmp_path / name / "run.json").write_text(json.dumps(told))

        names = ["unet", "linknet", "efficientnetlite0"]
        for name in names:
            finished(name)
        read = read_runs(folder, tmp_path, names, 3)
        assert [r.license for r in read] == ["CC BY 4.0"] * 3
        finished("linknet", 512)  # as --published trains it
        with pytest.raises(DataError, match=r"canvases of side alike; received unet, efficientnetlite0: 160; linknet: 512"):
            read_runs(folder, tmp_path, names, 3)
        finished("linknet", folds=(1, 4))
        with pytest.raises(DataError, match=r"folds alike; .* 1, 2; linknet: 1, 4\."):
            read_runs(folder, tmp_path, names, 3)
        finished("linknet", folds=(1, 3))
        with pytest.raises(DataError, match="linknet was trained on fold 3"):
            read_runs(folder, tmp_path, names, 3)
        finished("linknet")
        finished("efficientnetlite0", sources=("figshare", "lgg"))  # LGG's terms reach the set by any part
        read = read_runs(folder, tmp_path, names, 3)
        assert stack._facts([Part(3, tuple(read), [])], ("figshare", "lgg"), False).license == "CC BY-NC-SA 4.0"

    @pytest.mark.slow
    def test_the_vote_is_cross_fitted(self, folder, tmp_path, monkeypatch):
        """Each fold is said by networks that were trained without it; the classifier of the first sets the refusal."""
        from typer.testing import CliRunner

        from neurovision.cli import app
        from neurovision.ensemble.engine import KerasEngine
        from neurovision.ensemble.weights import load_manifest
        from neurovision.evaluation.ablation import JSON, ablate
        from neurovision.training import fit, recipes, stack
        from neurovision.training.recipes import Phase, Recipe

        def tiny(name):
            if name == "efficientnetlite0":
                return Recipe(name, {"answers": 5}, (Phase(32, 1, 1e-3),), batch=4, epoch_scans=8, task="type")
            return replace(self.recipe(), phases=(Phase(32, 1, 1e-3), Phase(32, 1, 1e-3, refit=True)))

        monkeypatch.setattr(fit, "PHANTOMS", 8)
        monkeypatch.setattr(fit, "STRANGE", 8)
        monkeypatch.setattr(recipes, "recipe", tiny)
        monkeypatch.setattr(stack, "load_engine", KerasEngine)  # converting takes longer than all else here
        runs, where = tmp_path / "runs", ["--data", str(folder), "--runs", str(tmp_path / "runs")]
        for name in ("unet", "efficientnetlite0"):
            told = CliRunner().invoke(app, ["train", name, *where, "--cross-fit"], catch_exceptions=False)
            assert told.exit_code == 0, told.output
        for fold, others in ((1, [2, 3]), (2, [1, 3])):
            kept = runs / f"without-fold-{fold}" / "unet"
            described = json.loads((kept / "run.json").read_text())
            assert described["folds"] == others and described["validation_fold"] == fold
            assert "refit_folds" not in described and not (kept / fit.OUT_OF_FOLD).exists()
        asked, said = [], stack.observed_of

        def watched(parts, engine, cache):
            asked.extend(parts)
            return said(parts, engine, cache)

        monkeypatch.setattr(stack, "observed_of", watched)
        stack.stack(folder, runs, tmp_path / "weights", 3, ["unet"], cross_fit=True)
        manifest = load_manifest(tmp_path / "weights")
        assert manifest.training.vote_fold == 3 and manifest.training.vote_folds == (1, 2, 3)
        assert manifest.vote.provenance.folds == manifest.verdict.provenance.folds == (1, 2, 3)
        assert [{i.fold for i in items} for _, items in asked] == [{3}, {1}, {2}]
        assert manifest.verdict.fitted.scans == sum(len(items) for _, items in asked)
        seen = [networks.members[0].provenance.folds for networks, _ in asked]
        assert seen[1:] == [(2, 3), (1, 3)]
        digests = [networks.members[0].sha256 for networks, _ in asked]
        assert len({*digests, manifest.members[0].sha256}) == 4, "three networks asked, a fourth shipped"
        monkeypatch.setattr("neurovision.evaluation.ablation.load_engine", KerasEngine)
        ablate(folder, runs, tmp_path / "out", 3, ["unet"], every=1, cross_fit=True)
        about = json.loads((tmp_path / "out" / JSON).read_text())["about"]
        outlined = [i for _, some in asked for i in some if i.tumor and i.mask and (i.source, i.sequence) != ("lgg", "T1c")]
        assert about["folds"] == [1, 2, 3] and about["slices"] == len(outlined) > 0
        described["folds"] = [3]
        (kept / "run.json").write_text(json.dumps(described))
        with pytest.raises(DataError, match=r"unet without fold 2 .* other folds than 1, 3 or other data sets"):
            stack.stack(folder, runs, tmp_path / "weights", 3, ["unet"], None, cross_fit=True)
        described |= {"folds": [1, 3], "sources": ["figshare"]}
        (kept / "run.json").write_text(json.dumps(described))
        with pytest.raises(DataError, match="unet without fold 2 is another network"):
            stack.stack(folder, runs, tmp_path / "weights", 3, ["unet"], None, cross_fit=True)
        (kept / fit.FINAL).unlink()
        with pytest.raises(WeightsMissing, match=r"without fold 2; train it with 'neurovision train unet --cross-fit'"):
            stack.stack(folder, runs, tmp_path / "weights", 3, ["unet"], None, cross_fit=True)

    def test_members_are_those_whose_cards_say_that_they_vote(self):
        from neurovision.segmenters import cards
        from neurovision.training.clock import voting

        assert voting() == [c.name for c in cards() if c.votes] and len(voting()) == 5

    def test_strictest_terms(self, tmp_path):
        from neurovision.training.provenance import LICENSES, license_of, strictest

        assert set(LICENSES) == set(SOURCES)
        assert strictest(["CC BY 4.0", "none stated", "CC0 1.0"]) == "CC BY 4.0"
        assert strictest(LICENSES.values()) == "CC BY-NC-SA 4.0"
        assert strictest(["CC BY 4.0", license_of(tmp_path, "ours")]) == "CC BY 4.0, not stated"
        (tmp_path / "ours").mkdir()
        (tmp_path / "ours" / "about.json").write_text('{"license": "CC BY-NC 4.0"}')
        assert strictest(["CC BY 4.0", license_of(tmp_path, "ours")]) == "CC BY-NC 4.0"
        (tmp_path / "ours" / "about.json").write_text("{}")
        with pytest.raises(DataError, match="license"):
            license_of(tmp_path, "ours")

    def test_validation_must_be_unseen(self, folder, tmp_path):
        from neurovision.training.fit import train

        with pytest.raises(DataError, match="cannot validate"):
            train(self.recipe(), folder, (1, 2), 2, tmp_path / "run", verbose=0)

    def test_batches_depend_on_nothing_but_seed_epoch_and_index(self):
        from neurovision.training.fit import Batches
        from neurovision.training.recipes import Recipe

        rng = np.random.default_rng(0)
        sizes = {"ms": 5, "healthy": 7}
        groups = {g: (rng.random((n, 32, 32), np.float32), np.ones((n, 32, 32), np.uint8)) for g, n in sizes.items()}
        recipe = Recipe("unet", batch=4, epoch_scans=16, mix={"ms": 0.5, "healthy": 0.5}, augment=0.0, randomize=0.0)
        first, second = (Batches(groups, recipe, 1) for _ in range(2))
        first.epoch = second.epoch = 3
        for index in (2, 0, 2):  # in any order, and asked for again
            assert np.array_equal(first[index][0], second[index][0])
        dealt = {0: [], 1: []}
        for epoch in range(6):
            for row in first._chosen(epoch):
                for which, k in row:
                    dealt[which].append(k)
        for which, size in ((0, 5), (1, 7)):  # every scan once before any comes up again
            assert all(len(set(dealt[which][k : k + size])) == size for k in range(0, len(dealt[which]) - size + 1, size))
        assert first._chosen(0) != first._chosen(1)

    @pytest.mark.parametrize("plan", ["cosine", "early"])
    def test_the_loop_resumes_exactly(self, plan, tmp_path, monkeypatch):
        """Killed after each epoch and resumed, the weights are those of a loop that was not, to the last bit."""
        import keras

        from neurovision.training import trainer

        plans = {
            "cosine": trainer.Plan(3, 1e-2, "cosine", 0.1, clip=1.0),
            "early": trainer.Plan(6, 0.5, patience=2, plateau=1),  # the rate is too high on purpose
        }

        class Noise(keras.utils.PyDataset):
            def __init__(self):
                super().__init__()
                self.epoch = 0

            def __len__(self):
                return 2

            def __getitem__(self, index):
                rng = np.random.default_rng([self.epoch, index])
                return rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(4, 1)).astype(np.float32)

        def fitted(folder):
            keras.utils.clear_session()
            keras.utils.set_random_seed(1)
            inner = [keras.layers.Dense(4, name="a"), keras.layers.BatchNormalization(name="n"), keras.layers.Dropout(0.5)]
            model = keras.Sequential([keras.Input((3,)), *inner, keras.layers.Dense(1, name="b")])
            checks = (np.ones((4, 3), np.float32), np.ones((4, 1), np.float32))
            done = trainer.fit(model, Noise(), checks, plans[plan], "mse", folder=folder)
            return done.epochs, model.get_weights()

        (tmp_path / "whole").mkdir()
        (tmp_path / "cut").mkdir()
        epochs, whole = fitted(tmp_path / "whole")
        kept = trainer.write

        def killed(path, data):
            kept(path, data)
            if path.name == "training_metadata.json":
                raise KeyboardInterrupt

        monkeypatch.setattr(trainer, "write", killed)
        for _ in range(epochs):
            with pytest.raises(KeyboardInterrupt):
                fitted(tmp_path / "cut")
        monkeypatch.setattr(trainer, "write", kept)
        again, cut = fitted(tmp_path / "cut")
        assert again == epochs and all(np.array_equal(a, b) for a, b in zip(whole, cut, strict=True))
        rows = [[*csv.DictReader((tmp_path / name / "history.csv").open())] for name in ("whole", "cut")]
        assert rows[0] == rows[1] and len(rows[0]) == epochs

    def test_a_time_budget_sets_the_rate_and_the_end(self, tmp_path, monkeypatch):
        """A clock that a batch moves on by a second; the second call resumes what the first had kept."""
        import keras

        from neurovision.training import trainer

        now, rates = [0.0], []
        monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: now[0]))
        monkeypatch.setattr(trainer, "KEEP", 0.0)

        class Ticking(keras.utils.PyDataset):
            epoch = 0

            def __len__(self):
                return 4

            def __getitem__(self, index):
                return np.ones((2, 3), np.float32), np.zeros((2, 1), np.float32)

        class Tick(keras.callbacks.Callback):
            def __init__(self, last):
                super().__init__()
                self.last = last

            def on_train_batch_end(self, batch, logs=None):
                rates.append(float(self.model.optimizer.learning_rate))
                now[0] += 1
                if now[0] == self.last:
                    raise KeyboardInterrupt

        plan = trainer.Plan(0, 1.0, "cosine", 0.2, seconds=11.0)
        assert [plan.rate_at(s) for s in (0, 0.1, 0.2, 0.6, 1, 2)] == pytest.approx([0.05, 0.525, 1, 0.505, 0.01, 0.01])

        def fitted(last=None):
            keras.utils.clear_session()
            keras.utils.set_random_seed(1)
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            compiled = model.compile
            model.compile = lambda **of: compiled(**of)
            plain = trainer._Keeper.on_train_batch_end

            def ticking(self, batch, logs=None):
                Tick.on_train_batch_end(tick, batch)
                plain(self, batch, logs)

            tick = Tick(last)
            tick.set_model(model)
            monkeypatch.setattr(trainer._Keeper, "on_train_batch_end", ticking)
            try:
                return trainer.fit(model, Ticking(), (np.ones((2, 3)), np.ones((2, 1))), plan, "mse", folder=tmp_path)
            finally:
                monkeypatch.setattr(trainer._Keeper, "on_train_batch_end", plain)

        with pytest.raises(KeyboardInterrupt):
            fitted(last=6)  # in the second epoch: the first, 4 seconds, is kept
        assert fitted() == trainer.Fitted(epochs=3, steps=11, seconds=11.0), "in the midst of the third epoch"
        # the first step compiles and is not counted; then shares of the 10 seconds that are left
        shares = [0, 0, 0.1, 0.2, 0.3, 0.4, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        assert rates == pytest.approx([plan.rate_at(s) for s in shares], rel=1e-5)
        with (tmp_path / "history.csv").open() as file:
            assert len([*csv.DictReader(file)]) == 3
        assert fitted() == trainer.Fitted(3, 11, 11.0) and now[0] == 13, "nothing is left to train"

    def test_minutes_are_shared_out(self):
        from neurovision.training.clock import by_clock, networks
        from neurovision.training.recipes import recipe

        recipes = by_clock([recipe(n) for n in networks()], 8, 64, 32, "mixed_bfloat16")
        seconds = {r.name: sum(p.seconds for p in r.phases) for r in recipes}
        assert seconds == {
            "unet": 120, "unetpp": 60, "linknet": 60, "unet_efficientnet": 60, "dgnet": 120, "efficientnetlite0": 60,
        }  # fmt: skip
        for r in recipes:
            assert [p.refit for p in r.phases] == [False, False, True, True]
            assert {p.size for p in r.phases} == {64} and r.batch == 32 and not r.trial
            assert sum(p.seconds for p in r.phases if not p.refit) == pytest.approx(0.7 * seconds[r.name])
            assert {p.closer for p in r.phases} == {recipe(r.name).phases[-1].closer}
            mild = [p for p in r.phases if p.augment is not None]
            assert [p.refit for p in mild] == [False, True]
            assert sum(p.seconds for p in mild) == pytest.approx(0.25 * seconds[r.name])
        crossed = by_clock([recipe(n) for n in networks()], 8, crossed=2)
        unseen = [p for r in crossed for p in r.unseen().phases]
        spent = [sum(p.seconds for p in phases) for phases in ([p for r in crossed for p in r.phases], unseen)]
        assert spent[0] + 2 * spent[1] == pytest.approx(8 * 60, abs=2) and not any(p.refit for p in unseen)
        without = replace(recipe("unet"), phases=recipe("unet").phases[:1]).by_clock(100)
        assert [(p.refit, p.seconds) for p in without.phases] == [(False, 70), (True, 30)], "no mild end in the recipe"

    def test_a_network_by_the_clock(self, folder, tmp_path, monkeypatch):
        """One second, in bfloat16: weights before and after the vote's fold, and what is said of them."""
        from neurovision.training import fit
        from neurovision.training.provenance import facts_of_network
        from neurovision.training.runs import read_runs

        monkeypatch.setattr(fit, "PHANTOMS", 4)
        recipe = replace(self.recipe().by_clock(1.0, 32, 2, "mixed_bfloat16"), epoch_scans=8)
        final = fit.train(recipe, folder, (1, 2), 3, tmp_path / "unet", verbose=0)
        assert not np.array_equal(first_kernel(final), first_kernel(tmp_path / "unet" / fit.OUT_OF_FOLD))
        run = read_runs(folder, tmp_path, ["unet"], 3)[0]
        told = run.provenance
        assert told.scans_seen >= 4 and told.scans_seen % 2 == 0 and told.seconds >= 1 and told.backend == "tensorflow"
        assert told.hardware == facts_of_network(None)["hardware"] and told.folds == (1, 2, 3) and run.size == 32
        assert np.isfinite(run.model(fit.FINAL, 32).predict(np.zeros((1, 32, 32, 1)), verbose=0)).all()
        assert fit.train(recipe, folder, (1, 2), 3, tmp_path / "unet", verbose=0) == final
        with pytest.raises(DataError, match="finished with another recipe"):
            fit.train(self.recipe().by_clock(2.0, 32, 2), folder, (1, 2), 3, tmp_path / "unet", verbose=0)

    def test_goes_on_from_a_finished_run(self, folder, tmp_path, monkeypatch):
        """With the weights of before it refitted, and with what they had been shown."""
        from neurovision.training import fit
        from neurovision.training.recipes import Phase, Recipe

        monkeypatch.setattr(fit, "PHANTOMS", 4)
        phases = (Phase(32, 2, 1e-3), Phase(32, 1, 1e-3, refit=True))
        recipe = Recipe("unet", {"width": 2}, phases, batch=4, epoch_scans=8, schedule="cosine")
        first, on = tmp_path / "first" / "unet", tmp_path / "on" / "unet"
        fit.train(recipe, folder, (1, 2), 3, first, verbose=0)
        still = replace(recipe, phases=(Phase(32, 1, 0.0),))  # a rate of zero: what it starts from is what it ends with
        final = fit.train(still, folder, (1, 2), 3, on, verbose=0, start=first)
        assert np.array_equal(first_kernel(final), first_kernel(first / fit.OUT_OF_FOLD))
        assert not np.array_equal(first_kernel(final), first_kernel(first / fit.FINAL))
        assert json.loads((on / "run.json").read_text())["facts"]["scans_seen"] == 2 * 8 + 8
        again = tmp_path / "again" / "unet"
        fit.train(still, folder, (1, 2), 3, again, verbose=0, start=on)
        assert json.loads((again / "run.json").read_text())["facts"]["scans_seen"] == 2 * 8 + 8 + 8
        with pytest.raises(DataError, match="another from"):
            fit.train(still, folder, (1, 2), 3, on, verbose=0)
        with pytest.raises(DataError, match="saw the folds 1, 2; this run is to see 1 only"):
            fit.train(still, folder, (1,), 3, tmp_path / "less" / "unet", verbose=0, start=first)
        with pytest.raises(DataError, match=r"saw the sources .*lgg.*; this run is to see figshare only"):
            fit.train(still, folder, (1, 2), 3, tmp_path / "free" / "unet", ["figshare"], verbose=0, start=first)
        wider = replace(still, config={"width": 4})
        with pytest.raises(DataError, match="is another network, or tells other classes apart"):
            fit.train(wider, folder, (1, 2), 3, tmp_path / "wide" / "unet", verbose=0, start=first)
        with pytest.raises(DataError, match="holds no finished run to go on from"):
            fit.train(still, folder, (1, 2), 3, tmp_path / "none" / "unet", verbose=0, start=tmp_path)

    def test_an_interrupted_training_ends_like_one_that_was_not(self, folder, tmp_path, monkeypatch):
        from neurovision.training import fit, trainer
        from neurovision.training.recipes import Phase, Recipe

        monkeypatch.setattr(fit, "PHANTOMS", 4)
        recipe = Recipe("unet", {"width": 2}, (Phase(32, 2, 1e-3),), batch=4, epoch_scans=8, schedule="cosine")
        whole = fit.train(recipe, folder, (1, 2), 3, tmp_path / "whole" / "unet", ["figshare"], verbose=0)
        kept = trainer.save_weights

        def killed(model, path):
            if killed.left == 0:
                raise KeyboardInterrupt
            killed.left -= path.name == "latest.weights.h5"
            kept(model, path)

        monkeypatch.setattr(trainer, "save_weights", killed)
        killed.left = 1
        with pytest.raises(KeyboardInterrupt):
            fit.train(recipe, folder, (1, 2), 3, tmp_path / "cut" / "unet", ["figshare"], verbose=0)
        monkeypatch.setattr(trainer, "save_weights", kept)
        resumed = fit.train(recipe, folder, (1, 2), 3, tmp_path / "cut" / "unet", ["figshare"], verbose=0)
        with h5py.File(whole) as a, h5py.File(resumed) as b:
            names = []
            a["layers"].visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
            assert len(names) > 20
            for name in names:
                one, other = a["layers"][name][...], b["layers"][name][...]
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6, err_msg=name)
        rows = [[*csv.DictReader((tmp_path / w / "unet" / "history.csv").open())] for w in ("whole", "cut")]
        assert len(rows[0]) == len(rows[1]) == 2
        for one, other in zip(*rows, strict=True):
            assert float(one["val_loss"]) == pytest.approx(float(other["val_loss"]), rel=1e-3)
        facts = json.loads((tmp_path / "cut" / "unet" / "run.json").read_text())["facts"]
        assert facts["scans"] == 12 and facts["scans_seen"] == 16 and facts["seconds"] > 0 and facts["versions"]["keras"]

    def test_a_run_with_other_options_is_refused(self, folder, tmp_path):
        """Finished or begun: what was trained is never given another description."""
        from neurovision.training import fit
        from neurovision.training.recipes import Phase, Recipe
        from neurovision.training.trainer import RUN, open_run

        recipe = Recipe("unet", {"width": 2}, (Phase(32, 1, 1e-3),), batch=4, epoch_scans=4)
        out = tmp_path / "unet"

        def asked(folds=(1, 2), sources=("figshare", "lgg"), seed=1, recipe=recipe, **more):
            return fit.train(recipe, folder, folds, 3, out, sources, seed, verbose=0, **more)

        told = {
            "recipe": asdict(recipe), "folds": [1, 2], "validation_fold": 3, "sources": ["figshare", "lgg"], "seed": 1,
            "accepted": False,
        }  # fmt: skip
        open_run(out, told, finished=False)
        (out / "phase0").mkdir()  # begun
        written = (out / RUN).read_bytes()
        published = replace(recipe, phases=(Phase(224, 160),))
        for state in ("begun", "finished"):
            for more, what in (
                ({"seed": 2}, "seed"), ({"folds": (1,)}, "folds"), ({"sources": ("figshare",)}, "sources"),
                ({"recipe": published}, "recipe"), ({"recipe": recipe.shortened(limit=5)}, "recipe"),
                ({"accepted": True}, "accepted"),
            ):  # fmt: skip
                with pytest.raises(DataError, match=f"unet was {state} with another {what}; name another folder"):
                    asked(**more)
                assert (out / RUN).read_bytes() == written
            (out / fit.FINAL).touch()
        assert asked() == out / fit.FINAL
        (out / fit.FINAL).unlink()
        longer = replace(recipe, phases=(*recipe.phases, Phase(48, 1)))  # a phase that has not begun may be added
        open_run(out, {**told, "recipe": asdict(longer)}, finished=False)
        assert len(json.loads((out / RUN).read_text())["recipe"]["phases"]) == 2
        older = json.loads(json.dumps({**told, "recipe": asdict(longer)}))
        del older["recipe"]["phases"][0]["augment"]  # an older version's phases had fewer options
        (out / RUN).write_text(json.dumps(older))
        open_run(out, {**told, "recipe": asdict(longer)}, finished=False)

    def test_a_phase_may_change_batch_and_augmentation(self):
        """A mild last stretch draws scans as they come; without its word the recipe's holds."""
        from neurovision.training.fit import Batches
        from neurovision.training.recipes import Phase, Recipe

        rng = np.random.default_rng(3)
        pixels = rng.random((6, 32, 32), np.float32)
        groups = {"figshare": (pixels, np.zeros(pixels.shape, np.uint8))}
        recipe = Recipe("unet", batch=4, epoch_scans=8, mix={"figshare": 1.0})
        assert recipe.during(Phase(32, 1)) == recipe
        mild = recipe.during(Phase(32, 1, batch=2, augment=0.0, randomize=0.0))
        assert (mild.batch, mild.augment, mild.randomize) == (2, 0.0, 0.0)
        known = np.stack([standardize(p) for p in pixels])[..., None]
        (as_they_come, _), (changed, _) = Batches(groups, mild, 1)[0], Batches(groups, recipe, 1)[0]
        assert len(as_they_come) == 2 and all(np.abs(known - x).max((1, 2, 3)).min() < 1e-6 for x in as_they_come)
        assert min(np.abs(known - x).max((1, 2, 3)).min() for x in changed) > 1e-3

    def test_a_phase_may_show_scans_closer(self):
        """Enlarged, and with the tumor in the picture; a share of zero draws what was drawn before there was one."""
        from neurovision.training.augment import augment

        pixels = np.zeros((96, 96), np.float32)
        labels = np.zeros((96, 96), np.uint8)
        pixels[10:86, 14:82], labels[10:86, 14:82] = 0.4, 1
        pixels[60:70, 20:32], labels[60:70, 20:32] = 0.9, 3
        drawn = [[augment(pixels, labels, np.random.default_rng(k), 0.3, closer=c) for k in range(40)] for c in (0.0, 1.0)]
        areas = [np.array([(y == 3).sum() for _, y in some]) for some in drawn]
        assert 1.2**2 * 0.7 < np.median(areas[1]) / np.median(areas[0]) < 1.8**2 * 1.3 and areas[1].min() > 60
        for x, y in drawn[1]:
            assert x[y == 3].mean() > x[y == 1].mean() + 0.2
        nothing = augment(pixels, labels, np.random.default_rng(1), 0.3)
        assert np.array_equal(nothing[0], drawn[0][1][0]) and np.array_equal(nothing[1], drawn[0][1][1])
        empty = np.zeros((96, 96), np.uint8)
        assert augment(pixels, empty, np.random.default_rng(1), closer=1.0)[1].max() == 0

    def test_a_phase_may_go_on_from_an_earlier_one(self, folder, tmp_path, monkeypatch):
        """And counts the scans of those that it goes back to. What the vote is fitted on goes back to none of its fold."""
        from neurovision.training import fit
        from neurovision.training.clock import networks
        from neurovision.training.recipes import Phase, Recipe, recipe

        monkeypatch.setattr(fit, "PHANTOMS", 4)
        phases = (Phase(32, 1, 1e-2), Phase(32, 1, 1e-2), Phase(32, 1, 0.0, refit=True, start=0))
        branched = Recipe("unet", {"width": 2}, phases, batch=4, epoch_scans=8, schedule="cosine")
        out = tmp_path / "unet"
        final = fit.train(branched, folder, (1, 2), 3, out, verbose=0)
        kernels = [first_kernel(out / f"phase{k}.weights.h5") for k in range(3)]
        assert np.array_equal(first_kernel(final), kernels[0]) and not np.array_equal(kernels[0], kernels[1])
        assert np.array_equal(first_kernel(out / fit.OUT_OF_FOLD), kernels[1])
        assert json.loads((out / "run.json").read_text())["facts"]["scans_seen"] == 8 + 8
        for wrong in ((Phase(32, 1, start=0),), (*phases, Phase(32, 1, start=2))):
            with pytest.raises(ValueError, match="goes on from one that follows it or saw more than it may"):
                replace(branched, phases=wrong)
        for name in networks():  # what the vote is fitted on comes first
            assert [p.refit for p in recipe(name).phases] == sorted(p.refit for p in recipe(name).phases)

    def test_the_plateau_schedule_keeps_the_best_epoch(self, folder, tmp_path):
        from neurovision.training.fit import train
        from neurovision.training.recipes import Phase, Recipe

        recipe = Recipe("unet", {"width": 2}, (Phase(32, 2),), batch=4, epoch_scans=8)
        train(recipe, folder, (1, 2), 3, tmp_path / "run", verbose=0)
        assert (tmp_path / "run" / "phase0" / "best.weights.h5").is_file()

    def test_published_recipes(self):
        from neurovision.training.recipes import published_recipe, recipe

        unet = published_recipe("unet")
        assert [(p.size, p.epochs, p.learning_rate) for p in unet.phases] == [(224, 160, 1e-4)]
        link = published_recipe("linknet")
        assert [p.freeze for p in link.phases] == ["encoder", ""] and link.phases[0].size == 512
        assert recipe("r2attunet") == published_recipe("r2attunet")
        for name in ("unet", "unetpp", "linknet", "unet_efficientnet", "dgnet"):
            assert recipe(name).name == name


class TestOriginals:
    def test_reads_the_downloads(self, tmp_path):
        from neurovision.training.identity import of_patient, shipped
        from neurovision.training.originals import prepare_originals

        source = tmp_path / "downloads"
        (source / "figshare").mkdir(parents=True)
        study, truth = phantom("pituitary", 3, 128)
        for number in range(1, 6):
            with h5py.File(source / "figshare" / f"{number}.mat", "w") as file:
                record = file.create_group("cjdata")
                record["image"] = (study.gray() * 1000).astype(np.int16).T
                record["tumorMask"] = (truth > 1).astype(np.uint8).T
                record["label"] = [[3.0]]
        with h5py.File(source / "figshare" / "cvind.mat", "w") as file:
            file["cvind"] = np.array([[1, 2, 3, 4, 5]], float)
        gray = Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8))
        for patient in range(6):
            there = source / "kaggle_3m" / f"P{patient}"
            there.mkdir(parents=True)
            gray.convert("RGB").save(there / f"P{patient}_1.tif")
            Image.fromarray((truth > 1).astype(np.uint8) * 255 * (patient % 2)).save(there / f"P{patient}_1_mask.tif")
        for name in ("yes", "no", "notumor"):
            (source / name).mkdir()
            gray.save(source / name / "Y 1.jpg")
        prepared = prepare_originals(source, tmp_path / "out")
        assert prepared == ["figshare", "lgg", "navoneel", "healthy"]
        items = load_index(tmp_path / "out", prepared)
        figshare = [i for i in items if i.source == "figshare"]
        assert [i.fold for i in figshare] == [1, 2, 3, 4, 5] and figshare[0].label == "pituitary"
        assert np.array_equal(figshare[0].truth(), truth > 1)
        lgg = [i for i in items if i.source == "lgg"]
        assert {i.patient: i.fold for i in lgg} == {f"P{k}": shipped().assign(of_patient(f"P{k}")) for k in range(6)}
        assert [i.label for i in lgg][:2] == ["none", "glioma"]
        copies = [i.fold for i in items if i.source == "navoneel"]
        assert len(copies) == 2 and len(set(copies)) == 1  # the same picture twice stands in one fold

    def test_unknown_folder(self, tmp_path):
        from neurovision.training.originals import prepare_originals

        with pytest.raises(DataError, match="holds none of"):
            prepare_originals(tmp_path, tmp_path / "out")
