"""Weights to and from the Hub, against a stand-in of its HTTP API on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_standin import Hub, serve_hub
from safetensors.numpy import save
from typer.testing import CliRunner

from neurovision.cli import app
from neurovision.ensemble import weights
from neurovision.ensemble.weights import load_manifest
from neurovision.errors import HubError, WeightsMissing, WeightsTampered
from neurovision.serving import hub as product
from neurovision.serving.hub import Reference, listed, provide, pull, push

REPO = "clinic/neurovision"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in, and a user whose cache and folders are empty and who is logged in elsewhere."""
    for name in ("NEUROVISION_WEIGHTS", "NEUROVISION_HUB", "NEUROVISION_HUB_TOKEN", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_saved_by_another_program")
    monkeypatch.setattr(weights, "DEFAULT", tmp_path / "checkout" / "weights")
    monkeypatch.setattr(product, "_OFFLINE", None)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with serve_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def weights_files(seed: int = 0) -> dict[str, bytes]:
    """A small set in the shape of the shipped one: two members, two trees, a manifest and a card."""
    rng = np.random.default_rng(seed)
    files = {f"{n}.safetensors": save({"w": rng.random(30_000).astype("float32")}) for n in ("unet", "dgnet")}
    files |= {"forest.skops": rng.bytes(9000), "boost.ubj": rng.bytes(5000)}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    members = [
        {"name": n, "file": f"{n}.safetensors", "sha256": digests[f"{n}.safetensors"], "config": {}, "parameters": 30_000}
        for n in ("unet", "dgnet")
    ]  # fmt: skip
    vote = {k: {"file": f, "sha256": digests[f]} for k, f in (("forest", "forest.skops"), ("boost", "boost.ubj"))}
    verdict = {"features": [], "mean": [], "scale": [], "coefficients": [], "intercept": 0, "threshold": 0.5}
    training = {"date": "2026-01-01", "sources": [], "member_folds": [], "vote_fold": 1, "split": "none", "license": "mit"}
    raw = {"size": 64, "members": members, "vote": {**vote, "pixels": 0}, "verdict": verdict, "training": training}
    manifest = json.dumps({"format": 2, **raw}).encode()
    card = f"---\nlicense: mit\n---\nManifest `{hashlib.sha256(manifest).hexdigest()[:12]}`\n".encode()
    return {**files, "manifest.json": manifest, "README.md": card}


def folder_of(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


class TestReference:
    def test_reads_and_prints_itself(self):
        text = f"a/b@{'1' * 40}#{'2' * 64}"
        assert str(Reference.parse(text)) == text
        assert Reference.parse(text).pinned and not Reference.parse("a/b@main").pinned

    @pytest.mark.parametrize("text", ["b", "a/b/c", "a/b#123", "../b", "a/b@", "http://x/a/b", "a/..@main"])
    def test_anything_else_is_refused(self, text):
        with pytest.raises(HubError, match="owner/name@revision"):
            Reference.parse(text)


class TestPull:
    def test_a_branch_becomes_a_pinned_set_that_is_then_used(self, hub):
        files = weights_files()
        commit = hub.commit(REPO, files)
        with pytest.raises(WeightsMissing, match="neurovision hub pull"):
            load_manifest()
        reference, folder = pull(Reference(REPO))
        assert reference == Reference(REPO, commit, hashlib.sha256(files["manifest.json"]).hexdigest())
        assert load_manifest().folder == folder
        for name, data in files.items():
            assert (folder / name).read_bytes() == data

    def test_a_complete_set_is_not_asked_for_again_and_serves_offline(self, hub, monkeypatch):
        commit = hub.commit(REPO, weights_files())
        first = pull(Reference(REPO, commit))
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(product, "_OFFLINE", "1")
        assert pull(Reference(REPO, commit)) == first

    def test_a_connection_cut_within_a_file_goes_on_where_it_was(self, hub):
        commit = hub.commit(REPO, weights_files())
        hub.cut = {"unet.safetensors": 100_000}
        pull(Reference(REPO, commit))
        ranges = [h["range"] for _, p, h in hub.requests if p.endswith("unet.safetensors") and "range" in h]
        assert ranges == ["bytes=65536-"]
        assert hub.fetched().count("dgnet.safetensors") == 1

    def test_a_killed_pull_keeps_what_was_finished(self, hub, monkeypatch):
        files = weights_files()
        commit = hub.commit(REPO, files)
        hub.lost = {"unet.safetensors"}
        with pytest.raises(HubError, match="lacks a file"):
            pull(Reference(REPO, commit))
        with pytest.raises(WeightsMissing):
            load_manifest()  # half a set is never used
        hub.lost = set()
        before = list(hub.requests)
        hub.requests.clear()
        pull(Reference(REPO, commit))
        done = {p.rsplit("/", 1)[1] for m, p, _ in before if m == "GET" and "/resolve/" in p}
        assert set(hub.fetched()) - {"manifest.json"} == {*files, "README.md"} - done | {"unet.safetensors"}
        assert "dgnet.safetensors" in done

    def test_a_tampered_file_is_refused_and_removed(self, hub):
        files = weights_files()
        commit = hub.commit(REPO, {**files, "dgnet.safetensors": files["dgnet.safetensors"][:-1] + b"x"})
        with pytest.raises(WeightsTampered, match=r"dgnet\.safetensors of clinic/neurovision is not the file"):
            pull(Reference(REPO, commit))
        assert not (Reference(REPO, commit).folder / "dgnet.safetensors").exists()
        with pytest.raises(WeightsMissing):
            load_manifest()

    def test_another_manifest_than_the_pinned_one_is_refused_before_anything_else_is_fetched(self, hub):
        commit = hub.commit(REPO, weights_files())
        with pytest.raises(WeightsTampered, match="not the one that was pinned"):
            pull(Reference(REPO, commit, "0" * 64))
        assert hub.fetched() == ["manifest.json"]

    def test_a_wrong_digest_does_no_harm_to_a_sound_set(self, hub):
        reference, folder = pull(Reference(REPO, hub.commit(REPO, weights_files())))
        hub.requests.clear()
        with pytest.raises(WeightsTampered, match="check the reference"):
            pull(Reference(REPO, reference.revision, "0" * 64))
        assert load_manifest().folder == folder and not hub.requests

    def test_a_file_that_went_bad_on_disk_is_fetched_again(self, hub):
        files = weights_files()
        reference, folder = pull(Reference(REPO, hub.commit(REPO, files)))
        (folder / "boost.ubj").write_bytes(b"bad")
        hub.requests.clear()
        pull(reference)
        assert (folder / "boost.ubj").read_bytes() == files["boost.ubj"]
        assert "unet.safetensors" not in hub.fetched()

    @pytest.mark.parametrize("name", ["../evil", "/etc/evil", ".hidden", "a/b", "README.md"])
    def test_a_manifest_cannot_lead_out_of_the_folder(self, tmp_path, name):
        raw = json.loads(weights_files()["manifest.json"])
        raw["members"][0]["file"] = name
        with pytest.raises(WeightsTampered, match="not a manifest"):
            listed(folder_of({"manifest.json": json.dumps(raw).encode()}, tmp_path / "w"))

    def test_no_token_and_nothing_about_this_machine_is_sent(self, hub):
        pull(Reference(REPO, hub.commit(REPO, weights_files())))
        assert hub.requests
        for _, path, head in hub.requests:
            assert "authorization" not in head and "telemetry" not in path, path
            assert "tensorflow" not in head["user-agent"] and "torch" not in head["user-agent"]

    def test_a_private_repository_takes_the_token_that_is_named(self, hub, monkeypatch):
        commit = hub.commit(REPO, weights_files())
        hub.private.add(REPO)
        with pytest.raises(HubError, match=r"shows no repository clinic/neurovision.*NEUROVISION_HUB_TOKEN"):
            pull(Reference(REPO, commit))
        monkeypatch.setenv("NEUROVISION_HUB_TOKEN", hub.token)
        pull(Reference(REPO, commit))

    def test_a_token_is_not_sent_in_the_clear(self, hub, monkeypatch):
        monkeypatch.setenv("NEUROVISION_HUB_TOKEN", hub.token)
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.org")
        with pytest.raises(HubError, match="only sent over https"):
            pull(Reference(REPO))

    def test_without_a_connection_one_sentence_says_so(self, hub, monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(HubError, match=r"^The Hub cannot be reached \(there is no connection\)"):
            pull(Reference(REPO))
        monkeypatch.setattr(product, "_OFFLINE", "1")
        with pytest.raises(HubError, match=r"\(HF_HUB_OFFLINE is set\)"):
            pull(Reference(REPO))

    def test_an_unknown_repository_or_revision_is_named(self, hub):
        with pytest.raises(HubError, match="no repository clinic/nothing"):
            pull(Reference("clinic/nothing"))
        hub.commit(REPO, weights_files())
        with pytest.raises(HubError, match="no revision v9"):
            pull(Reference(REPO, "v9"))


class TestProvide:
    def test_nothing_is_fetched_that_is_not_named(self, hub):
        hub.commit(REPO, weights_files())
        assert provide() is None
        assert not hub.requests

    def test_local_weights_come_first(self, hub, monkeypatch):
        monkeypatch.setenv("NEUROVISION_HUB", f"{REPO}@{hub.commit(REPO, weights_files())}")
        local = folder_of(weights_files(1), Path.cwd() / "weights")
        assert provide() is None
        assert load_manifest().folder == local
        assert not hub.requests

    def test_then_the_cache_then_the_hub(self, hub, monkeypatch):
        monkeypatch.setenv("NEUROVISION_HUB", f"{REPO}@{hub.commit(REPO, weights_files())}")
        folder = provide()
        assert folder is not None and (folder / "manifest.json").is_file()
        hub.requests.clear()
        assert provide() == folder
        assert not hub.requests

    def test_a_branch_is_no_pin(self, hub, monkeypatch):
        monkeypatch.setenv("NEUROVISION_HUB", f"{REPO}@main")
        with pytest.raises(HubError, match="must pin a commit"):
            provide()

    def test_every_command_that_needs_weights_finds_them(self, hub, monkeypatch):
        monkeypatch.setenv("NEUROVISION_HUB", f"{REPO}@{hub.commit(REPO, weights_files())}")
        result = CliRunner().invoke(app, ["models", "--json"])
        assert result.exit_code == 0, result.output
        assert {m["weights"] for m in json.loads(result.stdout)} == {"unet.safetensors", "dgnet.safetensors", None}

    def test_the_page_switched_offline_still_fetches_in_a_process_of_its_own(self, hub, monkeypatch):
        monkeypatch.setenv("NEUROVISION_HUB", f"{REPO}@{hub.commit(REPO, weights_files())}")
        code = (
            "from neurovision.serving.hub import provide\nimport neurovision.ensemble.weights as w, pathlib, os\n"
            "w.DEFAULT = pathlib.Path('none')\nimport neurovision.views.ui, neurovision.serving.hub\n"
            "assert os.environ['HF_HUB_OFFLINE'] == '1'\nprint(provide())"
        )
        package = Path(product.__file__).parents[2]
        environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | {"PYTHONPATH": str(package)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).joinpath("unet.safetensors").is_file()


class TestPush:
    @pytest.fixture
    def local(self, hub, tmp_path):
        files = weights_files()
        folder = folder_of({k: v for k, v in files.items() if k != "README.md"}, tmp_path / "w")
        (folder / "cache").mkdir()
        (folder / "cache" / "not-shipped").write_text("x")
        card = tmp_path / "CARD.md"
        card.write_bytes(files["README.md"])
        return folder, card

    def test_what_was_pushed_can_be_pulled(self, hub, local, monkeypatch):
        monkeypatch.setenv("NEUROVISION_HUB_TOKEN", hub.token)
        reference = push(local[0], REPO, local[1])
        assert reference.pinned and reference.digest
        assert hub.repos[REPO][0][1] == weights_files()
        monkeypatch.delenv("NEUROVISION_HUB_TOKEN")
        assert pull(reference)[0] == reference

    def test_a_new_repository_may_be_private(self, hub, local, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", hub.token)
        push(local[0], REPO, local[1], private=True)
        assert hub.private == {REPO}

    def test_without_a_token_nothing_is_sent(self, hub, local):
        with pytest.raises(HubError, match="set NEUROVISION_HUB_TOKEN"):
            push(local[0], REPO, local[1])
        assert not hub.requests

    def test_a_wrong_token_is_refused_in_a_sentence(self, hub, local, monkeypatch):
        monkeypatch.setenv("NEUROVISION_HUB_TOKEN", "hf_wrong")
        with pytest.raises(HubError, match=r"refuses clinic/neurovision \(status 401\)|shows no repository"):
            push(local[0], REPO, local[1])

    def test_a_card_of_other_weights_is_refused(self, hub, local, monkeypatch):
        monkeypatch.setenv("NEUROVISION_HUB_TOKEN", hub.token)
        local[1].write_text("another card")
        with pytest.raises(HubError, match="not of these weights"):
            push(local[0], REPO, local[1])

    def test_a_damaged_folder_is_refused(self, hub, local, monkeypatch):
        monkeypatch.setenv("NEUROVISION_HUB_TOKEN", hub.token)
        (local[0] / "boost.ubj").write_bytes(b"x")
        with pytest.raises(WeightsTampered):
            push(local[0], REPO, local[1])
        assert not hub.requests
