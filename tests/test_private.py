"""The page as a process of its own: whom it talks to, what it keeps, what it logs, and what it survives."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicom_builder import NAME, head, oblique, stored, write_series
from scans import png
from server import ROOT, Page, Refused, given, multipart, page
from standin import standin

import neurovision.views.ui  # noqa: F401 - before Gradio: it switches the calls home off
from neurovision.scan.phantom import phantom
from neurovision.views.ui import room
from tests import load

PNG = png(phantom("glioma", 4)[0])
SECRETS = (NAME, NAME.split("^")[0], "PID-4711", "19700102")
_RECORDER = """
def record(name, args):
    if name in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        told = args[1]
    elif name in ("socket.getaddrinfo", "socket.gethostbyname"):
        told = args[0]
    else:
        return
    with open({out!r}, "a") as file:
        file.write(f"{{name}} {{told!r}}\\n")
sys.addaudithook(record)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module")
def served(place: Path) -> Iterator[Page]:
    """One page with the stand-in, whose process notes every address that Python code in it asks for."""
    home = place / "home"
    home.mkdir()
    first = _RECORDER.format(out=str(place / "addresses"))
    with page(place / "tmp", first, HOME=str(home), NEUROVISION_LOG="info", **load.OFF) as running:
        yield running


def connected_elsewhere(pid: int) -> set[str]:
    """Other machines that a process has a TCP or UDP socket to, as the kernel sees it: native code included."""
    links = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.add(str(link.readlink()))
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            remote = fields[2].split(":")[0]
            if fields[9] in inodes and remote.strip("0") and not remote.endswith("0100007F"):
                found.add(f"{table} {remote}")
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="needs /proc/net")
def test_nothing_goes_out_while_the_page_is_used(served: Page, place: Path, tmp_path: Path):
    found: set[str] = set()
    end = threading.Event()

    def watch() -> None:
        while not end.wait(0.02):
            found.update(connected_elsewhere(served.process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert served.request("GET", "/")[0] == 200 and served.request("GET", "/config")[0] == 200
        (path,) = served.upload(("scan.png", PNG))
        assert served.predict(path)[1] == "tumor"
        served.call("batch", [given(path)])
        served.call("models")
        served.call("status")
    finally:
        end.set()
        watcher.join()
    asked = (place / "addresses").read_text().splitlines() if (place / "addresses").exists() else []
    outside = [a for a in asked if not re.search(r"'(127\.0\.0\.1|::1|localhost|0\.0\.0\.0)'|None", a)]
    assert found == set() and outside == []


def test_a_web_address_in_place_of_an_upload_is_not_fetched(served: Page):
    for address in ("http://192.0.2.7/scan.png", "https://example.org/scan.png", "http://127.0.0.1:9/scan.png"):
        with pytest.raises(Refused) as caught:
            served.predict(address)
        assert "Traceback" not in caught.value.words
    with pytest.raises(Refused):
        served.predict("/etc/hostname")
    assert "Traceback" not in served.log.read_text()


def test_dicom_identifiers_reach_no_log_no_name_no_cache_and_no_address(served: Page, place: Path, tmp_path: Path):
    files = write_series(tmp_path / "s", stored(head()[0]), oblique(head()[0].affine))
    uploaded = served.upload(*[(f"{k}.dcm", f.read_bytes()) for k, f in enumerate(files)])
    (broken,) = served.upload(("broken.dcm", files[0].read_bytes()[:-900]))
    sources = {Path(p) for p in [*uploaded, broken]}
    one = served.predict(uploaded[0])
    answers = [json.dumps(one[2]), json.dumps(served.call("predict", [given(p) for p in uploaded]))]
    answers.append(json.dumps(served.call("batch", [given(p) for p in [*uploaded, broken]])))
    with pytest.raises(Refused) as caught:
        served.predict(broken)
    answers.append(caught.value.words)
    from pydicom import dcmread

    header = dcmread(files[0], stop_before_pixels=True)
    secrets = [*SECRETS, str(header.SOPInstanceUID), str(header.SeriesInstanceUID), str(header.StudyInstanceUID)]
    kept = [p for p in [*place.rglob("*"), *Path("/tmp").glob("gradio*/**/*")] if p.is_file() and p not in sources]
    for secret in secrets:
        assert all(secret not in said for said in answers)
        assert all(secret not in str(p) for p in kept)
        for path in kept:
            with contextlib.suppress(FileNotFoundError):
                assert secret.encode() not in path.read_bytes(), path
    lines = [json.loads(line) for line in served.log.read_text().splitlines() if line.startswith("{")]
    slices = [line for line in lines if line.get("message") == "a slice was analyzed"]
    assert slices and all(line["format"] in ("PNG", "DICOM") for line in slices) and "networks_ms" in slices[0]
    answered = [line for line in lines if line.get("message") == "a request was answered"]
    assert {"upload", "call"} <= {line["route"] for line in answered}
    assert all(len(line["request"]) == 16 for line in answered)


def test_half_an_upload_and_a_lost_visitor_do_no_harm(served: Page):
    body, kind = multipart(("half.png", PNG * 5))
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", served.port), 10) as wire:
            start = f"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
            start += f"Content-Length: {len(body)}"
            wire.sendall(start.encode() + b"\r\n\r\n" + body[: len(body) // 2])
    (path,) = served.upload(("scan.png", PNG))
    assert served.predict(path)[1] == "tumor"
    assert "Traceback" not in served.log.read_text()
    assert all(served.folder in p.parents for p in served.files())  # what is left lies where the janitor sweeps


def test_uploads_lie_in_a_private_folder_alone(served: Page):
    (path,) = served.upload(("scan.png", PNG))
    private = next(served.folder.glob("neurovision-page-*"))
    assert private in Path(path).parents and private.stat().st_mode & 0o777 == 0o700


def test_readiness_and_health(served: Page):
    assert served.request("GET", "/readyz")[2] == b'{"status":"ready"}'
    assert served.request("GET", "/healthz")[0] == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals")
def test_what_a_killed_page_left_is_swept_by_the_next_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = (
        "import sys, time\nsys.path[:0] = ['tests']\nimport neurovision.views.ui\nfrom standin import standin\n"
        "from neurovision.views.ui.room import Room\nfile = Room(standin).new_file('scan.png')\nfile.write_text('x')\n"
        "print(file, flush=True)\ntime.sleep(600)\n"
    )
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    monkeypatch.setattr(room, "BASE", tmp_path)
    mine = room.Room(standin)
    assert left.is_file()  # it lives, however old its folder looks
    process.kill()
    process.wait()
    assert left.is_file()
    again = room.Room(standin)
    assert not left.exists() and mine.folder.is_dir() and again.folder.is_dir()


def test_a_login_closes_everything_but_health(monkeypatch: pytest.MonkeyPatch):
    from starlette.testclient import TestClient

    from neurovision.views.ui.page import application

    monkeypatch.setenv("NEUROVISION_USER", "reader")
    monkeypatch.setenv("NEUROVISION_PASSWORD", "correct horse")
    monkeypatch.setenv("NEUROVISION_LOGIN_ATTEMPTS", "3")
    with TestClient(application(room.Room(standin)), base_url="http://127.0.0.1") as client:
        upload = {"files": ("scan.png", PNG)}
        assert client.post("/gradio_api/upload", files=upload).status_code == 401
        assert client.get("/config").status_code == 401
        assert client.post("/gradio_api/call/status", json={"data": []}).status_code == 401
        answer = client.post("/login", data={"username": "reader", "password": "correct horse"})
        assert answer.status_code == 200 and "httponly" in answer.headers["set-cookie"].lower()
        (path,) = client.post("/gradio_api/upload", files=upload).json()
        assert Path(path).is_file()
        tries = [client.post("/login", data={"username": "reader", "password": "guess"}).status_code for _ in range(4)]
        assert tries == [400, 400, 400, 429]
        answer = client.post("/login", data={"username": "reader", "password": "correct horse"})
        assert answer.status_code == 429 and "Too many wrong passwords" in answer.json()["detail"]
        assert client.get("/healthz").status_code == client.get("/readyz").status_code - 303 == 200


@pytest.mark.slow
def test_a_small_load_gets_only_right_answers(served: Page):
    found = load.run(served, standin(), clients=6, seconds=15, disturbed=True)
    assert found.counts["right"] >= 6 and found.faults == []
    assert found.counts["wrong"] == found.counts["lost"] == found.counts["garbage taken"] == 0
    assert found.counts["disconnected"] > 0 and found.counts["garbage refused"] > 0


def test_the_janitor_goes_by_its_own_clock(monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    mine = room.Room(standin)
    files = [mine.new_file(f"{k}.json") for k in range(4)]
    for k, file in enumerate(files):
        file.write_text("x" * 100)
        os.utime(file, (0, 4e9 * (k % 2)))  # long ago, and in the next century
        mine.sweep()
        now[0] += 10
    monkeypatch.setattr(room.time, "time", lambda: time.monotonic() + 10**9)  # the system's clock jumps by decades
    mine.sweep()
    assert all(f.is_file() for f in files)
    now[0] = 1000 + room.KEEP_SECONDS + 15
    mine.sweep()
    assert [f.is_file() for f in files] == [False, False, True, True]
    monkeypatch.setattr(room, "KEEP_FILES", 2)  # one of which is the process's own mark
    mine.sweep()
    assert [f.is_file() for f in files[2:]] == [False, True]  # too many: the oldest goes
    fresh = mine.new_file("fresh.json")
    fresh.write_text("x")
    mine.sweep()
    assert fresh.is_file()  # but never one that just came
    monkeypatch.setattr(room, "KEEP_BYTES", 0)
    now[0] += room.SPARE_SECONDS
    mine.sweep()
    assert not any(f.is_file() for f in [*files, fresh]) and (mine.folder / room.MARK).is_file()


def test_sessions_do_not_pile_up(monkeypatch: pytest.MonkeyPatch):
    from neurovision.views.ui import page as pages

    monkeypatch.setattr(pages, "SESSIONS", 3)
    place = room.Room(standin)
    built = pages.build(place)
    monkeypatch.setattr(pages, "build", lambda _: built)
    pages.application(place)
    for call in range(8):
        assert built.state_holder[f"call-{call}"] is not None  # as Gradio opens one for each call without a session
    assert list(built.state_holder.session_data) == ["call-5", "call-6", "call-7"]
