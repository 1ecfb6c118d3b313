"""The page: its handlers as functions, its endpoints through a client, and its tabs in a real browser."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from scans import Scans, write_scans
from standin import standin

import neurovision.views.ui  # noqa: F401 - before Gradio: it switches the calls home off
from neurovision.ensemble.manifest import Network, Networks
from neurovision.ensemble.weights import DEFAULT, FILE
from neurovision.errors import WeightsMissing
from neurovision.scan.phantom import phantom
from neurovision.scan.read import read
from neurovision.views.examples import EXAMPLES, FOLDER

if TYPE_CHECKING:
    import keras
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

ROOT = Path(__file__).parents[1]
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
SETTLED = "!['loading', 'empty'].includes(document.querySelector('#verdict').dataset.state)"


def tiny_unet(entry: Network, networks: Networks) -> keras.Model:
    from neurovision.segmenters import build

    return build("unet", (networks.size, networks.size, 1), width=4)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Scans:
    return write_scans(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """One page on a free port, with the stand-in for the models."""
    import uvicorn

    from neurovision.views.ui.page import application
    from neurovision.views.ui.room import Room

    room = Room(standin, tiny_unet)
    room.open()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(application(room), port=port, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


# --- plain functions -------------------------------------------------------------------------------------------------


def test_nothing_calls_home() -> None:
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    # Libraries write the same in other words.
    assert {os.environ["HF_HUB_OFFLINE"], os.environ["HF_HUB_DISABLE_TELEMETRY"]} <= {"1", "True"}


def test_examples_are_four_pictures_whose_source_is_named() -> None:
    told = (FOLDER / "README.md").read_text()
    assert {p.name for p in FOLDER.glob("*.png")} == {e.file for e in EXAMPLES}
    for example in EXAMPLES:
        picture = Image.open(FOLDER / example.file)
        assert picture.mode == "L" and not picture.getexif() and set(picture.info) == set()
        assert f"`{example.file}`" in told
    assert told.count("CC BY 4.0") == 3 and "CC0" in told


def test_viewer_library_is_the_one_that_is_pinned() -> None:
    from neurovision.views.ui.viewer import PINNED, VENDOR

    assert hashlib.sha256((VENDOR / PINNED["file"]).read_bytes()).hexdigest() == PINNED["sha256"]
    assert "BSD 2-Clause" in (VENDOR / "niivue.LICENSE").read_text()
    assert {p.name for p in VENDOR.iterdir()} == {PINNED["file"], "niivue.LICENSE", "vendor.json"}


def test_layers_lie_where_the_scan_lies(scans: Scans, tmp_path: Path) -> None:
    import nibabel

    from neurovision.views.layers import grid, plane, write_scan

    study = read(scans.nifti)
    write_scan(study, tmp_path / "scan.nii.gz")
    written, source = nibabel.load(tmp_path / "scan.nii.gz"), nibabel.load(scans.nifti)
    assert np.allclose(written.affine, grid(study)) and plane(study) == "axial"
    k, j, i = 4, 30, 60  # the same place in both files holds the same brightness
    place = written.affine @ [i, j, k, 1]
    at = np.rint(np.linalg.inv(source.affine) @ place).astype(int)[:3]
    assert abs(int(written.dataobj[i, j, k]) - round(1000 * float(study.pixels[k, j, i, 0]))) <= 1
    values = np.asarray(source.dataobj, float)
    assert abs(values[tuple(at)] / values.max() - study.pixels[k, j, i, 0]) < 0.25
    picture = read(scans.glioma)
    assert np.array_equal(np.diag(grid(picture)), [-1, -1, 1, 1])


def test_volume_is_judged_by_all_of_its_slices(scans: Scans) -> None:
    from neurovision.views.ui.case import analyze

    study = read(scans.nifti)
    case = analyze(standin(), study)
    assert case.state == "tumor" and len(case.volume.slices) == study.n_slices == 12
    assert case.index == case.findings.slice_index == case.volume.largest_slice != study.n_slices // 2


def test_what_stands_upside_down_is_offered_turned_and_what_dicom_cannot_hold_is_told(tmp_path: Path) -> None:
    import gradio as gr
    from dicom_builder import NAME, header, saved, stored

    from neurovision.ensemble.screen import turned
    from neurovision.scan.read import read_bytes
    from neurovision.views.ui import card
    from neurovision.views.ui.case import analyze
    from neurovision.views.ui.read import Tab
    from neurovision.views.ui.room import Room

    room = Room(standin)
    room.open()
    with gr.Blocks():
        tab = Tab(room)
    upright = read(FOLDER / "glioma.png")
    for study, offered in ((upright, False), (turned(upright), True), (turned(turned(upright)), False)):
        shown = tab.describe(analyze(standin(), study))
        assert len(shown) == len(tab.shown) == len(tab.blank({}, {}))
        assert [u["visible"] for u in shown[-2:]] == [offered, offered]
    dataset = header("bare", stored(phantom("glioma", 4)[0]))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.PixelData = stored(phantom("glioma", 4)[0])[0].tobytes()
    case = analyze(standin(), read_bytes(saved(dataset), "bare.dcm"))
    assert tab.describe(case)[tab.shown.index(tab.dicom)]["visible"] is False
    assert "No DICOM SEG, SR. The headers give no PixelSpacing" in card.facts(case) and NAME not in card.facts(case)


def test_files_are_sorted_into_series_and_what_cannot_be_read_is_named(scans: Scans) -> None:
    from neurovision.views.ui.case import sort_files

    paths = [str(p) for p in sorted(Path(scans.two).rglob("*.dcm"))]
    found, unread, study = sort_files([*paths, scans.letter])
    assert [s.slices for s in found] == [10, 6] and study is not None and study.n_slices == 10
    assert "10 slices" in found[0].words and " mm" in found[0].words
    assert [name for name, _ in unread] == ["letter.txt", "letter.dcm"] or len(unread) == 2
    listed, _, _ = sort_files([scans.glioma, scans.healthy])
    assert [s.slices for s in listed] == [1, 1, 2] and listed[-1].stacked


def test_card_says_the_verdict_and_the_held_out_rates(scans: Scans) -> None:
    from neurovision.evaluation.held_out import HeldOut
    from neurovision.views.ui import card
    from neurovision.views.ui.case import analyze

    measured = HeldOut("slices of all kinds", 0.981, 966, 0.03, 462, 0.943)
    case = analyze(standin(), read(scans.glioma))
    told = card.verdict(case, measured)
    assert told["state"] == "tumor" and "found 98&nbsp;% of 966 slices" in told["html"]
    assert "false alarm on 3&nbsp;% of 462" in told["html"] and "right in 94&nbsp;%" in told["html"]
    none = analyze(standin(), read(scans.healthy))
    assert card.verdict(none, None)["state"] == "none" and "network's finding" not in card.verdict(none, None)["html"]
    assert "no finding passes" in card.lesions(none)
    refused = replace(case.volume, verdict=None, reason="<script>x</script>", warnings=("<i>",))
    rejected = replace(case, volume=refused)
    html = card.verdict(rejected, None)["html"]
    assert "Not a brain MRI" in html and "<script>" not in html and "<i>" not in html.split("</h2>")[1]


def test_borderline_is_a_state_of_its_own_whose_rate_is_told(scans: Scans) -> None:
    from neurovision.ensemble.manifest import BorderlineRule, IntervalModel
    from neurovision.ensemble.results import Interval
    from neurovision.views.ui import card
    from neurovision.views.ui.case import analyze

    case = analyze(standin(), read(scans.nifti))
    assert case.volume.verdict is not None
    said = replace(case.volume.verdict, state="borderline", interval=Interval(20.0, 50.0, "ml"), expected_dice=0.71)
    rule = BorderlineRule(low=0.3, high=0.6, rate=0.05, errors_inside=0.4, errors_outside=0.02)
    spread = IntervalModel(level=0.9, base=0.2, slope=0.5, low={"": -1.0}, high={"": 1.0}, scans=100)
    manifest = replace(standin().manifest, borderline=rule, intervals=spread)
    told = card.verdict(replace(case, volume=replace(case.volume, verdict=said)), None, manifest)
    assert told["state"] == "borderline" and "Borderline" in told["said"]
    assert "5&nbsp;% of scans" in told["html"] and "40&nbsp;% wrong" in told["html"]
    assert "between 20.0 and 50.0 ml with 90&nbsp;% chance" in told["html"] and "Dice): 0.71" in told["html"]


def test_what_is_below_the_threshold_is_never_drawn(scans: Scans) -> None:
    from neurovision.views.ui.case import analyze, marked
    from neurovision.views.ui.read import overlay_of

    case = analyze(standin(), read(scans.glioma))
    assert case.volume.verdict is not None
    verdict = replace(case.volume.verdict, state="no tumor", probability=0.1)
    below = replace(case, volume=replace(case.volume, verdict=verdict))
    assert (case.volume.mask > 1).any() and not (marked(below.volume) > 1).any()
    gray = overlay_of(below)
    assert (gray[..., 0] == gray[..., 1]).all() and (gray[..., 1] == gray[..., 2]).all()


def test_held_out_rates_are_those_of_the_evaluation(tmp_path: Path) -> None:
    from neurovision.evaluation.held_out import held_out

    def rates(found: float, tumors: int, alarms: float | None, free: int) -> dict[str, Any]:
        return {"called_tumor": {"value": found, "n": tumors}, "free_called_tumor": {"value": alarms, "n": free}}

    told = {
        "about": {"weights": "ab" * 32},
        "type": {"lgg": {"accuracy": {"value": 1.0}}, "figshare": {"accuracy": {"value": 0.9}}},
        "verdict": {"all": {"sensitivity": {"value": 0.9, "n": 50}, "specificity": {"value": 0.9, "n": 50}}},
        "by_sequence": {
            "figshare": {"T1c": rates(0.95, 40, None, 0)}, "lgg": {"FLAIR": rates(0.8, 20, 0.1, 10)},
            "brats": {"FLAIR": rates(0.9, 20, 0.4, 5), "T1c": rates(0.8, 10, 0.2, 5)},
        },
    }  # fmt: skip
    (tmp_path / "evaluation.json").write_text(json.dumps(told))
    flair = held_out("ab" * 32, "FLAIR", (tmp_path,))
    assert flair is not None and (flair.scans, flair.with_tumor, flair.without_tumor) == ("FLAIR slices", 40, 15)
    assert (flair.sensitivity, flair.false_alarms) == (pytest.approx(0.85), pytest.approx(0.2))
    assert (flair.type_right, flair.tumors) == (1.0, "tumors, all gliomas")
    enhanced = held_out("ab" * 32, "T1 post-contrast", (tmp_path,))
    assert enhanced is not None and enhanced.sensitivity == pytest.approx(0.92) and enhanced.type_right == 0.9
    for sequence in (None, "other", "SWI"):
        mixed = held_out("ab" * 32, sequence, (tmp_path / "absent", tmp_path))
        assert mixed is not None and mixed.sensitivity == 0.9 and mixed.false_alarms == pytest.approx(0.1)
    assert held_out("cd" * 32, None, (tmp_path,)) is None and held_out("ab" * 32, None, (tmp_path / "absent",)) is None


def test_sequence_is_told_by_the_file_and_by_the_picture(scans: Scans) -> None:
    from neurovision.views.report import sequence_words
    from neurovision.views.ui import card
    from neurovision.views.ui.case import analyze

    case = analyze(standin(), read(scans.glioma))
    source = case.volume.source

    def words(header: str | None, seen: str | None) -> str:
        return sequence_words(replace(case.volume, source=replace(source, sequence=header), sequence=seen))

    assert words(None, None) == words(None, "other") == ""
    assert words(None, "T2") == "T2, as the picture looks" and words("T1", "other") == "T1, as the file says"
    assert words("T1", "T1") == "T1, as the file says and the picture looks"
    assert words("T1", "FLAIR") == "T1 by the file, but the picture looks like FLAIR"
    seen = replace(case, volume=replace(case.volume, sequence="FLAIR"))
    assert "Sequence: FLAIR, as the picture looks." in card.verdict(seen, None)["html"]


@pytest.mark.parametrize("unforeseen", [False, True])
def test_an_example_that_fails_says_so_on_the_card(unforeseen: bool) -> None:
    import gradio as gr

    from neurovision.errors import UnsupportedScan
    from neurovision.views.ui.read import Tab
    from neurovision.views.ui.room import Room, speaks

    with gr.Blocks():
        tab = Tab(Room(standin))

    @tab.tells(tab.unlisted)
    @speaks
    def fails() -> list[Any]:
        raise ValueError("Jane") if unforeseen else UnsupportedScan("The file took too long to read.")

    shown = fails()
    assert len(shown) == len([*tab.shown, *tab.listing]) and shown[3] == {"state": "empty"}
    told = shown[2]
    assert told["state"] == "rejected" and "Working" not in told["html"] and "Jane" not in told["html"]
    assert ("Not analyzed" if unforeseen else "This file cannot be read") in told["html"]
    assert ("log says where" if unforeseen else "took too long") in told["said"]


def test_probabilities_are_never_certain_and_never_wrap() -> None:
    from neurovision.views.ui.parts import percent

    assert [percent(p) for p in (0.0, 0.5, 1.0)] == ["&lt;&nbsp;1&nbsp;%", "50&nbsp;%", "&gt;&nbsp;99&nbsp;%"]


def test_difference_paints_agreed_missed_and_extra() -> None:
    from neurovision.views.overlay import AGREED, EXTRA, MISSED, difference

    truth = np.array([[True, True, False, False]])
    found = np.array([[True, False, True, False]])
    drawn = difference(np.zeros((1, 4), np.float32), truth, found, opacity=1.0)
    assert [tuple(p) for p in drawn[0]] == [AGREED, MISSED, EXTRA, (0, 0, 0)]


def test_mask_of_another_size_or_no_picture_is_refused(tmp_path: Path, scans: Scans) -> None:
    from neurovision.errors import UnsupportedScan
    from neurovision.scan.masks import read_mask

    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(UnsupportedScan, match="scan's own size, 5 x 3; received 4 x 3"):
        read_mask(tmp_path / "m.png", (3, 5))
    with pytest.raises(UnsupportedScan, match="a mask is a picture"):
        read_mask(scans.letter, (3, 5))


def test_pictures_of_several_sizes_make_no_volume(tmp_path: Path) -> None:
    from neurovision.views.ui.case import read_series, sort_files

    paths = []
    for k, size in enumerate((64, 64, 80)):
        paths.append(tmp_path / f"{k}.png")
        Image.fromarray((phantom("healthy", k, size=size)[0].gray() * 255).astype(np.uint8)).save(paths[-1])
    listed, _, _ = sort_files([str(p) for p in paths[1::-1]])
    stacked = [s for s in listed if s.stacked]
    assert len(stacked) == 1 and read_series(stacked[0]).n_slices == 2
    assert not [s for s in sort_files([str(p) for p in paths])[0] if s.stacked]


def test_batch_sorts_by_probability_and_survives_a_bad_file(tmp_path: Path, scans: Scans) -> None:
    from neurovision.views.ui.batch import analyze_all, batch_table, write_zip

    outcomes = analyze_all(standin(), [Path(p) for p in (scans.letter, scans.healthy, scans.glioma, scans.nifti)])
    assert {o.row["scan"] for o in outcomes[:2]} == {"glioma.png", "head.nii.gz"}
    assert [o.row["scan"] for o in outcomes[2:]] == ["healthy.png", "letter.txt"]
    assert [o.row["verdict"] for o in outcomes] == ["tumor", "tumor", "no tumor", None]
    assert "not a readable" in str(outcomes[-1].row["reason"])
    table = batch_table(outcomes, standin().manifest.classes)
    assert table.count("data-row=") == table.count("<img") == 3 and " ml" in table and "Glioma" in table
    write_zip(outcomes, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert set(archive.namelist()) == {
            "batch.csv", "glioma.json", "glioma.mask.png", "glioma.overlay.png", "healthy.json", "healthy.mask.png",
            "healthy.overlay.png", "letter.txt.json", "head.json", "head.mask.nii.gz", "head.overlay.png",
        }  # fmt: skip
        assert json.loads(archive.read("glioma.json"))["verdict"] == "tumor"


def test_private_folder_is_private_and_swept() -> None:
    from neurovision.views.ui.room import Room

    room = Room(standin)
    file = room.new_file("findings.json")
    file.write_text("{}")
    os.utime(file, (0, 0))  # a copy of an old file keeps its old time and must stay all the same
    assert room.folder.stat().st_mode & 0o777 == 0o700
    room.sweep(keep=60)
    assert file.is_file()
    time.sleep(0.02)
    room.sweep(keep=0)
    room.sweep(keep=0)
    assert not file.parent.exists() and room.folder.is_dir()


def test_missing_weights_are_a_sentence_in_the_page() -> None:
    import gradio as gr

    from neurovision.views.ui.room import Room

    def load() -> Any:
        raise WeightsMissing("There is no manifest.json in weights/.")

    room = Room(load)
    room.open()
    with pytest.raises(gr.Error, match="There is no manifest"):
        room.analyzer()


def test_unforeseen_error_keeps_its_words_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    import gradio as gr

    from neurovision.views.ui.room import speaks

    @speaks
    def broken() -> None:
        raise ValueError("Jane Doe, /home/jane/scan.dcm")

    with pytest.raises(gr.Error) as caught:
        broken()
    assert "Jane" not in str(caught.value) and "Jane" not in caplog.text and "ValueError" in caplog.text


# --- endpoints -------------------------------------------------------------------------------------------------------


def test_predict_answers_for_a_picture_a_volume_and_a_series(url: str, scans: Scans) -> None:
    import nibabel
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(url, verbose=False)
    overlay, verdict, findings, mask = client.predict([handle_file(scans.glioma)], api_name="/predict")
    assert verdict == findings["verdict"] == "tumor" and findings["status"] == "ok"
    assert Image.open(overlay).size == (256, 256) and findings["source"]["name"] == "glioma.png"
    assert Path(mask).name == "glioma.mask.nii.gz"
    _, verdict, findings, mask = client.predict([handle_file(scans.nifti)], api_name="/predict")
    assert verdict == "tumor" and len(findings["slices"]) == 12 and findings["volumes_ml"]["glioma"] > 1
    assert nibabel.load(mask).shape == nibabel.load(scans.nifti).shape
    assert client.predict([handle_file(p) for p in scans.series], api_name="/predict")[2]["source"]["slices"] == 10
    assert client.predict([handle_file(scans.healthy)], api_name="/predict")[1] == "no tumor"
    with pytest.raises(AppError, match="not a readable") as caught:
        client.predict([handle_file(scans.letter)], api_name="/predict")
    assert "Traceback" not in str(caught.value)
    with pytest.raises(AppError, match="One scan is analyzed at a time"):
        client.predict([handle_file(scans.glioma), handle_file(scans.nifti)], api_name="/predict")


def test_a_handful_of_endpoints_each_described(url: str) -> None:
    with urllib.request.urlopen(f"{url}/gradio_api/info") as answer:
        described = json.load(answer)["named_endpoints"]
    assert set(described) == {"/predict", "/batch", "/generate", "/models", "/status"}
    assert [n for n, d in described.items() if not d.get("description")] == []


def test_headers_health_and_closed_paths(url: str) -> None:
    with urllib.request.urlopen(f"{url}/healthz") as answer:
        assert json.load(answer) == {"status": "ok"}
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    for closed in ("gradio_api/file=/etc/passwd", f"gradio_api/file={ROOT / 'app.py'}", "monitoring"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{url}/{closed}")
        assert caught.value.code in (403, 404)


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(os.environ.get("NEUROVISION_WEIGHTS") or DEFAULT) / FILE).is_file(), reason="no trained weights here"
)
def test_app_starts_serves_the_real_models_and_cleans_up(tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert f"http://127.0.0.1:{port}" in lines[1]
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").close()
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        findings = client.predict([handle_file(str(FOLDER / "glioma.png"))], api_name="/predict")[2]
        assert findings["status"] == "ok" and len(findings["models"]) == 5
        assert any(tmp_path.iterdir())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]  # Gradio leaves an empty folder of its own




# --- browser ---------------------------------------------------------------------------------------------------------

GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
WITHOUT = ("--disable-gpu", "--disable-3d-apis")
QUIET = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update")


@pytest.fixture(scope="module")
def browsers() -> Iterator[dict[str, Browser]]:
    """One chromium with WebGL2, drawn by software, and one without."""
    if not CHROMIUM.is_file():
        pytest.skip("no chromium here; install it or name it in CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = {
            name: play.chromium.launch(executable_path=str(CHROMIUM), args=[*QUIET, *flags])
            for name, flags in (("webgl", GL), ("flat", WITHOUT))
        }
        yield opened
        for one in opened.values():
            one.close()


class Visitor:
    """A browser session of its own, cut off from everything but the page's server; what it asked for is kept."""

    def __init__(self, browser: Browser, url: str, width: int = 1280, at: str = "") -> None:
        self.context: BrowserContext = browser.new_context(viewport={"width": width, "height": 900})
        self.context.set_default_timeout(120_000)
        self.elsewhere: list[str] = []
        self.broken: list[str] = []
        self.context.route(lambda u: not u.startswith((url, "data:", "blob:")), self._refuse)
        self.page: Page = self.context.new_page()
        self.page.on("response", lambda r: self.broken.append(r.url) if r.status == 404 else None)
        self.page.on("pageerror", lambda e: self.broken.append(str(e)))
        self.page.goto(url + at)
        self.page.get_by_text("Device: CPU").wait_for()

    def _refuse(self, route: Any) -> None:
        self.elsewhere.append(route.request.url)
        route.abort()

    @property
    def viewer(self) -> Locator:
        return self.page.locator("#viewer")

    def state(self, name: str) -> str | None:
        return self.viewer.get_attribute(f"data-{name}")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).first.click()

    def open(self, files: str | list[str]) -> None:
        """Upload, and wait until the picture and the verdict are there."""
        before = self.page.evaluate("nvViewer.scan?.scan ?? ''")
        self.page.locator("#scan input[type=file]").set_input_files(files)
        self.page.wait_for_function("b => (nvViewer.scan?.scan ?? '') !== b || !nvViewer.scan", arg=before)
        self.settle()
        if self.page.locator("#verdict").get_attribute("data-state") != "rejected":
            self.page.wait_for_selector("#viewer[data-state=ready]")

    def settle(self) -> None:
        self.page.wait_for_function(SETTLED)

    def verdict(self, words: str) -> None:
        self.page.locator("#verdict h2", has_text=words).wait_for()

    def clear(self) -> None:
        self.page.locator("#scan").get_by_label("Clear").first.click()
        self.page.wait_for_selector("#viewer[data-state=empty]")
        self.page.wait_for_selector("#verdict[data-state=empty]")

    def slice(self, number: int) -> None:
        self.page.wait_for_function("n => document.querySelector('#viewer').dataset.slice === String(n)", arg=number)

    def leave(self) -> None:
        body = self.page.locator("body").inner_text()
        assert "Traceback" not in body and 'File "' not in body
        assert self.elsewhere == [] and self.broken == []
        self.context.close()


