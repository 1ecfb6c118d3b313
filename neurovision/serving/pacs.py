"""An image archive over DICOMweb: list, fetch, analyze, store, watch.

A series goes through three steps, each of which ends with one atomic change on disk, so that a crash between any two
repeats nothing that the archive or the reader would see twice::

    fetched, analyzed, written   the outbox's folder gets its final name
    "analyzed"                   the ledger's row
    stored, unless there already the ledger's row becomes "stored"
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from neurovision.errors import PacsError, ScanError, UnsupportedScan

if TYPE_CHECKING:
    from neurovision.ensemble.pipeline import Analyzer

KEYRING_SERVICE = "neurovision-pacs"
MAX_SERIES_BYTES = 2_000_000_000
PAGE = 100  # entries asked for at once
ATTEMPTS = 6
LONGEST_WAIT = 60.0  # seconds between two attempts
TIMEOUT = (10.0, 120.0)  # seconds to connect, and to wait for bytes

State = Literal["analyzed", "stored", "refused"]
T = TypeVar("T")
log = logging.getLogger(__name__)
for _talkative in ("retrying", "dicomweb_client", "urllib3"):  # they write addresses, which hold UIDs
    logging.getLogger(_talkative).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Server:
    """Where the archive is and how to talk to it.

    Attributes:
        url: Root of its DICOMweb service, ``https://host/dicom-web``.
        user: For basic authentication, or None.
        password: For basic authentication, or None.
        token: Bearer token, or None.
        ca: File with the certificates to trust instead of the system's, or None.
        insecure: Allow plain http to another machine.

    Raises:
        PacsError: No http URL, or plain http to another machine without ``insecure``.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise PacsError("An archive's address looks like https://host/dicom-web, without a user in it; change it.")
        if parts.scheme == "http" and not self.insecure and not _is_loopback(parts.hostname):
            raise PacsError("Patients' images travel over https; received a plain http address of another machine.")

    @classmethod
    def from_environment(
        cls, url: str | None = None, user: str | None = None, ca: Path | None = None, insecure: bool = False
    ) -> Server:
        """Fill in what is not given from the environment, and the password from there or from the keyring.

        Read are ``NEUROVISION_PACS_URL``, ``_USER``, ``_PASSWORD``, ``_TOKEN`` and ``_CA``; a password that is not
        there is looked for in the system's keyring under ``neurovision-pacs`` and the user.

        Raises:
            PacsError: No address is given.
        """
        url = url or os.environ.get("NEUROVISION_PACS_URL")
        if not url:
            raise PacsError("No archive is named; give --url or set NEUROVISION_PACS_URL.")
        user = user or os.environ.get("NEUROVISION_PACS_USER")
        password = os.environ.get("NEUROVISION_PACS_PASSWORD")
        if user and password is None:
            password = _from_keyring(user)
        named = os.environ.get("NEUROVISION_PACS_CA")
        ca = ca or (Path(named) if named else None)
        return cls(url, user, password, os.environ.get("NEUROVISION_PACS_TOKEN"), ca, insecure)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _from_keyring(user: str) -> str | None:
    import keyring
    from keyring.errors import KeyringError

    try:
        return keyring.get_password(KEYRING_SERVICE, user)
    except KeyringError:
        return None  # no keyring on this machine


@dataclass(frozen=True)
class StudyEntry:
    """One study of the archive; no field names the patient.

    Attributes:
        uid: Its UID.
        date: ``YYYYMMDD``, or "".
        series: How many series, or 0 where the archive does not say.
        images: How many instances, or 0.
    """

    uid: str
    date: str
    series: int
    images: int


