"""Reading files from strangers: each in a process of its own that can neither grow, hang nor crash the caller.

A first process imports the readers once and then only waits. For every call it forks a child, which lives for that one
call under limits of memory, processor time and wall time that the kernel enforces, and may write no file. Nothing is
handed over through the disk, and nothing is pickled: the child answers with a line of JSON and plain float32 bytes,
which are checked as if the child were hostile, since a decoder's bug may have made it so::

    page -- socket --> first process --fork--> child: read, answer, end

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
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from neurovision import errors
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
_REFUSALS = ("UnsupportedScan", "DamagedScan", "ScanTooLarge")
_FORMATS = re.compile(r"[A-Za-z]{1,12}")


def study(paths: Sequence[Path | str], name: str | None = None) -> Study:
    """Read one scan as :func:`neurovision.scan.read.read_files` does, contained.

    Args:
        paths: A single file, or the DICOM files of one series.
        name: Of a series.

    Raises:
        ScanError: Not readable as one scan, or its reader broke a limit.
    """
    return _study(*_ask({"do": "study", "paths": _texts(paths), "name": name}, paths))


def group_scans(paths: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Sort files into scans as :func:`neurovision.scan.read.group_scans` does, contained.

    Raises:
        ScanError: Too many files, or their reader broke a limit.
    """
    told, _ = _ask({"do": "group", "paths": _texts(paths)}, paths)
    groups = [[int(k) for k in group] for group in told["groups"]]
    if any(not 0 <= k < len(paths) for group in groups for k in group):
        raise _broken(paths)
    return [tuple(Path(paths[k]) for k in group) for group in groups]


def mask(path: Path | str, shape: tuple[int, int]) -> Truth:
    """Read a ground-truth mask as :func:`neurovision.scan.masks.read_mask` does, contained.

    Raises:
        ScanError: Not a mask of this scan, or its reader broke a limit.
    """
    told, values = _ask({"do": "mask", "paths": _texts([path]), "shape": list(shape)}, [path])
    if values.shape != shape:
        raise _broken([path])
    return Truth(values > 0.5, str(told["meaning"])[:200])


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


