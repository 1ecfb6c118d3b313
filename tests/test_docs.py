"""What the documents say is what the code does."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

from typer.testing import CliRunner

from neurovision.cli import DAILY, LABORATORY, app

ROOT = Path(__file__).parents[1]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_readme_blocks_are_current():
    text = (ROOT / "README.md").read_text()
    assert load(ROOT / "docs" / "readme.py").render(text) == text, "run: python docs/readme.py"


def test_readme_names_only_real_commands():
    commands = {*DAILY, *LABORATORY}
    named = set(re.findall(r"^(?:.*; do )?neurovision ([a-z]+)", (ROOT / "README.md").read_text(), re.M))
    assert {"predict", "data", "stack", "evaluate"} <= named <= commands
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0


def test_readme_images_exist():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / path).is_file(), path


def test_makefile_has_the_promised_targets():
    text = (ROOT / "Makefile").read_text()
    assert re.search(r"^run:", text, re.M) and re.search(r"^test:", text, re.M)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_examples_are_of_every_kind():
    names = {p.stem for p in (ROOT / "examples").glob("*.png")}
    for kind in ("no-tumor", "glioma", "meningioma", "pituitary"):
        assert any(kind in n for n in names), kind


def test_the_space_front_matter_fits_the_pins():
    front = (ROOT / "README.md").read_text().split("---")[1]
    pins = (ROOT / "requirements.txt").read_text()
    assert f"gradio=={re.search(r'sdk_version: (.+)', front)[1]}" in pins
    assert (ROOT / re.search(r"app_file: (.+)", front)[1]).is_file()
