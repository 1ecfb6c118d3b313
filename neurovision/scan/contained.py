"""Reading untrusted files: each in a process of its own that can neither grow, hang nor crash the caller.

A server process imports the readers once and then only waits. For every call it forks a child
(:class:`socketserver.ForkingMixIn`), which lives for that one call under limits of memory, processor time and wall time
that the kernel enforces, may write no file and knows none of the caller's environment. Nothing is handed over through the
disk, and nothing is pickled: the child answers with a line of JSON and plain float32 bytes, which are checked as if the
child were hostile, since a decoder's bug may have made it so::

    page -- socket --> server --fork--> child: read, answer, end

Where a system has no fork (Windows) the readers run in the caller, and a warning is logged.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import math
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Sequence
from io import BufferedIOBase
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from neurovision import errors
from neurovision.classes import SHIPPED
from neurovision.errors import DamagedScan, ScanError, ScanTooLarge
from neurovision.scan import masks, read
from neurovision.scan.grid import Grid
from neurovision.scan.headers import Headers
from neurovision.scan.masks import Truth
from neurovision.scan.study import Source, Study

log = logging.getLogger(__name__)

MEMORY = 4 * 1024**3  # bytes of address space that one file may take while it is read
SECONDS = 30  # of processor time, and of wall time, for one call
AT_ONCE = 2  # files that are read at the same time, so that memory stays bounded
MAX_HEADER = 4 * 1024**2  # bytes of the answer's JSON
MAX_BYTES = 3 * 4 * 100_000_000  # of the answer's pixels: the readers' limit of voxels, in color
SECONDS_VARIABLE, MEMORY_VARIABLE = "NEUROVISION_READ_SECONDS", "NEUROVISION_READ_MEMORY"
# All that the readers see of the caller's environment, which may hold a password, by how names begin.
ENVIRONMENT = ("PATH", "PYTHON", "LD_LIBRARY_PATH", "DYLD_", "LC_", "TZ", "OPENBLAS_")
_REFUSALS = ("UnsupportedScan", "DamagedScan", "ScanTooLarge")
_FORMATS = re.compile(r"[A-Za-z]{1,12}")


def study(paths: Sequence[Path | str], name: str | None = None) -> Study:
    """Read one scan as :func:`neurovision.scan.read.read_files` does, contained.

    Args:
        paths: A single file, or the DICOM files of one series.
        name: Of the scan; by default its file's, or its series' number.

    Raises:
        ScanError: Not readable as one scan, or its reader broke a limit.
    """
    return _study(*readers.ask({"do": "study", "paths": _texts(paths), "name": name}, paths))


def group_scans(paths: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Sort files into scans as :func:`neurovision.scan.read.group_scans` does, contained.

    Raises:
        ScanError: Too many files, or their reader broke a limit.
    """
    answer, _ = readers.ask({"do": "group", "paths": _texts(paths)}, paths)
    groups = [[int(k) for k in group] for group in answer["groups"]]
    if any(not 0 <= k < len(paths) for group in groups for k in group):
        raise _broken(paths)
    return [tuple(Path(paths[k]) for k in group) for group in groups]


def mask(
    path: Path | str, shape: tuple[int, int], head: int | None = None, classes: int = len(SHIPPED)
) -> Truth:
    """Read a ground-truth mask as :func:`neurovision.scan.masks.read_mask` does, contained.

    Raises:
        ScanError: Not a mask of this scan, or its reader broke a limit.
    """
    request = {"do": "mask", "paths": _texts([path]), "shape": list(shape), "head": head, "classes": classes}
    answer, values = readers.ask(request, [path])
    if values.shape != shape:
        raise _broken([path])
    return Truth(values > 0.5, str(answer["meaning"])[:200])


def _texts(paths: Sequence[Path | str]) -> list[str]:
    return [str(Path(p).absolute()) for p in paths]


def _limit(variable: str, default: int) -> int:
    try:
        return max(1, int(os.environ[variable]))
    except (KeyError, ValueError):
        return default


def _broken(paths: Sequence[Path | str]) -> DamagedScan:
    name = read.named(paths)
    return DamagedScan(f"{name}: reading it broke the reader, so the file is damaged or hostile; export it again.")


