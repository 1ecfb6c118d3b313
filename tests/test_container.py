"""The container's files: clean, unprivileged, complete; and the program that executes a Dockerfile's lines."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests import run_lines as lines

ROOT = Path(__file__).parents[1]
DOCKERFILES = (ROOT / "Dockerfile", ROOT / "deploy" / "orthanc.Dockerfile")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_hadolint_finds_nothing(path):
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed; the extra dev has it")
    done = subprocess.run([hadolint, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_nobody_runs_as_root_and_every_line_can_be_executed(path):
    found = lines.parse(path.read_text())
    assert [text for word, text in found if word == "USER"][-1] == "1000"
    assert [word for word, _ in found if word in ("USER", "RUN")][-1] == "USER"  # nothing is made after it
    assert found[-1][0] == "CMD" and json.loads(found[-1][1])
    assert all(text.split()[0] in lines.BASES for word, text in found if word == "FROM")


def test_the_image_stays_offline_and_is_asked_for_its_health():
    found = lines.parse((ROOT / "Dockerfile").read_text())
    (environment,) = (lines.assignments(text, {}) for word, text in found if word == "ENV")
    assert environment["HF_HUB_OFFLINE"] == "1" and environment["HOME"] == "/tmp"
    (health,) = (text for word, text in found if word == "HEALTHCHECK")
    assert "/healthz" in health and environment["GRADIO_SERVER_PORT"] in health
    assert any("neurovision convert" in text for word, text in found if word == "RUN")


def test_the_gpu_variant_renames_what_the_pins_name():
    (line,) = (text for _, text in lines.parse((ROOT / "Dockerfile").read_text()) if "and-cuda" in text)
    pins = (ROOT / "requirements.txt").read_text()
    for before, after in re.findall(r"s/\^([\w-]+==)/([^/]+)/", line):
        assert re.search(f"^{before}", pins, re.M)
        pins = re.sub(f"^{before}", after, pins, flags=re.M)
    assert re.search(r"^tensorflow\[and-cuda\]==", pins, re.M) and re.search(r"^xgboost==", pins, re.M)
    assert "-cpu==" not in pins


def test_the_image_is_installed_by_digest_from_a_lock_of_the_same_pins():
    install = "cpu-x86_64) set -- --require-hashes --no-deps -r /tmp/requirements.lock ;;"
    assert any(install in text for word, text in lines.parse((ROOT / "Dockerfile").read_text()) if word == "RUN")
    rows = (ROOT / "requirements.lock").read_text().replace(" \\\n", "").splitlines()[1:]
    locked = dict(re.fullmatch(r"([\w.-]+)==(\S+) +--hash=sha256:[0-9a-f]{64}", row).groups() for row in rows)
    locked = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in locked.items()}
    pins = [p for p in (ROOT / "requirements.txt").read_text().splitlines() if p and not p.startswith("#")]
    assert len(locked) == len(rows) > len(pins)
    assert dict(p.split("==") for p in pins).items() <= locked.items(), "run: make lock"


def test_the_context_holds_what_is_copied_and_nothing_private():
    seen = set(lines.context(ROOT))
    copied = [t for word, t in lines.parse((ROOT / "Dockerfile").read_text()) if word == "COPY" and "--from" not in t]
    for line in copied:
        for source in line.split()[:-1]:
            assert any(f == Path(source) or f.is_relative_to(source) for f in seen), source
    tops = {f.parts[0] for f in seen}
    files = {"app.py", "LICENSE", "README.md", "requirements.lock", "requirements.txt"}
    assert tops == {*files, "neurovision", "weights", "examples", "docs"}
    assert not [f for f in seen if "__pycache__" in f.parts or f.is_relative_to("weights/cache")]
    assert {f.parts[1] for f in seen if f.parts[0] == "docs"} == {"diffusion.json", "evaluation"}


def test_the_compose_file_closes_what_it_can():
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    services, networks = compose["services"], compose["networks"]
    assert set(services) == {"proxy", "neurovision", "watcher", "orthanc"}
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["mem_limit"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []) if name != "proxy"), name
        assert all(password.startswith("${") for key, password in service["environment"].items() if "PASSWORD" in key)
    # The page, which reads files from anybody: no way out, no port of the host, and nothing of the archive.
    assert services["neurovision"]["networks"] == ["page"] and networks["page"]["internal"]
    assert "ports" not in services["neurovision"] and "volumes" not in services["neurovision"]
    assert not any("PACS" in key for key in services["neurovision"]["environment"])
    assert networks["page"]["ipam"]["config"][0]["subnet"] == services["neurovision"]["environment"]["FORWARDED_ALLOW_IPS"]
    assert services["watcher"]["networks"] == ["archive"] and networks["archive"]["internal"]
    ledger = services["watcher"]["environment"]["XDG_STATE_HOME"]
    assert services["watcher"]["volumes"] == [f"ledger:{ledger}"] and f" {ledger}" in (ROOT / "Dockerfile").read_text()
    told = (ROOT / "deploy" / "compose.yaml").read_text()
    assert told.count("${NEUROVISION_PACS_PASSWORD:?") == 2  # it does not start without a password
    archive = json.loads((ROOT / "deploy" / "orthanc.json").read_text())
    assert archive["AuthenticationEnabled"] and not archive["DicomServerEnabled"]
    (volume,) = services["orthanc"]["volumes"]
    assert volume.split(":")[1] == archive["StorageDirectory"] == archive["IndexDirectory"]
    user = services["watcher"]["environment"]["NEUROVISION_PACS_USER"]
    assert archive["RegisteredUsers"] == {user: "${NEUROVISION_PACS_PASSWORD}"}


def test_the_archive_of_the_compose_file_asks_for_the_password(tmp_path):
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")
    config = json.loads((ROOT / "deploy" / "orthanc.json").read_text())
    if program is None or not Path(config["Plugins"][0]).is_file():
        pytest.skip("Orthanc is not installed (Debian packages orthanc and orthanc-dicomweb)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config |= {"StorageDirectory": str(tmp_path), "IndexDirectory": str(tmp_path), "HttpPort": port}
    (tmp_path / "orthanc.json").write_text(json.dumps(config))
    environment = {**os.environ, "NEUROVISION_PACS_PASSWORD": "correct-horse"}
    with subprocess.Popen([program, str(tmp_path / "orthanc.json")], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            for password, status in (("correct-horse", 200), ("${NEUROVISION_PACS_PASSWORD}", 401), ("", 401)):
                assert answered(f"http://127.0.0.1:{port}/dicom-web/studies", "neurovision", password) == status
        finally:
            process.terminate()


def answered(url: str, user: str, password: str) -> int:
    """The status that a server gives to a login, waited for while it starts."""
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    asked = urllib.request.Request(url, headers={"Authorization": f"Basic {login}", "Accept": "application/dicom+json"})
    for _ in range(300):
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as e:
            return e.code
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the archive does not answer")


def small_root(root: Path) -> Path:
    """A root with a shell and a few tools of this machine, and the libraries that they need."""
    for folder in ("bin", "tmp", "proc", "dev", "etc"):
        (root / folder).mkdir(parents=True)
    for tool in ("sh", "id", "mkdir", "touch", "test", "cat", "sleep", "false", "setpriv"):
        found = Path(str(shutil.which(tool))).resolve()
        shutil.copy(found, root / "bin" / tool)
        for library in re.findall(r"(/\S+\.so\S*)", subprocess.check_output(["ldd", found], text=True)):
            place = root / library.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)
    for path in (root, root / "tmp", root.parent):
        path.chmod(0o755)
    return root


class TestRunLines:
    def test_lines_are_joined_and_comments_left_out(self):
        text = "# a\nFROM x AS y\nRUN one \\\n    # why\n    && two\nENV A=b \\\n  C=\"d e\"\n"
        assert lines.parse(text) == [("FROM", "x AS y"), ("RUN", "one  && two"), ("ENV", 'A=b  C="d e"')]
        assert lines.assignments('A=b  C="d $A" E=${X}', {"A": "1"}) == {"A": "b", "C": "d 1", "E": "${X}"}

    def test_a_line_that_it_cannot_execute_is_refused(self):
        with pytest.raises(ValueError, match="received ADD, VOLUME"):
            lines.parse("FROM x\nADD a b\nVOLUME /x\n")

    def test_the_context_leaves_out_what_dockerignore_says_the_last_match_deciding(self, tmp_path):
        for name in ("a/b.txt", "a/cache/c", "a/__pycache__/d.pyc", "e", ".git/f"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")
        assert len(set(lines.context(tmp_path))) == 5
        (tmp_path / ".dockerignore").write_text("*\n!a\na/cache\n**/__pycache__\n")
        assert set(lines.context(tmp_path)) == {Path("a/b.txt")}

    def test_copy_does_what_a_build_does(self, tmp_path):
        source, root = tmp_path / "s", tmp_path / "r"
        (source / "d" / "e").mkdir(parents=True)
        for name in ("f", "d/g", "d/e/h"):
            (source / name).write_text(name)
        files = list(lines.context(source))
        lines.copy_in(files, ["f"], source, root / "new", into_folder=False)  # a file under another name
        lines.copy_in(files, ["f"], source, root / "in", into_folder=True)
        lines.copy_in(files, ["d"], source, root / "app" / "d", into_folder=False)  # a folder's content
        copied = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
        assert copied == {"new", "in/f", "app/d/g", "app/d/e/h"}
        with pytest.raises(FileNotFoundError, match="not in the build's context"):
            lines.copy_in(files, ["nothing"], source, root, into_folder=True)

    @pytest.mark.slow
    def test_processes_run_in_the_root_as_the_user_and_may_write_only_to_tmp(self, tmp_path):
        if os.geteuid() != 0 or any(shutil.which(tool) is None for tool in ("unshare", "setpriv", "chroot", "ldd")):
            pytest.skip("a root of its own needs root, unshare, setpriv and chroot")
        machine = lines.Machine(tmp_path, [])
        stage = lines.Stage("0", small_root(tmp_path / "root"))
        stage.environment["PATH"] = "/bin"
        try:
            machine.run(stage, "mkdir made && id -u > made/user")
        except subprocess.CalledProcessError:
            pytest.skip("this machine does not let root mount in a namespace of its own")
        assert (stage.root / "made" / "user").read_text() == "0\n"
        stage.user, stage.folder, stage.command = "1000", "/made", ["sleep", "600"]
        stage.health = ["sh", "-c", "test $(id -u) = 1000 && touch /tmp/x && ! touch /made/x 2>/dev/null && cat user"]
        assert lines.healthy(machine, stage, 120) < 120
        assert {p.name for p in (stage.root / "made").iterdir()} == {"user"}
        assert not list((stage.root / "tmp").iterdir())  # it was a tmpfs
        stage.command = stage.health = ["false"]  # or its health would be asked before it has ended
        with pytest.raises(SystemExit, match="CMD ended with code 1"):
            lines.healthy(machine, stage, 120)

    def test_a_small_dockerfile_is_executed(self, tmp_path, monkeypatch):
        """Everything but the chroot, whose part a shell in the stage's folder takes."""
        base, folder = tmp_path / "base", tmp_path / "context"
        (base / "etc").mkdir(parents=True)
        folder.mkdir()
        (folder / "app.py").write_text("print(1)")
        (folder / "Dockerfile").write_text(
            "FROM python:3.11-slim AS first\nARG KIND=cpu\nRUN mkdir made && echo $KIND > made/kind\n"
            "FROM python:3.11-slim\nENV A=1 B=2\nWORKDIR /app\nCOPY --from=first /made /made\nCOPY app.py ./\n"
            'USER 1000\nEXPOSE 1\nHEALTHCHECK --timeout=3s CMD ["true"]\nCMD ["python", "app.py"]\n'
        )
        machine = lines.Machine(tmp_path, [])
        monkeypatch.setattr(machine, "base", lambda name: base)
        monkeypatch.setattr(machine, "command", lambda stage, words: ["env", f"--chdir={stage.root}", *words])
        stage = lines.execute(folder / "Dockerfile", folder, machine, {"KIND": "gpu"})
        assert (stage.root / "made" / "kind").read_text() == "gpu\n"
        assert (stage.root / "app" / "app.py").is_file()
        assert (stage.user, stage.folder, stage.health, stage.command) == ("1000", "/app", ["true"], ["python", "app.py"])
        assert {"A": "1", "B": "2"}.items() <= stage.environment.items()
        assert "COPY app.py ./" in lines.report(folder / "Dockerfile", stage, 1.0)
