"""What every tab shares: the models, a private folder for files on their way to a browser, and the open scan."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import gradio as gr
from filelock import BaseFileLock, FileLock, Timeout
from gradio.utils import NamedString

from neurovision.ensemble.drift import Tally
from neurovision.ensemble.engine import load_member
from neurovision.ensemble.manifest import Network, Networks
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.results import Findings
from neurovision.errors import ModelError, NeurovisionError, UnsupportedScan
from neurovision.logs import event, where
from neurovision.scan import contained
from neurovision.scan.phantom import phantom
from neurovision.scan.study import Study
from neurovision.views.examples import FOLDER

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

MODELS = "models"  # concurrency id of every event that runs a network: one at a time
KEEP_SECONDS = 1800  # how long an uploaded or produced file stays on disk
SWEEP_SECONDS = 60
KEEP_FILES, KEEP_BYTES = 4000, 6 * 1024**3  # more than this many files or bytes, and the oldest go early
SPARE_SECONDS = 120  # but never a file that came less than this ago: its visitor is still using it
BASE = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
PREFIX = "neurovision-page-"
MAX_UPLOAD = "512mb"

Result = TypeVar("Result")


class Watched(Analyzer):
    """The models, counting what they are given and what they say."""

    def __init__(self, inner: Analyzer, tally: Tally) -> None:
        super().__init__(inner.manifest, inner.engine, inner.voter)
        self._inner, self._tally = inner, tally

    def analyze_slices(self, study: Study, indices: Sequence[int] | None = None) -> Iterator[Findings]:
        """See :class:`Analyzer`."""
        for findings in self._inner.analyze_slices(study, indices):
            self._tally.note(findings)
            times: dict[str, Any] = {f"{stage}_ms": round(ms, 1) for stage, ms in findings.timing_ms.items()}
            event(log, "a slice was analyzed", status=findings.status, format=findings.source.format, **times)
            yield findings


class Room:
    """The models and the private folder. It knows nothing of any visitor.

    Args:
        load: Makes the analyzer; called once, in a thread, so that the page answers while the models load.
        build: Makes one member as a Keras model, for what looks inside a network.
    """

    def __init__(
        self,
        load: Callable[[], Analyzer] = Analyzer.load,
        build: Callable[[Network, Networks], keras.Model] = load_member,
    ) -> None:
        self.folder, self._mark = _private_folder()
        self._seen: dict[Path, tuple[int, float]] = {}  # of each file: its change time, and when it was first seen
        self.tally = Tally()
        self._load, self._build, self._ready = load, build, threading.Event()
        self._members: dict[str, keras.Model] = {}
        self._kept: dict[str, Any] = {}
        self._analyzer: Analyzer | None = None
        self._error = ""
        self.seconds = 0.0

    def open(self) -> None:
        """Start loading the models and sweeping the folder."""
        threading.Thread(target=contained.readers.warm, name="readers", daemon=True).start()
        threading.Thread(target=self._fetch, name="models", daemon=True).start()
        threading.Thread(target=self._janitor, name="janitor", daemon=True).start()

    def analyzer(self) -> Analyzer:
        """The models, waiting for them if need be.

        Raises:
            gr.Error: They could not be loaded.
        """
        self._ready.wait()
        if self._analyzer is None:
            raise gr.Error(self._error, duration=None, print_exception=False)
        return self._analyzer

    @property
    def state(self) -> str:
        """``"ready"``, ``"loading"``, or the sentence that says why the models could not be loaded."""
        if not self._ready.is_set():
            return "loading"
        return self._error or "ready"

    def member(self, name: str) -> keras.Model:
        """One member by itself, built when first asked for.

        Raises:
            ModelError: No member has that name.
            WeightsError: Its weights cannot be used.
        """
        manifest = self.analyzer().manifest
        entry = next((m for m in manifest.members if m.name == name), None)
        if entry is None:
            raise ModelError(f"No network is called {name!r}; choose one of {', '.join(m.name for m in manifest.members)}.")
        if name not in self._members:
            self._members[name] = self._build(entry, manifest)
        return self._members[name]

    def once(self, key: str, make: Callable[[], Result]) -> Result:
        """What is nobody's own, such as an example's findings: made when first asked for, then kept."""
        if key not in self._kept:
            self._kept[key] = make()
        found: Result = self._kept[key]
        return found

    def new_file(self, name: str) -> Path:
        """A path for a file to hand out, in a folder of its own, swept later."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / name

    def sweep(self, keep: float = KEEP_SECONDS) -> None:
        """Remove files that were first seen here more than ``keep`` seconds ago, then folders that are left empty.

        Ages are told by this process's own steady clock, so that a change of the system's time neither deletes a file
        in use nor keeps one for ever. Beyond KEEP_FILES or KEEP_BYTES the oldest go early.
        """
        now, seen, sizes = time.monotonic(), {}, {}
        for path in sorted(self.folder.rglob("*"), reverse=True):  # a folder's files come before the folder
            try:
                status = path.lstat()
            except OSError:  # gone already
                continue
            changed, first = self._seen.get(path, (status.st_ctime_ns, now))
            seen[path] = (status.st_ctime_ns, first if changed == status.st_ctime_ns else now)
            if stat.S_ISSOCK(status.st_mode):  # a library's, in use as long as the process lives
                del seen[path]
            elif not path.is_dir():
                sizes[path] = status.st_size
        files, total = len(sizes), sum(sizes.values())
        for path in sorted(seen, key=lambda p: (p not in sizes, seen[p][1], -len(p.parts))):  # files first, old first
            age = now - seen[path][1]
            crowded = path in sizes and age >= SPARE_SECONDS and (files > KEEP_FILES or total > KEEP_BYTES)
            if path == self._mark or (age < keep and not crowded):
                continue
            try:
                if path in sizes:
                    path.unlink()
                    files, total = files - 1, total - sizes[path]
                else:
                    path.rmdir()
                del seen[path]
            except OSError:  # in use again, not empty, or gone already
                continue
        self._seen = seen

    def _fetch(self) -> None:
        start = perf_counter()
        try:
            analyzer = self._load()
            analyzer.analyze(phantom("healthy", 0)[0])  # the first run compiles; no visitor should wait for it
            self._analyzer = Watched(analyzer, self.tally)
        except NeurovisionError as e:
            self._error = str(e)
        except Exception as e:  # noqa: BLE001 - whatever breaks here must reach the page as a sentence
            log.error("loading the models failed: %s", where(type(e), e.__traceback__))
            self._error = "The models could not be loaded; the server's log says more."
        self.seconds = perf_counter() - start
        self._ready.set()

    def _janitor(self) -> None:
        while True:
            time.sleep(SWEEP_SECONDS)
            try:
                self.sweep()
                _sweep_abandoned()
            except Exception as e:  # noqa: BLE001 - whatever one sweep meets, the next must come
                event(log, "a sweep failed", logging.ERROR, error=where(type(e), e.__traceback__))


