"""The archive: against a real Orthanc where it is installed, and against a server that fails on purpose."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import highdicom
import numpy as np
import pytest
from dicom_builder import NAME, head, oblique, stored, write_series
from truth import TruthAnalyzer
from typer.testing import CliRunner

from neurovision.commands.pacs import pacs_app
from neurovision.errors import ArchiveAway, PacsError
from neurovision.scan.read import read
from neurovision.serving.pacs import (
    TRIES,
    Ledger,
    Pacs,
    SeriesEntry,
    SeriesFilter,
    Server,
    StudyEntry,
    analyze_series,
    watch,
)

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PASSWORD = "correct-horse"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real Orthanc with its DICOMweb plugin on a free port of this machine."""
    if shutil.which("Orthanc") is None or not PLUGIN.is_file():
        pytest.skip("Orthanc is not installed (Debian packages orthanc and orthanc-dicomweb)")
    root, port = tmp_path_factory.mktemp("orthanc"), free_port()
    config = {
        "StorageDirectory": str(root), "IndexDirectory": str(root), "Plugins": [str(PLUGIN)], "HttpPort": port,
        "RemoteAccessAllowed": False, "AuthenticationEnabled": True, "RegisteredUsers": {"nv": PASSWORD},
        "DicomServerEnabled": False, "OrthancExplorerEnabled": False, "OverwriteInstances": True,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (root / "config.json").write_text(json.dumps(config))
    with (root / "log").open("wb") as out:
        process = subprocess.Popen(["Orthanc", str(root / "config.json")], stdout=out, stderr=out)
        try:
            server = Server(f"http://127.0.0.1:{port}/dicom-web", "nv", PASSWORD)
            Pacs(server, attempts=12, longest_wait=2).studies()  # it is still starting: tried again until it answers
            yield server
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture()
def pacs(server: Server) -> Pacs:
    return Pacs(server, attempts=2, longest_wait=0.1)


def sent(pacs: Pacs, folder: Path, uid: str, slices: int = 10, **changes: object) -> SeriesEntry:
    """Put an oblique series of today into the archive."""
    pixels = stored(head()[0])[:slices]
    files = write_series(folder / uid, pixels, oblique(head()[0].affine), uid, StudyDate=f"{date.today():%Y%m%d}", **changes)
    assert pacs.store(files) == len(files)
    from pydicom import dcmread

    header = dcmread(files[0], stop_before_pixels=True)
    (entry,) = pacs.series(header.StudyInstanceUID)
    assert entry.uid == header.SeriesInstanceUID
    return entry


def objects(pacs: Pacs, entry: SeriesEntry) -> dict[str, int]:
    """Modalities in the archive's study, with their number of instances."""
    rows = pacs._client.search_for_instances(entry.study, fields=["Modality"])
    found = [r["00080060"]["Value"][0] for r in rows]
    return {m: found.count(m) for m in sorted(set(found))}


@pytest.fixture()
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "work" / "ledger.sqlite")
    yield ledger
    ledger.close()


def test_list_and_fetch(pacs: Pacs, tmp_path: Path):
    entry = sent(pacs, tmp_path, "list", SeriesDescription="AX FLAIR")
    assert (entry.number, entry.description, entry.images) == (3, "AX FLAIR", 10)
    assert entry.study in [s.uid for s in pacs.studies(date.today())]
    assert entry.study in [s.uid for s in pacs.studies()]
    files = pacs.fetch(entry.study, entry.uid, tmp_path / "fetched")
    assert [f.name for f in files] == [f"{k:04d}.dcm" for k in range(1, 11)]
    assert np.array_equal(read(tmp_path / "fetched").pixels, read(tmp_path / "list").pixels)


