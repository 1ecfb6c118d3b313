"""The page: its handlers as functions, its endpoints through a client, and its tabs in a real browser."""

from __future__ import annotations

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from standin import standin

import neurovision.views.ui  # noqa: F401 - before Gradio: it switches the calls home off
from neurovision.ensemble.manifest import Network, Networks, VerdictFit
from neurovision.ensemble.weights import DEFAULT, FILE
from neurovision.errors import WeightsMissing
from neurovision.scan.phantom import phantom, phantom_volume
from neurovision.scan.read import read
from neurovision.views.examples import EXAMPLES, FOLDER

if TYPE_CHECKING:
    import keras
    from playwright.sync_api import Browser, BrowserContext, Page

ROOT = Path(__file__).parents[1]
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
GLIOMA, HEALTHY = str(FOLDER / "glioma.png"), str(FOLDER / "healthy.png")


def tiny_unet(entry: Network, manifest: Networks) -> keras.Model:
    from neurovision.segmenters import build

    return build("unet", (manifest.size, manifest.size, 1), width=4)


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


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bad") / "letter.txt"
    path.write_text("Dear colleague")
    return str(path)


@pytest.fixture(scope="module")
def truth_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("truth") / "truth.png"
    _, truth = phantom("glioma", EXAMPLES[0].seed)
    Image.fromarray(((truth > 1) * 255).astype(np.uint8)).save(path)
    return str(path)


# --- plain functions -------------------------------------------------------------------------------------------------


def test_nothing_calls_home() -> None:
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    # Libraries write the same in other words.
    assert {os.environ["HF_HUB_OFFLINE"], os.environ["HF_HUB_DISABLE_TELEMETRY"]} <= {"1", "True"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.file)
def test_shipped_examples_are_what_the_phantom_draws(example: Any) -> None:
    study, _ = phantom(example.kind, example.seed, sequence=example.sequence)
    assert example.seed < 1000  # training drew from 1000 on
    shipped = np.asarray(Image.open(FOLDER / example.file))
    assert np.array_equal(shipped, np.rint(study.gray() * 255).astype(np.uint8))


def test_card_says_the_verdict_and_escapes_what_a_file_says() -> None:
    from dataclasses import replace

    from neurovision.views.ui.parts import verdict_card

    found = standin().analyze(read(GLIOMA))
    card = verdict_card(found, VerdictFit(scans=100, sensitivity=0.95, false_alarms=0.08))
    assert "Tumor detected" in card and "found 95 % of tumors" in card and "8 % false alarms" in card
    assert "No tumor detected" in verdict_card(standin().analyze(read(HEALTHY)), None)
    rejected = verdict_card(replace(found, verdict=None, reason="<script>x</script>", warnings=("<i>",)), None)
    assert "Not a brain MRI" in rejected and "<script>" not in rejected and "<i>" not in rejected.split("</h2>")[1]


def test_difference_paints_agreed_missed_and_extra() -> None:
    from neurovision.views.overlay import AGREED, EXTRA, MISSED, difference

    truth = np.array([[True, True, False, False]])
    found = np.array([[True, False, True, False]])
    drawn = difference(np.zeros((1, 4), np.float32), truth, found, opacity=1.0)
    assert [tuple(p) for p in drawn[0]] == [AGREED, MISSED, EXTRA, (0, 0, 0)]


