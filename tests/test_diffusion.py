"""The generator: its noise, its training on phantoms, what is shipped, and the measures of what it draws."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from neurovision.aids.sampling import Generator, Plan, load, network, rates, split
from neurovision.ensemble.weights import DEFAULT
from neurovision.errors import DataError, ModelError, WeightsMissing, WeightsTampered
from neurovision.evaluation.diffusion import grid, nearest, render
from neurovision.scan.phantom import phantom
from neurovision.training import diffusion
from neurovision.training.diffusion import export, noised, train
from neurovision.training.kid import Features, kernel_distance

PLAN = Plan(size=36, widths=(8, 8, 16), depths=(1, 1, 1), batch=8, epochs=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of phantoms: 24 in fold 1 and 8 in fold 2, every second with a tumor."""
    root = tmp_path_factory.mktemp("prepared")
    for part in ("images", "masks"):
        (root / "lgg" / part).mkdir(parents=True)
    rows = []
    for k in range(32):
        kind = "glioma" if k % 2 else "healthy"
        study, truth = phantom(kind, k, size=48)
        Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8)).save(root / "lgg" / "images" / f"{k}.png")
        Image.fromarray(((truth > 1) * 255).astype(np.uint8)).save(root / "lgg" / "masks" / f"{k}.png")
        label = "glioma" if k % 2 else "none"
        rows.append(f"{k},images/{k}.png,{label},{1 if k < 24 else 2},{k % 2},masks/{k}.png,p{k}")
    (root / "lgg" / "index.csv").write_text("\n".join(["id,image,label,fold,tumor,mask,patient", *rows]))
    return root


class Means:
    """Stands where the ImageNet features stand: eight means a picture."""

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        return pictures.reshape(len(pictures), 8, -1).mean(2)


