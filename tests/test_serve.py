"""Serving: a router that keeps each visitor with one worker, the page behind it, and the page on Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from standin import standin

from neurovision.serving.serve import COOKIE, PageLimits, Router
from neurovision.views.examples import examples_folder

ROOT = Path(__file__).parents[1]
HTML = {"accept": "text/html"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def served(app: Any, port: int) -> contextlib.ExitStack:
    """An application on a port, in a thread, until the stack is closed."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    stack = contextlib.ExitStack()
    stack.callback(thread.join, 20)
    stack.callback(setattr, server, "should_exit", True)
    return stack


class Echo:
    """A worker that says its number and what it received; its streams note when a visitor leaves."""

    def __init__(self, number: int) -> None:
        self.number, self.left = number, threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more and scope["path"] == "/echo":
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = dict(scope["headers"])
        said = [self.number, scope["client"][0], len(body), scope["query_string"].decode(), headers[b"host"].decode()]
        status = 200 if scope["path"] != "/readyz" or self.number == 0 else 503
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-said", repr(said).encode())]})
        if scope["path"] == "/endless":
            for _ in range(600):
                await send({"type": "http.response.body", "body": b"data: beat\n\n", "more_body": True})
                with contextlib.suppress(TimeoutError):
                    message = await asyncio.wait_for(receive(), 0.1)
                    if message["type"] == "http.disconnect":
                        self.left.set()
                        return
        await send({"type": "http.response.body", "body": repr(said).encode()})


@pytest.fixture(scope="module")
def routed() -> Iterator[tuple[str, list[Echo]]]:
    """A router over two workers, and a third that is not there."""
    workers = [Echo(0), Echo(1)]
    ports = [free_port() for _ in range(4)]
    with contextlib.ExitStack() as stack:
        for worker, port in zip(workers, ports[:2], strict=True):
            stack.enter_context(served(worker, port))
        stack.enter_context(served(Router(ports[:3]), ports[3]))
        yield f"http://127.0.0.1:{ports[3]}", workers


def number(response: httpx.Response) -> int:
    return int(response.text.strip("[]").split(",")[0])


def test_a_visitor_stays_with_one_worker(routed: tuple[str, list[Echo]]):
    url, _ = routed
    seen = []
    for _ in range(3):
        with httpx.Client(base_url=url, trust_env=False) as visitor:
            page = visitor.get("/", headers=HTML)
            assert "HttpOnly" in page.headers["set-cookie"]
            mine = int(visitor.cookies[COOKIE])
            seen.append(mine)
            again = [visitor.post("/echo", content=b"x", headers=HTML) for _ in range(4)]
            assert {number(r) for r in again} == {mine} and "set-cookie" not in again[0].headers
    assert set(seen) == {0, 1}  # by turns, and nobody new is sent to the one that is away


def test_a_client_without_cookies_stays_by_its_address(routed: tuple[str, list[Echo]]):
    scopes = [{"type": "http", "method": "POST", "headers": [], "client": (f"10.0.0.{k}", 1)} for k in range(20)]
    router = Router([1, 2, 3])
    assert [router.choose(s) for s in scopes] == [router.choose(s) for s in scopes]
    assert {router.choose(s)[0] for s in scopes} == {0, 1, 2} and not any(router.choose(s)[1] for s in scopes)
    wrong = {**scopes[0], "headers": [(b"cookie", f"{COOKIE}=7".encode())]}
    assert router.choose(wrong) == router.choose(scopes[0])


def test_requests_arrive_whole_and_with_the_visitors_address(routed: tuple[str, list[Echo]]):
    url, _ = routed
    sent = os.urandom(3_000_000)
    told = {"x-forwarded-for": "203.0.113.9"}  # as a proxy on this machine says it, which alone is believed
    with httpx.Client(base_url=url, cookies={COOKIE: "1"}, trust_env=False) as visitor:
        plain = visitor.post("/echo?a=%20b", content=sent, headers=told)
        chunked = visitor.post("/echo", content=(sent[k : k + 70_000] for k in range(0, len(sent), 70_000)))
    host = url.removeprefix("http://")
    assert plain.text == repr([1, "203.0.113.9", 3_000_000, "a=%20b", host]) == plain.headers["x-said"]
    assert chunked.text == repr([1, "127.0.0.1", 3_000_000, "", host])


