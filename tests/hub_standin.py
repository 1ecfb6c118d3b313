"""A stand-in of the Hugging Face Hub's HTTP API on loopback: enough to push and pull, and faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub(ThreadingHTTPServer):
    """Repositories as lists of commits, each a dict of files.

    Attributes:
        repos: ``{repo: [(commit, {path: bytes})]}``, oldest first.
        requests: ``(method, path, headers)`` of everything that was asked.
        cut: ``{path: bytes}``: once, the connection breaks after so many bytes of that file.
        lost: Files that are listed and not there.
        token: What a writer, and any reader of a private repository, must send.
        private: Repositories that only the token sees.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.cut: dict[str, int] = {}
        self.lost: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.token, self.private = "hf_written", set[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a commit on top of a repository; returns its id."""
        tree = {**(self.repos[repo][-1][1] if self.repos.get(repo) else {}), **files}
        identity = hashlib.sha1(repr(sorted((k, hashlib.sha1(v).hexdigest()) for k, v in tree.items())).encode()).hexdigest()
        self.repos.setdefault(repo, []).append((identity, tree))
        return identity

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repos.get(repo) or []
        if revision == "main":
            return commits[-1] if commits else None
        return next((c for c in commits if c[0] == revision), None)

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [path.rsplit("/", 1)[1] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]


class Handler(BaseHTTPRequestHandler):
    """The API's routes."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, code: int, body: Any = b"", head: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for key, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **(head or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refused(self, error: str, code: int = 404) -> None:
        self._answer(code, {"error": error}, {"X-Error-Code": error})

    def _writer(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {self.server.token}"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server
        hub.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.path):
            repo, revision = found[1], found[2] or "main"
            if repo not in hub.repos or (repo in hub.private and not self._writer()):
                return self._refused("RepoNotFound", 401 if repo in hub.private else 404)
            commit = hub.find(repo, revision)
            return self._answer(200, {"id": repo, "sha": commit[0]}) if commit else self._refused("RevisionNotFound")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^?]+)\?.*", self.path):
            tree = (hub.find(found[1], found[2]) or ("", {}))[1]
            return self._answer(200, [{"type": "file", "path": n, "size": len(b), "oid": "0"} for n, b in tree.items()])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            return self._file(*found.groups())
        return self._answer(404)

    def _file(self, repo: str, revision: str, path: str) -> None:
        hub, commit = self.server, self.server.find(repo, revision)
        if repo in hub.private and not self._writer():
            return self._refused("RepoNotFound", 401)
        if commit is None or path not in commit[1] or path in hub.lost:
            return self._refused("EntryNotFound")
        data, start = commit[1][path], 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
        head = {"X-Repo-Commit": commit[0], "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if start:
            head["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET" and path in hub.cut:
            self.send_response(206 if start else 200)
            for key, value in {**head, "Content-Length": str(len(data) - start)}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data[start : start + hub.cut.pop(path)])
            self.close_connection = True
            return None
        return self._answer(206 if start else 200, data[start:], head)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.blobs[hashlib.sha256(data).hexdigest()] = data
        self._answer(200)

    def do_POST(self) -> None:
        hub = self.server
        hub.requests.append(("POST", self.path, {k.lower(): v for k, v in self.headers.items()}))
        raw = self._body()
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if not self._writer():
            return self._answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            asked = json.loads(raw)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if repo in hub.repos:
                return self._answer(409, {"url": f"{hub.url}/{repo}"})
            hub.repos[repo] = []
            if asked.get("private") or asked.get("visibility") == "private":
                hub.private.add(repo)
            return self._answer(200, {"url": f"{hub.url}/{repo}", "id": repo})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular" if f["path"].endswith((".md", ".json")) else "lfs",
                 "shouldIgnore": False} for f in json.loads(raw)["files"]
            ]  # fmt: skip
            return self._answer(200, {"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.url}/upload/{o['oid']}"}}} for o in json.loads(raw)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            files = {}
            for line in map(json.loads, raw.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.blobs[value["oid"]]
            commit = hub.commit(found[1], files)
            return self._answer(200, {"commitOid": commit, "commitUrl": f"{hub.url}/{found[1]}/commit/{commit}"})
        return self._answer(404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A running stand-in."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join(10)
