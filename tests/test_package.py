"""The wheel, where it finds its weights, its extras, and the documents that are kept in step with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from test_docs import load

import neurovision
from neurovision.ensemble import weights
from neurovision.ensemble.weights import find_weights

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PINS = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python process that sees no checkout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NEUROVISION_", "PYTHONPATH"))}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline from a copy of what is needed to build it."""
    pytest.importorskip("setuptools", reason="the wheel is built with setuptools, which the extra dev installs")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "neurovision", source / "neurovision", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "weights").mkdir()
    shutil.copy(ROOT / "weights" / "manifest.json", source / "weights")
    done = run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out), ".", cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content as it would lie in site-packages."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def test_the_wheel_holds_the_package_and_no_weights(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    found = (p.relative_to(ROOT) for p in (ROOT / "neurovision").rglob("*") if p.is_file())
    shipped = {str(p) for p in found if "__pycache__" not in p.parts}
    assert names == shipped


def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (about,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        entry = archive.read(about.replace("METADATA", "entry_points.txt")).decode()
        head = Parser().parsestr(archive.read(about).decode())
    assert "neurovision = neurovision.cli:main" in entry
    assert head["Version"] == neurovision.__version__ and head["License-Expression"] == "MIT AND Apache-2.0"
    wanted = head.get_all("Requires-Dist")
    plain = {w for w in wanted if ";" not in w}
    assert plain == set(PINS) - set(EXTRAS["dicom"])
    assert {"dicom", "gpu", "dev"} <= set(head.get_all("Provides-Extra"))


def test_the_page_gets_dicom_too():
    assert set(EXTRAS["dicom"]) <= set(PINS)
    versions = dict(re.findall(r"^(tensorflow|xgboost)-cpu==(.+)$", "\n".join(PINS), re.M))
    assert set(EXTRAS["gpu"]) == {f"tensorflow[and-cuda]=={versions['tensorflow']}", f"xgboost=={versions['xgboost']}"}


class TestWeightsAreFound:
    @pytest.fixture(autouse=True)
    def nowhere(self, tmp_path, monkeypatch):
        monkeypatch.delenv("NEUROVISION_WEIGHTS", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(weights, "DEFAULT", tmp_path / "site-packages" / "weights")
        monkeypatch.chdir(tmp_path)

    def made(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        return folder

    def test_first_where_the_variable_points(self, tmp_path, monkeypatch):
        self.made(tmp_path / "weights")
        monkeypatch.setenv("NEUROVISION_WEIGHTS", str(tmp_path / "named"))
        assert find_weights() == tmp_path / "named"

    def test_then_in_the_working_directory_then_in_the_checkout_then_what_was_fetched(self, tmp_path):
        assert find_weights() == weights.DEFAULT  # nowhere, and the message names it
        fetched = self.made(weights.fetched_sets() / "a--b@c")
        assert find_weights() == weights.DEFAULT  # not finished, or not chosen
        (weights.fetched_sets() / "current").write_text("a--b@c")
        assert find_weights() == fetched
        assert find_weights() == fetched
        self.made(weights.DEFAULT)
        assert find_weights() == weights.DEFAULT
        assert find_weights() != (local := self.made(tmp_path / "weights")) and find_weights() == local


def test_an_installed_package_runs_outside_the_checkout(installed, tmp_path):
    """The command answers, says what is missing, and carries the viewer but no example."""
    environment = {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    (tmp_path / "work").mkdir()
    version = run("-m", "neurovision", "--version", cwd=tmp_path / "work", **environment)
    assert version.stdout.strip() == neurovision.__version__
    code = (
        "import neurovision; from neurovision.views.examples import examples; from neurovision.ensemble.weights "
        "import load_manifest; print(neurovision.__file__); print(examples());\n"
        "try: load_manifest()\nexcept Exception as e: print(e)"
    )
    place, shown, words = run("-c", code, cwd=tmp_path / "work", **environment).stdout.strip().splitlines()
    assert Path(place).is_relative_to(installed) and shown == "()"
    ui = Path(place).parent / "views" / "ui"
    for name in ("viewer.js", "page.js", "page.css", "vendor/niivue.js", "vendor/niivue.LICENSE", "vendor/vendor.json"):
        assert (ui / name).read_bytes() == (ROOT / "neurovision" / "views" / "ui" / name).read_bytes()
    assert words.startswith("There are no weights (no manifest.json in weights/): fetch a published set with")


@pytest.mark.slow
def test_without_the_extra_dicom_pictures_are_read_and_dicom_is_explained(installed, tmp_path):
    absent = [re.split("[=-]", pin)[0].replace("dicomweb", "dicomweb_client") for pin in EXTRAS["dicom"]]
    code = f"""
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from neurovision import read
from neurovision.scan.read import read_bytes
from neurovision.errors import UnsupportedScan
import neurovision.views.ui.page
print(read({str(ROOT / "examples" / "glioma.png")!r}).n_slices)
try: read_bytes(bytes(128) + b"DICM" + bytes(64), "x.dcm")
except UnsupportedScan as e: print(e)
"""
    done = run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.stdout.splitlines() == [
        "1", "DICOM needs packages that are not installed; run pip install 'neurovision[dicom]'."
    ], done.stderr  # fmt: skip


@pytest.mark.slow
def test_the_guide_adds_a_segmenter_in_one_file(tmp_path):
    """The contribution guide's example, dropped into a copy, keeps the contract."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    path, code = re.search(r"<!-- (neurovision/segmenters/\w+\.py) -->\n```python\n(.*?)```", text, re.S).groups()
    shutil.copytree(ROOT / "neurovision", tmp_path / "neurovision", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "test_segmenters.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert not (tmp_path / path).exists()
    (tmp_path / path).write_text(code)
    done = run("-m", "pytest", "tests/test_segmenters.py", "-k", Path(path).stem, "-p", "no:cacheprovider", cwd=tmp_path)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed and int(passed[1]) >= 9, done.stdout[-3000:]
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if ruff:
        checked = subprocess.run([ruff, "check", path], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout


def test_the_reference_says_what_help_says():
    current = load(ROOT / "docs" / "cli.py").render()
    assert (ROOT / "docs" / "cli.md").read_text() == current, "run: python docs/cli.py"


def test_the_changelog_knows_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.M)
    assert headings[0] == ("Unreleased", "") and all(date for _, date in headings[1:])
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    released = [version for version, _ in headings[1:]]
    assert released == sorted(released, key=lambda v: [int(n) for n in v.split(".")], reverse=True)
    assert neurovision.__version__ in released or not released