def test_round_trip_lines_up_voxel_for_voxel(
    pacs: Pacs, ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG, "neurovision")
    entry, analyzer = sent(pacs, tmp_path, "round"), TruthAnalyzer(head()[1])
    work = tmp_path / "work"
    assert analyze_series(pacs, analyzer, ledger, entry, work) == "stored"
    assert objects(pacs, entry) == {"MR": 10, "SEG": 1, "SR": 1}
    rows = pacs._client.search_for_series(entry.study, search_filters={"Modality": "SEG"})
    (file,) = pacs.fetch(entry.study, rows[0]["0020000E"]["Value"][0], tmp_path / "seg")
    got = highdicom.seg.segread(file).get_volume(combine_segments=True)
    affine = oblique(head()[0].affine)
    there = np.argwhere(got.array > 0) @ got.affine[:3, :3].T + got.affine[:3, 3]
    index = np.rint((there - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T)
    assert np.abs((there - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T - index).max() < 1e-3
    assert {tuple(i) for i in index.astype(int)} == {tuple(i) for i in np.argwhere(head()[1] == 2)}
    assert [p for p in work.rglob("*.dcm")] == []
    for secret in (NAME, "PID-4711", entry.uid, entry.study, entry.description):
        assert secret not in caplog.text
    assert entry.label in caplog.text


def test_nothing_is_done_twice(pacs: Pacs, tmp_path: Path):
    entry, analyzer = sent(pacs, tmp_path, "twice"), TruthAnalyzer(head()[1])
    for _ in range(2):
        ledger = Ledger(tmp_path / "work" / "ledger.sqlite")
        assert analyze_series(pacs, analyzer, ledger, entry, tmp_path / "work") == "stored"
        ledger.close()
    assert analyzer.calls == 1
    assert objects(pacs, entry) == {"MR": 10, "SEG": 1, "SR": 1}


@pytest.mark.parametrize("moment", ["before sending", "after sending", "before the ledger knows"])
def test_a_crash_repeats_nothing(
    pacs: Pacs, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
):
    entry, analyzer = sent(pacs, tmp_path, f"crash {moment}"), TruthAnalyzer(head()[1])
    sending, noting = pacs.store, ledger.set
    sends: list[int] = []

    def store(paths):
        if moment == "before sending":
            raise KeyboardInterrupt
        sends.append(sending(paths))
        if moment == "after sending":
            raise KeyboardInterrupt
        return sends[-1]

    def note(uid, state, reason=""):
        if moment == "before the ledger knows":
            raise KeyboardInterrupt
        noting(uid, state, reason)

    with monkeypatch.context() as crash:
        crash.setattr(pacs, "store", store)
        crash.setattr(ledger, "set", note)
        with pytest.raises(KeyboardInterrupt):
            analyze_series(pacs, analyzer, ledger, entry, tmp_path / "work")
    monkeypatch.setattr(pacs, "store", lambda paths: sends.append(sending(paths)) or sends[-1])
    assert analyze_series(pacs, analyzer, ledger, entry, tmp_path / "work") == "stored"
    assert analyzer.calls == 1
    assert sum(sends) == 2
    assert objects(pacs, entry) == {"MR": 10, "SEG": 1, "SR": 1}


def test_a_series_that_cannot_be_read_is_refused_once(pacs: Pacs, ledger: Ledger, tmp_path: Path):
    entry, analyzer = sent(pacs, tmp_path, "gap"), TruthAnalyzer(head()[1], rejected=range(10))
    for _ in range(2):
        assert analyze_series(pacs, analyzer, ledger, entry, tmp_path / "work") == "refused"
    assert analyzer.calls == 1
    assert objects(pacs, entry) == {"MR": 10}


def test_watch_takes_what_has_settled_and_passes(pacs: Pacs, ledger: Ledger, tmp_path: Path):
    taken = sent(pacs, tmp_path, "watched", SeriesDescription="AX T1 watched")
    small = sent(pacs, tmp_path, "small", slices=3, SeriesDescription="T1 watched localizer")
    other = sent(pacs, tmp_path, "other", SeriesDescription="AX T2")
    analyzer, wanted = TruthAnalyzer(head()[1]), SeriesFilter("t1 watched")
    watch(pacs, analyzer, ledger, tmp_path / "work", wanted, polls=1, every=0)
    assert ledger.state(taken.uid) is None
    watch(pacs, analyzer, ledger, tmp_path / "work", wanted, polls=3, every=0)
    assert [ledger.state(s.uid) for s in (taken, small, other)] == ["stored", None, None]
    assert analyzer.calls == 1


def test_wrong_password(server: Server):
    with pytest.raises(PacsError, match=r"HTTP 401\); check the credentials"):
        Pacs(Server(server.url, "nv", "wrong"), attempts=2).studies()


def test_unknown_series(pacs: Pacs, tmp_path: Path):
    with pytest.raises(PacsError):
        pacs.fetch("1.2.3", "1.2.3.4", tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_command_line(server: Server, pacs: Pacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entry = sent(pacs, tmp_path, "cli")
    monkeypatch.setenv("NEUROVISION_PACS_PASSWORD", PASSWORD)
    address = ["--url", server.url, "--user", "nv"]
    listed = CliRunner().invoke(pacs_app, ["list", *address])
    assert entry.study in listed.output
    assert NAME not in listed.output
    assert entry.uid in CliRunner().invoke(pacs_app, ["list", entry.study, *address]).output
    done = CliRunner().invoke(pacs_app, ["fetch", entry.study, entry.uid, "--out", str(tmp_path / "f"), *address])
    assert done.output.strip() == "10 files"


class Failing(BaseHTTPRequestHandler):
    """Answers with each status of ``answers`` in turn, then with an empty list."""

    answers: ClassVar[list[int]] = []
    seen = 0

    def do_GET(self) -> None:
        type(self).seen += 1
        status = self.answers.pop(0) if self.answers else 200
        self.send_response(status)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture()
def failing() -> Iterator[tuple[type[Failing], ThreadingHTTPServer]]:
    handler = type("Handler", (Failing,), {"answers": [], "seen": 0})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield handler, http
    http.shutdown()
    http.server_close()


def test_a_busy_server_is_tried_again(failing):
    handler, http = failing
    handler.answers = [503, 502]
    pacs = Pacs(Server(f"http://127.0.0.1:{http.server_port}"), attempts=4, longest_wait=0.05)
    assert pacs.studies() == []
    assert handler.seen == 3


def test_a_refusal_is_not_tried_again(failing):
    handler, http = failing
    handler.answers = [404] * 9
    with pytest.raises(PacsError, match="HTTP 404"):
        Pacs(Server(f"http://127.0.0.1:{http.server_port}"), attempts=4, longest_wait=0.05).studies()
    assert handler.seen == 1


def test_a_server_that_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    pacs = Pacs(Server(f"http://127.0.0.1:{free_port()}"), attempts=3, longest_wait=0.05)
    with pytest.raises(ArchiveAway, match="after 3 attempts"):
        pacs.studies()
    ledger = Ledger(tmp_path / "ledger.sqlite")
    watch(pacs, TruthAnalyzer(head()[1]), ledger, tmp_path, SeriesFilter(), polls=2, every=0)
    assert caplog.text.count("cannot be reached") == 2
    ledger.close()


def test_certificates_are_checked(failing, tmp_path: Path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    handler, http = failing
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    url = f"https://localhost:{http.server_port}"
    with pytest.raises(PacsError, match="certificate is not trusted"):
        Pacs(Server(url), attempts=3, longest_wait=0.05).studies()
    assert handler.seen == 0
    assert Pacs(Server(url, ca=certificate), attempts=1).studies() == []


def test_plain_http_stays_on_this_machine():
    for url in ("http://pacs.example.org/dicom-web", "http://192.168.3.4", "ftp://x", "https://nv:secret@pacs.example.org"):
        with pytest.raises(PacsError) as caught:
            Server(url)
        assert "secret" not in str(caught.value)
    assert Server("http://192.168.3.4", insecure=True).insecure
    assert Server("http://[::1]:8042/dicom-web").url


def test_credentials_come_from_the_environment_or_the_keyring(monkeypatch: pytest.MonkeyPatch):
    import keyring

    monkeypatch.setenv("NEUROVISION_PACS_URL", "https://pacs.example.org")
    monkeypatch.setenv("NEUROVISION_PACS_USER", "nv")
    monkeypatch.delenv("NEUROVISION_PACS_PASSWORD", raising=False)
    monkeypatch.setattr(keyring, "get_password", lambda service, user: f"{service}/{user}")
    assert Server.from_environment().password == "neurovision-pacs/nv"
    monkeypatch.setenv("NEUROVISION_PACS_PASSWORD", PASSWORD)
    server = Server.from_environment()
    assert server.password == PASSWORD
    assert PASSWORD not in repr(server)
    monkeypatch.delenv("NEUROVISION_PACS_URL")
    with pytest.raises(PacsError, match="NEUROVISION_PACS_URL"):
        Server.from_environment()


def test_ledger(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.set("1.2.3", "analyzed")
    ledger.set("1.2.3", "stored")
    with pytest.raises(PacsError, match="in use"):
        Ledger(tmp_path / "ledger.sqlite")
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite")
    assert (again.state("1.2.3"), again.state("1.2.4")) == ("stored", None)
    again.close()
    assert (tmp_path / "ledger.sqlite").stat().st_mode & 0o077 == 0
    (tmp_path / "text").write_text("not a data base" * 100)
    with pytest.raises(PacsError, match="no ledger"):
        Ledger(tmp_path / "text")


def test_filter_is_a_regular_expression():
    with pytest.raises(PacsError, match="regular expression"):
        SeriesFilter("(")


# --- archives unlike the test server ---------------------------------------------------------------------------------


class Odd(BaseHTTPRequestHandler):
    """A QIDO server of one study with many series, with habits that real ones have.

    Attributes:
        total: Series of the study.
        cap: Entries of a page at most.
        ignores: Query parameters that it does not look at.
        counts: Whether it says how many instances a series has.
    """

    total, cap, ignores, counts = 120, 10**6, frozenset[str](), True
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.asked.append(self.path)
        given = {k: v[0] for k, v in parse_qs(parts.query).items() if k not in self.ignores}
        rows: list[dict[str, Any]]
        if parts.path == "/studies":
            day = f"{date.today():%Y%m%d}"
            rows = [self.row("0020000D", "1.2", ("00080020", d)) for d in (day,)]
            rows += [self.row("0020000D", "1.1", ("00080020", "19990101"))]
        elif parts.path.endswith("/instances"):
            rows = [self.row("00080018", f"1.2.3.{k}") for k in range(60)]
        else:
            extra = [("00201209", 60)] if self.counts else []
            rows = [
                self.row("0020000E", f"1.2.{k}", ("0008103E", "T1 \x1b[2J\x9b31mred\u202e\n"), *extra)
                for k in range(self.total)
            ]
        start, limit = int(given.get("offset", 0)), min(int(given.get("limit", 10**6)), self.cap)
        body = json.dumps(rows[start : start + limit]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def row(self, tag: str, uid: str, *values: tuple[str, Any]) -> dict[str, Any]:
        return {k: {"vr": "UI", "Value": [v]} for k, v in ((tag, uid), *values)}

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture()
def odd() -> Iterator[Any]:
    """Starts servers with habits."""
    started = []

    def start(base: type[BaseHTTPRequestHandler] = Odd, **habits: Any) -> Pacs:
        http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (base,), habits))
        threading.Thread(target=http.serve_forever, daemon=True).start()
        started.append(http)
        return Pacs(Server(f"http://127.0.0.1:{http.server_port}", "nv", PASSWORD), attempts=2, longest_wait=0.05)

    yield start
    for http in started:
        http.shutdown()
        http.server_close()


@pytest.mark.parametrize(
    ("habits", "complete"),
    [
        ({}, True), ({"cap": 50}, True), ({"cap": 1, "total": 7}, True), ({"ignores": {"offset"}}, True),
        ({"ignores": {"offset", "limit"}}, True), ({"total": 100}, True), ({"total": 0}, True),
        ({"ignores": {"offset"}, "total": 1234}, True), ({"ignores": {"offset"}, "cap": 50}, False),
    ],
)  # fmt: skip
def test_every_series_is_listed_once(odd, caplog: pytest.LogCaptureFixture, habits: dict[str, Any], complete: bool):
    found = odd(**habits).series("1.2")
    uids = [s.uid for s in found]
    assert len(set(uids)) == len(uids) and all(s.images == 60 for s in found)
    if complete:
        assert len(uids) == habits.get("total", 120)
    else:
        assert len(uids) == 50 and caplog.text.count("list may be cut short") == 1


def test_an_archive_that_looks_at_no_date_gives_only_what_is_new(odd):
    assert [s.uid for s in odd().studies(date.today())] == ["1.2"]
    assert [s.uid for s in odd().studies()] == ["1.2", "1.1"]


def test_images_that_the_archive_does_not_count_are_counted(odd):
    assert [s.images for s in odd(counts=False, cap=50, total=3).series("1.2")] == [60] * 3
    uncounted = SeriesEntry("1", "2", None, "", 0)
    assert SeriesFilter(least_images=8).takes(uncounted)  # rather than missed


def test_what_a_server_writes_cannot_steer_a_terminal(odd, capfd: pytest.CaptureFixture[str]):
    server = odd(total=1)
    listed = CliRunner().invoke(pacs_app, ["list", "1.2", "--url", server._client.base_url])
    assert "T1  [2J 31mred" in listed.output
    assert not [c for c in listed.output.replace("\n", "") if not c.isprintable()]


class Redirects(BaseHTTPRequestHandler):
    """Sends everybody to another port."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(307)
        self.send_header("Location", f"http://127.0.0.1:{self.port}{self.path}")  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        """Quiet."""


def test_no_redirect_is_followed(odd, failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen, thief = failing
    pacs = odd(Redirects, port=thief.server_port)
    with pytest.raises(PacsError, match="redirects to another address, which is not followed"):
        pacs.studies()
    monkeypatch.setattr(pacs, "has", lambda study, instance: False)
    with pytest.raises(PacsError, match="redirects"):
        pacs.store(write_series(tmp_path / "s", stored(head()[0])[:1], oblique(head()[0].affine), "s"))
    assert seen.seen == 0


class Login(BaseHTTPRequestHandler):
    """Answers with a login page, as a proxy does whose session has ended."""

    kind: ClassVar[str] = "text/html"

    def do_GET(self) -> None:
        body = b"<html><form>Sign in</form></html>"
        self.send_response(200)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.mark.parametrize(
    "kind", ["text/html", "application/dicom+json", "multipart/related; boundary=x", "multipart/related"]
)
def test_a_login_page_is_no_answer(odd, tmp_path: Path, kind: str):
    pacs = odd(Login, kind=kind)
    for call in (pacs.studies, lambda: pacs.series("1.2"), lambda: pacs.fetch("1.2", "1.2.3", tmp_path / "f")):
        with pytest.raises(PacsError, match=r"is not DICOMweb|sent no image") as caught:
            call()
        assert not isinstance(caught.value, ArchiveAway)
    assert list(tmp_path.iterdir()) == []


# --- one series' trouble ---------------------------------------------------------------------------------------------


class Ward:
    """An archive in memory of three series; the first is trouble."""

    def __init__(self, trouble: BaseException | None) -> None:
        self.trouble, self.fetched, self.stored = trouble, list[str](), 0

    def studies(self, since: date) -> list[StudyEntry]:
        return [StudyEntry(u, "", 0, 0) for u in ("1.9", "1.2")]

    def series(self, study: str) -> list[SeriesEntry]:
        if study == "1.9":
            raise PacsError("The archive answered with HTTP 500.")
        return [SeriesEntry(study, f"1.2.{k}", k, "", 10) for k in range(3)]

    def fetch(self, study: str, series: str, folder: Path) -> list[Path]:
        self.fetched.append(series)
        if series == "1.2.0" and self.trouble is not None:
            raise self.trouble
        return write_series(folder, stored(head()[0]), oblique(head()[0].affine), series)

    def store(self, paths: list[Path]) -> int:
        self.stored += 1
        return len(paths)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (MemoryError(), "the program failed on it (MemoryError)"),
        (TypeError("Doe^John"), "the program failed on it (TypeError)"),
        (PacsError("The archive's answer is not DICOMweb."), "The archive's answer is not DICOMweb."),
    ],
)  # fmt: skip
def test_one_series_that_fails_starves_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trouble: BaseException, reason: str
):
    ward, analyzer = Ward(trouble), TruthAnalyzer(head()[1])
    for polls in (2, 1, 5):  # three starts of the program over one ledger
        ledger = Ledger(tmp_path / "ledger.sqlite")
        watch(ward, analyzer, ledger, tmp_path, SeriesFilter(), polls=polls + 1, every=0)  # type: ignore[arg-type]
        found = {k: ledger.state(f"1.2.{k}") for k in range(3)}
        assert found == {0: "failed", 1: "stored", 2: "stored"} and ledger.reason("1.2.0") == reason
        ledger.close()
    assert ward.fetched.count("1.2.0") == TRIES and ward.stored == 2
    assert "Doe" not in caplog.text and "1.2." not in caplog.text


def test_a_series_over_which_the_program_ends_is_given_up(tmp_path: Path):
    """As the system's end of a process without memory: nothing is written behind it, so the try was counted before."""
    ward, analyzer = Ward(SystemExit()), TruthAnalyzer(head()[1])
    for _ in range(TRIES):
        ledger = Ledger(tmp_path / "ledger.sqlite")
        with pytest.raises(SystemExit):
            watch(ward, analyzer, ledger, tmp_path, SeriesFilter(), polls=2, every=0)  # type: ignore[arg-type]
        ledger.close()
    ledger = Ledger(tmp_path / "ledger.sqlite")
    watch(ward, analyzer, ledger, tmp_path, SeriesFilter(), polls=2, every=0)  # type: ignore[arg-type]
    assert [ledger.state(f"1.2.{k}") for k in range(3)] == ["failed", "stored", "stored"]
    assert ledger.reason("1.2.0") == f"the program ended {TRIES} times while it was at work on it"
    ledger.close()


@pytest.mark.parametrize("trouble", [ArchiveAway("away"), OSError(28, "No space left on device")])
def test_what_is_no_fault_of_the_series_counts_for_nothing(tmp_path: Path, trouble: Exception):
    ward, ledger = Ward(trouble), Ledger(tmp_path / "ledger.sqlite")
    watch(ward, TruthAnalyzer(head()[1]), ledger, tmp_path, SeriesFilter(), polls=TRIES + 3, every=0)  # type: ignore[arg-type]
    assert (ledger.tries("1.2.0"), ledger.state("1.2.0")) == (0, "begun")
    ward.trouble = None
    watch(ward, TruthAnalyzer(head()[1]), ledger, tmp_path, SeriesFilter(), polls=2, every=0)  # type: ignore[arg-type]
    assert ledger.state("1.2.0") == "stored"
    ledger.close()


def test_the_ledger_has_which_objects_could_not_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    class Bare(Ward):
        """Its series lie nowhere in the patient."""

        def fetch(self, study: str, series: str, folder: Path) -> list[Path]:
            from pydicom import dcmread

            for path in (files := super().fetch(study, series, folder)):
                dataset = dcmread(path)
                del dataset.ImagePositionPatient
                dataset.save_as(path)
            return files

        def store(self, paths: list[Path]) -> int:
            if self.stored == 0:
                self.stored = 1
                raise PacsError("The archive refused 1 of 1 objects.")
            return super().store(paths)

    ward, ledger = Bare(None), Ledger(tmp_path / "ledger.sqlite")
    entry = ward.series("1.2")[1]
    states = [analyze_series(ward, TruthAnalyzer(head()[1]), ledger, entry, tmp_path) for _ in range(2)]  # type: ignore[arg-type]
    assert states == ["failed", "stored"] and ledger.reason(entry.uid) == ""
    told = ledger.missing(entry.uid)
    assert told.startswith("no SEG and no SR written. The headers do not say how the slices lie") and told in caplog.text
    assert ledger.missing("1.2.2") == ""
    ledger.close()


def test_a_ledger_of_an_earlier_version_is_taken_over(tmp_path: Path):
    import sqlite3

    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("CREATE TABLE series (uid TEXT PRIMARY KEY, state TEXT, reason TEXT, at TEXT)")
        db.execute("INSERT INTO series VALUES ('1.2', 'stored', '', '')")
    db.close()
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert (ledger.state("1.2"), ledger.tries("1.2"), ledger.missing("1.2")) == ("stored", 0, "")
    ledger.close()
