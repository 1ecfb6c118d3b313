"""Draw the README's pictures: the page as it is, in a real browser. ``python -m docs.screenshots``, or ``make screenshots``.

Needs the shipped weights, the ``dev`` extra and a chromium (CHROMIUM names it, /usr/bin/chromium by default). Files under
200 kB each: Read in both themes and widths, the other tabs once. ``images/tabs.json`` lists them by tab; a test fails where
the page has other tabs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from neurovision.views.examples import EXAMPLES, FOLDER

IMAGES = Path(__file__).parent / "images"
TABS = "tabs.json"
LARGEST = 200_000  # bytes
SETTLED = "!['loading', 'empty'].includes(document.querySelector('#verdict').dataset.state)"
# Software GL draws where there is no graphics card.
FLAGS = (
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
)  # fmt: skip


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


def first(page: Page) -> None:
    """The page as it opens."""


def read(page: Page) -> None:
    """One click on an example."""
    page.get_by_role("button", name="Meningioma").click()
    page.wait_for_function(SETTLED)
    page.wait_for_selector("#viewer[data-state=ready]")


def compare(page: Page) -> None:
    """Every network's mask."""
    page.locator("#masks img").nth(5).wait_for()


def batch(page: Page) -> None:
    """Every example."""
    page.locator("#batch-files input[type=file]").set_input_files([str(FOLDER / e.file) for e in EXAMPLES])
    page.locator("#batch-run").click()
    page.locator("#batch-table table").wait_for()


def models(page: Page) -> None:
    """The summary."""
    page.locator("#models-summary .nv-facts").wait_for()


def lab(page: Page) -> None:
    """Grad-CAM of the best network."""
    page.locator("#heat img").wait_for()


def tab(page: Page, name: str) -> None:
    """Open a tab."""
    page.get_by_role("tab", name=name, exact=True).first.click()


# Name, tab, what is done there, and in which widths and themes.
SHOTS: tuple[tuple[str, str, Callable[[Page], None], tuple[tuple[int, str], ...]], ...] = (
    ("first", "Read", first, ((1280, "light"),)),
    ("read", "Read", read, ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark"))),
    ("compare", "Compare", compare, ((1280, "light"),)),
    ("batch", "Batch", batch, ((1280, "dark"),)),
    ("models", "Models", models, ((1280, "light"),)),
    ("lab", "Lab", lab, ((1280, "dark"),)),
)


def small(path: Path) -> None:
    """Keep a picture under LARGEST, with fewer colors where it must be."""
    picture = Image.open(path).convert("RGB")
    for colors in (256, 128, 64):
        picture.quantize(colors, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < LARGEST:
            return
    raise SystemExit(f"{path.name} has {path.stat().st_size} bytes; at most {LARGEST} are kept in the repository.")


def main() -> None:
    """Write docs/images/NAME-WIDTH-THEME.png; older pictures there are removed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--url", help="a running page; by default one is started")
    options.add_argument("--out", type=Path, default=IMAGES)
    chosen = options.parse_args()
    url = chosen.url or start()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for old in (*chosen.out.glob("*-light.png"), *chosen.out.glob("*-dark.png")):
        old.unlink()
    shown: dict[str, list[str]] = {}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=list(FLAGS))
        for width, theme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 860}, color_scheme=theme)
            page.set_default_timeout(300_000)
            page.goto(f"{url}/?__theme={theme}")
            page.get_by_text("Device:").wait_for()
            opened = False
            for name, label, step, wanted in SHOTS:
                if (width, theme) not in wanted:
                    continue
                if step not in (first, read) and not opened:
                    read(page)
                if label != "Read":
                    tab(page, label)
                step(page)
                opened = opened or step is not first
                page.wait_for_timeout(1500)
                path = chosen.out / f"{name}-{width}-{theme}.png"
                page.screenshot(path=path, full_page=name in ("first", "read"))
                small(path)
                shown.setdefault(label, []).append(path.name)
            page.close()
        browser.close()
    (chosen.out / TABS).write_text(json.dumps(shown, indent=1) + "\n")


if __name__ == "__main__":
    main()