@pytest.fixture(scope="module", autouse=True)
def eager() -> Iterator[None]:
    """A few tiny steps cost less than compiling them."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the same plan: ``whole`` in one go, ``stopped`` stopped in its second epoch and taken up again."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "Features", Means)
        train(PLAN, data, [1], 2, folder / "whole", ["lgg"])
        calls: list[int] = []

        def stops(first: np.ndarray, second: np.ndarray) -> float:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return kernel_distance(first, second)

        patch.setattr(diffusion, "kernel_distance", stops)
        with pytest.raises(KeyboardInterrupt):
            train(PLAN, data, [1], 2, folder / "stopped", ["lgg"])
        train(PLAN, data, [1], 2, folder / "stopped", ["lgg"])
    return folder


@pytest.fixture(scope="module")
def weights(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(runs / "whole", tmp_path_factory.mktemp("weights")).parent


def test_rates_keep_the_power_and_go_from_picture_to_noise() -> None:
    signal, noise = rates(np.linspace(0, 1, 11))
    assert np.allclose(signal**2 + noise**2, 1, atol=1e-6)
    assert np.allclose(signal[[0, -1]], [0.95, 0.02], atol=1e-5) and (np.diff(signal) < 0).all()


def test_velocity_gives_back_picture_and_noise() -> None:
    rng = np.random.default_rng(0)
    clean = rng.standard_normal((4, 6, 6, 1), np.float32)
    (noisy, power, kinds), target = noised(clean, np.array([True, False, True, True]), rng)
    velocity, signal, noise = target[..., :1], target[..., 1:2], target[..., 2:]
    picture, predicted = split(noisy, velocity, signal, noise)
    assert np.allclose(picture, clean, atol=1e-5) and np.allclose(signal * clean + noise * predicted, noisy, atol=1e-5)
    assert np.allclose(power[:, 0], noise[:, 0, 0, 0] ** 2) and kinds.argmax(1).tolist() == [1, 0, 1, 1]


def test_sampling_reaches_what_a_perfect_network_means() -> None:
    meant = phantom("healthy", 1, size=24)[0].gray()
    mean, deviation = 0.3, 0.25

    class Perfect:
        input_shape = ((None, 24, 24, 1), (None, 1), (None, 2))

        def predict_on_batch(self, inputs: Any) -> np.ndarray:
            noisy, power, _ = inputs
            noise = np.sqrt(power)[..., None, None]
            signal = np.sqrt(1 - noise**2)
            clean = ((meant - mean) / deviation)[None, ..., None]
            return signal * (noisy - signal * clean) / noise - noise * clean

    drawn = Generator(Perfect(), mean, deviation, {}).sample([True] * 3, 5, steps=4, batch=2)  # type: ignore[arg-type]
    assert drawn.shape == (3, 24, 24) and np.allclose(drawn, meant, atol=1e-3)


def test_network_starts_silent_and_hears_its_condition() -> None:
    import keras

    keras.utils.set_random_seed(0)
    model = network(PLAN)
    rng = np.random.default_rng(0)
    noisy = rng.standard_normal((2, 36, 36, 1), np.float32)
    power, kinds = np.full((2, 1), 0.5, np.float32), np.eye(2, dtype=np.float32)
    assert not np.asarray(model([noisy, power, kinds])).any()
    model.get_layer("velocity").kernel.assign(rng.normal(size=(5, 5, 1, 8)) * 0.1)
    same = np.repeat(noisy[:1], 2, 0)
    none, tumor = np.asarray(model([same, power, kinds]))
    early, late = np.asarray(model([same, np.array([[0.1], [0.9]], np.float32), kinds[[0, 0]]]))
    assert np.abs(none - tumor).max() > 1e-4 and np.abs(early - late).max() > 1e-4
    with pytest.raises(ModelError, match="multiple of 12; received 50"):
        network(replace(PLAN, size=50))


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was(runs: Path) -> None:
    from safetensors.numpy import load_file

    whole, stopped = (load_file(runs / name / diffusion.CHECKPOINT) for name in ("whole", "stopped"))
    assert int(whole["epoch"]) == 2 and whole.keys() == stopped.keys()
    assert all(np.allclose(whole[k], stopped[k], atol=1e-5) for k in whole)
    assert not np.allclose(whole["model/0"], whole["averaged/0"], atol=1e-7)
    tables = []
    for name in ("whole", "stopped"):
        with (runs / name / "history.csv").open() as file:
            tables.append(list(csv.DictReader(file)))
    assert [r["epoch"] for r in tables[1]] == ["1", "2"] and list(tables[0][0]) == list(diffusion.COLUMNS)
    assert [int(row["scans_seen"]) for row in tables[0]] == [24, 48]
    for key in diffusion.COLUMNS:
        assert [float(r[key]) for r in tables[0]] == pytest.approx([float(r[key]) for r in tables[1]], abs=1e-3)


@pytest.mark.slow
def test_what_cannot_be_trained(runs: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Fold 1 is trained on"):
        train(PLAN, data, [1], 1, tmp_path / "a", ["lgg"])
    with pytest.raises(DataError, match="100 scans or more"):
        train(replace(PLAN, batch=100), data, [1], 2, tmp_path / "b", ["lgg"])
    with pytest.raises(ModelError, match="another plan"):
        train(replace(PLAN, epochs=3), data, [1], 2, runs / "whole", ["lgg"])
    with pytest.raises(WeightsMissing, match="no checkpoint"):
        export(tmp_path, tmp_path)


@pytest.mark.slow
def test_shipped_form_draws_the_same_heads_each_time(weights: Path) -> None:
    generator = load(weights)
    first = generator.sample([False, True, True], 3, steps=3)
    assert first.shape == (3, 36, 36) and first.min() >= 0 and first.max() <= 1
    assert np.array_equal(first, load(weights).sample([False, True, True], 3, steps=3))
    assert not np.allclose(first, generator.sample([False, True, True], 4, steps=3), atol=0.01)
    told = json.loads((weights / diffusion.FILE).read_text())
    assert told["training"]["folds"] == [1] and told["training"]["license"] == "CC BY-NC-SA 4.0"
    with pytest.raises(ModelError, match="received 0 and 3"):
        generator.sample([], 3, steps=3)


@pytest.mark.slow
def test_other_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"no diffusion\.json"):
        load(tmp_path)
    manifest = json.loads((weights / diffusion.FILE).read_text())
    (tmp_path / diffusion.FILE).write_text(json.dumps(manifest))
    with pytest.raises(WeightsMissing, match="not beside it"):
        load(tmp_path)
    (tmp_path / manifest["file"]).write_bytes((weights / manifest["file"]).read_bytes() + b" ")
    with pytest.raises(WeightsTampered, match="not the file"):
        load(tmp_path)
    (tmp_path / diffusion.FILE).write_text("{}")
    with pytest.raises(WeightsTampered, match="not a manifest"):
        load(tmp_path)


def test_kernel_distance_by_hand() -> None:
    # Kernel of (0, 0) is 1, of (1, 1) is 8, of (0, 1) is 1: 1 + 8 - 2 * 1.
    assert kernel_distance(np.zeros((2, 1)), np.ones((2, 1))) == pytest.approx(7)
    rng = np.random.default_rng(0)
    same = kernel_distance(rng.normal(size=(300, 8)), rng.normal(size=(300, 8)))
    moved = kernel_distance(rng.normal(size=(300, 8)), rng.normal(size=(300, 8)) + 0.5)
    assert abs(same) < 0.1 < moved


def test_features_tell_heads_from_noise() -> None:
    features = Features()
    heads = np.stack([phantom("healthy", k, size=48)[0].gray() for k in range(12)])
    rng = np.random.default_rng(0)
    real, others = features(heads[:6]), features(heads[6:])
    noise = features(rng.random((6, 48, 48), np.float32))
    assert real.shape == (6, 320)
    assert kernel_distance(real, others) < 0.2 * kernel_distance(real, noise)


def test_a_copy_stands_out_and_so_does_a_mirrored_one() -> None:
    training = np.stack([phantom("glioma", k, size=32)[0].gray() for k in range(20)])
    own = phantom("glioma", 77, size=32)[0].gray()
    distance, ratio = nearest(np.stack([training[3], training[5][:, ::-1], own]), training)
    assert np.allclose(distance[:2], 0, atol=1e-3) and (ratio[:2] < 0.05).all()
    assert distance[2] > 0.02 and ratio[2] > 0.5
    apart = np.sqrt(((own - training) ** 2).mean((1, 2)))
    mirrored = np.sqrt(((own - training[:, :, ::-1]) ** 2).mean((1, 2)))
    assert distance[2] == pytest.approx(min(apart.min(), mirrored.min()), abs=1e-5)


def test_sheet_of_pictures() -> None:
    sheet = grid(np.stack([np.full((2, 2), v, np.float32) for v in (0, 0.2, 0.6, 1)]), 2, scale=1)
    assert sheet.tolist() == [[0, 0, 51, 51]] * 2 + [[153, 153, 255, 255]] * 2


@pytest.mark.slow
def test_commands_draw_measure_and_write_the_page(weights: Path, data: Path, tmp_path: Path) -> None:
    from neurovision.cli import app

    def run(*words: Any) -> None:
        result = CliRunner().invoke(app, ["diffuse", *map(str, words), "--weights", weights], catch_exceptions=False)
        assert result.exit_code == 0, result.output

    run("sample", "--count", 3, "--steps", 2, "--out", tmp_path / "drawn", "--seed", 9)
    names = sorted(p.name for p in (tmp_path / "drawn").iterdir())
    assert names == ["generated-9-0001-none.png", "generated-9-0002-tumor.png", "generated-9-0003-none.png"]
    assert Image.open(tmp_path / "drawn" / names[0]).size == (36, 36)
    page = tmp_path / "diffusion.md"
    run("check", "--data", data, "--page", page, "--cache", tmp_path / "cache")
    run("ablate", "--data", data, "--page", page, "--cache", tmp_path / "cache", "--steps", 2, "--seeds", 1)
    text = page.read_text()
    assert "| noise | " in text and "| held out | " in text and "| real and generated | " in text
    assert "not the shipped ones" not in text and "neurovision diffuse ablate --steps 2 --seeds 1" in text
    assert Image.open(tmp_path / "images" / "diffusion.png").size == (8 * 36 * 2, 4 * 36 * 2)
    results = json.loads(page.with_suffix(".json").read_text())
    results["ablate"]["weights"] = "0" * 12
    assert "not the shipped ones: run it again" in render(results)


@pytest.mark.slow
def test_the_page_draws_heads_and_says_what_is_missing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurovision.views.ui import generate

    gr = generate.gr
    with gr.Blocks() as page, gr.Tab("Generate") as tab:
        generate.build(SimpleNamespace(), tab)  # type: ignore[arg-type]
    (ask,) = [f.fn for f in page.fns.values() if f.api_name == "generate"]
    monkeypatch.setenv("NEUROVISION_WEIGHTS", str(tmp_path))
    with pytest.raises(gr.Error, match=r"no diffusion\.json"):
        ask("Both", 2, 1)
    monkeypatch.setenv("NEUROVISION_WEIGHTS", str(weights))
    pictures = ask("Both", 2, 1)
    assert [words for _, words in pictures] == ["1: no tumor", "2: tumor"] and pictures[0][0].shape == (768, 768, 3)
    for wrong in (("Neither", 2, 1), ("Both", 13, 1), ("Both", 2, -1), ("Both", 2, None)):
        with pytest.raises(gr.Error, match="Choose which heads"):
            ask(*wrong)


def test_the_page_says_how_far_generated_pictures_are_from_real_scans(tmp_path: Path) -> None:
    from neurovision.ensemble.weights import load_manifest
    from neurovision.evaluation.held_out import generator_words
    from neurovision.views.ui import generate

    assert generator_words("ab" * 32, tmp_path / "absent.json") == ""
    for drawn, nearer in ((9.0, "nearer to noise than to real scans"), (2.0, "nearer to real scans than to noise")):
        kid = {"generated": drawn, "training": 0.5, "noise": 10.0}
        path = tmp_path / f"{drawn}.json"
        path.write_text(json.dumps({"check": {"weights": "ab" * 6, "kid": kid}}))
        said = generator_words("ab" * 32, path)
        assert f"is {drawn:.1f}; that of noise is 10.0, that of other real scans 0.5" in said and nearer in said
        assert generator_words("cd" * 32, path) == ""  # of other weights
    room = SimpleNamespace(analyzer=lambda: SimpleNamespace(manifest=load_manifest(DEFAULT)))
    assert "kernel distance (KID)" in generate.about(room)  # type: ignore[arg-type]


@pytest.mark.skipif(not (DEFAULT / diffusion.FILE).is_file(), reason="no trained generator here")
def test_the_shipped_generator_is_small_and_measured() -> None:
    generator = load(DEFAULT)
    assert (DEFAULT / generator.described["file"]).stat().st_size < 5e6
    drawn = generator.sample([False, True], 1, steps=5)
    assert drawn.shape[0] == 2 and drawn.std() > 0.05 and np.median(drawn[:, 0, 0]) < 0.1  # a head on air
    docs = DEFAULT.parent / "docs"
    results = json.loads((docs / "diffusion.json").read_text())
    assert (docs / "diffusion.md").read_text() == render(results)
    assert {results[k]["weights"] for k in ("check", "ablate")} == {generator.described["sha256"][:12]}
