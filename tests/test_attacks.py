"""Attacks on a started page, one without and one with a login: what a visitor must not get, do or stop."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from server import Page, Refused, given, multipart, page

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
            ("predict", [[given(path)]]),
            ("batch", [[given(path)]]),
        ):
            with pytest.raises(Refused):
                assert target.call(name, *values) is None, (name, path)
        if "\0" not in path and path != own:
            status, _, body = target.page.request("GET", f"/gradio_api/file={path}", **target.cookie)
            assert status >= 400 and PNG not in body, path
    assert target.call("predict", [given(own)])[1] == "tumor"
    example = given(str(FOLDER / "no-tumor.png"))  # which belongs to everyone
    assert target.call("predict", [example])[2]["status"] == "ok"
    link.unlink()
    pipe.unlink()


def test_a_device_does_not_stop_the_page(target: Target):
    with contextlib.suppress(Refused):
        target.call("predict", [given("/dev/zero")])
    assert target.page.request("GET", "/healthz")[0] == 200


def test_every_handler_checks_the_files_it_is_given():
    import gradio as gr

    from neurovision.views.ui.page import build

    page = build(room.Room(lambda: None))  # type: ignore[arg-type, return-value]
    handlers = [fn for fn in page.fns.values() if fn.fn is not None]
    for handler in handlers:
        files = [c for c in handler.inputs if getattr(c, "data_model", None) is not None and not isinstance(c, gr.State)]
        for component in files:
            assert isinstance(component, gr.File | gr.UploadButton) and component.type == "filepath", component
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


# --- other sites -----------------------------------------------------------------------------------------------------


def test_another_site_neither_calls_nor_reads(target: Target):
    port = target.page.port
    body, call = json.dumps({"data": []}).encode(), "/gradio_api/call/status"
    kind = {"Content_Type": "text/plain", **target.cookie}  # which a form may send without asking first
    foreign = [
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Origin": "http://127.0.0.1:1"}, {"Host": f"evil.example:{port}"},
        {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}", "Sec_Fetch_Site": "same-origin"},
    ]  # fmt: skip
    for headers in foreign:
        status, told, _ = target.page.request("POST", call, body, **kind, **headers)
        assert status in (403, 421), headers
        assert not any(k.startswith("access-control") for k in told)
        status, told, said = target.page.request("GET", "/config", **target.cookie, **headers)
        assert status in (403, 421) and b"components" not in said
    own = {"Origin": target.page.url, "Sec_Fetch_Site": "same-origin"}
    assert target.page.request("POST", call, body, Content_Type="application/json", **target.cookie, **own)[0] == 200
    asks = {"Origin": "https://evil.example", "Access_Control_Request_Method": "POST"}
    status, told, _ = target.page.request("OPTIONS", call, **asks)
    assert status in (403, 404) and not any(k.startswith("access-control") for k in told)
    assert target.page.request("GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200  # a link


def test_a_visitor_cannot_claim_another_address_or_name(target: Target):
    claimed = {"X_Forwarded_Host": "evil.example", "X_Forwarded_Proto": "https", "X_Gradio_Server": "https://evil.example"}
    status, _, said = target.page.request("GET", "/", **target.cookie, **claimed)
    assert status == 200 and b"evil.example" not in said
    config = target.page.request("GET", "/config", **target.cookie, **claimed)[2]
    assert b"evil.example" not in config and f"http://127.0.0.1:{target.page.port}".encode() in config


def test_only_the_routes_of_the_page_answer(target: Target):
    body, kind = multipart(("a.webm", PNG))
    before = set(Path(tempfile.gettempdir()).glob("*"))
    for path in ("process_recording", "component_server", "token", "run/predict", "vibe-code", "queue/status"):
        for method in ("GET", "POST"):
            status, _, said = target.page.request(method, f"/gradio_api/{path}", body, Content_Type=kind, **target.cookie)
            assert status == 404 and b"token" not in said, path
    new = set(Path(tempfile.gettempdir()).glob("*")) - before
    assert not [p for p in new if p.is_file() and p.stat().st_size == len(PNG)]


def test_the_description_tells_public_endpoints_only(target: Target):
    plain = target.page.request("GET", "/gradio_api/info", **target.cookie)
    more = target.page.request("GET", "/gradio_api/info?all_endpoints=true", **target.cookie)
    assert plain[0] == more[0] == 200 and plain[2] == more[2]
    named = json.loads(plain[2])
    assert "/predict" in named["named_endpoints"] and not named["unnamed_endpoints"]


def test_every_answer_has_the_headers(target: Target):
    for path in ("/", "/readyz", "/nothing", "/gradio_api/info", "/gradio_api/queue/data", "/gradio_api/file=/gone"):
        _, told, _ = target.page.request("GET", path, **target.cookie)
        assert told["x-content-type-options"] == "nosniff" and told["cache-control"] == "no-store", path


# --- the login -------------------------------------------------------------------------------------------------------


def test_nothing_but_the_login_page_answers_without_a_cookie(target: Target):
    if not target.cookie:
        return
    hidden = ["config", "info", "app_id", "startup-events", "heartbeat/abc", "queue/data?session_hash=a", "call/status/a"]
    for path in ["/config", "/logout", *(f"/gradio_api/{p}" for p in hidden)]:
        assert target.page.request("GET", path)[0] in (401, 404), path
    for path in ("upload", "queue/join", "call/status", "reset", "cancel"):
        assert target.page.request("POST", f"/gradio_api/{path}", b"{}", Content_Type="application/json")[0] == 401
    assert b"components" not in target.page.request("GET", "/")[2].replace(b'"components":[]', b"")
    assert target.page.request("GET", "/healthz")[0] == target.page.request("GET", "/readyz")[0] == 200


def test_guesses_at_once_and_under_claimed_addresses_are_counted(tmp_path: Path):
    with page(tmp_path / "tmp", NEUROVISION_USER=USER, NEUROVISION_PASSWORD=PASSWORD) as served:
        heard: list[int] = []

        def guess(k: int) -> None:
            try:
                cookie_of(served, f"guess {k}", X_Forwarded_For=f"10.1.0.{k}")
            except Refused as e:
                heard.append(e.status)

        threads = [threading.Thread(target=guess, args=(k,)) for k in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(heard) == [400] * 5 + [429] * 19
        with pytest.raises(Refused, match="Too many wrong passwords"):
            cookie_of(served)


# --- before the models are there -------------------------------------------------------------------------------------

_SLOW = """
import threading, sys
import neurovision.views.ui.page as pages
from standin import standin as made
class Late:
    def __call__(self):
        threading.Event().wait(12)
        return made()
