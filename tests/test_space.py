"""What the Hub needs of a Space: the README's head, the file set, and a page that starts as an unprivileged user."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import pytest
import yaml
from test_docs import load

ROOT = Path(__file__).parents[1]
space = load(ROOT / "deploy" / "space.py")
HEAD = yaml.safe_load((ROOT / "README.md").read_text().split("---\n")[1])
COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
HARDWARE = {
    "cpu-basic", "cpu-upgrade", "t4-small", "t4-medium", "l4x1", "l4x4", "a10g-small", "a10g-large", "a10g-largex2",
    "a10g-largex4", "a100-large",
}  # fmt: skip
# The Hub's configuration reference: every documented key, its type and, where it is a choice, the choices.
KEYS: dict[str, tuple[type, object]] = {
    "title": (str, None), "emoji": (str, None), "colorFrom": (str, COLORS), "colorTo": (str, COLORS),
    "sdk": (str, {"gradio", "docker", "static"}), "python_version": (str, r"3\.\d+(\.\d+)?"),
    "sdk_version": (str, r"\d+\.\d+\.\d+"), "suggested_hardware": (str, HARDWARE),
    "suggested_storage": (str, {"small", "medium", "large"}), "app_file": (str, None), "app_build_command": (str, None),
    "app_port": (int, None), "base_path": (str, r"/.*"), "fullWidth": (bool, None), "header": (str, {"mini", "default"}),
    "short_description": (str, r".{1,60}"), "models": (list, None), "datasets": (list, None), "tags": (list, None),
    "thumbnail": (str, r"https://.+"), "pinned": (bool, None), "hf_oauth": (bool, None), "hf_oauth_scopes": (list, None),
    "hf_oauth_expiration_minutes": (int, None), "hf_oauth_authorized_org": (str, None), "disable_embedding": (bool, None),
    "startup_duration_timeout": (str, r"\d+(s|m|h)"), "custom_headers": (dict, None), "preload_from_hub": (list, None),
    "license": (str, r"[a-z0-9.-]+"),
}  # fmt: skip
NEEDED = {
    "title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "license",
    "short_description", "suggested_hardware", "startup_duration_timeout", "pinned", "tags",
}  # fmt: skip


def faults(head: dict) -> list[str]:
    """What of a README's head the Hub would not take."""
    found = [f"{key} is no documented key" for key in head if key not in KEYS]
    found += [f"{key} is missing" for key in sorted(NEEDED - set(head))]
    for key, value in head.items():
        kind, allowed = KEYS.get(key, (object, None))
        if type(value) is not kind and kind is not object:
            found.append(f"{key} is no {kind.__name__}")
        elif isinstance(allowed, set) and value not in allowed:
            found.append(f"{key} is none of {sorted(allowed)}")
        elif isinstance(allowed, str) and not re.fullmatch(allowed, value):
            found.append(f"{key} has another form")
    return found


def test_the_head_is_what_the_hub_documents():
    assert faults(HEAD) == []
    assert len(HEAD["emoji"]) == 1 and unicodedata.category(HEAD["emoji"]) == "So"
    assert HEAD["sdk"] == "gradio" and (ROOT / HEAD["app_file"]).is_file()
    weights = json.loads((ROOT / "weights" / "manifest.json").read_text())
    told = json.dumps(weights).lower().replace(" ", "-")  # the strictest of what is in a Space is the weights'
    assert HEAD["license"] in told and HEAD["license"].startswith("cc-by-nc")


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"colour": "x"}, "no documented key"), ({"colorTo": "black"}, "none of"), ({"python_version": 3.11}, "no str"),
     ({"short_description": "x" * 61}, "another form"), ({"startup_duration_timeout": "30 minutes"}, "another form")],
)  # fmt: skip
def test_a_wrong_head_is_seen(change, fault):
    assert any(fault in words for words in faults(HEAD | change))
    assert any("title is missing" in words for words in faults({k: v for k, v in HEAD.items() if k != "title"}))


def test_the_python_that_is_asked_for_is_one_that_the_package_takes():
    text = (ROOT / "pyproject.toml").read_text()
    least, below = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', text).groups()
    assert int(least) <= int(HEAD["python_version"].split(".")[1]) < int(below)


def test_requirements_name_nothing_that_a_free_cpu_cannot_use():
    pins = (ROOT / "requirements.txt").read_text()
    assert f"gradio=={HEAD['sdk_version']}\n" in pins
    assert not re.search(r"^(torch|jax|nvidia|tensorflow==|tensorflow\[|xgboost==|opencv-python==)", pins, re.M)
    assert not re.search(r"^(-|https?:|git\+|\.)", pins, re.M)  # the Hub mounts this one file, so nothing beside it


def test_the_file_set_is_small_and_nothing_that_git_ignores():
    files = space.file_set()
    assert {Path("app.py"), Path("weights/manifest.json")} <= set(files)
    assert not [f for f in files if f.parts[0] in ("tests", "runs") or "cache" in f.parts]
    pages = {f: (ROOT / f).read_text() for f in files if f.suffix == ".md"}
    for image in (f for f in files if f.parts[:2] == ("docs", "images")):
        assert any(image.name in text for text in pages.values()), f"no page shows {image}"
    for page, text in pages.items():
        for link in re.findall(r"\]\(([^)#\s]+)", text):
            if not re.match(r"\w+:", link) and (ROOT / page.parent / link).is_file():
                assert Path(os.path.normpath(page.parent / link)) in files, f"{page} links to {link}"
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    assert ignored == ""


def test_a_file_that_is_too_large_for_git_is_refused(monkeypatch):
    monkeypatch.setattr(space, "LARGEST", 1000)
    with pytest.raises(SystemExit, match=r"Too large for a Space.*unet\.safetensors"):
        space.file_set()


def test_framing_is_read_from_the_headers():
    assert space.may_be_framed({})
    assert space.may_be_framed({"content-security-policy": "default-src 'self'; frame-ancestors https://huggingface.co"})
    assert not space.may_be_framed({"content-security-policy": "frame-ancestors 'none'"})
    assert not space.may_be_framed({"x-frame-options": "DENY"})


@pytest.mark.slow
def test_the_file_set_starts_as_a_space_and_runs_an_example():
    """With what is installed here; ``make space-check`` does the same with what a Space would install."""
    with tempfile.TemporaryDirectory(prefix="space-") as name:
        work = Path(name)
        work.chmod(0o755)  # the page runs as another user
        (work / "home").mkdir()
        space.copy(work / "app")
        space.convert(work / "app", sys.executable)
        found = space.check(work / "app", sys.executable, work / "home", limit=300)
        assert found["again"] < found["example"]
        if found["unprivileged"]:
            assert all(p.stat().st_uid == 1000 for p in (work / "home").rglob("*"))
            assert not list((work / "app").rglob("__pycache__"))