MARK = ".alive"  # in each process's folder, locked as long as the process lives


def _private_folder() -> tuple[Path, Path]:
    """Make this process's folder, readable by its user only, and the mark in it; both go when the process ends."""
    BASE.mkdir(parents=True, exist_ok=True)
    _sweep_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=BASE))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    mark = folder / MARK
    _held.append(_locked(folder / f"{MARK}-new"))
    (folder / f"{MARK}-new").rename(mark)  # nobody sees a mark that is not locked yet
    _folders.append(folder)
    return folder, mark


_held: list[BaseFileLock | None] = []  # open as long as the process lives
_folders: list[Path] = []  # the private folders of this process


def _locked(mark: Path) -> BaseFileLock | None:
    """The lock on the mark, or None where another process holds it; a killed process holds nothing."""
    lock = FileLock(mark)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def _sweep_abandoned() -> None:
    """Remove the folders of processes that were killed."""
    for old in BASE.glob(f"{PREFIX}*"):
        if old.is_symlink() or not (old / MARK).is_file() or not _is_ours(old):
            continue
        lock = _locked(old / MARK)
        if lock is not None:
            shutil.rmtree(old, ignore_errors=True)
            lock.release()


def _is_ours(folder: Path) -> bool:
    """Whether this process's user made a folder; others' are left alone."""
    return not hasattr(os, "geteuid") or folder.lstat().st_uid == os.geteuid()


def check_brought(path: str) -> None:
    """Let a path pass that a visitor may name: a regular file in this process's own folder, or an example.

    Raises:
        UnsupportedScan: It is anything else: another file of this machine, a link, a folder, a device, a web address.
    """
    refusal = UnsupportedScan("This file was not uploaded to this page; upload it, and give the path that the upload tells.")
    file = Path(path)
    # Not blocking: a pipe would wait for its other end. Not following: a link may lead anywhere.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        folder = file.parent.resolve(strict=True)
        if not any(folder.is_relative_to(own.resolve()) for own in (*_folders, FOLDER)):
            raise refusal
        descriptor = os.open(folder / file.name, flags)
    except (OSError, ValueError):  # gone, a link, or no path at all
        raise refusal from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise refusal
    finally:
        os.close(descriptor)


def _files_in(values: tuple[object, ...]) -> Iterator[str]:
    """The paths among a handler's arguments; Gradio marks each file that a visitor names with a type of its own."""
    for value in values:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, NamedString):
                yield one


CANNOT = "Cannot do this"  # title of an error that is the scan's or the request's, not the program's


def speaks(handler: Callable[..., Result]) -> Callable[..., Result]:
    """Around every handler: files that no visitor brought are refused, and errors become sentences in the page.

    Anything unforeseen is logged without its data.
    """

    @functools.wraps(handler)
    def guarded(*args: object, **kwargs: object) -> Result:
        try:
            for path in _files_in((*args, *kwargs.values())):
                check_brought(path)
            return handler(*args, **kwargs)
        except NeurovisionError as e:
            raise gr.Error(str(e), title=CANNOT, duration=20, print_exception=False) from None
        except gr.Error:
            raise
        except Exception as e:  # noqa: BLE001 - a visitor must never see a traceback
            log.error("a handler failed: %s", where(type(e), e.__traceback__))
            raise gr.Error(
                "Something went wrong in the program, not in your file; the server's log says where.",
                title="Internal error",
                duration=20,
                print_exception=False,
            ) from None

    return guarded
