"""Build the file set of the Space, install it as the Hub does, start it as a Space and query it: ``make space-check``.

A real build happens on the Hub; what can be known before is checked here: the set's sizes, that requirements.txt installs
beside what the Hub adds to it, that an unprivileged user who may write only to HOME and /tmp gets a first page in time, and
that an example runs through the API. The result is written to docs/space.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILES = (
    "README.md", "LICENSE", "app.py", "requirements.txt", "neurovision", "weights", "examples", "docs/evaluation",
    "docs/diffusion.json",
)  # fmt: skip
LARGEST = 10_000_000  # bytes that the Hub takes in a plain git file
WHOLE = 1_000_000_000  # bytes of a free repository that loads quickly
FIRST_PAGE = 60.0  # seconds
# What the Hub installs beside requirements.txt, as its build logs show it.
ADDED = ("gradio[oauth,mcp]=={sdk_version}", "uvicorn>=0.14.0", "websockets>=10.4", "spaces")
CLIENT = """
import json, sys, time
from gradio_client import Client, handle_file
start = time.perf_counter()
client, scan = Client(sys.argv[1], verbose=False), handle_file(sys.argv[2])
_, verdict, _, _ = client.predict([scan], api_name="/predict")
first = time.perf_counter() - start
start = time.perf_counter()
client.predict([scan], api_name="/predict")
print(json.dumps({"verdict": verdict, "first": first, "again": time.perf_counter() - start}))
"""


def file_set() -> list[Path]:
    """Tracked files of the Space, relative to the root, and every page and picture that they link to.

    What git ignores is never among them.

    Raises:
        SystemExit: A file is too large for the Hub, or the whole.
    """
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = {Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()}
    wanted, found = [f for f in tracked if any(f.is_relative_to(name) for name in FILES)], set[Path]()
    while wanted:
        file = wanted.pop()
        found.add(file)
        if file.suffix == ".md":
            links = re.findall(r"\]\(([^)#\s]+)", (ROOT / file).read_text())
            paths = {Path(os.path.normpath(file.parent / link)) for link in links if not re.match(r"\w+:", link)}
            wanted += sorted((paths & tracked) - found)
    files = sorted(found)
    missing = [name for name in FILES if not any(f.is_relative_to(name) for f in files)]
    if missing:
        sys.exit(f"The Space needs {', '.join(missing)}, which git does not track; add it.")
    sizes = {f: (ROOT / f).stat().st_size for f in files}
    large = [str(f) for f, size in sizes.items() if size > LARGEST]
    if large or sum(sizes.values()) > WHOLE:
        sys.exit(f"Too large for a Space without Git LFS: {', '.join(large) or 'the whole'}; make it smaller.")
    return files


def copy(folder: Path) -> int:
    """Copy the file set; returns its bytes."""
    for file in file_set():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, folder / file)
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def convert(app: Path, python: str) -> None:
    """Make what a first start would make, so that no visitor waits for it: the networks as one graph, the forest as arrays.

    ``hf upload`` stores what is large beside git; a Space whose packages are others than ``python``'s makes it anew.
    """
    environment = {**os.environ, "PYTHONPATH": str(app), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, "-m", "neurovision", "convert", "--weights", str(app / "weights")]
    subprocess.run(command, cwd=app, env=environment, check=True)


def install(app: Path, venv: Path, python: str) -> float:
    """A fresh environment with what the Hub would install; returns the seconds it took."""
    start = time.perf_counter()
    version = re.findall(r"^sdk_version: (.+)$", (app / "README.md").read_text(), re.M)[0]
    subprocess.run([python, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    added = [part.format(sdk_version=version) for part in ADDED]
    subprocess.run([*pip, "install", "--quiet", "-r", str(app / "requirements.txt"), *added], check=True)
    subprocess.run([*pip, "check"], check=True)
    return time.perf_counter() - start


def variables(home: Path, port: int) -> dict[str, str]:
    """The environment of a Space, nothing of this machine's but the way to its programs."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1",
        "SYSTEM": "spaces", "SPACE_ID": "owner/neurovision", "SPACE_HOST": "owner-neurovision.hf.space",
        "SPACE_AUTHOR_NAME": "owner", "SPACE_REPO_NAME": "neurovision", "SPACE_TITLE": "neurovision", "CPU_CORES": "2",
        "MEMORY": "16Gi", "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "GRADIO_NUM_PORTS": "1",
        "GRADIO_ALLOW_FLAGGING": "never", "GRADIO_THEME": "huggingface", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def unprivileged(python: str) -> list[str]:
    """What to write before a command so that it runs as another user, empty where that cannot be.

    It cannot where this user is not root, or where the interpreter lies in root's own home.
    """
    prefix = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    where = "import sysconfig; print(sysconfig.get_path('stdlib') + '/os.py')"
    library = subprocess.check_output([python, "-c", where], text=True).strip()
    reachable = subprocess.run([*prefix, "test", "-r", library], check=False).returncode == 0
    return prefix if reachable else []