@pytest.fixture
def visitor(browsers: dict[str, Browser], url: str) -> Iterator[Visitor]:
    opened = Visitor(browsers["webgl"], url)
    yield opened
    opened.leave()


@pytest.mark.browser
def test_a_picture_is_read(visitor: Visitor, scans: Scans) -> None:
    page = visitor.page
    assert page.title() == "Neurovision MRI Brain Abnormality Detector"
    assert visitor.state("state") == "empty" and page.locator("#viewer canvas").count() == 1
    visitor.open(scans.glioma)
    visitor.verdict("Tumor detected")
    assert (visitor.state("slices"), visitor.state("slice")) == ("1", "1")
    assert page.get_by_role("button", name="Three planes").is_hidden()
    alternative = page.locator("#viewer canvas").get_attribute("aria-label") or ""
    assert "glioma.png" in alternative and "Tumor detected" in alternative and " px" in alternative
    assert page.evaluate("nvViewer.drawer.niivue.opts.isOrientationTextVisible") is False  # a PNG knows no left and right
    assert page.locator(".nv-said").inner_text().startswith("Tumor detected, probability")
    with page.expect_download() as download:
        page.get_by_role("button", name="Findings (JSON)").click()
    assert download.value.suggested_filename == "glioma.json"
    assert json.loads(Path(download.value.path()).read_text())["verdict"] == "tumor"
    with page.expect_download() as download:
        page.get_by_role("button", name="Mask (PNG)").click()
    assert download.value.suggested_filename == "glioma.mask.png"


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["webgl", "flat"])
def test_a_volume_is_read_with_and_without_webgl(browsers: dict[str, Browser], url: str, scans: Scans, kind: str) -> None:
    visitor = Visitor(browsers[kind], url)
    page = visitor.page
    visitor.open(scans.nifti)
    visitor.verdict("Tumor detected")
    assert visitor.state("slices") == "12" and " ml" in page.locator("#verdict").inner_text()
    start = int(visitor.state("slice") or 0)
    assert start != 6  # the largest, which is not the middle
    canvas = page.locator("#viewer canvas")
    canvas.focus()
    page.keyboard.press("ArrowUp")
    visitor.slice(start + 1)
    canvas.hover()
    page.mouse.wheel(0, 100)
    page.wait_for_function("n => document.querySelector('#viewer').dataset.slice !== String(n)", arg=start + 1)
    page.locator("#viewer .nv-v-slices input").focus()
    page.keyboard.press("End")
    visitor.slice(12)
    page.locator("#lesions [data-voxel]").first.click()
    page.wait_for_function("document.querySelector('#viewer').dataset.slice !== '12'")
    strip = page.locator(".nv-v-strip").bounding_box()
    assert strip is not None
    page.mouse.click(strip["x"] + strip["width"] * 8.5 / 12, strip["y"] + 10)
    visitor.slice(9)
    before = page.evaluate("nvViewer.drawer.window()")
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 3
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x + 60, y + 50, steps=5)
    page.mouse.up(button="right")
    page.wait_for_function("b => String(nvViewer.drawer.window()) !== String(b)", arg=before)
    for layer in ("outline", "probability", "uncertainty", "none"):
        page.locator("#viewer select").select_option(layer)
    canvas.focus()
    page.keyboard.press("r")
    visitor.slice(start)
    assert page.evaluate("nvViewer.drawer.window()") == before
    visitor.leave()


