"""An image archive over DICOMweb: list, fetch, analyze, store, watch.

A series goes through three steps, each of which ends with one atomic change on disk, so that a crash between any two
repeats nothing that the archive or the reader would see twice::

    fetched, analyzed, written   the outbox's folder gets its final name
    "analyzed"                   the ledger's row
    stored, unless there already the ledger's row becomes "stored"

Every try is counted in the ledger before it begins, so that a series over which the program fails, or even ends, is given
up after TRIES and keeps no other waiting.
"""

from __future__ import annotations

import errno
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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from neurovision.errors import ArchiveAway, NeurovisionError, OutputError, PacsError, ScanError, UnsupportedScan
from neurovision.files import FULL

if TYPE_CHECKING:
    from neurovision.ensemble.pipeline import Analyzer

KEYRING_SERVICE = "neurovision-pacs"
MAX_SERIES_BYTES = 2_000_000_000
PAGE, LARGEST_PAGE = 100, 1_000_000  # entries asked for at once
ATTEMPTS = 6  # of one call
TRIES = 3  # of one series by a watch
NO_FAULT = (*FULL, errno.EROFS)  # of a series: the disk is full, or read-only
LONGEST_WAIT = 60.0  # seconds between two attempts
TIMEOUT = (10.0, 120.0)  # seconds to connect, and to wait for bytes