@dataclass(frozen=True)
class SeriesEntry:
    """One series of the archive.

    Attributes:
        study: UID of its study.
        uid: Its UID.
        number: Its number, or None.
        description: Its description; typed by people, so never logged.
        images: How many instances, or 0 where the archive does not say.
    """

    study: str
    uid: str
    number: int | None
    description: str
    images: int

    @property
    def label(self) -> str:
        """A name for logs and folders that leads back to nobody without the archive."""
        return hashlib.sha256(self.uid.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class SeriesFilter:
    """Which series are watched.

    Attributes:
        description: Regular expression that the description must contain, case ignored; "" for any.
        least_images: Series with fewer instances (localizers) are left out.

    Raises:
        PacsError: The expression is none.
    """

    description: str = ""
    least_images: int = 8

    def __post_init__(self) -> None:
        try:
            re.compile(self.description)
        except re.error as e:
            raise PacsError(f"The description's filter is no regular expression ({e}).") from e

    def takes(self, series: SeriesEntry) -> bool:
        """Whether a series passes."""
        return series.images >= self.least_images and bool(re.search(self.description, series.description, re.IGNORECASE))


class Pacs:
    """A DICOMweb archive: every call is tried again, with growing waits, while the server is away or busy."""

    def __init__(self, server: Server, attempts: int = ATTEMPTS, longest_wait: float = LONGEST_WAIT) -> None:
        try:
            import requests
            from dicomweb_client.api import DICOMwebClient
        except ImportError as e:
            raise PacsError(
                "An archive needs packages that are not installed; run pip install 'neurovision[dicom]'."
            ) from e

        session = requests.Session()
        if server.ca is not None:
            session.verify, session.trust_env = str(server.ca), False  # the environment's certificates would win
        if server.user is not None:
            session.auth = (server.user, server.password or "")
        headers = {} if server.token is None else {"Authorization": f"Bearer {server.token}"}
        self._client = DICOMwebClient(server.url.rstrip("/"), session=session, headers=headers, timeout=TIMEOUT)
        self._client.set_http_retry_params(retry=False)  # tenacity does it, for lost connections too
        self._attempts, self._longest_wait = attempts, longest_wait

    def studies(self, since: date | None = None) -> list[StudyEntry]:
        """MR studies, from a day on or all (QIDO-RS).

        Raises:
            PacsError: The archive cannot be reached or refuses.
        """
        filters = {"ModalitiesInStudy": "MR"}
        if since is not None:
            filters["StudyDate"] = f"{since:%Y%m%d}-"
        fields = ["NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"]
        return [
            StudyEntry(
                _text(row, "0020000D"), _text(row, "00080020"), _integer(row, "00201206"), _integer(row, "00201208")
            )
            for row in self._pages(
                lambda offset: self._client.search_for_studies(
                    search_filters=filters, fields=fields, limit=PAGE, offset=offset
                )
            )
        ]

    def series(self, study: str) -> list[SeriesEntry]:
        """The MR series of a study (QIDO-RS).

        Raises:
            PacsError: The archive cannot be reached or refuses.
        """
        rows = self._pages(
            lambda offset: self._client.search_for_series(
                study, search_filters={"Modality": "MR"}, fields=["NumberOfSeriesRelatedInstances", "SeriesDescription"],
                limit=PAGE, offset=offset,
            )
        )  # fmt: skip
        return [
            SeriesEntry(
                study, _text(row, "0020000E"), _integer(row, "00200011") or None, _text(row, "0008103E"),
                _integer(row, "00201209"),
            )
            for row in rows
            if _text(row, "00080060") in ("", "MR")
        ]  # fmt: skip

    def fetch(self, study: str, series: str, folder: Path) -> list[Path]:
        """Write a series' files as ``0001.dcm``, ... into ``folder``, which appears only when all are there (WADO-RS).

        Raises:
            PacsError: The archive cannot be reached or refuses, or the series has more than MAX_SERIES_BYTES.
        """
        part = folder.with_name(f".{folder.name}.part")

        def once() -> int:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True, mode=0o700)
            total = count = 0
            for count, dataset in enumerate(self._client.iter_series(study, series), 1):
                path = part / f"{count:04d}.dcm"
                dataset.save_as(path, enforce_file_format=True)
                total += path.stat().st_size
                if total > MAX_SERIES_BYTES:
                    raise PacsError(f"A series may have {MAX_SERIES_BYTES // 10**9} GB; this has more.")
            return count

        try:
            if self._try(once) == 0:
                raise PacsError("The archive sent no image for this series; check its UID.")
            shutil.rmtree(folder, ignore_errors=True)
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return sorted(folder.iterdir())

    def has(self, study: str, instance: str) -> bool:
        """Whether the archive holds an object (QIDO-RS).

        Raises:
            PacsError: The archive cannot be reached or refuses.
        """
        rows = self._try(
            lambda: self._client.search_for_instances(study, search_filters={"SOPInstanceUID": instance}, limit=1)
        )
        return any(_text(row, "00080018") == instance for row in rows)

    def store(self, paths: Sequence[Path]) -> int:
        """Send files that the archive does not hold yet (STOW-RS).

        Returns:
            How many were sent.

        Raises:
            PacsError: The archive cannot be reached or refuses one of them.
        """
        from pydicom import dcmread

        datasets = [dcmread(p) for p in paths]
        missing = [d for d in datasets if not self.has(str(d.StudyInstanceUID), str(d.SOPInstanceUID))]
        if not missing:
            return 0
        answer = self._try(lambda: self._client.store_instances(missing))
        failed = len(answer.get("FailedSOPSequence") or [])  # an empty sequence is always there
        if failed:
            raise PacsError(f"The archive refused {failed} of {len(missing)} objects.")
        return len(missing)

    def _pages(self, ask: Callable[[int], list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            rows = self._try(lambda: ask(offset))  # noqa: B023 - called at once
            yield from rows
            if len(rows) < PAGE:
                return
            offset += len(rows)

    def _try(self, call: Callable[[], T]) -> T:
        """Call until it succeeds, fails for good, or was tried often enough.

        Raises:
            PacsError: It did not succeed; the message holds neither address nor identifiers.
        """
        import requests
        import tenacity

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=tenacity.wait_exponential_jitter(initial=0.5, max=self._longest_wait, jitter=0.5),
            retry=tenacity.retry_if_exception(_is_transient),
            before_sleep=lambda s: log.info("the archive does not answer; attempt %d follows", s.attempt_number + 1),
            reraise=True,
        )
        try:
            return retrying(call)
        except requests.HTTPError as e:
            status = 0 if e.response is None else e.response.status_code
            if status in (401, 403):
                raise PacsError(f"The archive refuses the user or token (HTTP {status}); check the credentials.") from e
            raise PacsError(f"The archive answered with HTTP {status}; check the address and the UIDs.") from e
        except requests.exceptions.SSLError as e:
            raise PacsError("The archive's certificate is not trusted; name its authority with --ca.") from e
        except requests.RequestException as e:
            raise PacsError(f"The archive cannot be reached after {self._attempts} attempts; is it running?") from e
        except ValueError as e:
            raise PacsError("The archive's answer is not DICOMweb; check the address and the UIDs.") from e


def _is_transient(error: BaseException) -> bool:
    import requests

    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in (408, 425, 429, 500, 502, 503, 504)
    return isinstance(
        error, (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    ) and not isinstance(error, requests.exceptions.SSLError)


def _text(row: dict[str, Any], tag: str) -> str:
    values = row.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _integer(row: dict[str, Any], tag: str) -> int:
    try:
        return int(_text(row, tag))
    except ValueError:
        return 0


class Ledger:
    """What was done with each series: one SQLite file, changed atomically and held by one process at a time.

    It holds UIDs, never names, and only its owner may read it.

    Raises:
        PacsError: Another process holds it, or it is no ledger.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0.5)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # released when the process ends, however it ends
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("CREATE TABLE IF NOT EXISTS series (uid TEXT PRIMARY KEY, state TEXT, reason TEXT, at TEXT)")
            self._db.execute("BEGIN EXCLUSIVE")
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as e:
            raise PacsError(f"{path.name} is in use; another 'neurovision pacs' works with it.") from e
        except sqlite3.DatabaseError as e:
            raise PacsError(f"{path.name} is no ledger; move it away to start a new one.") from e

    def state(self, uid: str) -> State | None:
        """What was done with a series, None if nothing."""
        row = self._db.execute("SELECT state FROM series WHERE uid = ?", (uid,)).fetchone()
        return None if row is None else row[0]

    def set(self, uid: str, state: State, reason: str = "") -> None:
        """Record what was done; it is on disk when this returns."""
        self._db.execute(
            "INSERT INTO series VALUES (?, ?, ?, datetime('now')) "
            "ON CONFLICT (uid) DO UPDATE SET state = excluded.state, reason = excluded.reason, at = excluded.at",
            (uid, state, reason),
        )

    def close(self) -> None:
        """Let another process have it."""
        self._db.close()


def analyze_series(
    pacs: Pacs, analyzer: Analyzer, ledger: Ledger, series: SeriesEntry, work: Path, store: bool = True
) -> State:
    """Take one series as far as it goes: fetch, analyze, write SEG and SR, store them.

    What was done already, by this process or one that crashed, is not done again.

    Args:
        pacs: The archive.
        analyzer: The loaded ensemble.
        ledger: What was done before.
        series: Which one.
        work: Folder for what is under way; results stay in ``outbox/`` there until they are stored.
        store: Send the results to the archive.

    Returns:
        The series' state. ``"refused"`` is a series that cannot be read as a brain MRI, and is not tried again.

    Raises:
        PacsError: The archive cannot be reached; calling again goes on where this stopped.
    """
    from neurovision.ensemble.volume import analyze_volume
    from neurovision.scan.read import group_scans, read_files
    from neurovision.views.dicom_out import write_dicom

    state = ledger.state(series.uid)
    if state in ("stored", "refused"):
        return state
    outbox = work / "outbox" / series.label
    if state is None and not outbox.is_dir():
        fetched, part = work / "fetched" / series.label, work / "outbox" / f".{series.label}.part"
        fetched.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(part, ignore_errors=True)
        try:
            paths = pacs.fetch(series.study, series.uid, fetched)
            part.mkdir(parents=True, mode=0o700)
            for number, group in enumerate(group_scans(paths), 1):  # two echoes are two stacks
                study = read_files(group)
                findings = analyze_volume(analyzer, study)
                if findings.status != "ok":
                    raise UnsupportedScan(findings.reason or "No slice shows a readable head.")
                write_dicom(findings, study, part, stem=f"result-{number}")
            part.replace(outbox)
        except ScanError as e:
            ledger.set(series.uid, "refused", str(e))
            log.info("series %s: refused", series.label)
            return "refused"
        finally:
            shutil.rmtree(fetched, ignore_errors=True)
            shutil.rmtree(part, ignore_errors=True)
    ledger.set(series.uid, "analyzed")
    log.info("series %s: analyzed", series.label)
    if not store:
        return "analyzed"
    sent = pacs.store(sorted(outbox.iterdir()))
    ledger.set(series.uid, "stored")
    shutil.rmtree(outbox, ignore_errors=True)
    log.info("series %s: stored, %d objects sent", series.label, sent)
    return "stored"


def watch(
    pacs: Pacs,
    analyzer: Analyzer,
    ledger: Ledger,
    work: Path,
    wanted: SeriesFilter,
    days: int = 1,
    every: float = 30.0,
    polls: int | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Analyze new MR series as they arrive, until stopped.

    A series is taken when two polls in a row see the same number of images. An archive that is away is waited for.

    Args:
        pacs: The archive.
        analyzer: The loaded ensemble.
        ledger: What was done before.
        work: As for :func:`analyze_series`.
        wanted: Which series.
        days: How old a study may be.
        every: Seconds between polls.
        polls: How many; None for no end.
        stop: Ends the watch when set.
    """
    stop = stop or threading.Event()
    counts: dict[str, int] = {}
    done = 0
    while not stop.is_set() and (polls is None or done < polls):
        try:
            for study in pacs.studies(date.today() - timedelta(days=days)):
                for series in pacs.series(study.uid):
                    settled = counts.get(series.uid) == series.images
                    counts[series.uid] = series.images
                    if settled and wanted.takes(series) and not stop.is_set():
                        analyze_series(pacs, analyzer, ledger, series, work)
        except PacsError as e:
            log.warning("%s", e)
        done += 1
        if polls is None or done < polls:
            stop.wait(every)