@pytest.mark.browser
def test_planes_zoom_and_crosshair(visitor: Visitor, scans: Scans) -> None:
    page = visitor.page
    visitor.open(scans.nifti)
    assert page.evaluate("nvViewer.drawer.niivue.opts.isOrientationTextVisible") is True
    canvas = page.locator("#viewer canvas")
    canvas.focus()
    for key, sort in (("3", 3), ("v", 4), ("1", 0)):
        page.keyboard.press(key)
        assert page.evaluate("nvViewer.drawer.niivue.opts.sliceType") == sort
    canvas.hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    assert page.evaluate("nvViewer.drawer.niivue.scene.pan2Dxyzmm[3]") > 1
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.4)
    where = page.locator(".nv-v-where").inner_text()
    assert " R " in where and "mm" in where and "value" in where  # the picture's left is the patient's right
    page.keyboard.press("?")
    assert page.locator(".nv-v-help").is_visible()
    page.get_by_role("button", name="Reset").click()
    assert page.evaluate("nvViewer.drawer.niivue.scene.pan2Dxyzmm[3]") == 1


@pytest.mark.browser
def test_an_oblique_series_and_two_in_a_folder(visitor: Visitor, scans: Scans) -> None:
    page = visitor.page
    visitor.open(scans.series)
    assert visitor.state("slices") == "10" and page.get_by_role("button", name="DICOM SEG, SR").is_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="DICOM SEG, SR").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert {n.split(".", 1)[1] for n in archive.namelist()} == {"seg.dcm", "sr.dcm"}
    visitor.clear()
    page.locator("input[webkitdirectory]").set_input_files(scans.two)
    page.wait_for_selector("#viewer[data-state=ready][data-slices='10']")
    assert page.locator("#series label").count() == 2 and "letter.dcm" in page.locator("#unread").inner_text()
    page.locator("#series label").nth(1).click()
    page.wait_for_selector("#viewer[data-state=ready][data-slices='6']")
    assert "letter.dcm" in page.locator("#unread").inner_text()


