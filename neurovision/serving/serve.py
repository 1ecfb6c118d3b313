"""The page by one process or by several, each with its own models.

What a visitor opens lives in one process: the Gradio session, the queue, and the uploads in its private folder. So a
visitor stays with one worker. The router in front of them sees to that: the page's first answer sets a cookie with the
worker's number, and a client without cookies stays with the worker that its address leads to. Nothing else is sticky:
any worker gives the same answer to the same scan.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any

from neurovision.ensemble.pipeline import Analyzer
from neurovision.machine import claim_cores, cores

if TYPE_CHECKING:
    import httpx
    from starlette.types import Message, Receive, Scope, Send

COOKIE = "nv-worker"
AWAY = b"This part of the page is starting anew; try again in a few seconds."
POLL = 0.5  # seconds between two looks at the workers
# Headers of one connection, which are not passed on (RFC 9110, 7.6.1).
HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}


@dataclass(frozen=True)
class PageLimits:
    """What one address may do, as ``views.ui.guard.Limits`` reads it from the environment; None leaves its default.

    Attributes:
        uploads: Upload requests a minute.
        calls: Analyses and other actions a minute.
        upload_mb: MB of one upload, all its files together.
    """

    uploads: int | None = None
    calls: int | None = None
    upload_mb: int | None = None

    def environment(self) -> dict[str, str]:
        """The variables that say so."""
        told = {
            "NEUROVISION_UPLOADS_PER_MINUTE": self.uploads, "NEUROVISION_CALLS_PER_MINUTE": self.calls,
            "NEUROVISION_UPLOAD_MB": self.upload_mb,
        }  # fmt: skip
        return {name: str(value) for name, value in told.items() if value is not None}


def serve(
    host: str | None = None,
    port: int | None = None,
    workers: int = 1,
    limits: PageLimits | None = None,
    load: Callable[[], Analyzer] = Analyzer.load,
) -> None:
    """Serve the page until the process is told to stop.

    Args:
        host: As of ``views.ui.page.serve``.
        port: As of ``views.ui.page.serve``.
        workers: Processes; behind the router where there are several.
        limits: Of one address.
        load: Makes the analyzer, in each worker.
    """
    os.environ.update((limits or PageLimits()).environment())
    if workers == 1:
        from neurovision.views.ui.page import serve as serve_page

        serve_page(host, port, load)
        return
    import uvicorn

    host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    port = int(os.environ.get("GRADIO_SERVER_PORT") or 7860) if port is None else port
    crew = Crew(workers, load)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        print(f"{workers} workers\nOpen http://{host}:{port} in a browser; Ctrl+C stops it.", flush=True)
        uvicorn.run(
            Router(crew.ports), host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=3
        )
    finally:
        crew.stop()


class Crew:
    """The workers' processes; one that ends is replaced at the same port."""

    def __init__(self, count: int, load: Callable[[], Analyzer]) -> None:
        self.ports = _free_ports(count)
        self._load, self._threads = load, max(1, cores() // count)
        self._stopping = threading.Event()
        self.processes = [self._start(port) for port in self.ports]
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """End the workers."""
        self._stopping.set()
        self._watcher.join()
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(10)
            process.kill()

    def _start(self, port: int) -> Any:
        process = multiprocessing.get_context("spawn").Process(
            target=_work, args=(port, self._load, self._threads), name="neurovision-page"
        )
        process.start()
        return process

    def _watch(self) -> None:
        while not self._stopping.wait(POLL):
            for k, process in enumerate(self.processes):
                if not process.is_alive():
                    self.processes[k] = self._start(self.ports[k])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _work(port: int, load: Callable[[], Analyzer], threads: int) -> None:
    """A worker's life: the page on a port of this machine only."""
    from neurovision.views.ui.page import serve as serve_page

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    claim_cores(threads)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - the router's address is the one to open
    serve_page("127.0.0.1", port, load)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)  # which clears the private folder


