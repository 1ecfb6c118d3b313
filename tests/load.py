"""Load on the page through its HTTP API: ``python -m tests.load --clients 32 --seconds 300``.

Every client has its own phantom and compares what it gets with what the same phantom gives outside the server. Two
rounds: the clients alone, then the same beside one that uploads garbage and one that disconnects in the middle. The
counts go into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # as pytest has it
from server import Page, Refused, multipart, page

from neurovision.ensemble.pipeline import Analyzer
from neurovision.scan.phantom import KINDS, phantom
from neurovision.scan.read import read_bytes
from neurovision.views.ui.case import analyze
from neurovision.views.ui.read import findings_json, overlay_of

LIMITS = ("UPLOADS_PER_MINUTE", "CALLS_PER_MINUTE", "PLACES", "CONNECTIONS", "PAGES")
OFF = {f"NEUROVISION_{limit}": "0" for limit in LIMITS}  # all clients have one address here
ORDERLY = ("queue is full", "too many", "a minute are taken")


@dataclass
class Result:
    """What a round came to.

    Attributes:
        seconds: Of each right answer, from upload to overlay.
        counts: ``right, wrong, full, lost`` requests, and what the disturbers did.
        memory: Bytes of the server, once a second.
        faults: The first lost or wrong answers in words.
    """

    seconds: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def growth(self) -> float:
        """Memory of the last fifth over the second fifth, both by their medians; the first fifth warms up."""
        n = len(self.memory) // 5
        if n < 2:
            return 1.0
        return statistics.median(self.memory[-n:]) / statistics.median(self.memory[n : 2 * n])

    def quantile(self, share: float) -> float:
        """Seconds that a share of the right answers took at most."""
        return float(np.quantile(self.seconds, share)) if self.seconds else float("nan")


def picture(client: int) -> bytes:
    """A client's own phantom as a PNG; no two are alike."""
    study, _ = phantom(KINDS[client % len(KINDS)], 700 + client, 192 + 2 * (client % 16))
    buffer = io.BytesIO()
    Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def truth(analyzer: Analyzer, client: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The overlay and the findings that a client must get."""
    case = analyze(analyzer, read_bytes(picture(client), f"client-{client}.png"))
    return overlay_of(case), _lasting(findings_json(case))


def _lasting(findings: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in findings.items() if k != "timing_ms"}


def run(page: Page, analyzer: Analyzer, clients: int, seconds: float, disturbed: bool) -> Result:
    """One round."""
    result, lock, end = Result(), threading.Lock(), threading.Event()
    expected = [truth(analyzer, k) for k in range(clients)]

    def visit(client: int) -> None:
        data, (overlay, findings) = picture(client), expected[client]
        while not end.is_set():
            start = time.perf_counter()
            try:
                (path,) = page.upload((f"client-{client}.png", data))
                png, _, told = page.predict(path)
            except (Refused, OSError, ValueError, KeyError) as e:
                orderly = isinstance(e, Refused) and any(w in e.words.lower() for w in ORDERLY)
                with lock:
                    result.counts["full" if orderly else "lost"] += 1
                    if not orderly:
                        result.faults.append(f"client {client}: {e!r}"[:300])
                end.wait(0.5)
                continue
            took = time.perf_counter() - start
            same = np.array_equal(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")), overlay)
            with lock:
                if same and _lasting(told) == findings:
                    result.counts["right"] += 1
                    result.seconds.append(took)
                else:
                    result.counts["wrong"] += 1
                    result.faults.append(f"client {client}: another picture or other findings")

    def garbage() -> None:
        rng = np.random.default_rng(0)
        while not end.is_set():
            data = rng.integers(0, 256, 20_000, np.uint8).tobytes()
            with contextlib.suppress(OSError):
                try:
                    (path,) = page.upload(("garbage.png", data))
                    page.predict(path)
                    outcome = "garbage taken"
                except Refused:
                    outcome = "garbage refused"
                with lock:
                    result.counts[outcome] += 1
            end.wait(0.2)

    def disconnect() -> None:
        body, kind = multipart(("half.png", picture(0)))
        while not end.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", page.port), 10) as wire:
                head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
                wire.sendall(head.encode() + b"\r\n\r\n" + body[: len(body) // 2])
                with lock:
                    result.counts["disconnected"] += 1
            end.wait(0.3)

    def watch() -> None:
        while not end.wait(1):
            result.memory.append(page.memory())

    jobs: list[tuple[Callable[..., None], tuple[int, ...]]] = [(visit, (k,)) for k in range(clients)]
    jobs += [(watch, ()), *([(garbage, ()), (disconnect, ())] if disturbed else [])]
    threads = [threading.Thread(target=job, args=args, daemon=True) for job, args in jobs]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    end.set()
    for thread in threads:
        thread.join(300)
        if thread.is_alive():
            result.counts["lost"] += 1
            result.faults.append("a client got no answer in 300 seconds")
    return result


def main() -> None:
    """Parse the arguments, run both rounds, record; exit code 1 for a wrong or lost answer or growing memory."""
    from tests.reliability import machine, record, table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300, help="of each of the two rounds")
    parser.add_argument("--keep-docs", action="store_true", help="do not write docs/reliability.md")
    given = parser.parse_args()
    analyzer = Analyzer.load()
    rows, failed, faults = [], False, []
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        for disturbed in (False, True):
            with page(Path(name) / f"round-{disturbed:d}", real=True, **OFF) as served:
                found = run(served, analyzer, given.clients, given.seconds, disturbed)
                log = served.log.read_text()
            counts = found.counts
            bad = counts["wrong"] or counts["lost"] or found.growth() > 1.1 or not counts["right"] or "Traceback" in log
            failed |= bool(bad)
            faults += found.faults[:5]
            beside = f"{counts['garbage refused']} garbage refused, {counts['garbage taken']} taken, "
            rows.append([
                f"{given.clients} clients, {given.seconds:.0f} s",
                *(str(counts[k]) for k in ("right", "wrong", "lost", "full")),
                *(f"{found.quantile(q):.2f} s" for q in (0.5, 0.95, 0.99)),
                f"{max(found.memory, default=0) / 1e6:.0f} MB, {100 * (found.growth() - 1):+.1f} %",
                beside + f"{counts['disconnected']} disconnected" if disturbed else "nobody",
            ])  # fmt: skip
            print(*rows[-1], *found.faults[:5], sep="\n")
    head = ["round", "right", "wrong", "lost", "queue full", "p50", "p95", "p99", "memory, its growth", "beside them"]
    words = f"`python -m tests.load --clients {given.clients} --seconds {given.seconds:.0f}`; weights "
    lines = [words + f"{analyzer.manifest.digest[:12]}; {machine()}.", "", *table(head, rows)]
    if not given.keep_docs:
        record("load", [*lines, "", *(f"- {f}" for f in faults)] if faults else lines)
    sys.exit(failed)


if __name__ == "__main__":
    main()
