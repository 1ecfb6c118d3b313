"""Tampered weights: every change is refused by name before anything is parsed, and nothing in them can run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurovision.ensemble.manifest import Networks
from neurovision.ensemble.weights import DEFAULT, FILE, PIN, load_manifest
from neurovision.errors import WeightsError, WeightsMissing, WeightsTampered

pytestmark = pytest.mark.skipif(not (DEFAULT / FILE).is_file(), reason="no trained weights here")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A copy of the shipped set, without its cache."""
    folder = tmp_path / "weights"
    shutil.copytree(DEFAULT, folder, ignore=shutil.ignore_patterns("cache"))
    return folder


def test_a_changed_byte_of_any_file_is_refused(weights: Path):
    manifest = load_manifest(weights)
    for file in manifest.files:
        path = weights / file.file
        assert hashlib.sha256(manifest.read(file)).hexdigest() == file.sha256
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(WeightsTampered, match=f"{file.file} is not the file that was shipped"):
            manifest.read(file)
        path.write_bytes(data[:1000])
        with pytest.raises(WeightsTampered):
            manifest.read(file)
        path.unlink()
        with pytest.raises(WeightsMissing, match=file.file):
            manifest.read(file)


def test_tampered_trees_are_never_parsed(weights: Path, monkeypatch: pytest.MonkeyPatch):
    import skops.io
    import xgboost

    from neurovision.ensemble.voter import Forest, Voter

    def parsed(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("parsed before its digest was checked")

    monkeypatch.setattr(skops.io, "loads", parsed)
    monkeypatch.setattr(xgboost.XGBClassifier, "load_model", parsed)
    for name in ("boost.ubj", "forest.skops"):
        (weights / name).write_bytes((weights / name).read_bytes() + b"x")
    with pytest.raises(WeightsTampered, match=r"boost\.ubj"):
        Voter.load(load_manifest(weights))
    with pytest.raises(WeightsTampered, match=r"forest\.skops"):
        Forest.load(load_manifest(weights))


def test_a_pinned_manifest_alone_is_taken(weights: Path, monkeypatch: pytest.MonkeyPatch):
    digest = hashlib.sha256((weights / FILE).read_bytes()).hexdigest()
    monkeypatch.setenv(PIN, digest.upper())
    assert load_manifest(weights).digest == digest
    (weights / FILE).write_bytes((weights / FILE).read_bytes() + b" ")
    with pytest.raises(WeightsTampered, match="not the pinned"):
        load_manifest(weights)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a path in a file's name": lambda m: m["members"][0].update(file="../../etc/passwd"),
    "an absolute file": lambda m: m["vote"]["forest"].update(file="/etc/passwd"),
    "a digest that is none": lambda m: m["members"][0].update(sha256=""),
    "another field": lambda m: m["members"][0].update(code="import os"),
    "a name that is code": lambda m: m["members"][0].update(name="__import__('os')"),
    "weights to fetch": lambda m: m["members"][0]["config"].update(encoder_weights="imagenet"),
    "a huge canvas": lambda m: m.update(size=10**9),
    "no canvas": lambda m: m.update(size="x"),
    "no members": lambda m: m.update(members=[]),
    "ten thousand members": lambda m: m.update(members=m["members"] * 2000),
    "members of another kind": lambda m: m.update(members={"a": 1}),
    "no vote": lambda m: m.pop("vote"),
    "a vote of another kind": lambda m: m.update(vote=[1, 2]),
    "a verdict of another kind": lambda m: m.update(verdict="tumor"),
    "a digest that is no text": lambda m: m["members"][0].update(sha256=["0" * 64]),
    "a verdict without a scale": lambda m: m["verdict"].update(scale=[0.0] * len(m["verdict"]["scale"])),
    "coefficients of other features": lambda m: m["verdict"]["coefficients"].pop(),
    "a threshold above 1": lambda m: m["verdict"].update(threshold=2),
    "a threshold that is no number": lambda m: m["verdict"].update(threshold=float("nan")),
    "a section that no version knows": lambda m: m.update(plugins=["os"]),
    "a format of the future": lambda m: m.update(format=3),
    "a card in the place of weights": lambda m: m["members"][0].update(file="README.md"),
    "a config of another kind": lambda m: m["members"][0].update(config=None),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_forged_manifest_is_refused(weights: Path, what: str):
    raw = json.loads((weights / FILE).read_text())
    CHANGES[what](raw)
    (weights / FILE).write_text(json.dumps(raw))
    with pytest.raises(WeightsTampered, match="fetch the weights again"):
        load_manifest(weights)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"\x80\x04cos\nsystem\n."])
def test_what_is_no_manifest_is_refused(weights: Path, data: bytes):
    (weights / FILE).write_bytes(data)
    with pytest.raises(WeightsTampered):
        load_manifest(weights)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 20_000), patch=st.binary(min_size=1, max_size=6))
def test_any_change_of_the_manifest_loads_or_is_refused_by_name(weights: Path, at: int, patch: bytes):
    data = bytearray((DEFAULT / FILE).read_bytes())
    data[at % len(data) : at % len(data) + len(patch)] = patch
    (weights / FILE).write_bytes(data)
    try:
        manifest = load_manifest(weights)
        for file in manifest.files:
            manifest.read(file)
    except WeightsError as e:
        assert "\n" not in str(e) and str(weights) not in str(e)


def test_a_pickle_in_the_place_of_the_trees_is_refused(tmp_path: Path):
    import pickle

    from neurovision.ensemble.voter import load_forest
    from tests.hostile import _Bad

    for data in (pickle.dumps(_Bad()), b"PK\3\4" + b"\0" * 100, b""):
        with pytest.raises(WeightsTampered):
            load_forest(data)
    assert not Path("/tmp/neurovision-was-unpickled").exists()


def test_a_manifest_is_written_as_it_is_read(weights: Path):
    manifest = load_manifest(weights)
    (weights / FILE).write_text(manifest.text())
    again = load_manifest(weights)
    assert replace(again, digest=manifest.digest) == manifest and again.text() == manifest.text()
    assert Networks.from_json(manifest.to_json(), weights).networks == manifest.networks


@pytest.mark.parametrize("data", [b"", b"{", b"\0" * 100])
def test_trees_that_are_none_are_an_error_though_their_digest_matches(weights: Path, data: bytes):
    from neurovision.ensemble.voter import Voter

    manifest = load_manifest(weights)
    boost = manifest.vote.boost
    (weights / boost.file).write_bytes(data)
    spoiled = replace(boost, sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(WeightsTampered, match=boost.file):
        Voter.load(replace(manifest, vote=replace(manifest.vote, boost=spoiled)))


def test_weights_of_the_working_directory_are_taken_only_from_its_own_user(
    weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from neurovision.ensemble.weights import local_weights

    monkeypatch.delenv("NEUROVISION_WEIGHTS", raising=False)
    monkeypatch.chdir(weights.parent)
    assert local_weights() == weights
    weights.chmod(0o777)
    assert local_weights() == DEFAULT and "another user may write it" in caplog.text
    weights.chmod(0o755)
    (weights / FILE).chmod(0o666)
    assert local_weights() == DEFAULT
    (weights / FILE).chmod(0o644)
    assert local_weights() == weights
    monkeypatch.setattr("os.geteuid", lambda: weights.stat().st_uid + 1)
    assert local_weights() == (weights if weights.stat().st_uid == 0 else DEFAULT)
