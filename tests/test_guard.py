"""The guard before the page: headers, limits, the login's lockout; and what is logged, counted and never told."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_builder import NAME
from standin import standin

import neurovision.views.ui  # noqa: F401 - before Gradio: it switches the calls home off
from neurovision.ensemble.drift import FIGURES, LEAST, Tally, figures, load_reference, stability
from neurovision.logs import JsonLines, Quiet, Sparing, event, printable, request_id
from neurovision.scan.phantom import phantom
from neurovision.views.ui import guard
from neurovision.views.ui.entry import Names, is_foreign, route_of
from neurovision.views.ui.guard import Guard, Limits, login
from neurovision.views.ui.rates import Rates, key_of


async def inner(scope: Any, receive: Any, send: Any) -> None:
    """A page that reads the whole request and answers with how much it was, or as a login does."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    status = 400 if scope["path"] == "/login" and size == 5 else 200
    own = [(b"x-own", b"kept"), (b"access-control-allow-origin", b"*"), (b"set-cookie", b"a=1; SameSite=none; Secure")]
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": str(size).encode()})


class Client:
    """Asks a guarded page, without a network."""

    def __init__(self, folder: Path, page: Any = inner, **limits: Any) -> None:
        self.seen: list[tuple[str, int, float]] = []
        self.guard = Guard(
            page, folder, Limits(**limits), lambda *told: self.seen.append(told), Names(), lambda cookies: "in" in cookies
        )

    def ask(
        self, method: str, path: str, body: bytes = b"", address: str = "10.0.0.1", length: int | None = None,
        parts: int = 1, **told: str,
    ) -> tuple[int, dict[str, str], Any]:
        told = {"host": "127.0.0.1:7860", "cookie": "in=1", **told}
        headers = [(k.replace("_", "-").encode(), v.encode()) for k, v in told.items()]
        headers += [] if length is None else [(b"content-length", str(length).encode())]
        scope = {"type": "http", "method": method, "path": path, "headers": headers, "client": (address, 1)}
        step = max(1, len(body) // parts)
        chunks = [body[k : k + step] for k in range(0, len(body), step)] or [b""]
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.guard(scope, receive, send))
        told = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        said = b"".join(m.get("body", b"") for m in sent[1:])
        return sent[0]["status"], told, json.loads(said)


UPLOAD, CALL = "/gradio_api/upload", "/gradio_api/call/predict"


def test_every_answer_carries_the_headers(tmp_path: Path):
    status, headers, _ = Client(tmp_path).ask("GET", "/")
    assert status == 200 and headers["x-own"] == "kept"
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY" and len(headers["x-request-id"]) == 16
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "https:" not in policy