# --- the caller's side -----------------------------------------------------------------------------------------------


class Readers:
    """The server process: started when first needed, started again should it be gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the server process, or None before it was needed."""
        return None if self._process is None else self._process.pid

    def ask(self, request: dict[str, Any], paths: Sequence[Path | str]) -> tuple[dict[str, Any], np.ndarray]:
        """Have a child do a request.

        Returns:
            Its answer and the float32 array that it sends, both checked for size only.

        Raises:
            ScanError: The readers refuse, or the child broke a limit.
        """
        if not hasattr(os, "fork"):
            log.warning("files are read without containment: this system has no fork")
            return _do(request)
        seconds, memory = _limit(SECONDS_VARIABLE, SECONDS), _limit(MEMORY_VARIABLE, MEMORY)
        with self._slots:
            start = perf_counter()
            ours, theirs = socket.socketpair()
            # The child's own alarm comes first; one that was taken over may have turned it off.
            timer = threading.Timer(seconds + 10, ours.shutdown, [socket.SHUT_RDWR])
            with ours, ours.makefile("rwb") as stream:
                with theirs:
                    self._send(theirs)
                timer.start()
                try:
                    stream.write(json.dumps({**request, "seconds": seconds, "memory": memory}).encode() + b"\n")
                    stream.flush()
                    return _answer(stream)
                except ScanError:
                    raise
                except (OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
                    if perf_counter() - start >= 0.9 * seconds:
                        raise ScanTooLarge(
                            f"{read.named(paths)}: reading it took more than {seconds} seconds; send a smaller scan."
                        ) from None
                    raise _broken(paths) from None
                finally:
                    timer.cancel()

    def warm(self) -> None:
        """Start the server process, so that the first scan need not wait for its imports."""
        with self._lock:
            self._started()

    def close(self) -> None:
        """End the server process."""
        with self._lock:
            self._stop()

    def _send(self, channel: socket.socket) -> None:
        """Hand one end of a call's channel to the server process, which forks a child on it."""
        with self._lock:
            for attempt in (1, 2):
                try:
                    socket.send_fds(self._started(), [b"c"], [channel.fileno()])
                    return
                except OSError:
                    self._stop()  # it was killed; a second one is tried
                    if attempt == 2:
                        raise

    def _started(self) -> socket.socket:
        if self._control is None:
            ours, theirs = socket.socketpair()
            environment = {k: v for k, v in os.environ.items() if k.startswith(ENVIRONMENT)} | {
                "PYTHONPATH": os.pathsep.join([str(Path(errors.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
                "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",  # a process with threads must not fork
            }  # fmt: skip
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "neurovision.scan.contained", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, env=environment,
                )  # fmt: skip
            self._control = ours
        return self._control

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()  # which ends the process
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self._control = self._process = None


readers = Readers()


def _answer(stream: BufferedIOBase) -> tuple[dict[str, Any], np.ndarray]:
    line = stream.readline(MAX_HEADER)
    answer = json.loads(line)
    if "refused" in answer:
        kind, words = str(answer["refused"]), " ".join(str(answer["words"]).split())[:600]
        raise getattr(errors, kind if kind in _REFUSALS else "DamagedScan")(words)
    shape = tuple(int(n) for n in answer["shape"])
    if len(shape) > 4 or any(n < 1 for n in shape) or 4 * math.prod(shape) > MAX_BYTES:
        raise ValueError("a strange shape")
    values = np.empty(shape, np.float32)
    if stream.readinto(values.data.cast("B")) != values.nbytes:
        raise EOFError
    return answer, values


def _study(answer: dict[str, Any], pixels: np.ndarray) -> Study:
    """A Study of what a child says; Study itself checks the pixels.

    Raises:
        DamagedScan: It says what no reader says.
    """
    try:
        source, spacing, affine = answer["source"], answer["spacing"], answer["affine"]
        digest, sequence, kind = str(source["sha256"]), source["sequence"], str(source["format"])
        if not re.fullmatch(r"[0-9a-f]{64}|", digest) or not _FORMATS.fullmatch(kind):
            raise ValueError("a strange source")
        return Study(
            pixels,
            Source(str(source["name"])[:1000], kind, digest, None if sequence is None else str(sequence)[:40]),
            None if spacing is None else tuple(None if v is None else float(v) for v in spacing),  # type: ignore[arg-type]
            None if affine is None else np.array(affine, np.float64),
            tuple(str(w)[:400] for w in answer["warnings"][:50]),
            None if answer.get("headers") is None else Headers.from_json(answer["headers"]),
            None if answer.get("grid") is None else Grid.from_json(answer["grid"]),
            None if answer.get("aspect") is None else float(answer["aspect"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError) as e:
        raise DamagedScan("The reader's answer makes no sense, so the file is damaged or hostile; export it again.") from e


# --- the server's side -----------------------------------------------------------------------------------------------


def _do(request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    paths = [Path(p) for p in request["paths"]]
    if request["do"] == "study":
        found = read.read_files(paths, request["name"])
        answer = {
            "source": {
                "name": found.source.name, "format": found.source.format, "sha256": found.source.sha256,
                "sequence": found.source.sequence,
            },
            "spacing": found.spacing, "affine": None if found.affine is None else found.affine.tolist(),
            "warnings": found.warnings, "headers": None if found.headers is None else found.headers.to_json(),
            "grid": None if found.grid is None else found.grid.to_json(),
            "aspect": found.aspect,
        }  # fmt: skip
        return answer, found.pixels
    if request["do"] == "group":
        number = {p: k for k, p in enumerate(paths)}
        return {"groups": [[number[p] for p in g] for g in read.group_scans(paths)]}, np.zeros(1, np.float32)
    truth = masks.read_mask(paths[0], (request["shape"][0], request["shape"][1]), request["head"], request["classes"])
    return {"meaning": truth.meaning}, truth.tumor.astype(np.float32)


def _bounded(seconds: int, memory: int) -> None:
    """Put this process under its limits."""
    import resource  # which Windows does not have

    for kind, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),  # no file can be written
        (resource.RLIMIT_CORE, 0),  # no patient's pixels in a core dump
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower limit stands already, or macOS has no such one
            resource.setrlimit(kind, (limit, limit))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


class _Child(socketserver.StreamRequestHandler):
    """One call, in a process of its own."""

    def handle(self) -> None:
        """Read, answer."""
        self.server.control.close()  # type: ignore[attr-defined]  # other calls come over it
        gc.disable()  # it would copy the server's pages, and the process ends soon
        request = json.loads(self.rfile.readline())
        _bounded(request["seconds"], request["memory"])
        try:
            with read.memory_told(request["paths"]):
                answer, values = _do(request)
                values = np.ascontiguousarray(values, np.float32)
            parts: list[Any] = [json.dumps({**answer, "shape": values.shape}).encode() + b"\n", values.data.cast("B")]
        except ScanError as e:
            parts = [json.dumps({"refused": type(e).__name__, "words": str(e)}).encode() + b"\n"]
        for part in parts:
            self.wfile.write(part)


class _Server(socketserver.ForkingMixIn, socketserver.BaseServer):
    """Forks a child for every channel that comes over the control socket, until that closes."""

    def __init__(self, control: socket.socket) -> None:
        super().__init__("", _Child)
        self.control = control

    def fileno(self) -> int:
        """Of what is waited for."""
        return self.control.fileno()

    def get_request(self) -> tuple[socket.socket, str]:
        """The next channel.

        Raises:
            SystemExit: The caller is gone.
        """
        _, channels, _, _ = socket.recv_fds(self.control, 1, 1)
        if not channels:
            sys.exit()
        return socket.socket(fileno=channels[0]), ""

    def close_request(self, request: Any) -> None:
        """Let go of a channel."""
        request.close()


def preload() -> None:
    """Import what the readers import late, so that no child has to."""
    for module in ("neurovision.scan.dicom", "nibabel", "nibabel.orientations", "imagecodecs", "openjpeg"):
        with contextlib.suppress(ImportError, ScanError):  # without an optional package its files are refused
            importlib.import_module(module)
    from PIL import Image

    Image.init()
    gc.freeze()


def main(descriptor: int) -> None:
    """Be the server process."""
    preload()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the page, which then closes the control socket
    _Server(socket.socket(fileno=descriptor)).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
