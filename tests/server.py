"""The page as a process of its own, and a plain HTTP client that speaks its API as any program would."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATIENCE = 300  # seconds that a test waits for an answer: the machine may be busy
_STANDIN = """
import sys
sys.path[:0] = ["tests"]
{first}
from standin import standin
from neurovision.views.ui.page import serve
serve(port={port}, load=standin)
"""


class Refused(Exception):
    """An answer other than a result: HTTP status (0 for an error that the page's handler said) and its sentence."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status, self.words = status, words


@dataclass
class Page:
    """A running page.

    Attributes:
        port: Of 127.0.0.1.
        process: Of the server.
        folder: Its GRADIO_TEMP_DIR.
        log: What it wrote to standard output and standard error.
    """

    port: int
    process: subprocess.Popen[bytes]
    folder: Path
    log: Path

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self.port}"

    def connection(self) -> http.client.HTTPConnection:
        """A new connection."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def upload(self, *files: tuple[str, bytes], **headers: str) -> list[str]:
        """Upload files; returns their paths on the server.

        Raises:
            Refused: The server does not take them.
        """
        body, kind = multipart(*files)
        status, _, said = self.request("POST", "/gradio_api/upload", body, Content_Type=kind, **headers)
        if status != 200:
            raise Refused(status, said.decode())
        found: list[str] = json.loads(said)
        return found

    def call(self, name: str, *values: Any, **headers: str) -> list[Any]:
        """Call an endpoint and wait for its result.

        Raises:
            Refused: The queue is full, a limit is reached, or the handler refuses with a sentence.
        """
        body = json.dumps({"data": list(values)}).encode()
        path = f"/gradio_api/call/{name}"
        status, _, said = self.request("POST", path, body, Content_Type="application/json", **headers)
        if status != 200:
            raise Refused(status, said.decode())
        status, _, stream = self.request("GET", f"{path}/{json.loads(said)['event_id']}", **headers)
        if status != 200:
            raise Refused(status, stream.decode())
        what = ""
        for line in stream.decode().splitlines():
            if line.startswith("event: "):
                what = line.removeprefix("event: ")
            elif line.startswith("data: ") and what in ("complete", "error"):
                told = json.loads(line.removeprefix("data: "))
                if what == "error":
                    raise Refused(0, json.dumps(told))
                found: list[Any] = told
                return found
        raise Refused(0, "the stream ended without a result")

    def predict(self, path: str) -> tuple[bytes, str, dict[str, Any]]:
        """The plain endpoint for an uploaded file: the overlay's PNG, the verdict and the findings."""
        overlay, verdict, findings, _ = self.call("predict", [given(path)])
        status, _, png = self.request("GET", f"/gradio_api/file={overlay['path']}")
        if status != 200:
            raise Refused(status, "the overlay is gone")
        return png, verdict, findings

    def files(self) -> list[Path]:
        """Everything in its private folder but its own mark."""
        return [p for p in self.folder.rglob("*") if p.is_file() and p.name != ".alive"]

    def memory(self) -> int:
        """Resident bytes of the server and of its reading process, without what they share with files."""
        pids = [self.process.pid, *_children(self.process.pid)]
        total = 0
        for pid in pids:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("RssAnon:"):
                        total += int(line.split()[1]) * 1024
        return total


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(n) for n in task.read_text().split()]
    return found


def given(path: str) -> dict[str, Any]:
    """An uploaded file as the API takes it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def multipart(*files: tuple[str, bytes]) -> tuple[bytes, str]:
    """A form's body and its content type."""
    mark = secrets.token_hex(12)
    parts = [
        f'--{mark}\r\ncontent-disposition: form-data; name="files"; filename="{name}"\r\n'
        f"content-type: application/octet-stream\r\n\r\n".encode() + data + b"\r\n"
        for name, data in files
    ]
    return b"".join(parts) + f"--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def page(folder: Path, first: str = "", real: bool = False, wait: str = "/readyz", **environment: str) -> Iterator[Page]:
    """Run the page.

    Args:
        folder: Its GRADIO_TEMP_DIR and, beside it, its log.
        first: Python to run in its process before anything is imported.
        real: With the shipped weights, as ``python app.py``; otherwise with the stand-in.
        wait: The path that must answer before it is handed out.
        **environment: Variables on top of this process's own.
    """
    port, log = free_port(), folder.with_name(f"{folder.name}.log")
    folder.mkdir(parents=True, exist_ok=True)
    env = {
        **os.environ, "GRADIO_TEMP_DIR": str(folder), "GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(ROOT),
        **environment,
    }  # fmt: skip
    command = ["app.py"] if real else ["-c", _STANDIN.format(first=first, port=port)]
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
    running = Page(port, process, folder, log)
    try:
        start = time.monotonic()
        while True:
            with contextlib.suppress(OSError):
                if running.request("GET", wait)[0] == 200:
                    break
            if process.poll() is not None or time.monotonic() - start > PATIENCE:
                raise RuntimeError(f"the page did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
