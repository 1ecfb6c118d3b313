"""Draw the README's pictures: walk through every tab in a real browser. ``python -m docs.screenshots``.

Needs the shipped weights, the ``dev`` extra and a chromium (CHROMIUM names it, /usr/bin/chromium by default).
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
WIDTHS = (1280, 390)
THEMES = ("light", "dark")


def start() -> str:
    """Serve the page from this process; returns its address."""
    import uvicorn

    from neurovision.views.ui.page import application
    from neurovision.views.ui.room import Room

    room = Room()
    room.open()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(application(room), port=port, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.1)
    return f"http://127.0.0.1:{port}"


def truth_file() -> str:
    """The glioma example's own truth as a mask."""
    from neurovision.scan.phantom import phantom
    from neurovision.views.examples import EXAMPLES

    example = EXAMPLES[0]
    _, truth = phantom(example.kind, example.seed, sequence=example.sequence)
    path = Path(tempfile.mkdtemp()) / "truth.png"
    Image.fromarray(((truth > 1) * 255).astype(np.uint8)).save(path)
    return str(path)


def diagnose(page: Page) -> None:
    """One click on an example."""
    page.get_by_role("button", name="Glioma T1").click()
    page.locator("#verdict h2", has_text="tumor").or_(page.locator("#verdict h2", has_text="Tumor")).wait_for()
    page.locator("#overlay img").wait_for()


def compare(page: Page) -> None:
    """All masks against the truth."""
    page.locator("#masks img").first.wait_for()
    page.locator("#truth input[type=file]").set_input_files(truth_file())
    page.get_by_text("HD95").wait_for()


def explain(page: Page) -> None:
    """Grad-CAM of the first network."""
    page.wait_for_timeout(800)
    page.locator("#gradcam").click()
    page.locator("#heat img").wait_for()


def volume(page: Page) -> None:
    """The example volume."""
    page.locator("#volume-example").click()
    page.locator("#volume-slice img").wait_for()
    page.locator("#volume-surface canvas").wait_for()
    page.wait_for_timeout(10_000)  # a machine without a graphics card takes its time over the surface


def batch(page: Page) -> None:
    """Every example and one bad file."""
    from neurovision.views.examples import EXAMPLES, FOLDER

    bad = Path(tempfile.mkdtemp()) / "notes.txt"
    bad.write_text("not a scan")
    page.locator("#batch-files input[type=file]").set_input_files([*(str(FOLDER / e.file) for e in EXAMPLES), str(bad)])
    page.locator("#batch-run").click()
    page.locator("#batch-table table").wait_for()


def models(page: Page) -> None:
    """Nothing to click."""
    page.get_by_text("Loaded networks, all of which vote").first.wait_for()


def report(page: Page) -> None:
    """Make the files."""
    page.locator("#notes textarea").fill("Second reading advised; compare with the earlier scan.")
    page.locator("#make-report").click()
    page.get_by_text("neurovision-report.pdf").or_(page.get_by_text("neurovision-report").first).first.wait_for()


STEPS: dict[str, Callable[[Page], None]] = {
    "Diagnose": diagnose, "Compare": compare, "Explain": explain, "Volume": volume, "Batch": batch, "Models": models,
    "Report": report,
}  # fmt: skip


def main() -> None:
    """Write docs/images/TAB-WIDTH-THEME.png for every tab, width and theme."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--url", help="a running page; by default one is started")
    options.add_argument("--out", type=Path, default=IMAGES)
    options.add_argument("--only", help="one tab")
    chosen = options.parse_args()
    url = chosen.url or start()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        # Software GL draws the surface where there is no graphics card.
        browser = play.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        for width in WIDTHS:
            for theme in THEMES:
                page = browser.new_page(viewport={"width": width, "height": 860}, color_scheme=theme)
                page.set_default_timeout(90_000)
                page.goto(f"{url}/?__theme={theme}")
                page.get_by_text("Device:").wait_for()
                for name, step in STEPS.items():
                    if chosen.only and name not in ("Diagnose", chosen.only):
                        continue
                    if name != "Diagnose":
                        open_tab(page, name)
                    step(page)
                    page.wait_for_timeout(600)
                    page.screenshot(path=chosen.out / f"{name.lower()}-{width}-{theme}.png", full_page=True)
                page.close()
        browser.close()


def open_tab(page: Page, name: str) -> None:
    """Click a tab, in the overflow menu where the screen is narrow."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.first.is_visible():
        page.get_by_role("button", name="More tabs").first.click()
        page.locator(".overflow-dropdown button", has_text=name).first.click()
        return
    tab.first.click()


if __name__ == "__main__":
    main()