def start(app: Path, python: str, home: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the page: as another user where that can be, in a folder that nobody may write to."""
    prefix = unprivileged(python)
    for path in (app, *app.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if prefix:
        os.chown(home, 1000, 1000)
    return subprocess.Popen([*prefix, python, "app.py"], cwd=app, env=variables(home, port))


def first_page(port: int, process: subprocess.Popen[bytes], limit: float) -> tuple[float, dict[str, str]]:
    """Seconds until the page answers as the Hub's proxy asks for it, and the answer's headers.

    Raises:
        SystemExit: It ended, or did not answer within ``limit``.
    """
    began = time.perf_counter()
    host = "owner-neurovision.hf.space"
    headers = {"Host": host, "X-Forwarded-Host": host, "X-Forwarded-Proto": "https"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=headers)
    while time.perf_counter() - began < limit:
        if process.poll() is not None:
            sys.exit(f"The page ended with code {process.returncode}.")
        try:
            with urllib.request.urlopen(asked, timeout=5) as answer:
                body = answer.read().decode()
                if "gradio" in body:
                    return time.perf_counter() - began, {k.lower(): v for k, v in answer.headers.items()}
        except OSError:
            time.sleep(0.2)
    sys.exit(f"There was no page within {limit:.0f} s.")


def may_be_framed(headers: dict[str, str]) -> bool:
    """Whether huggingface.co may show the page in its frame."""
    ancestors = re.search(r"frame-ancestors ([^;]*)", headers.get("content-security-policy", ""))
    return "x-frame-options" not in headers and (ancestors is None or "https://huggingface.co" in ancestors[1].split())


def check(app: Path, python: str, home: Path, limit: float) -> dict[str, Any]:
    """Start the page and ask it for its first page and an example.

    Raises:
        SystemExit: The page does not come, may not be framed, or the example fails.
    """
    port = free_port()
    process = start(app, python, home, port)
    try:
        seconds, headers = first_page(port, process, limit)
        if not may_be_framed(headers):
            sys.exit("The page may not be shown in huggingface.co's frame; see NEUROVISION_FRAME_ANCESTORS.")
        done = subprocess.run(
            [python, "-c", CLIENT, f"http://127.0.0.1:{port}", str(ROOT / "examples" / "glioma.png")],
            capture_output=True, text=True, check=False,
        )
        answer = json.loads(done.stdout or "{}")
        if done.returncode or answer.get("verdict") not in ("tumor", "borderline"):
            sys.exit(f"The example did not run: {done.stderr[-2000:] or done.stdout}")
        asked = {"first_page": seconds, "example": answer["first"], "again": answer["again"]}
    finally:
        before = ended_seconds()
        process.terminate()
        process.wait(120)
    return {**asked, "processor": ended_seconds() - before, "unprivileged": bool(unprivileged(python))}


def cores() -> int:
    """Processors that this process, and so the page that it starts, may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ended_seconds() -> float:
    """Processor time of this process' children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Build, install, start, ask, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only-files", type=Path, help="write file set and converted networks into this folder, stop")
    parser.add_argument("--python", default=sys.executable, help="a Python of the version that README.md names")
    parser.add_argument("--venv", type=Path, help="install into this folder, or use what was installed there before")
    arguments = parser.parse_args()
    if arguments.only_files:
        size = copy(arguments.only_files)
        convert(arguments.only_files.absolute(), arguments.python)
        print(f"{size / 1e6:.1f} MB, and the converted networks")
        return
    with tempfile.TemporaryDirectory(prefix="space-") as name:
        work = Path(name)
        work.chmod(0o755)
        app, venv, home = work / "app", (arguments.venv or work / "venv").absolute(), work / "home"
        home.mkdir()
        size = copy(app)
        installing = 0.0 if venv.is_dir() else install(app, venv, arguments.python)
        convert(app, str(venv / "bin" / "python"))
        taken = sum(f.lstat().st_size for f in venv.rglob("*") if f.is_file())
        version = subprocess.check_output([venv / "bin" / "python", "--version"], text=True).strip()
        found = check(app, str(venv / "bin" / "python"), home, FIRST_PAGE)
    lines = [
        "# The Space, as checked",
        "",
        f"Written by `make space-check` on {datetime.now(UTC):%Y-%m-%d}. It takes the files that go into a Space of the "
        "Hugging Face Hub, installs what the Hub would install, and starts the page as the Hub would: in a read-only "
        f"folder, with an empty cache, {'as an unprivileged user' if found['unprivileged'] else 'as the user who ran it'}. "
        "It does not build on the Hub itself.",
        "",
        f"Measured on {platform.system()}, {version}, {cores()} of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}: a "
        "load above the cores means that other work shared them; the processor time, which it hardly changes, then tells "
        "more than the clock.",
        "",
        "| what | measured | limit |",
        "| --- | --- | --- |",
        f"| file set | {size / 1e6:.1f} MB | {WHOLE / 1e6:.0f} MB, {LARGEST / 1e6:.0f} MB a file |",
        f"| environment | {taken / 1e9:.2f} GB{f', installed in {installing:.0f} s' if installing else ''} | 50 GB |",
        f"| first page | {found['first_page']:.1f} s after start | {FIRST_PAGE:.0f} s |",
        f"| an example, models loading included | {found['example']:.1f} s | - |",
        f"| the same example again | {found['again']:.2f} s | - |",
        f"| processor time of the page until then | {found['processor']:.0f} s | - |",
    ]
    (ROOT / "docs" / "space.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines[4:]))


if __name__ == "__main__":
    main()