@pytest.mark.parametrize(
    ("values", "tumor"),
    [([[0, 255]], [[False, True]]), ([[0, 1]], [[False, True]]), ([[1, 2]], [[False, True]]), ([[0, 0]], [[False, False]]),
     ([[40, 250]], [[False, True]])],
)  # fmt: skip
def test_masks_are_read_by_their_values(tmp_path: Path, values: list[list[int]], tumor: list[list[bool]]) -> None:
    from neurovision.scan.masks import read_mask

    Image.fromarray(np.array(values, np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", (1, 2)).tumor.tolist() == tumor


def test_mask_of_another_size_or_no_picture_is_refused(tmp_path: Path, text_file: str) -> None:
    from neurovision.errors import UnsupportedScan
    from neurovision.scan.masks import read_mask

    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(UnsupportedScan, match="scan's own size, 5 x 3; received 4 x 3"):
        read_mask(tmp_path / "m.png", (3, 5))
    with pytest.raises(UnsupportedScan, match="a mask is a picture"):
        read_mask(text_file, (3, 5))


def test_surface_shows_head_and_tumor_where_they_are() -> None:
    import io

    import trimesh

    from neurovision.views.surface import surface

    study, truth = phantom_volume("glioma", 4, size=96, slices=20)
    data = surface(study, truth)
    assert data is not None
    scene = trimesh.load(io.BytesIO(data), file_type="glb", force="scene")
    tumor, head = scene.geometry["Glioma"], scene.geometry["Head"]
    assert study.affine is not None
    index = np.argwhere(truth == 2).mean(0)
    x, y, z = (study.affine @ [*index, 1])[:3]  # left, back, head
    middle = np.argwhere(study.pixels[..., 0] > 0.2).mean(0)
    mx, my, mz = (study.affine @ [*middle, 1])[:3]
    offset = tumor.bounds.mean(0) - head.bounds.mean(0)
    assert np.allclose(offset, [x - mx, z - mz, my - y], atol=14)  # millimeters
    assert tumor.volume > 0 and 150 < head.extents[2] < 230
    picture, _ = phantom("glioma", 4)
    assert surface(picture, np.zeros((1, 256, 256), np.uint8)) is None


def test_pictures_of_several_sizes_make_no_volume(tmp_path: Path) -> None:
    from neurovision.errors import UnsupportedScan
    from neurovision.views.ui.volume import gather

    for k, size in enumerate((64, 64, 80)):
        gray = (phantom("healthy", k, size=size)[0].gray() * 255).astype(np.uint8)
        Image.fromarray(gray).save(tmp_path / f"{k}.png")
    assert gather([str(tmp_path / "1.png"), str(tmp_path / "0.png")]).n_slices == 2
    with pytest.raises(UnsupportedScan, match="one size"):
        gather([str(tmp_path / f"{k}.png") for k in range(3)])


def test_batch_sorts_by_probability_and_survives_a_bad_file(tmp_path: Path, text_file: str) -> None:
    from neurovision.views.ui.batch import analyze_all, write_zip

    outcomes = analyze_all(standin(), [Path(text_file), Path(HEALTHY), Path(GLIOMA)])
    assert [o.result.row()["scan"] for o in outcomes] == ["glioma.png", "healthy.png", "letter.txt"]
    assert [o.result.row()["verdict"] for o in outcomes] == ["tumor", "no tumor", None]
    assert "not a readable" in str(outcomes[-1].result.reason)
    write_zip(outcomes, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert set(archive.namelist()) == {
            "batch.csv", "glioma.json", "glioma.mask.png", "glioma.overlay.png", "healthy.json", "healthy.mask.png",
            "healthy.overlay.png", "letter.txt.json",
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


def test_predict_endpoint(url: str, text_file: str) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(url, verbose=False)
    overlay, verdict, findings = client.predict(handle_file(GLIOMA), api_name="/predict")
    assert verdict == findings["verdict"] == "tumor" and findings["status"] == "ok"
    assert Image.open(overlay).size == (256, 256) and findings["source"]["name"] == "glioma.png"
    expected = standin().analyze(read(GLIOMA)).overlay()
    assert np.array_equal(np.asarray(Image.open(overlay).convert("RGB")), expected)
    assert client.predict(handle_file(HEALTHY), api_name="/predict")[1] == "no tumor"
    with pytest.raises(AppError, match="not a readable") as caught:
        client.predict(handle_file(text_file), api_name="/predict")
    assert "Traceback" not in str(caught.value)


def test_endpoints_share_a_scan_within_a_session_only(url: str, truth_file: str) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    first, second = Client(url, verbose=False), Client(url, verbose=False)
    first.predict(handle_file(GLIOMA), api_name="/diagnose")
    pdf, plain, table = first.predict("Checked.", api_name="/report")
    assert Path(pdf).read_bytes().startswith(b"%PDF")
    assert json.loads(Path(plain).read_text())["report"]["notes"] == "Checked."
    assert Path(table).read_text().count("glioma.png") >= 1
    gallery, _, scores = first.predict(["vote"], "Fill", handle_file(truth_file), api_name="/compare")
    assert len(gallery) == 1 and "HD95" in scores
    with pytest.raises(AppError, match="No scan is open"):
        second.predict("", api_name="/report")


def test_every_endpoint_is_described(url: str) -> None:
    with urllib.request.urlopen(f"{url}/config") as answer:
        config = json.load(answer)
    public = [d for d in config["dependencies"] if d["api_visibility"] == "public"]
    names = {d["api_name"] for d in public}
    assert {"predict", "diagnose", "example", "slice", "compare", "gradcam", "musica", "kmeans"} <= names
    assert {"volume", "batch", "models", "report", "status"} <= names
    with urllib.request.urlopen(f"{url}/gradio_api/info") as answer:
        described = json.load(answer)["named_endpoints"]
    assert [n for n in names if not described[f"/{n}"].get("description")] == []


def test_headers_health_and_closed_paths(url: str) -> None:
    with urllib.request.urlopen(f"{url}/healthz") as answer:
        assert json.load(answer) == {"status": "ok"}
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    for closed in ("gradio_api/file=/etc/passwd", f"gradio_api/file={ROOT / 'app.py'}", "monitoring"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{url}/{closed}")
        assert caught.value.code in (403, 404)


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
        findings = Client(f"http://127.0.0.1:{port}", verbose=False).predict(handle_file(GLIOMA), api_name="/predict")[2]
        assert findings["status"] == "ok" and len(findings["models"]) == 5
        assert any(tmp_path.iterdir())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]  # Gradio leaves an empty folder of its own


# --- browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.is_file():
        pytest.skip("no chromium here; install it or name it in CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        yield opened
        opened.close()


class Visitor:
    """A browser session of its own, cut off from everything but the page's server; what it asked for is kept."""

    def __init__(self, browser: Browser, url: str, width: int = 1280) -> None:
        self.context: BrowserContext = browser.new_context(viewport={"width": width, "height": 900})
        self.context.set_default_timeout(120_000)
        self.strangers: list[str] = []
        self.context.route(lambda u: not u.startswith((url, "data:", "blob:")), self._refuse)
        self.page: Page = self.context.new_page()
        self.refused: list[str] = []
        self.page.on("response", lambda r: r.status < 400 or self.refused.append(f"{r.status} {r.url}"))
        self.page.goto(url)
        self.page.get_by_text("Device: CPU").wait_for()

    def _refuse(self, route: Any) -> None:
        self.strangers.append(route.request.url)
        route.abort()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).first.click()

    def example(self, title: str) -> None:
        self.page.get_by_role("button", name=title).click()

    def verdict(self, words: str) -> None:
        self.page.locator("#verdict h2", has_text=words).wait_for()

    def leave(self) -> None:
        body = self.page.locator("body").inner_text()
        assert "Traceback" not in body and 'File "' not in body
        assert self.strangers == [] and self.refused == []
        self.context.close()


@pytest.fixture
def visitor(browser: Browser, url: str) -> Iterator[Visitor]:
    opened = Visitor(browser, url)
    yield opened
    opened.leave()


@pytest.mark.browser
def test_diagnose_in_the_browser(visitor: Visitor, text_file: str) -> None:
    page = visitor.page
    assert page.title() == "Neurovision MRI Brain Abnormality Detector"
    start = time.monotonic()
    visitor.example("Glioma T1")
    visitor.verdict("Tumor detected")
    page.locator("#overlay img").wait_for()
    assert time.monotonic() - start < 5 or os.getloadavg()[0] > 2 * (os.cpu_count() or 1)  # a busy machine proves nothing
    assert page.get_by_text("Regions on this slice").is_visible() and page.get_by_text("Each network alone").is_visible()
    before = page.locator("#overlay img").get_attribute("src")
    page.get_by_label("Contour").first.check()
    page.wait_for_function("b => document.querySelector('#overlay img')?.src !== b", arg=before)
    page.get_by_label("Uncertainty").check()
    page.get_by_text("low", exact=False).first.wait_for()
    page.get_by_label("Before and after").check()
    page.locator("#overlay img").wait_for(state="hidden")
    with page.expect_download() as download:
        page.get_by_role("button", name="Findings (JSON)").first.click()
    assert json.loads(Path(download.value.path()).read_text())["verdict"] == "tumor"
    page.locator("#scan input[type=file]").set_input_files(text_file)
    visitor.verdict("This file cannot be read")
    assert "not a readable" in page.locator("#verdict").inner_text()
    assert page.get_by_text("Each network alone").count() == 0  # nothing of the scan before stays beside the refusal


@pytest.mark.browser
def test_keyboard_alone_reaches_a_verdict(visitor: Visitor) -> None:
    page = visitor.page
    for _ in range(40):
        page.keyboard.press("Tab")
        if "Healthy T1" in page.evaluate("document.activeElement.innerText || ''"):
            break
    page.keyboard.press("Enter")
    visitor.verdict("No tumor detected")


@pytest.mark.browser
def test_compare_in_the_browser(visitor: Visitor, truth_file: str, text_file: str) -> None:
    page = visitor.page
    visitor.example("Glioma T1")
    visitor.verdict("Tumor detected")
    visitor.tab("Compare")
    page.locator("#masks img").nth(5).wait_for()
    page.locator("#truth input[type=file]").set_input_files(truth_file)
    table = page.get_by_role("region", name="Against the ground truth")
    table.wait_for()
    assert table.locator("tbody tr").count() == 6 and page.get_by_text("Missed").is_visible()
    page.get_by_label("DGNet").uncheck()
    page.wait_for_function("document.querySelectorAll('#masks img').length === 5")
    page.get_by_label("Clear").first.click()
    page.locator("#truth input[type=file]").set_input_files(text_file)
    page.get_by_text("a mask is a picture").wait_for()


@pytest.mark.slow
@pytest.mark.browser
def test_explain_in_the_browser(visitor: Visitor) -> None:
    page = visitor.page
    visitor.example("Glioma T1")
    visitor.verdict("Tumor detected")
    visitor.tab("Explain")
    page.wait_for_function("document.querySelector('input[aria-label=Network]')?.value === 'U-Net'")
    page.locator("#gradcam").click()
    page.locator("#heat img").wait_for()
    visitor.tab("K-means")
    page.locator("#clusters img").wait_for()
    assert page.get_by_role("region", name="Clusters, darkest first").locator("tbody tr").count() == 10
    visitor.tab("Asymmetry")
    page.locator("#asymmetry img").wait_for()
    visitor.tab("Intensity")
    page.get_by_role("img", name="share of pixels by intensity").wait_for()
    visitor.tab("MUSICA")
    page.locator("#musica img").first.wait_for()


@pytest.mark.slow
@pytest.mark.browser
def test_propose_and_generate_in_the_browser(visitor: Visitor) -> None:
    page = visitor.page
    visitor.example("Glioma T1")
    visitor.verdict("Tumor detected")
    visitor.tab("Propose")
    slice_ = page.locator("#prompt-slice img")
    slice_.click(position={"x": 200, "y": 150})
    field = page.locator("#prompt-inside textarea, #prompt-inside input")
    page.wait_for_function("e => /^[0-9]+,[0-9]+$/.test(e.value)", arg=field.element_handle())
    x, y = map(int, field.input_value().split(","))
    assert 0 < x < 256 and 0 < y < 256
    page.get_by_label("Corner of a box").check()
    slice_.click(position={"x": 150, "y": 100})
    box = page.locator("#prompt-box textarea, #prompt-box input")
    page.wait_for_function("e => e.value.split(',').length === 2", arg=box.element_handle())
    slice_.click(position={"x": 260, "y": 220})
    page.wait_for_function("e => e.value.split(',').length === 4", arg=box.element_handle())
    left, top, right, bottom = map(int, box.input_value().split(","))
    assert left < x < right and top < y < bottom
    page.locator("#prompt-ask").click()
    page.locator("#proposals img").or_(page.get_by_text("SAM needs two more")).or_(
        page.get_by_text("not on this computer")
    ).first.wait_for()
    visitor.tab("Generate")
    page.locator("#generate").click()
    page.locator("#generated img").or_(page.get_by_text("There is no diffusion.json")).first.wait_for()


@pytest.mark.browser
def test_volume_in_the_browser(visitor: Visitor, text_file: str) -> None:
    page = visitor.page
    visitor.tab("Volume")
    page.locator("#volume-files input[type=file]").set_input_files(text_file)
    page.locator("#volume-run").click()
    page.get_by_text("not a readable").wait_for()
    page.locator("#volume-example").click()
    page.locator("#volume-verdict h2", has_text="Tumor detected").wait_for()
    assert " ml" in page.locator(".nv-facts").first.inner_text()
    page.locator("#volume-surface canvas").wait_for()
    before = page.locator("#volume-slice img").get_attribute("src")
    page.locator("#volume-number input[type=range]").press("ArrowRight")
    page.wait_for_function("b => document.querySelector('#volume-slice img')?.src !== b", arg=before)


@pytest.mark.browser
def test_batch_models_and_report_in_the_browser(visitor: Visitor, text_file: str) -> None:
    page = visitor.page
    visitor.tab("Report")
    page.locator("#make-report").click()
    page.get_by_text("No scan is open").wait_for()
    visitor.tab("Batch")
    page.locator("#batch-files input[type=file]").set_input_files([HEALTHY, text_file, GLIOMA])
    page.locator("#batch-run").click()
    rows = page.locator("#batch-table tbody tr")
    rows.nth(2).wait_for()
    assert [rows.nth(k).locator("td").first.inner_text() for k in range(3)] == ["glioma.png", "healthy.png", "letter.txt"]
    visitor.tab("Models")
    page.get_by_text("Loaded networks: the members of the vote").first.wait_for()
    visitor.tab("Diagnose")
    visitor.example("Glioma T1")
    visitor.verdict("Tumor detected")
    visitor.tab("Report")
    page.locator("#notes textarea").fill("Seen by two readers.")
    page.locator("#make-report").click()
    link = page.locator("#report-files a[download]").first
    link.wait_for()
    with page.expect_download() as download:
        link.click()
    assert Path(download.value.path()).read_bytes().startswith(b"%PDF")


@pytest.mark.browser
def test_two_visitors_never_see_each_other_and_reloading_forgets(browser: Browser, url: str) -> None:
    first, second = Visitor(browser, url), Visitor(browser, url)
    first.example("Glioma T1")
    second.example("Healthy T1")
    first.verdict("Tumor detected")
    second.verdict("No tumor detected")
    sources = []
    for visitor in (first, second):
        visitor.page.locator("#overlay img").wait_for()
        sources.append(visitor.page.locator("#overlay img").get_attribute("src"))
    assert sources[0] != sources[1]
    second.tab("Compare")
    second.page.locator("#masks img").first.wait_for()
    assert "Glioma" not in second.page.locator("#masks").inner_text()
    first.page.reload()
    first.verdict("No scan yet")
    assert first.page.locator("#overlay img").count() == 0
    stored = first.page.evaluate("JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})")
    assert "glioma" not in stored.lower() and "gradio_api/file" not in stored
    first.leave()
    second.leave()


@pytest.mark.browser
def test_nothing_sticks_out_on_a_phone(browser: Browser, url: str) -> None:
    visitor = Visitor(browser, url, width=390)
    visitor.example("Meningioma T1")
    visitor.verdict("Tumor detected")
    for name in ("Diagnose", "Compare", "Explain", "Volume", "Propose", "Generate", "Batch", "Models", "Report"):
        tab = visitor.page.get_by_role("tab", name=name, exact=True).first
        if tab.is_visible():
            tab.click()
        else:
            visitor.page.get_by_role("button", name="More tabs").first.click()
            visitor.page.locator(".overflow-dropdown button", has_text=name).first.click()
        visitor.page.wait_for_timeout(300)
        assert visitor.page.evaluate("document.scrollingElement.scrollWidth") <= 390, name
    visitor.leave()