def test_a_worker_that_is_away_is_a_sentence(routed: tuple[str, list[Echo]]):
    url, _ = routed
    with httpx.Client(base_url=url, cookies={COOKIE: "2"}, trust_env=False) as visitor:
        answer = visitor.get("/")
        assert answer.status_code == 503 and "try again in a few seconds" in answer.text
        assert answer.headers["retry-after"] == "5"
        ready = visitor.get("/readyz")
        assert (ready.status_code, ready.text) == (503, "1 of 3 workers are ready")


def test_a_worker_learns_that_a_visitor_left(routed: tuple[str, list[Echo]]):
    url, workers = routed
    with (
        httpx.Client(base_url=url, cookies={COOKIE: "0"}, trust_env=False) as visitor,
        visitor.stream("GET", "/endless") as stream,
    ):
        assert next(stream.iter_raw()).startswith(b"data: beat")
    assert workers[0].left.wait(30)


def test_limits_become_the_settings_that_the_page_reads(monkeypatch: pytest.MonkeyPatch):
    from neurovision.views.ui.guard import Limits

    for name, value in PageLimits(uploads=7, calls=8, upload_mb=9).environment().items():
        monkeypatch.setenv(name, value)
    read = Limits.from_environment()
    assert (read.uploads, read.calls, read.upload_bytes) == (7, 8, 9 << 20)
    assert PageLimits().environment() == {}


# --- the page --------------------------------------------------------------------------------------------------------

MAIN = """
import sys
from neurovision.serving.serve import serve
from standin import standin

if __name__ == "__main__":
    serve("127.0.0.1", int(sys.argv[1]), workers=2, load=standin)
"""


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=HTML), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        return e.code
    except OSError:
        return 0


def until(condition: Any, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.2)


def one_call(url: str) -> str:
    """One analysis through the page's queue; returns the verdict."""
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)
    return str(client.predict(handle_file(str(examples_folder() / "glioma.png")), api_name="/predict")[1])


@pytest.fixture()
def page(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The page by two workers, with the stand-in for the models."""
    (tmp_path / "main.py").write_text(MAIN)
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py"), str(port)], env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    yield f"http://127.0.0.1:{port}", process
    process.terminate()
    process.wait(60)


def test_two_workers_serve_the_page_and_are_replaced(page: tuple[str, subprocess.Popen[bytes]]):
    url, process = page
    until(lambda: process.poll() is not None or status(f"{url}/readyz") == 200)
    assert process.poll() is None, process.stderr and process.stderr.read()
    assert status(url) == 200 == status(url)  # by turns: both of them
    assert one_call(url) == "tumor"
    if Path("/proc/self/task").is_dir():
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [int(c) for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        until(lambda: status(f"{url}/readyz") == 503)
        until(lambda: status(f"{url}/readyz") == 200)
        assert status(url) == 200 == status(url)


def test_the_page_on_ray(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed (extra 'ray')")
    from neurovision.serving.ray_serve import deploy

    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))  # where the replica finds the stand-in
    port = free_port()
    ray = deploy("127.0.0.1", port, None, 0.5, 0, standin)
    try:
        url = f"http://127.0.0.1:{port}"
        assert status(url) == 200 == status(f"{url}/healthz")
        assert one_call(url) == "tumor"
    finally:
        from ray import serve

        serve.shutdown()
        ray.shutdown()


def test_on_ray_there_is_one_replica():
    from typer.testing import CliRunner

    from neurovision.cli import app

    result = CliRunner().invoke(app, ["serve", "--ray", "--workers", "2"])
    assert result.exit_code == 2 and "one replica" in result.output