class Router:
    """ASGI application that passes each visitor's requests on to the same worker.

    Args:
        ports: Of the workers, on this machine.
    """

    def __init__(self, ports: list[int]) -> None:
        import httpx

        self._ports, self._turn = ports, itertools.count()
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=5), limits=httpx.Limits(max_connections=None), trust_env=False
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # the page uses none
        elif scope["path"] == "/readyz":
            await self._ready(send)
        else:
            await self._pass_on(scope, receive, send)

    def choose(self, scope: Scope) -> tuple[int, bool]:
        """Which worker, and whether the visitor has yet to be told: by cookie, for a new page by turns, else by address."""
        headers = dict(scope["headers"])
        jar: SimpleCookie = SimpleCookie()
        with contextlib.suppress(CookieError):
            jar.load(headers.get(b"cookie", b"").decode("latin-1"))
        told = jar[COOKIE].value if COOKIE in jar else ""
        if told.isdigit() and int(told) < len(self._ports):
            return int(told), False
        if scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b""):
            return next(self._turn) % len(self._ports), True
        return zlib.crc32(_address(scope).encode()) % len(self._ports), False

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, new = self.choose(scope)
        has_body = any(k in (b"content-length", b"transfer-encoding") for k, _ in scope["headers"])
        try:
            response = await self._asked(worker, scope, _body(receive) if has_body else None)
            for _ in self._ports[1:] if new and not has_body else ():  # whom nothing ties to a worker gets another
                if response is None:
                    worker = (worker + 1) % len(self._ports)
                    response = await self._asked(worker, scope, None)
        except _Gone:
            return
        if response is None:
            await _say(send, 503, AWAY)
            return
        try:
            answer = [(k, v) for k, v in response.headers.raw if k.lower() not in HOP]
            if new:
                answer.append((b"set-cookie", f"{COOKIE}={worker}; Path=/; HttpOnly; SameSite=Lax".encode()))
            await send({"type": "http.response.start", "status": response.status_code, "headers": answer})
            await _until_gone(_stream(response.aiter_raw(), send), receive)
        finally:
            await response.aclose()  # which tells the worker that the visitor has left

    async def _asked(self, worker: int, scope: Scope, body: AsyncIterator[bytes] | None) -> httpx.Response | None:
        """A worker's answer, its content yet to be read, or None where the worker is away."""
        import httpx

        own = (b"x-forwarded-for", b"x-forwarded-proto")
        headers = [(k, v) for k, v in scope["headers"] if k not in HOP and k not in own]
        headers += [(own[0], _address(scope).encode()), (own[1], scope["scheme"].encode())]
        query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        url = f"http://127.0.0.1:{self._ports[worker]}{path}{query}"
        try:
            request = self._client.build_request(scope["method"], url, headers=headers, content=body)
            return await self._client.send(request, stream=True)
        except httpx.TransportError:
            return None

    async def _ready(self, send: Send) -> None:
        """Ready when every worker is."""
        import httpx

        async def status(port: int) -> int:
            try:
                return int((await self._client.get(f"http://127.0.0.1:{port}/readyz")).status_code)
            except httpx.TransportError:
                return 503

        found = await asyncio.gather(*(status(p) for p in self._ports))
        ready = found.count(200)
        await _say(send, 200 if ready == len(found) else 503, f"{ready} of {len(found)} workers are ready".encode())


class _Gone(Exception):
    """The visitor left while sending."""


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


async def _stream(chunks: AsyncIterator[bytes], send: Send) -> None:
    import httpx

    with contextlib.suppress(httpx.TransportError):  # the worker ended: so does its answer
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _until_gone(answering: Any, receive: Receive) -> None:
    """Wait for an answer's end, or for the visitor to leave, who would else hold a worker's stream open for ever."""

    async def gone() -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await receive()

    tasks = [asyncio.ensure_future(answering), asyncio.ensure_future(gone())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _say(send: Send, status: int, words: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(words)).encode())]
    if status == 503:
        headers.append((b"retry-after", b"5"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words})


async def _lifespan(receive: Receive, send: Send) -> None:
    for step in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{step}.complete"})


def _address(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else ""
