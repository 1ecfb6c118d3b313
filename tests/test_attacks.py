"""Attacks on a started page, one without and one with a login: what a visitor must not get, do or stop."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from server import Page, Refused, given, page

import neurovision.views.ui  # noqa: F401 - before Gradio: it switches the calls home off
from neurovision.errors import UnsupportedScan
from neurovision.views.examples import FOLDER
from neurovision.views.ui import room
from tests import load

PNG = (FOLDER / "glioma.png").read_bytes()
USER, PASSWORD = "reader", "correct horse"


@dataclass
class Target:
    """A started page and the cookie of a visitor who may use it, empty where the page has no login."""

    page: Page
    cookie: dict[str, str]

    def call(self, name: str, *values: Any) -> list[Any]:
        return self.page.call(name, *values, **self.cookie)

    def upload(self, *files: tuple[str, bytes]) -> list[str]:
        return self.page.upload(*files, **self.cookie)


def cookie_of(served: Page, password: str = PASSWORD, **headers: str) -> dict[str, str]:
    body = f"username={USER}&password={password}".encode()
    kind = {"Content_Type": "application/x-www-form-urlencoded", **headers}
    status, told, said = served.request("POST", "/login", body, **kind)
    if status != 200:
        raise Refused(status, said.decode())
    name, _, rest = told["set-cookie"].rpartition("access-token-unsecure-")[2].partition("=")
    return {"Cookie": f"access-token-unsecure-{name}={rest.split(';')[0]}"}


@pytest.fixture(scope="module", params=["open", "login"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    place = tmp_path_factory.mktemp(request.param)
    login = {"NEUROVISION_USER": USER, "NEUROVISION_PASSWORD": PASSWORD} if request.param == "login" else {}
    with page(place / "tmp", **load.OFF, **login) as served:
        yield Target(served, cookie_of(served) if login else {})


# --- files of the server ---------------------------------------------------------------------------------------------


def test_no_file_of_the_server_is_read(target: Target, tmp_path: Path):
    secret = tmp_path / "scan.png"
    secret.write_bytes(PNG)
    secret.chmod(0o600)
    (own,) = target.upload(("scan.png", PNG))
    link = Path(own).with_name("link.png")
    link.symlink_to(secret)
    folder, pipe = Path(own).parent, Path(own).with_name("pipe.png")
    os.mkfifo(pipe)
    named = [secret, link, pipe, folder, folder / ".." / ".." / ".." / "scan.png", "/dev/zero", "/proc/self/environ"]
    named += ["http://127.0.0.1:9/scan.png", f"file://{secret}", "", "scan.png", "x\0y", room.MARK]
    for path in map(str, named):
        for name, values in (
            ("predict", [given(path)]),
            ("diagnose", [given(path), "Overlay", "Fill", 0.45]),
            ("batch", [[given(path)]]),
            ("volume", [[given(path)]]),
        ):
            with pytest.raises(Refused):
                assert target.call(name, *values) is None, (name, path)
        if "\0" not in path and path != own:
            status, _, body = target.page.request("GET", f"/gradio_api/file={path}", **target.cookie)
            assert status >= 400 and PNG not in body, path
    assert target.call("predict", given(own))[1] == "tumor"
    assert target.call("predict", given(str(FOLDER / "healthy.png")))[1] == "no tumor"  # an example belongs to everyone
    link.unlink()
    pipe.unlink()


def test_a_device_does_not_stop_the_page(target: Target):
    with contextlib.suppress(Refused):
        target.call("predict", given("/dev/zero"))
    assert target.page.request("GET", "/healthz")[0] == 200


def test_every_handler_checks_the_files_it_is_given():
    import gradio as gr

    from neurovision.views.ui.page import build

    page = build(room.Room(lambda: None))  # type: ignore[arg-type, return-value]
    handlers = [fn for fn in page.fns.values() if fn.fn is not None]
    for handler in handlers:
        files = [c for c in handler.inputs if getattr(c, "data_model", None) is not None and not isinstance(c, gr.State)]
        for component in files:
            assert isinstance(component, gr.File) and component.type == "filepath", component
        if files:
            assert handler.fn.__code__ is room.speaks(print).__code__, handler.api_name
    assert len(handlers) > 20


def test_only_what_was_brought_passes(tmp_path: Path):
    place = room.Room(lambda: None)  # type: ignore[arg-type, return-value]
    own = place.new_file("scan.png")
    own.write_bytes(PNG)
    room.check_brought(str(own))
    outside = tmp_path / "scan.png"
    outside.write_bytes(PNG)
    (own.parent / "folder").symlink_to(tmp_path)
    for path in (outside, own.parent, own.parent / "folder" / "scan.png", own.with_name("gone.png"), "", "scan.png", "a\0b"):
        with pytest.raises(UnsupportedScan, match="was not uploaded"):
            room.check_brought(str(path))