original = pages.serve
pages.serve = lambda port, load: original(port=port, load=Late())
looked = open({out!r}, "a")
sys.addaudithook(lambda name, args: name == "socket.getaddrinfo" and print(args[0], file=looked, flush=True))
"""


def test_nothing_is_looked_up_while_the_models_load(tmp_path: Path):
    asked = tmp_path / "asked"
    with page(tmp_path / "tmp", _SLOW.format(out=str(asked)), wait="/healthz", **load.OFF) as served:
        assert served.request("GET", "/readyz")[0] == 503
        for address in ("http://example.org/scan.png", "https://192.0.2.7/scan.png"):
            with pytest.raises(Refused):
                served.call("predict", given(address))
        assert b"loading" in served.request("GET", "/readyz")[2]
        assert served.request("GET", "/gradio_api/file=http://example.org/")[0] == 404
    assert "example" not in asked.read_text() and "192.0.2.7" not in asked.read_text()
    assert not [p for p in (tmp_path / "tmp").rglob("*") if p.is_file()]


# --- starving others -------------------------------------------------------------------------------------------------

_FEW = {"NEUROVISION_CONNECTIONS": "12", "NEUROVISION_PLACES": "3", "NEUROVISION_PAGES": "4"}
_HASTY = """
import threading
import neurovision.views.ui.guard as guard, neurovision.views.ui.wire as wire, neurovision.views.ui.page as pages
guard.IDLE_SECONDS = wire.HEAD_SECONDS = 2.0
original = pages.serve
pages.serve = lambda port, load: original(port=port, load=lambda: threading.Event().wait())
"""


def hung_up(wire: socket.socket) -> bool:
    """Wait for the server to end a connection without a word."""
    try:
        return wire.recv(1) == b""
    except ConnectionResetError:
        return True


def test_one_address_starves_no_other(tmp_path: Path):
    def other() -> int:
        """The page's status for a visitor at another address."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, 60, ("127.0.0.2", 0))) as wire:
            wire.request("GET", "/")
            return wire.getresponse().status

    with page(tmp_path / "tmp", _HASTY, wait="/healthz", **_FEW) as served, contextlib.ExitStack() as stack:

        def opened(words: bytes) -> socket.socket:
            wire = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 60))
            wire.sendall(words)
            return wire

        head = b"HTTP/1.1\r\nHost: localhost\r\n"
        # Places in the queue: the models never come, so that every action waits.
        body = json.dumps({"data": [[given(str(FOLDER / "glioma.png"))]]}).encode()
        call = [served.request("POST", "/gradio_api/call/predict", body, Content_Type="application/json") for _ in range(6)]
        assert [status for status, _, _ in call] == [200] * 3 + [429] * 3 and b"wait already" in call[-1][2]
        # Open pages.
        beats = [opened(b"GET /gradio_api/heartbeat/a%d " % k + head + b"\r\n").recv(12) for k in range(6)]
        assert beats == [b"HTTP/1.1 200"] * 4 + [b"HTTP/1.1 429"] * 2
        # Connections that say nothing, or a head or body that never ends.
        idle = [opened(b"") for _ in range(40)]
        assert other() == 200
        assert all(hung_up(wire) for wire in [*idle, opened(b"GET / " + head)])
        slow = opened(b"POST /gradio_api/upload " + head + b"Content-Length: 1000\r\nContent-Type: text/plain\r\n\r\nx")
        assert slow.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.1 408")
        slow = opened(b"POST /gradio_api/reset " + head + b"Content-Length: 1000\r\n\r\n{")
        assert slow.recv(12) == b"HTTP/1.1 408"
        broken = opened(b"GET /\x00 HTTP/9\r\n\r\n").recv(4096).lower()
        assert broken.startswith(b"http/1.1 400") and b"x-content-type-options: nosniff" in broken
        assert other() == 200 and "Traceback" not in served.log.read_text()
