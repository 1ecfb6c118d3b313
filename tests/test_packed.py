"""A packed file, and training on a machine that has only what requirements-train.txt lists."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from neurovision.errors import DataError
from neurovision.training.dataset import load_index, pack, sources_in
from neurovision.training.packed import FIELDS, write_packed
from neurovision.training.provenance import license_of
from tests.test_training import folder

__all__ = ["folder"]  # a fixture

ROOT = Path(__file__).parents[1]
ABSENT = ("pydicom", "nibabel", "xgboost", "gradio", "matplotlib", "openvino", "pydantic", "skops")
BARE = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
DRAWN = """
from pathlib import Path
from neurovision.training import fit
from neurovision.training.dataset import load_index
from neurovision.training.recipes import Recipe
packed, cache = map(Path, sys.argv[1:])
fit.PHANTOMS = 2
groups = fit.grouped(load_index(packed), 32, cache, "segment")
x, y = fit.Batches(groups, Recipe("unet", batch=4, epoch_scans=4), 1)[0]
print(x.shape, y.shape, x.dtype, y.dtype)
"""
TRAINED = """
from pathlib import Path
from neurovision.training import fit
from neurovision.training.recipes import Phase, Recipe
packed, runs = map(Path, sys.argv[1:])
fit.PHANTOMS = 4
recipe = Recipe("unet", {"width": 2}, (Phase(32, 1, 1e-3),), batch=4, epoch_scans=8).by_clock(1.0, 32, 4)
print(fit.train(recipe, packed, (1, 2), 3, runs / "unet", verbose=0))
"""


def bare(code: str, backend: str, *arguments: Path) -> str:
    """What a process prints in which ABSENT cannot be imported, nor TensorFlow where it is not the backend."""
    absent = ABSENT if backend == "tensorflow" else ("tensorflow", *ABSENT)
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"ABSENT = {absent!r}" + BARE + code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout

FUSED = """
import keras
import numpy as np
from neurovision.training.trainer import Plan, fused_operations
x = np.random.default_rng(0).normal(2, 3, (4, 8, 8, 3)).astype("float32")
y = np.random.default_rng(1).normal(0, 50, x.shape).astype("float32")
found = []
for fused in (False, True):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Conv2D(3, 3, padding="same"), keras.layers.BatchNormalization(momentum=0.9)]
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    optimizer = Plan(1, 0.1, optimizer="sgd", clip=0.5).built_optimizer(1)
    model.compile(optimizer if fused else keras.optimizers.SGD(0.1, clipnorm=0.5, weight_decay=0.0), "mse")
    if fused:
        with fused_operations():
            model.train_on_batch(x, y)
    else:
        model.train_on_batch(x, y)
    found.append(model.get_weights())
count = x[..., 0].size
found[0][-1] = 0.9 + (found[0][-1] - 0.9) * count / (count - 1)  # the fused variance is without bias
for plain, quick in zip(*found, strict=True):
    np.testing.assert_allclose(plain, quick, rtol=1e-4, atol=1e-5)
print("alike")
"""


class TestPacked:
    def test_holds_what_the_folder_holds(self, folder, tmp_path):
        count = write_packed(folder, tmp_path / "scans.zip", 64)
        packed = tmp_path / "scans.zip"
        assert sources_in(packed) == sources_in(folder)
        for sequences in (("FLAIR",), ("T1", "FLAIR", "T1c")):
            one, other = (load_index(root, None, [1, 2], sequences) for root in (folder, packed))
            told = [[(*(getattr(i, f) for f in FIELDS), i.mask is None) for i in items] for items in (one, other)]
            assert told[0] == told[1]
        assert count == len(load_index(packed, sequences=("T1", "FLAIR", "T1c")))
        for size, close in ((64, 0.03), (32, 0.05)):
            (plain, truth), (lossy, labels) = (pack(x, size, tmp_path / "cache") for x in (one, other))
            assert np.abs(plain - lossy).mean() < close
            agree = truth == labels
            assert agree.all() if size == 64 else agree.mean() > 0.97
        assert license_of(packed, "lgg") == "CC BY-NC-SA 4.0"
        with pytest.raises(DataError, match=r"holds canvases of 64 px, not 96; pack them with --size 96"):
            other[0].canvas(96)
        with pytest.raises(DataError, match="no pictures; name the prepared folder"):
            other[0].gray()
        with pytest.raises(DataError, match="nothing in fold 5"):
            load_index(packed, folds=[5])

    def test_damage_is_named(self, folder, tmp_path):
        packed, damaged = tmp_path / "scans.zip", tmp_path / "damaged.zip"
        write_packed(folder, packed, 32)
        with zipfile.ZipFile(packed) as whole, zipfile.ZipFile(damaged, "w") as changed:
            for name in whole.namelist():
                changed.writestr(name, whole.read("images/1.webp" if name == "images/0.webp" else name))
        with pytest.raises(DataError, match="damaged at canvas 0; copy it again"):
            load_index(damaged, sequences=("T1", "FLAIR", "T1c"))[0].canvas(32)
        (tmp_path / "text.zip").write_text("no archive")
        with pytest.raises(DataError, match="is no packed file; make one with"):
            sources_in(tmp_path / "text.zip")
        with zipfile.ZipFile(tmp_path / "next.zip", "w") as archive:
            archive.writestr("index.json", json.dumps({"format": 2}))
        with pytest.raises(DataError, match="format 2, not 1"):
            sources_in(tmp_path / "next.zip")

    def test_the_needs_are_those_of_the_whole(self):
        lines = [(ROOT / name).read_text().splitlines() for name in ("requirements-train.txt", "requirements.txt")]
        needs, whole = ([x for x in some if "==" in x and not x.startswith("#")] for some in lines)
        assert "keras" in needs[0] and set(needs) <= set(whole)

    def test_batches_are_drawn_without_the_rest(self, folder, tmp_path):
        """Everything but the network itself, on any machine: what training imports is what the list says."""
        write_packed(folder, tmp_path / "scans.zip", 32)
        said = bare(DRAWN, "tensorflow", tmp_path / "scans.zip", tmp_path / "cache")
        assert said == "(4, 32, 32, 1) (4, 32, 32) float32 uint8\n"

    @pytest.mark.parametrize("backend", ["jax", "torch"])
    def test_trains_without_the_rest(self, backend, folder, tmp_path):
        if importlib.util.find_spec(backend) is None:
            pytest.skip(f"{backend} is not installed")
        write_packed(folder, tmp_path / "scans.zip", 32)
        final = Path(bare(TRAINED, backend, tmp_path / "scans.zip", tmp_path / "runs").splitlines()[-1])
        told = json.loads((final.parent / "run.json").read_text())
        assert final.is_file() and told["facts"]["backend"] == backend and told["facts"]["scans_seen"] >= 8
        assert not (final.parent / "history.png").exists(), "matplotlib is not there"

    def test_steps_fused_for_pytorch_are_those_of_keras(self):
        """Normalization, and gradients clipped one by one."""
        if importlib.util.find_spec("torch") is None:
            pytest.skip("torch is not installed")
        assert bare(FUSED, "torch") == "alike\n"
