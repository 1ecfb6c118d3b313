"""Serving: the settings that the command line hands on, and the page on Ray."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import httpx
import pytest
import server
from standin import standin

from neurovision.serving.serve import PageLimits
from neurovision.views.examples import FOLDER

ROOT = Path(__file__).parents[1]
HTML = {"accept": "text/html"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_limits_become_the_settings_that_the_page_reads(monkeypatch: pytest.MonkeyPatch):
    from neurovision.views.ui.guard import Limits

    for name, value in PageLimits(uploads=7, calls=8, upload_mb=9).environment().items():
        monkeypatch.setenv(name, value)
    read = Limits.from_environment()
    assert (read.uploads, read.calls, read.upload_bytes) == (7, 8, 9 << 20)
    assert PageLimits().environment() == {}


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=HTML), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        return e.code
    except OSError:
        return 0


def one_call(url: str) -> str:
    """One analysis through the page's queue; returns the verdict."""
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)
    return str(client.predict([handle_file(str(FOLDER / "glioma.png"))], api_name="/predict")[1])


@pytest.mark.slow
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


def test_the_proxy_of_deploy_passes_the_page_on_by_tls(tmp_path: Path):
    caddy, openssl = shutil.which("caddy"), shutil.which("openssl")
    if caddy is None or openssl is None:
        pytest.skip("caddy or openssl is not installed")
    make = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    made = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "page.key", "-out", "page.crt"]
    subprocess.run([*make, *made], cwd=tmp_path, check=True, capture_output=True)
    login = {"NEUROVISION_USER": "reader", "NEUROVISION_PASSWORD": "correct horse", "NEUROVISION_LOGIN_ATTEMPTS": "2"}
    with server.page(tmp_path / "tmp", FORWARDED_ALLOW_IPS="127.0.0.1", **login) as served:
        port = free_port()
        settings = {
            "NEUROVISION_SITE": f"https://localhost:{port}", "NEUROVISION_PAGES": f"127.0.0.1:{served.port}",
            "NEUROVISION_CERTIFICATE": str(tmp_path / "page.crt"), "NEUROVISION_KEY": str(tmp_path / "page.key"),
        }  # fmt: skip
        command = [caddy, "run", "--adapter", "caddyfile", "--config", str(ROOT / "deploy" / "Caddyfile")]
        home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
        proxy = subprocess.Popen(command, env={**os.environ, **settings, **home}, stderr=subprocess.DEVNULL)
        try:
            trusted = ssl.create_default_context(cafile=str(tmp_path / "page.crt"))
            with httpx.Client(base_url=f"https://localhost:{port}", verify=trusted, trust_env=False, timeout=60) as visitor:
                for _ in range(600):
                    try:
                        page = visitor.get("/")
                        break
                    except httpx.TransportError:
                        time.sleep(0.1)
                assert page.status_code == 200 and f"https://localhost:{port}" in page.text
                assert page.headers["strict-transport-security"]
                guess = {"data": {"username": "reader", "password": "guess"}, "headers": {"X-Forwarded-For": "10.9.9.9"}}
                assert visitor.post("/login", **guess).status_code == 400
                answer = visitor.post("/login", data={"username": "reader", "password": "correct horse"})
                assert answer.status_code == 200
                cookies = answer.headers.get_list("set-cookie")
                assert len(cookies) == 1 and "Secure" in cookies[0] and "SameSite=Strict" in cookies[0]
                assert visitor.post("/gradio_api/call/status", json={"data": []}).status_code == 200
                guess["headers"] = {"X-Forwarded-For": "10.9.9.8"}
                statuses = [visitor.post("/login", **guess).status_code for _ in range(3)]
                assert statuses == [400, 400, 429]  # the proxy tells the address, whatever a visitor claims
        finally:
            proxy.terminate()
            proxy.wait(30)