State = Literal["begun", "analyzed", "stored", "refused", "failed"]
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
        """Whether a series passes; one whose images nobody counts is not taken for a small one."""
        return series.images not in range(1, self.least_images) and bool(
            re.search(self.description, series.description, re.IGNORECASE)
        )


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
        session.max_redirects = 0  # neither images nor a password go to an address that nobody named
        if server.ca is not None:
            session.verify, session.trust_env = str(server.ca), False  # the environment's certificates would win
        if server.user is not None:
            session.auth = (server.user, server.password or "")
        headers = {} if server.token is None else {"Authorization": f"Bearer {server.token}"}
        self._client = DICOMwebClient(server.url.rstrip("/"), session=session, headers=headers, timeout=TIMEOUT)
        self._client.set_http_retry_params(retry=False)  # tenacity does it, for lost connections too
        self._attempts, self._longest_wait = attempts, longest_wait
        self._warned: set[str] = set()

    def studies(self, since: date | None = None) -> list[StudyEntry]:
        """MR studies, from a day on or all (QIDO-RS).

        Raises:
            PacsError: The archive cannot be reached or refuses.
        """
        filters = {"ModalitiesInStudy": "MR"}
        if since is not None:
            filters["StudyDate"] = f"{since:%Y%m%d}-"
        fields = ["NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"]
        rows = self._pages("0020000D", self._client.search_for_studies, search_filters=filters, fields=fields)
        found = [
            StudyEntry(
                _text(row, "0020000D"), _text(row, "00080020"), _integer(row, "00201206"), _integer(row, "00201208")
            )
            for row in rows
        ]
        oldest = "" if since is None else f"{since:%Y%m%d}"  # some archives do not look at the date
        return [s for s in found if not s.date or s.date >= oldest]

    def series(self, study: str) -> list[SeriesEntry]:
        """The MR series of a study (QIDO-RS).

        Raises:
            PacsError: The archive cannot be reached or refuses.
        """
        rows = self._pages(
            "0020000E", self._client.search_for_series, study_instance_uid=study, search_filters={"Modality": "MR"},
            fields=["NumberOfSeriesRelatedInstances", "SeriesDescription"],
        )  # fmt: skip
        return [
            SeriesEntry(
                study, uid := _text(row, "0020000E"), _integer(row, "00200011") or None, _text(row, "0008103E"),
                _integer(row, "00201209") or self._count(study, uid),
            )
            for row in rows
            if _text(row, "00080060") in ("", "MR")
        ]  # fmt: skip

    def _count(self, study: str, series: str) -> int:
        """How many instances a series has where its entry does not say, by listing them; 0 where they are not listed."""
        try:
            return sum(
                1
                for _ in self._pages(
                    "00080018", self._client.search_for_instances, study_instance_uid=study, series_instance_uid=series
                )
            )
        except ArchiveAway:
            raise
        except PacsError:
            return 0

    def fetch(self, study: str, series: str, folder: Path) -> list[Path]:
        """Write a series' files as ``0001.dcm``, ... into ``folder``, which appears only when all are there (WADO-RS).

        Raises:
            PacsError: The archive cannot be reached or refuses, sends something else than this series, or the series has
                more than MAX_SERIES_BYTES.
        """
        part = folder.with_name(f".{folder.name}.part")

        def once() -> int:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True, mode=0o700)
            total = count = 0
            for count, dataset in enumerate(self._client.iter_series(study, series), 1):
                if str(dataset.get("SeriesInstanceUID", "")) != series:
                    raise PacsError("The archive sent an image of another series; it was not read.")
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
        from pydicom.errors import InvalidDicomError

        try:
            datasets = [dcmread(p) for p in paths]
        except (InvalidDicomError, OSError) as e:
            raise PacsError("An archive takes DICOM files; one of these cannot be read as such.") from e
        missing = [d for d in datasets if not self.has(str(d.StudyInstanceUID), str(d.SOPInstanceUID))]
        if not missing:
            return 0
        answer = self._try(lambda: self._client.store_instances(missing))
        failed = len(answer.get("FailedSOPSequence") or [])  # an empty sequence is always there
        if failed:
            raise PacsError(f"The archive refused {failed} of {len(missing)} objects.")
        return len(missing)

    def _pages(self, key: str, search: Callable[..., list[dict[str, Any]]], **query: Any) -> Iterator[dict[str, Any]]:
        """Rows of a search, every UID once, whatever the server makes of ``limit`` and ``offset``.

        A short page is not taken for the last one, as some servers cap their pages. One that answers every ``offset``
        with its first page is asked for longer pages; where that ends, a warning says that its list may be cut short.

        Args:
            key: Tag of the UID.
            search: A method of the client.
            query: Its arguments.
        """
        seen: set[str] = set()
        first, offset, limit = "", 0, PAGE
        while True:
            rows = self._try(partial(search, limit=limit, offset=offset, **query))
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise PacsError("The archive's answer is not DICOMweb; check the address and the UIDs.")
            uids = [_text(row, key) for row in rows]
            before = len(seen)
            for row, uid in zip(rows, uids, strict=True):
                if not re.fullmatch(r"[0-9.]{1,64}", uid):
                    self._warn("The archive lists entries without a valid UID; they are left out.")
                elif uid not in seen:
                    seen.add(uid)
                    yield row
            if not rows:
                return
            if len(seen) > before or (offset == 0 and limit == PAGE):
                first, offset = first or uids[0], offset + len(rows)
            elif offset and uids[0] == first and len(rows) >= limit and limit < LARGEST_PAGE:
                offset, limit = 0, 10 * limit
            else:
                if uids[0] == first:
                    self._warn("The archive answers with the same page again and again; its list may be cut short.")
                return

    def _warn(self, sentence: str) -> None:
        """Log a warning once."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            log.warning(sentence)

    def _try(self, call: Callable[[], T]) -> T:
        """Call until it succeeds, fails for good, or was tried often enough.

        Raises:
            ArchiveAway: There is no connection.
            PacsError: The archive refuses, or answers with something else than DICOMweb. No message holds an address, an
                identifier or anything that the server wrote.
        """
        import requests
        import tenacity
        from pydicom.errors import InvalidDicomError

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
        except requests.TooManyRedirects as e:
            raise PacsError("The archive redirects to another address, which is not followed; name that one.") from e
        except requests.exceptions.SSLError as e:
            raise ArchiveAway("The archive's certificate is not trusted; name its authority with --ca.") from e
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, NotImplementedError, InvalidDicomError) as e:
            # Of reading what came, a login page for example; requests' own JSONDecodeError is a ValueError too.
            raise PacsError("The archive's answer is not DICOMweb; check the address and the UIDs.") from e
        except requests.RequestException as e:
            raise ArchiveAway(f"The archive cannot be reached after {self._attempts} attempts; is it running?") from e


def _is_transient(error: BaseException) -> bool:
    import requests

    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in (408, 425, 429, 500, 502, 503, 504)
    return isinstance(
        error, (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    ) and not isinstance(error, requests.exceptions.SSLError)


def _text(row: dict[str, Any], tag: str) -> str:
    """A value of an answer, "" where there is none; what could steer a terminal becomes a space."""
    entry = row.get(tag)
    values = entry.get("Value") if isinstance(entry, dict) else None
    value = values[0] if isinstance(values, list) and values and values[0] is not None else ""
    return "".join(c if c.isprintable() else " " for c in str(value))


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
            there = {row[1] for row in self._db.execute("PRAGMA table_info(series)")}
            for column, kind in (("tries", "INTEGER NOT NULL DEFAULT 0"), ("missing", "TEXT NOT NULL DEFAULT ''")):
                if column not in there:
                    self._db.execute(f"ALTER TABLE series ADD COLUMN {column} {kind}")
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

    def reason(self, uid: str) -> str:
        """Why a series is refused or failed, else ""."""
        row = self._db.execute("SELECT reason FROM series WHERE uid = ?", (uid,)).fetchone()
        return "" if row is None else str(row[0])

    def tries(self, uid: str) -> int:
        """How often a series was begun and not ended as it should."""
        row = self._db.execute("SELECT tries FROM series WHERE uid = ?", (uid,)).fetchone()
        return 0 if row is None else int(row[0])

    def missing(self, uid: str) -> str:
        """Which objects could not be made of a series that was analyzed, and why, else ""."""
        row = self._db.execute("SELECT missing FROM series WHERE uid = ?", (uid,)).fetchone()
        return "" if row is None else str(row[0])

    def set_missing(self, uid: str, reason: str) -> None:
        """Record which objects could not be made, and why; it is on disk when this returns."""
        self._db.execute("UPDATE series SET missing = ? WHERE uid = ?", (reason, uid))

    def set(self, uid: str, state: State, reason: str = "") -> None:
        """Record what was done; it is on disk when this returns."""
        self._db.execute(
            "INSERT INTO series (uid, state, reason, at) VALUES (?, ?, ?, datetime('now')) "
            "ON CONFLICT (uid) DO UPDATE SET state = excluded.state, reason = excluded.reason, at = excluded.at",
            (uid, state, reason),
        )

    def count(self, uid: str, change: int) -> None:
        """Count a try that begins (1), or take one back that ended for no fault of the series (-1)."""
        self._db.execute(
            "INSERT INTO series (uid, state, reason, at, tries) VALUES (?, 'begun', '', datetime('now'), ?) "
            "ON CONFLICT (uid) DO UPDATE SET tries = tries + ?",
            (uid, change, change),
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
        The series' state. ``"refused"`` is a series that cannot be read as a brain MRI, and is not tried again;
        ``"failed"`` one that the archive does not hand out or take, or over which the program failed, of whatever kind
        the error was. The ledger has the reason, and of a series that was analyzed which objects could not be made.

    Raises:
        ArchiveAway: The archive cannot be reached; calling again resumes where this stopped.
        OutputError: The disk is full, or the folder is read-only.
    """
    ledger.count(series.uid, 1)
    try:
        state = _take(pacs, analyzer, ledger, series, work, store)
    except (ArchiveAway, OutputError, KeyboardInterrupt):
        ledger.count(series.uid, -1)
        raise
    except Exception as e:
        if isinstance(e, OSError) and e.errno in NO_FAULT:
            ledger.count(series.uid, -1)
            raise OutputError(f"The folder of unfinished work cannot be written ({e.strerror}); make room there.") from e
        reason = str(e) if isinstance(e, NeurovisionError) else f"the program failed on it ({type(e).__name__})"
        ledger.set(series.uid, "failed", reason)
        log.warning("series %s: failed at try %d: %s", series.label, ledger.tries(series.uid), reason)
        return "failed"
    ledger.count(series.uid, -ledger.tries(series.uid))
    return state