@pytest.mark.browser
def test_a_wrong_file_and_the_scan_before(visitor: Visitor, scans: Scans) -> None:
    page = visitor.page
    visitor.open(scans.glioma)
    page.locator("#notes textarea").fill("Of the first patient.")
    visitor.open(scans.letter)
    visitor.verdict("This file cannot be read")
    assert "not a readable" in page.locator("#verdict").inner_text()
    assert visitor.state("state") == "empty" and page.locator("#lesions tr").count() == 0
    assert page.locator("#notes textarea").input_value() == ""
    assert page.get_by_role("button", name="Findings (JSON)").is_disabled()
    assert "glioma.png" not in page.locator("#scan").inner_text()  # a drop is a new scan, not more of the one before
    visitor.open(scans.healthy)
    visitor.verdict("No tumor detected")
    assert page.locator("#notes textarea").input_value() == ""
    assert "no finding passes" in page.locator("#lesions").inner_text()
    visitor.clear()
    assert page.locator(".nv-said").inner_text() == ""


@pytest.mark.browser
def test_an_upside_down_scan_is_read_turned(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    button = page.get_by_role("button", name="Read it turned by 180°")
    visitor.open(str(FOLDER / "glioma.png"))
    assert button.is_hidden()
    with Image.open(FOLDER / "glioma.png") as upright:
        upright.rotate(180).save(tmp_path / "turned.png")
    visitor.open(str(tmp_path / "turned.png"))
    button.wait_for()
    assert "seems to stand upside down" in page.locator(".nv-left").inner_text()
    before = visitor.page.evaluate("nvViewer.scan.scan")
    button.click()
    page.wait_for_function("b => nvViewer.scan && nvViewer.scan.scan !== b", arg=before)
    page.locator("#verdict", has_text="turned by 180° before they were read").wait_for()
    button.wait_for(state="hidden")


@pytest.mark.browser
def test_compare_follows_the_open_scan(visitor: Visitor, scans: Scans) -> None:
    page = visitor.page
    visitor.tab("Compare")
    page.get_by_text("No scan is open").first.wait_for()
    assert "EfficientNet" not in page.locator("#tabs").inner_text()  # no network is named before one is loaded
    visitor.tab("Read")
    visitor.open(scans.glioma)
    visitor.tab("Compare")
    page.locator("#masks img").nth(5).wait_for()
    page.locator("#truth input[type=file]").set_input_files(scans.truth)
    table = page.get_by_role("region", name="Against the ground truth")
    table.wait_for()
    assert table.locator("tbody tr").count() == 6 and page.get_by_text("Missed").is_visible()
    page.get_by_label("DGNet").uncheck()
    page.wait_for_function("document.querySelectorAll('#masks img').length === 5")
    page.locator("#truth").get_by_label("Clear").first.click()
    page.locator("#truth input[type=file]").set_input_files(scans.letter)
    page.get_by_text("a mask is a picture").wait_for()
    visitor.tab("Read")
    page.get_by_text("a mask is a picture").wait_for(state="detached", timeout=10_000)  # messages do not follow
    visitor.clear()
    visitor.tab("Compare")
    page.wait_for_function("document.querySelectorAll('#masks img').length === 0")
    page.get_by_text("No scan is open").first.wait_for()


@pytest.mark.slow
@pytest.mark.browser
def test_lab_follows_the_viewers_slice_and_the_next_scan(visitor: Visitor, scans: Scans) -> None:
    page = visitor.page
    visitor.open(scans.nifti)
    page.locator("#viewer canvas").focus()
    page.keyboard.press("ArrowUp")
    number = visitor.state("slice")
    visitor.tab("Lab")
    page.locator("#heat img").wait_for()
    assert page.locator(".nv-open:visible").inner_text() == f"head.nii.gz, slice {number} of 12"
    visitor.tab("Enhance and clusters")
    page.locator("#asymmetry img").wait_for()
    assert page.get_by_role("region", name="Clusters, darkest first").locator("tbody tr").count() == 10
    page.get_by_role("img", name="share of pixels by intensity").wait_for()
    visitor.tab("Read")
    visitor.open(scans.glioma)
    visitor.tab("Lab")  # Enhance and clusters is still the open tab
    page.locator(".nv-open:visible", has_text="glioma.png").wait_for()
    page.locator("#asymmetry img").wait_for()
    before = page.locator("#musica img").last.get_attribute("src")
    page.locator("#strength input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("b => [...document.querySelectorAll('#musica img')].at(-1)?.src !== b", arg=before)
    page.locator("#k input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelectorAll('[aria-label^=Clusters] tbody tr').length === 9")
    # Gradio's bar of buttons is white in light mode; no picture, and nothing around it, is.
    colors = page.evaluate(
        "[...document.querySelectorAll('#musica .image-container, #musica .image-container img,"
        " #musica .image-container > div:not(.icon-button-wrapper)')].map((e) => getComputedStyle(e).backgroundColor)"
    )
    assert len(colors) > 2
    assert "rgb(255, 255, 255)" not in colors


@pytest.mark.slow
@pytest.mark.browser
def test_nothing_open_raises_nothing(visitor: Visitor) -> None:
    page = visitor.page
    visitor.tab("Lab")
    visitor.tab("Enhance and clusters")
    page.locator("#strength input[type=number]").fill("2")
    page.keyboard.press("Enter")
    page.locator("#strength").get_by_label("Reset").first.click()
    visitor.tab("Propose")
    visitor.tab("Read")
    page.locator("#viewer canvas").focus()
    for key in ("ArrowUp", "o", "f", "r", "3", "+"):
        page.keyboard.press(key)
    page.wait_for_timeout(1000)
    assert page.locator(".toast-body").count() == 0
    assert page.get_by_role("button", name="Analyze", exact=True).count() == 0


@pytest.mark.browser
def test_batch_rows_open_in_read(visitor: Visitor, scans: Scans) -> None:
    page = visitor.page
    visitor.open(scans.healthy)
    visitor.tab("Batch")
    page.locator("#batch-files input[type=file]").set_input_files([scans.healthy, scans.letter, scans.nifti])
    page.locator("#batch-run").click()
    rows = page.locator("#batch-table tbody tr")
    rows.nth(2).wait_for()
    assert [rows.nth(k).locator("td").nth(1).inner_text() for k in range(3)] == ["head.nii.gz", "healthy.png", "letter.txt"]
    assert " ml" in rows.first.inner_text() and page.locator("#batch-table img").count() == 2
    rows.first.get_by_role("button").click()
    page.wait_for_selector("#viewer[data-state=ready][data-slices='12']")
    visitor.verdict("Tumor detected")
    assert page.get_by_role("tab", name="Read").get_attribute("aria-selected") == "true"
    assert "healthy.png" not in page.locator("#scan").inner_text()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_moves_while_the_page_loads(browsers: dict[str, Browser], url: str, width: int) -> None:
    visitor = Visitor(browsers["webgl"], url, width=width)
    visitor.page.wait_for_timeout(1000)
    moved = visitor.page.evaluate(
        "new Promise((done) => { let sum = 0; new PerformanceObserver((l) => { for (const e of l.getEntries())"
        " if (!e.hadRecentInput) sum += e.value; }).observe({type: 'layout-shift', buffered: true});"
        " setTimeout(() => done(sum), 500); })"
    )
    assert moved < 0.1
    visitor.leave()


@pytest.mark.browser
def test_models_open_with_a_summary(visitor: Visitor) -> None:
    page = visitor.page
    visitor.tab("Models")
    page.locator("#models-summary .nv-facts").wait_for()
    assert page.get_by_role("region", name="Architectures").is_hidden()
    page.get_by_role("button", name="Loaded networks and weights").click()
    page.get_by_role("region", name="Loaded networks: the members of the vote").wait_for()


@pytest.mark.browser
def test_keyboard_alone_reads_an_example_and_walks_the_tabs(browsers: dict[str, Browser], url: str) -> None:
    visitor = Visitor(browsers["webgl"], url, at="/#batch")
    page = visitor.page
    page.wait_for_function("document.querySelector('[role=tab][aria-selected=true]')?.textContent.trim() === 'Batch'")
    page.get_by_role("tab", name="Batch").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.get_by_role("tab", name="Read").get_attribute("aria-selected") == "true" and page.url.endswith("#read")
    for _ in range(40):
        page.keyboard.press("Tab")
        if "No tumor" in page.evaluate("document.activeElement.innerText || ''"):
            break
    page.keyboard.press("Enter")
    visitor.settle()
    page.wait_for_selector("#viewer[data-state=ready]")
    assert "no-tumor.png" in (page.locator("#viewer canvas").get_attribute("aria-label") or "")
    visitor.leave()


@pytest.mark.browser
def test_two_visitors_never_see_each_other_and_reloading_forgets(
    browsers: dict[str, Browser], url: str, scans: Scans
) -> None:
    first, second = Visitor(browsers["webgl"], url), Visitor(browsers["webgl"], url)
    first.open(scans.glioma)
    second.open(scans.healthy)
    assert "glioma" in (first.page.locator("#viewer canvas").get_attribute("aria-label") or "")
    assert "healthy" in (second.page.locator("#viewer canvas").get_attribute("aria-label") or "")
    files = [v.page.evaluate("nvViewer.scan.scan") for v in (first, second)]
    assert files[0] != files[1]
    first.page.reload()
    first.verdict("No scan yet")
    assert first.state("state") == "empty"
    stored = first.page.evaluate("JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})")
    assert "glioma" not in stored.lower() and "gradio_api/file" not in stored
    first.leave()
    second.leave()


@pytest.mark.browser
def test_on_a_phone_the_picture_comes_first_and_nothing_sticks_out(
    browsers: dict[str, Browser], url: str, scans: Scans
) -> None:
    visitor = Visitor(browsers["webgl"], url, width=390)
    page = visitor.page
    visitor.open(scans.nifti)
    top = [page.locator(at).bounding_box() for at in ("#viewer", "#verdict", "#scan")]
    assert top[0] and top[1] and top[2] and top[0]["y"] < top[1]["y"] and top[0]["y"] < top[2]["y"]
    for name in ("Read", "Compare", "Batch", "Models", "Lab"):
        tab = page.get_by_role("tab", name=name, exact=True).first
        if tab.is_visible():
            tab.click()
        else:
            page.get_by_role("button", name="More tabs").first.click()
            page.locator(".overflow-dropdown button", has_text=name).first.click()
        page.wait_for_timeout(300)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390, name
    assert page.locator("footer .divider:visible").count() == 0  # between links of which one is hidden
    visitor.leave()


@pytest.mark.browser
def test_accessible_by_axe(browsers: dict[str, Browser], url: str, scans: Scans) -> None:
    from axe_playwright_python.sync_playwright import Axe

    visitor = Visitor(browsers["flat"], url)
    page = visitor.page
    visitor.open(scans.nifti)
    drawn = {"Compare": "#masks img", "Lab": "#heat img", "Enhance and clusters": "#asymmetry img"}
    for name in ("Read", "Compare", "Batch", "Models", "Lab", "Enhance and clusters", "Generate"):
        visitor.tab(name)
        page.locator(drawn.get(name, "#tabs")).first.wait_for()
        page.wait_for_timeout(500)
        page.wait_for_function("!document.querySelector('.pending')")  # what is being drawn anew is dimmed
        found = Axe().run(page).response["violations"]
        serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
        assert serious == [], (name, serious)
    visitor.leave()
