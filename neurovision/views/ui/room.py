"""What every tab shares: the models, a private folder for files on their way to a browser, and the open scan."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import gradio as gr

from neurovision.ensemble.engine import load_member
from neurovision.ensemble.findings import Findings
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.weights import Manifest, MemberEntry
from neurovision.errors import ModelError, NeurovisionError, UnsupportedScan
from neurovision.scan.phantom import phantom
from neurovision.scan.study import Study

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

MODELS = "models"  # concurrency id of every event that runs a network: one at a time
KEEP_SECONDS = 1800  # how long an uploaded or produced file stays on disk
SWEEP_SECONDS = 60
BASE = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
PREFIX = "neurovision-page-"
MAX_UPLOAD = "512mb"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Case:
    """The scan that one visitor has open; it lives in that visitor's session only.

    Attributes:
        study: What was read.
        findings: What was said of the slice on show.
    """

    study: Study
    findings: Findings

    @property
    def key(self) -> str:
        """Tells whether a tab has drawn this case already."""
        return f"{self.findings.source.sha256}/{self.findings.slice_index}"


def require(case: Case | None) -> Case:
    """The open case.

    Raises:
        UnsupportedScan: None is open.
    """
    if case is None:
        raise UnsupportedScan("No scan is open; drop a file in Diagnose or pick an example there.")
    return case


class Room:
    """The models and the private folder. It knows nothing of any visitor.

    Args:
        load: Makes the analyzer; called once, in a thread, so that the page answers while the models load.
        build: Makes one member as a Keras model, for what looks inside a network.
    """

    def __init__(
        self,
        load: Callable[[], Analyzer] = Analyzer.load,
        build: Callable[[MemberEntry, Manifest], keras.Model] = load_member,
    ) -> None:
        self.folder = _private_folder()
        self._load, self._build, self._ready = load, build, threading.Event()
        self._members: dict[str, keras.Model] = {}
        self._analyzer: Analyzer | None = None
        self._error = ""
        self.seconds = 0.0

    def open(self) -> None:
        """Start loading the models and sweeping the folder."""
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

    def new_file(self, name: str) -> Path:
        """A path for a file to hand out, in a folder of its own, swept later."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / name

    def sweep(self, keep: float = KEEP_SECONDS) -> None:
        """Remove files that came here more than ``keep`` seconds ago, then folders that are left empty.

        A copy keeps the time at which its original was written, so the time of its own last change counts.
        """
        limit = time.time() - keep
        for path in sorted(self.folder.rglob("*"), reverse=True):  # a folder's files come before the folder
            try:
                if path.is_file() and path.stat().st_ctime < limit:
                    path.unlink()
                elif path.is_dir() and path.stat().st_ctime < limit:
                    path.rmdir()
            except OSError:  # in use again, not empty, or gone already
                continue

    def _fetch(self) -> None:
        start = perf_counter()
        try:
            analyzer = self._load()
            analyzer.analyze(phantom("healthy", 0)[0])  # the first run compiles; no visitor should wait for it
            self._analyzer = analyzer
        except NeurovisionError as e:
            self._error = str(e)
        except Exception as e:  # noqa: BLE001 - whatever breaks here must reach the page as a sentence
            log.error("loading the models failed: %s", _where(e))
            self._error = "The models could not be loaded; the server's log says more."
        self.seconds = perf_counter() - start
        self._ready.set()

    def _janitor(self) -> None:
        while True:
            time.sleep(SWEEP_SECONDS)
            os.utime(self.folder)
            self.sweep()
            _sweep_stale()


def _private_folder() -> Path:
    """Make this process's folder, readable by its user only; it goes when the process ends."""
    BASE.mkdir(parents=True, exist_ok=True)
    _sweep_stale()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=BASE))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _sweep_stale() -> None:
    """Remove the folders of processes that were killed: a living one touches its folder at every sweep."""
    for old in BASE.glob(f"{PREFIX}*"):
        if not old.is_symlink() and old.stat().st_mtime < time.time() - 10 * SWEEP_SECONDS:
            shutil.rmtree(old, ignore_errors=True)


def speaks(handler: Callable[..., Result]) -> Callable[..., Result]:
    """Turn a handler's errors into sentences in the page; anything unforeseen is logged without its data."""

    @functools.wraps(handler)
    def guarded(*args: object, **kwargs: object) -> Result:
        try:
            return handler(*args, **kwargs)
        except NeurovisionError as e:
            raise gr.Error(str(e), title="Cannot do this", duration=20, print_exception=False) from None
        except gr.Error:
            raise
        except Exception as e:  # noqa: BLE001 - a visitor must never see a traceback
            log.error("a handler failed: %s", _where(e))
            raise gr.Error(
                "Something went wrong in the program, not in your file; the server's log says where.",
                title="Internal error",
                duration=20,
                print_exception=False,
            ) from None

    return guarded


def _where(error: Exception) -> str:
    """The error's type and the lines of code that led to it, without its message, which may quote a file."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return f"{type(error).__name__} at " + " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