def _take(pacs: Pacs, analyzer: Analyzer, ledger: Ledger, series: SeriesEntry, work: Path, store: bool) -> State:
    from neurovision.ensemble.volume import analyze_volume
    from neurovision.scan.read import group_scans, read_files
    from neurovision.views.dicom_out import write_dicom

    state = ledger.state(series.uid)
    if state in ("stored", "refused"):
        return state
    outbox = work / "outbox" / series.label
    if not outbox.is_dir():
        fetched, part = work / "fetched" / series.label, work / "outbox" / f".{series.label}.part"
        fetched.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(part, ignore_errors=True)
        try:
            paths = pacs.fetch(series.study, series.uid, fetched)
            part.mkdir(parents=True, mode=0o700)
            missing: dict[str, None] = {}
            for number, group in enumerate(group_scans(paths), 1):  # two echoes are two stacks
                study = read_files(group)
                findings = analyze_volume(analyzer, study)
                if findings.status != "ok":
                    raise UnsupportedScan(findings.reason or "No slice shows a readable head.")
                if words := write_dicom(findings, study, part, stem=f"result-{number}").missing_words:
                    missing[words] = None
            ledger.set_missing(series.uid, " ".join(missing))
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
    if without := ledger.missing(series.uid):
        log.warning("series %s: %s", series.label, without)
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

    A series is taken when two polls in a row see the same number of images. An archive that is away is waited for. A
    series that fails is tried again at the next polls, TRIES times in all, also over restarts.

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
                for series in _listed(pacs, study):
                    settled = counts.get(series.uid) == series.images
                    counts[series.uid] = series.images
                    if not settled or not wanted.takes(series) or stop.is_set():
                        continue
                    if ledger.tries(series.uid) < TRIES:
                        analyze_series(pacs, analyzer, ledger, series, work)
                    elif ledger.state(series.uid) == "begun":
                        ledger.set(series.uid, "failed", f"the program ended {TRIES} times while it was at work on it")
                        log.warning("series %s: failed, the program ended over it %d times", series.label, TRIES)
        except (PacsError, OutputError) as e:
            log.warning("%s", e)
        done += 1
        if polls is None or done < polls:
            stop.wait(every)


def _listed(pacs: Pacs, study: StudyEntry) -> list[SeriesEntry]:
    """Series of a study, none where the archive fails on this study only.

    Raises:
        ArchiveAway: The archive cannot be reached.
    """
    try:
        return pacs.series(study.uid)
    except ArchiveAway:
        raise
    except PacsError as e:
        log.warning("a study is passed over: %s", e)
        return []