@pytest.mark.parametrize(
    ("environment", "allowed"),
    [
        ({}, "'none'"), ({"SPACE_ID": "x/y"}, "https://huggingface.co"),
        ({"NEUROVISION_FRAME_ANCESTORS": "https://a.example,https://b.example"}, "https://a.example https://b.example"),
        ({"NEUROVISION_FRAME_ANCESTORS": "'self'; script-src *", "SPACE_ID": "x/y"}, "'self' script-src *"),
    ],
)  # fmt: skip
def test_framing_is_denied_unless_allowed(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], allowed: str):
    monkeypatch.delenv("SPACE_ID", raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert Limits.from_environment().frame_ancestors == allowed
    headers = dict(Guard(inner, Path(), Limits.from_environment()).headers)
    assert f"frame-ancestors {allowed}".encode() in headers[b"content-security-policy"]
    assert headers[b"content-security-policy"].count(b";") == guard.POLICY.count(";") + 1
    assert (b"x-frame-options" in headers) == (allowed == "'none'")


def test_settings_that_are_no_number_keep_their_default(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setenv("NEUROVISION_CALLS_PER_MINUTE", "many")
    monkeypatch.setenv("NEUROVISION_UPLOAD_MB", "3")
    limits = Limits.from_environment()
    assert limits.calls == Limits.calls and limits.upload_bytes == 3 << 20
    assert "NEUROVISION_CALLS_PER_MINUTE is no whole number" in caplog.text


def test_an_allowance_is_by_address_and_by_network():
    rates = Rates(6, 0, 2, 60)
    assert [rates.upload("10.0.0.1") for _ in range(6)] == [0] * 6
    assert 1 <= rates.upload("10.0.0.1") <= 60 and rates.upload("10.0.0.2") == 0
    assert not any(rates.call("10.0.0.1") for _ in range(2000))
    assert key_of("2001:db8::1") == key_of("2001:db8::ffff:2") != key_of("2001:db8:0:1::1")
    assert key_of("::ffff:10.0.0.1") == "10.0.0.1" and key_of("no address") == "unknown"


def test_rates_are_limited_by_address_with_a_sentence(tmp_path: Path):
    client = Client(tmp_path, uploads=2, calls=3)
    assert [client.ask("POST", UPLOAD)[0] for _ in range(3)] == [200, 200, 429]
    assert [client.ask("POST", CALL)[0] for _ in range(4)] == [200, 200, 200, 429]
    status, headers, said = client.ask("POST", UPLOAD)
    assert status == 429 and "2 uploads a minute" in said["detail"] and int(headers["retry-after"]) >= 1
    assert client.ask("POST", UPLOAD, address="10.0.0.2")[0] == 200
    assert client.ask("GET", "/gradio_api/file=/x")[0] == 200


def test_a_request_is_cut_at_its_size(tmp_path: Path):
    client = Client(tmp_path, upload_bytes=3 << 20, call_bytes=1 << 20)
    status, _, said = client.ask("POST", UPLOAD, length=4 << 20)
    assert status == 413 and said["detail"] == "A request may have 3 MB; received 4 MB, send less at once."
    status, _, said = client.ask("POST", UPLOAD, b"x" * (4 << 20), parts=8)  # which does not tell its length
    assert status == 413 and "may have 3 MB" in said["detail"]
    assert client.ask("POST", UPLOAD, b"x" * (2 << 20), parts=8)[2] == 2 << 20
    assert client.ask("POST", CALL, b"x" * (2 << 20), parts=8)[0] == 413


def test_fastapi_passes_on_why_a_body_was_cut(tmp_path: Path):
    from fastapi import FastAPI

    app = FastAPI()

    @app.post(CALL)
    def call(body: dict[str, Any]) -> None:
        """A route as Gradio has them: FastAPI reads its body."""

    client = Client(tmp_path, app, call_bytes=1 << 20)
    status, headers, said = client.ask("POST", CALL, b"x" * (2 << 20), parts=8, content_type="application/json")
    assert status == 413 and "may have 1 MB" in said["detail"]
    assert headers["connection"] == "close" and headers["x-content-type-options"] == "nosniff"


def test_a_disk_that_fills_up_ends_an_upload_that_told_no_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    free = iter([guard.SPARE_DISK * 2, guard.SPARE_DISK + 9, guard.SPARE_DISK - 1])
    monkeypatch.setattr(guard.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": next(free)}))
    status, headers, said = Client(tmp_path).ask("POST", UPLOAD, b"x" * (16 << 20), parts=4)
    assert status == 507 and "no room" in said["detail"] and headers["connection"] == "close"


def test_one_address_has_so_many_places_pages_and_requests(tmp_path: Path):
    client = Client(tmp_path, places=2, pages=1, connections=3)
    client.guard.queued = lambda address: 2 if address == "10.0.0.1" else 1
    assert client.ask("POST", CALL)[0] == 429 and client.ask("POST", CALL, address="10.0.0.2")[0] == 200
    assert client.ask("GET", "/gradio_api/heartbeat/a")[0] == 200
    client.guard._open["pages", "10.0.0.1"] = 1
    assert client.ask("GET", "/gradio_api/heartbeat/b")[0] == 429
    assert client.ask("GET", "/gradio_api/heartbeat/b", address="10.0.0.2")[0] == 200
    client.guard._open["any", "10.0.0.1"] = 3
    assert client.ask("GET", "/")[0] == 429 and client.ask("GET", "/healthz")[0] == 200
    assert set(client.guard._open) == {("pages", "10.0.0.1"), ("any", "10.0.0.1")} and not client.guard.sessions


def test_a_session_whose_page_is_open_outlives_the_others():
    import gradio as gr

    from neurovision.views.ui.gradio_gaps import Sessions

    sessions = Sessions()
    with gr.Blocks() as blocks:
        gr.State()
    blocks.state_session_capacity = 3
    sessions.set_blocks(blocks)
    sessions.open["reader"] = 1
    for session in ("reader", *(f"call-{k}" for k in range(5))):
        assert sessions[session] is not None
    assert list(sessions.session_data) == ["reader", "call-3", "call-4"]
    assert set(sessions.time_last_used) == set(sessions.session_data)


def test_many_alike_warnings_are_one_line_a_minute():
    now = [0.0]
    sparing, logger = Sparing(lambda: now[0]), logging.getLogger("neurovision.t")
    warning, other = (logger.makeRecord("t", 30, "f.py", line, "w", (), None) for line in (1, 2))
    told = logger.makeRecord("t", 20, "f.py", 1, "i", (), None)
    assert [sparing.filter(r) for r in (warning, warning, other, told, told)] == [True, False, True, True, True]
    now[0] = 61
    assert sparing.filter(warning)


def test_a_full_disk_is_told_before_the_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": guard.SPARE_DISK + 99}))
    client = Client(tmp_path)
    assert client.ask("POST", UPLOAD, length=99)[0] == 200
    status, _, said = client.ask("POST", UPLOAD, length=100)
    assert status == 507 and "no room" in said["detail"]


ROUTED = [
    ("GET", "/", "page"), ("GET", "/readyz", "health"), ("POST", "/gradio_api/call/predict", "call"),
    ("GET", "/gradio_api/call/predict/0af", "result"), ("GET", "/assets/index-AbC.js", "assets"),
    ("GET", "/gradio_api/file=/x/y z.png", "file"), ("POST", "/login", "login"), ("POST", "/gradio_api/upload", "upload"),
    ("POST", "/", None), ("GET", "/login", None), ("PUT", "/gradio_api/upload", None),
    ("OPTIONS", "/gradio_api/upload", None),
    ("GET", "/gradio_api/file=http://x/y", None), ("GET", "/gradio_api/file=//x/y/../z", "file"), ("GET", "/Jane/Doe", None),
    ("GET", "/gradio_api/call/Jane Doe/0", None), ("POST", "/gradio_api/run/predict", None),
]  # fmt: skip
CLOSED = [
    "token", "user", "login_check", "process_recording", "component_server", "queue/status", "run/predict", "api/predict",
    "stream/1", "proxy=http://x/", "dev/reload", "vibe-code", "openapi.json", "deep_link", "runs", "mcp/",
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "route"), ROUTED)
def test_a_route_is_named_or_there_is_none(method: str, path: str, route: str | None):
    assert route_of(method, path) == route


@pytest.mark.parametrize("path", [*(f"/gradio_api/{c}" for c in CLOSED), "/pwa_icon/99", "/manifest.json", "/monitoring"])
def test_routes_without_a_use_are_closed(tmp_path: Path, path: str):
    client = Client(tmp_path)
    assert client.ask("GET", path)[0] == client.ask("POST", path)[0] == 404


@pytest.mark.parametrize(
    ("host", "known"),
    [("localhost", True), ("LOCALHOST:7860", True), ("127.0.0.1:7860", True), ("[::1]:7860", True), ("192.168.1.5", True),
     ("scanner.example", True), ("a-b.hf.space", True),
     ("evil.example", False), ("localhost.evil.example", False), ("", False)],
)  # fmt: skip
def test_hosts_are_listed(monkeypatch: pytest.MonkeyPatch, host: str, known: bool):
    monkeypatch.setenv("NEUROVISION_HOSTS", "Scanner.example, other")
    monkeypatch.setenv("SPACE_HOST", "a-b.hf.space")
    assert Names.from_environment().know(host) == known


@pytest.mark.parametrize(
    ("route", "told", "foreign"),
    [("call", {}, False), ("call", {"sec-fetch-site": "same-origin", "origin": "http://here:7860"}, False),
     ("call", {"sec-fetch-site": "same-site"}, True), ("call", {"sec-fetch-site": "cross-site"}, True),
     ("call", {"origin": "http://evil.example"}, True), ("call", {"origin": "null"}, True),
     ("call", {"origin": "http://here"}, True),
     ("page", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, False),
     ("page", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, True),
     ("file", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),
     ("file", {"sec-fetch-site": "none"}, False)],
)  # fmt: skip
def test_other_sites_are_told_apart(route: str, told: dict[str, str], foreign: bool):
    assert is_foreign(route, [(k.encode(), v.encode()) for k, v in told.items()], "here:7860") == foreign


def test_cookies_are_strict_and_no_other_site_is_given_leave(tmp_path: Path):
    _, headers, _ = Client(tmp_path).ask("GET", "/", origin="http://127.0.0.1:7860")
    assert headers["set-cookie"] == "a=1; Secure; HttpOnly; SameSite=Strict"
    assert "access-control-allow-origin" not in headers and headers["cache-control"] == "no-store"


def test_without_a_cookie_only_the_login_page_answers(tmp_path: Path):
    client = Client(tmp_path)
    for method, path, route in ROUTED:
        if route is not None:
            expected = 200 if route in ("page", "health", "assets", "login") else 401
            assert client.ask(method, path, cookie="")[0] == expected, path


def test_lockout_after_wrong_passwords(tmp_path: Path):
    client = Client(tmp_path, wrong=3, lockout=60)
    assert [client.ask("POST", "/login", b"wrong")[0] for _ in range(2)] == [400] * 2
    assert client.ask("POST", "/login", b"right one")[0] == 200  # which forgets the wrong ones
    assert [client.ask("POST", "/login", b"wrong")[0] for _ in range(3)] == [400] * 3
    status, headers, said = client.ask("POST", "/login", b"right one")
    assert status == 429 and "Too many wrong passwords" in said["detail"] and int(headers["retry-after"]) > 50
    assert client.ask("POST", "/login", b"right one", address="10.0.0.2")[0] == 200


def test_login_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for key in ("NEUROVISION_USER", "NEUROVISION_PASSWORD", "NEUROVISION_PASSWORD_FILE"):
        monkeypatch.delenv(key, raising=False)
    assert login() is None
    monkeypatch.setenv("NEUROVISION_USER", "reader")
    with pytest.raises(SystemExit, match="needs both"):
        login()
    (tmp_path / "secret").write_text("pässword\n")
    monkeypatch.setenv("NEUROVISION_PASSWORD_FILE", str(tmp_path / "secret"))
    check = login()
    assert check is not None
    assert check("reader", "pässword")
    assert not check("reader", "pässwor") and not check("other", "pässword") and not check("", "")
    monkeypatch.setenv("NEUROVISION_PASSWORD_FILE", str(tmp_path / "gone"))
    with pytest.raises(SystemExit, match="cannot be read"):
        login()


def test_passwords_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    compared = []
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda a, b: compared.append(a) or a == b)
    monkeypatch.setenv("NEUROVISION_USER", "reader")
    monkeypatch.setenv("NEUROVISION_PASSWORD", "secret")
    check = login()
    assert check is not None and not check("other", "guess")
    assert compared == [b"other", b"guess"]  # the password too, though the user was wrong


def test_the_access_log_names_no_file_and_no_address(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "neurovision")
    client = Client(tmp_path)
    client.ask("GET", f"/gradio_api/file=/tmp/{NAME}/4711.dcm", address="203.0.113.9")
    client.ask("GET", f"/{NAME}")
    lines = [json.loads(JsonLines().format(r)) for r in caplog.records]
    assert [line["route"] for line in lines] == ["file", "other"]
    assert set(lines[0]) == {"at", "level", "from", "message", "method", "route", "status", "ms"}
    assert NAME not in json.dumps(lines) and "4711" not in json.dumps(lines) and "203.0" not in json.dumps(lines)
    assert [seen[:2] for seen in client.seen] == [("file", 200), ("other", 404)]


def test_log_lines_hold_the_request_and_no_foreign_words():
    token = request_id.set("abc")
    try:
        ours = logging.getLogger("neurovision.x").makeRecord("neurovision.x", 20, "f.py", 3, "a slice", (), None)
        ours.values = {"ms": 3}
        told = json.loads(JsonLines().format(ours))
        assert told["request"] == "abc" and told["message"] == "a slice" and told["ms"] == 3
        try:
            raise ValueError(NAME)
        except ValueError as e:
            trouble = (type(e), e, e.__traceback__)
        foreign = logging.getLogger("pydicom").makeRecord("pydicom", 40, "f.py", 3, f"bad value {NAME}", (), trouble)
        line = JsonLines().format(foreign)
        assert NAME not in line and json.loads(line)["line"] == "f.py:3" and "ValueError at test_guard.py" in line
    finally:
        request_id.reset(token)


def test_what_libraries_print_is_kept_back(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    import sys
    import traceback

    monkeypatch.setattr(sys, "stderr", Quiet())
    print(NAME, file=sys.stderr)
    try:
        raise ValueError(NAME)
    except ValueError:
        traceback.print_exc()
    monkeypatch.undo()
    (line,) = [JsonLines().format(r) for r in caplog.records]
    assert NAME not in line and json.loads(line)["error"].startswith("ValueError at test_guard.py")


def test_events_are_logged_with_their_values(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "neurovision")
    event(logging.getLogger("neurovision.t"), "something was done", count=2)
    assert json.loads(JsonLines().format(caplog.records[0]))["count"] == 2


# --- drift -----------------------------------------------------------------------------------------------------------


def test_stability_by_hand():
    alike = {"a": 100, "b": 100}
    assert stability(alike, alike) == pytest.approx(0)
    p, q = 150.5 / 201, 100.5 / 201  # half a count in every bin
    expected = (p - q) * np.log(p / q) + (1 - p - (1 - q)) * np.log((1 - p) / (1 - q))
    assert stability({"a": 150, "b": 50}, alike) == pytest.approx(expected)
    assert stability({"a": 200}, alike) > 0.25 and np.isfinite(stability({}, alike))


def test_a_tally_counts_bins_and_tells_drift():
    found = standin().analyze(phantom("glioma", 4)[0])
    told = figures(found)
    assert set(told) == set(FIGURES) and told["verdict"] == "tumor" and told["sequence"] == "T1"
    assert all(which in FIGURES[figure] for figure, which in told.items())
    tally = Tally()
    for _ in range(LEAST):
        assert tally.drift({"verdict": {"tumor": 50, "no tumor": 50}}) == {}
        tally.note(found)
    assert tally.counts()["verdict"] == {"tumor": LEAST, "borderline": 0, "no tumor": 0, "rejected": 0}
    assert tally.drift({"verdict": {"tumor": 50, "no tumor": 50, "rejected": 0}})["verdict"] > 0.25
    assert tally.drift({"verdict": {"tumor": 5000, "no tumor": 0, "rejected": 0}})["verdict"] < 0.1


def test_the_shipped_reference_holds_counts_of_every_figure_only():
    reference = load_reference()
    assert set(reference) == set(FIGURES) - {"sequence"}
    assert all(sum(bins.values()) >= LEAST for bins in reference.values())
    assert load_reference(Path("gone.json")) == {}


def test_training_scans_are_counted():
    from neurovision.evaluation.drift import count

    class Item:
        source, sequence = "phantom", None

        def gray(self) -> np.ndarray:
            return phantom("glioma", 1)[0].gray()

    counts = count(standin(), [Item()] * 3)  # type: ignore[list-item]
    assert counts["verdict"] == {"tumor": 3, "borderline": 0, "no tumor": 0, "rejected": 0} and "sequence" not in counts


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_are_opt_in_and_count(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    from prometheus_client import generate_latest

    from neurovision.views.ui.metrics import Metrics
    from neurovision.views.ui.room import Room

    monkeypatch.delenv("NEUROVISION_METRICS", raising=False)
    room = Room(standin)
    assert Metrics.from_environment(room) is None
    room.open()
    room.analyzer().analyze(phantom("glioma", 4)[0])
    metrics = Metrics(room)
    metrics.observe("call", 200, 0.2)
    text = generate_latest(metrics.registry).decode()
    assert 'neurovision_slices_total{bin="tumor",figure="verdict"} 1.0' in text
    assert 'neurovision_request_seconds_count{route="call",status="200"} 1.0' in text
    assert "neurovision_ready 1.0" in text
    monkeypatch.setenv("NEUROVISION_METRICS", "everywhere")
    with pytest.raises(SystemExit, match="is a port"):
        Metrics.from_environment(room)


def test_only_slices_of_visitors_are_counted():
    from neurovision.views.ui.room import Room

    room = Room(standin)
    assert room.state == "loading"
    room.open()
    analyzer = room.analyzer()
    assert room.state == "ready" and sum(room.tally.counts()["verdict"].values()) == 0  # the first run warms up
    list(analyzer.analyze_slices(phantom("glioma", 4)[0]))
    assert sum(room.tally.counts()["verdict"].values()) == 1


def test_what_would_steer_a_terminal_is_not_printed():
    assert printable("The archive says \x1b]0;x\x07é\u202e\nno") == "The archive says ?]0;x?é?\nno"