class Nursery:
    """The first process: started when first needed, started again should it be gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the first process, or None before it was needed."""
        return None if self._process is None else self._process.pid

    def ask(self, request: dict[str, Any], paths: Sequence[Path | str]) -> tuple[dict[str, Any], np.ndarray]:
        """Have a child do a request.

        Returns:
            What it says and the float32 array that it sends, both checked for size only.

        Raises:
            ScanError: The readers refuse, or the child broke a limit.
        """
        seconds = _limit(SECONDS_VARIABLE, SECONDS)
        with self._slots:
            start = perf_counter()
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    self._send(theirs)
                ours.settimeout(seconds + 10)  # the child's own alarm comes first
                try:
                    body = json.dumps(request).encode()
                    ours.sendall(struct.pack("<I", len(body)) + body)
                    return _answer(ours)
                except ScanError:
                    raise
                except (OSError, EOFError, ValueError, KeyError, TypeError, struct.error):
                    if perf_counter() - start >= 0.9 * seconds:
                        raise ScanTooLarge(
                            f"{read.named(paths)}: reading it took more than {seconds} seconds; send a smaller scan."
                        ) from None
                    raise _broken(paths) from None

    def warm(self) -> None:
        """Start the first process, so that the first scan need not wait for its imports."""
        with self._lock:
            self._started()

    def close(self) -> None:
        """End the first process."""
        with self._lock:
            self._stop()

    def _send(self, channel: socket.socket) -> None:
        """Hand one end of a call's channel to the first process, which forks a child on it."""
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
            environment = {
                **os.environ,
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


nursery = Nursery()


def _ask(request: dict[str, Any], paths: Sequence[Path | str]) -> tuple[dict[str, Any], np.ndarray]:
    if hasattr(os, "fork"):
        return nursery.ask(request, paths)
    log.warning("files are read without containment: this system has no fork")
    return _do(request)


def _answer(channel: socket.socket) -> tuple[dict[str, Any], np.ndarray]:
    (length,) = struct.unpack("<I", _exactly(channel, 4))
    if length > MAX_HEADER:
        raise ValueError("too long an answer")
    told = json.loads(_exactly(channel, length))
    if "refused" in told:
        kind, words = str(told["refused"]), " ".join(str(told["words"]).split())[:600]
        raise getattr(errors, kind if kind in _REFUSALS else "DamagedScan")(words)
    shape = tuple(int(n) for n in told["shape"])
    if len(shape) > 4 or any(n < 1 for n in shape) or 4 * math.prod(shape) > MAX_BYTES:
        raise ValueError("a strange shape")
    values = np.empty(shape, np.float32)
    view, at = values.data.cast("B"), 0
    while at < len(view):
        got = channel.recv_into(view[at:])
        if not got:
            raise EOFError
        at += got
    return told, values


def _exactly(channel: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        part = channel.recv(count - len(found))
        if not part:
            raise EOFError
        found += part
    return bytes(found)


def _study(told: dict[str, Any], pixels: np.ndarray) -> Study:
    """A Study of what a child says; Study itself checks the pixels.

    Raises:
        DamagedScan: It says what no reader says.
    """
    try:
        source, spacing, affine = told["source"], told["spacing"], told["affine"]
        digest, sequence, kind = str(source["sha256"]), source["sequence"], str(source["format"])
        if not re.fullmatch(r"[0-9a-f]{64}|", digest) or not _FORMATS.fullmatch(kind):
            raise ValueError("a strange source")
        return Study(
            pixels,
            Source(str(source["name"])[:255], kind, digest, None if sequence is None else str(sequence)[:40]),
            None if spacing is None else tuple(None if v is None else float(v) for v in spacing),  # type: ignore[arg-type]
            None if affine is None else np.array(affine, np.float64),
            tuple(str(w)[:400] for w in told["warnings"][:50]),
            None if told.get("headers") is None else Headers.from_json(told["headers"]),
            None if told.get("grid") is None else Grid.from_json(told["grid"]),
        )
    except (ValueError, KeyError, TypeError) as e:
        raise DamagedScan("The reader's answer makes no sense, so the file is damaged or hostile; export it again.") from e


# --- the child's side ------------------------------------------------------------------------------------------------


def _do(request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    paths = [Path(p) for p in request["paths"]]
    if request["do"] == "study":
        found = read.read_files(paths, request["name"])
        told = {
            "source": {
                "name": found.source.name, "format": found.source.format, "sha256": found.source.sha256,
                "sequence": found.source.sequence,
            },
            "spacing": found.spacing, "affine": None if found.affine is None else found.affine.tolist(),
            "warnings": found.warnings, "headers": None if found.headers is None else found.headers.to_json(),
            "grid": None if found.grid is None else found.grid.to_json(),
        }  # fmt: skip
        return told, found.pixels
    if request["do"] == "group":
        number = {p: k for k, p in enumerate(paths)}
        return {"groups": [[number[p] for p in g] for g in read.group_scans(paths)]}, np.zeros(1, np.float32)
    truth = masks.read_mask(paths[0], (request["shape"][0], request["shape"][1]))
    return {"meaning": truth.meaning}, truth.tumor.astype(np.float32)


def _serve(channel: socket.socket) -> None:
    """Do one request under limits and answer; the caller ends the process."""
    import resource  # which Windows does not have

    gc.disable()  # it would copy the parent's pages, and the process ends soon
    seconds = _limit(SECONDS_VARIABLE, SECONDS)
    for kind, limit in (
        (resource.RLIMIT_AS, _limit(MEMORY_VARIABLE, MEMORY)),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),  # no file can be written
        (resource.RLIMIT_CORE, 0),  # no patient's pixels in a core dump
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower limit stands already, or macOS has no such one
            resource.setrlimit(kind, (limit, limit))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    (length,) = struct.unpack("<I", _exactly(channel, 4))
    request = json.loads(_exactly(channel, length))
    try:
        with read.memory_told(request["paths"]):
            told, values = _do(request)
            values = np.ascontiguousarray(values, np.float32)
        told["shape"] = values.shape
        parts: list[Any] = [json.dumps(told).encode(), values.data.cast("B")]
    except ScanError as e:
        parts = [json.dumps({"refused": type(e).__name__, "words": str(e)}).encode()]
    channel.sendall(struct.pack("<I", len(parts[0])))
    for part in parts:
        channel.sendall(part)


def _preload() -> None:
    """Import what the readers import late, so that no child has to."""
    for module in ("neurovision.scan.dicom", "nibabel", "nibabel.orientations", "imagecodecs", "openjpeg"):
        with contextlib.suppress(ImportError, ScanError):  # without an optional package its files are refused
            importlib.import_module(module)
    from PIL import Image

    Image.init()
    gc.freeze()


def main(descriptor: int) -> None:
    """Be the first process: fork a child for every channel that comes over the control socket, until it closes."""
    _preload()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the page, which then closes the control socket
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    with socket.socket(fileno=descriptor) as control:
        while True:
            message, found, _, _ = socket.recv_fds(control, 1, 1)
            if not message:
                return
            for number in found:
                if os.fork() == 0:
                    code = 1
                    try:
                        control.close()
                        _serve(socket.socket(fileno=number))
                        code = 0
                    finally:
                        os._exit(code)  # whatever happened, the child must not go on in this loop
                os.close(number)


if __name__ == "__main__":
    main(int(sys.argv[1]))
