"""How fast, against the naive way, measured in one run; everything but milliseconds is a ratio."""

from __future__ import annotations

import datetime
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from neurovision.classes import FIRST_TUMOR
from neurovision.ensemble.cache import versions
from neurovision.ensemble.engine import KerasEngine, ReferenceEngine, has_gpu
from neurovision.ensemble.features import Scene, label_map, pixel_features
from neurovision.ensemble.looks import look_twice
from neurovision.ensemble.manifest import Manifest, Networks
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.voter import ManualVotingClassifier, Voter, blend, load_forest
from neurovision.errors import DataError
from neurovision.machine import cores, processor, tree_mb
from neurovision.scan.phantom import KINDS, phantom, phantom_volume
from neurovision.scan.prepare import Canvas, prepare, standardize
from neurovision.scan.read import read
from neurovision.scan.study import Study
from neurovision.training.dataset import load_index
from neurovision.training.provenance import facts_of_network

TURN = 20  # slices; then the other way has its turn, so that neither is timed while the other's threads come to rest
VOLUME = 155  # slices
GROWING = (1, 4, 16, 64, 500)  # slices
PACKAGES = ("openvino", "keras", "tensorflow-cpu", "scikit-learn", "xgboost-cpu", "numpy")
BATCH = 64  # slices at once, of the Keras engine
FOLD = 4  # that no network or tree was fitted on
MARKS = ("<!-- measured -->", "<!-- /measured -->")
TARGETS = {"slice": 12.0, "networks": 8.0, "vote": 6.0, "volume": 1.5, "cold_start": 2.0}
PRODUCT = """
import sys
from pathlib import Path
from neurovision.ensemble.pipeline import Analyzer
from neurovision.machine import peak_mb
from neurovision.scan.read import read
from neurovision.scan.study import Study
from neurovision.scan.phantom import phantom_volume
analyzer = Analyzer.load(Path(sys.argv[1]), sys.argv[2])
analyzer.analyze(read(sys.argv[3]))
print("findings", flush=True)
for _ in analyzer.analyze_slices(phantom_volume("glioma", 3, 160, VOLUME)[0]) if VOLUME else ():
    pass
print(peak_mb())
"""
NAIVE_START = """
import sys
import tensorflow
from pathlib import Path
from neurovision.ensemble.weights import load_manifest
from neurovision.segmenters import build
manifest = load_manifest(Path(sys.argv[1]))
models = [build(m.name, (manifest.size, manifest.size, 1), **m.config) for m in manifest.members]
print("built", flush=True)
"""


class NaiveEngine:
    """``model.predict``, member after member."""

    device = "CPU"

    def __init__(self, reference: ReferenceEngine) -> None:
        self._members, self._classifier = reference.members, reference.classifier

    def classify(self, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As :class:`~neurovision.ensemble.engine.Engine`."""
        answers, features = self._classifier.predict(canvases[..., None], verbose=0)  # type: ignore[union-attr]
        return answers, features

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """As :class:`~neurovision.ensemble.engine.Engine`."""
        return np.stack([m.predict(canvases[..., None], verbose=0) for m in self._members])


class NaiveAnalyzer(Analyzer):
    """Every class of every map is taken to the file's own pixels before it is decided."""

    def restore(self, canvas: Canvas, probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
        """As :meth:`~neurovision.ensemble.pipeline.Analyzer.restore`."""
        return label_map(canvas.restore_probabilities(probabilities), threshold)


class NaiveVoter(Voter):
    """scikit-learn and XGBoost, as they come, and the members' weighted mean, on every pixel."""

    def __init__(self, manifest: Manifest) -> None:
        from xgboost import XGBClassifier

        boost = XGBClassifier()
        boost.load_model(bytearray(manifest.read(manifest.vote.boost)))
        forest = load_forest(manifest.read(manifest.vote.forest))
        forest.set_params(n_jobs=None)
        parts = [forest, boost, *blend(manifest)]
        super().__init__(ManualVotingClassifier(parts, len(manifest.classes)), manifest.vote.context)

    def vote_maps(
        self, softmax: np.ndarray, scenes: Sequence[Scene] | None = None, everywhere: bool = True
    ) -> np.ndarray:
        """As :meth:`~neurovision.ensemble.voter.Voter.vote_maps`, one processor asking for every pixel."""
        seen = scenes if self.context and scenes is not None else [None] * softmax.shape[1]
        features = np.concatenate([pixel_features(softmax[:, n], scene=s) for n, s in enumerate(seen)])
        return self.classifier.predict_proba(features).reshape(softmax.shape[1:])


@dataclass(frozen=True)
class Scan:
    """One file to time, and its annotated tumor, bool ``(H, W)``, where one is drawn."""

    path: Path
    truth: np.ndarray | None


def bench(
    weights: Path,
    data: Path | None,
    engine: str,
    repeats: int,
    starts: int,
    scans: int,
) -> dict[str, Any]:
    """Measure everything.

    Args:
        weights: The weights folder.
        data: The prepared folder of real scans; phantoms stand in where it is None.
        engine: One of ``engine.ENGINES``.
        repeats: Runs that a median is taken of.
        starts: Processes started, of each kind, that the median of a cold start is taken of.
        scans: Scans on which slices are timed and labels compared, each once.

    Returns:
        ``ratios``, ``milliseconds`` (of the product and of the naive way, by stage), ``labels_changed`` (pixels in
        10,000), ``dice_shift``, ``peak_memory_mb``, ``volume_memory_ratio``, ``gpu`` and what is said of the run.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")  # before this run adds its own
    start = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = [weights.resolve(), engine, phantom_scans(Path(folder), 1)[0].path]
        memory = _memory(arguments)
        cold = [
            [_child(code, arguments)[0] * 1e3 for code in (PRODUCT.replace("VOLUME", "0"), NAIVE_START)]
            for _ in tqdm(range(starts + 1), desc="cold starts", disable=None)
        ][1:]
        analyzer = Analyzer.load(weights, engine)
        reference = ReferenceEngine(analyzer.manifest)
        naive = NaiveAnalyzer(analyzer.manifest, NaiveEngine(reference), NaiveVoter(analyzer.manifest))
        chosen = phantom_scans(Path(folder), scans) if data is None else _real(data, scans)
        result = {**compare_slices(analyzer, naive, chosen), **memory}
        canvas = standardize(prepare(read(chosen[0].path).gray(), analyzer.manifest.size).pixels)[None]
    times = result["milliseconds"]
    times["cold_start"] = [round(statistics.median(kind)) for kind in zip(*cold, strict=True)]
    times["one canvas"] = [timed(lambda e=e: e.predict(canvas), repeats) for e in (analyzer.engine, reference)]  # type: ignore[misc]
    study, _ = phantom_volume("glioma", 3, 160, VOLUME)
    times["volume"] = [
        timed(lambda: list(analyzer.analyze_slices(study)), 1, 0),
        timed(lambda: [analyzer.analyze(study, k) for k in range(VOLUME)], 1, 0),
    ]
    sources = {"slice": "total", "networks": "one canvas"}
    pairs = {key: times[sources.get(key, key)] for key in TARGETS}
    kind = "phantoms" if data is None else f"real scans of fold {FOLD}"
    return {
        **result,
        "ratios": {key: round(naive_ms / ms, 2) for key, (ms, naive_ms) in pairs.items()},
        "gpu": keras_speed(analyzer.manifest, repeats) if has_gpu() else None,
        "weights": analyzer.manifest.digest[:12],
        "runs": f"medians of {repeats} ({starts} starts; slices: {scans} {kind}, once each) in "
        f"{perf_counter() - start:.0f} s",
        "machine": f"{processor()}, {cores()} threads, load {load:.2f} before; {type(analyzer.engine).__name__} "
        f"{getattr(analyzer.engine, 'precision', 'f32')}",
        "versions": {"Python": platform.python_version(), **dict(zip(PACKAGES, versions(*PACKAGES), strict=True))},
    }


def phantom_scans(folder: Path, count: int) -> list[Scan]:
    """Phantoms of every kind, written into ``folder``."""
    from PIL import Image

    scans = []
    for k in range(count):
        study, truth = phantom(KINDS[k % len(KINDS)], 50 + k)
        path = folder / f"{k}.png"
        Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8)).save(path)
        scans.append(Scan(path, truth >= FIRST_TUMOR))
    return scans


def _real(data: Path, count: int) -> list[Scan]:
    """Scans of fold FOLD, of every data set alike; color files are read by their brightness, as a user's would be."""
    items = load_index(data, folds=[FOLD])
    chosen = [items[k] for k in np.linspace(0, len(items) - 1, count).round().astype(int)]
    return [Scan(i.image, i.truth()) for i in chosen]


def compare_slices(analyzer: Analyzer, naive: Analyzer, scans: Sequence[Scan]) -> dict[str, Any]:
    """Slices both ways, TURN at a time: milliseconds by stage, and whether the labels stay."""
    ways = (analyzer, naive)
    for each in ways:
        for scan in scans[:2]:
            each.analyze(read(scan.path))
    times: dict[str, list[list[float]]] = {}
    masks: list[list[np.ndarray]] = [[], []]
    bar = tqdm(total=2 * len(scans), desc="slices", unit="scan", disable=None)
    for first in range(0, len(scans), TURN):
        for number, each in enumerate(ways):
            for scan in scans[first : first + TURN]:
                start = perf_counter()
                study = read(scan.path)
                decoded = perf_counter()
                findings = each.analyze(study)
                whole = perf_counter() - start
                masks[number].append(findings.mask)
                if findings.status == "ok":  # a rejected scan has no stages to compare
                    stages = {"decode": (decoded - start) * 1e3, **findings.timing_ms, "total": whole * 1e3}
                    for stage, ms in stages.items():
                        times.setdefault(stage, [[], []])[number].append(ms)
                bar.update()
    bar.close()
    pairs = list(zip(*masks, strict=True))
    changed = sum(int((a != b).sum()) for a, b in pairs)
    shifts = [
        _dice(a, scan.truth) - _dice(b, scan.truth)
        for (a, b), scan in zip(pairs, scans, strict=True)
        if scan.truth is not None and scan.truth.any() and scan.truth.shape == a.shape
    ]
    return {
        "milliseconds": {stage: [round(statistics.median(v), 2) for v in both] for stage, both in times.items()},
        "labels_changed": round(changed / sum(a.size for a, _ in pairs) * 1e4, 3),
        "dice_shift": round(abs(float(np.mean(shifts))), 6) if shifts else 0.0,
    }


def _dice(mask: np.ndarray, truth: np.ndarray) -> float:
    tumor = mask >= FIRST_TUMOR
    return float(2 * (tumor & truth).sum() / max(tumor.sum() + truth.sum(), 1))


def keras_speed(manifest: Networks, repeats: int, batch: int = BATCH) -> dict[str, Any]:
    """The product's Keras engine, both looks and all, on the device that Keras' backend computes on.

    Returns:
        ``device``, ``backend``, ``ms_a_slice`` (one slice at a time) and ``slices_a_second`` (``batch`` at once).
    """
    engine = KerasEngine(manifest)
    sizes = [np.zeros((n, manifest.size, manifest.size), np.float32) for n in (1, batch)]
    one, many = (timed(partial(look_twice, engine, canvases), repeats) for canvases in sizes)
    told = facts_of_network(None)
    found = {"ms_a_slice": one, "slices_a_second": round(batch / many * 1e3, 1), "batch": batch}
    return {**found, "backend": told["backend"], "device": told["hardware"]}


def timed(run: Callable[[], Any], repeats: int, warm: int = 2) -> float:
    """Median milliseconds of ``repeats`` runs after ``warm`` that warm up."""
    times = []
    for _ in range(repeats + warm):
        start = perf_counter()
        run()
        times.append((perf_counter() - start) * 1e3)
    return round(statistics.median(times[warm:]), 2)


def _memory(arguments: Sequence[object]) -> dict[str, float]:
    """Highest resident memory: of the served page with its children, and of a process for a volume against a slice."""
    one, many = (float(_child(PRODUCT.replace("VOLUME", str(n)), arguments)[1].split()[-1]) for n in (0, VOLUME))
    return {"peak_memory_mb": _served_peak_mb(arguments[0], arguments[2]), "volume_memory_ratio": round(many / one, 3)}


def _served_peak_mb(weights: object, scan: object) -> float:
    """Start the page as ``python app.py`` does, send it twelve scans at once, and add up its processes meanwhile."""
    from gradio_client import Client, handle_file

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, peak, done = f"http://127.0.0.1:{port}", [0.0], threading.Event()
    environment = {**os.environ, "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, "app.py"], cwd=Path(__file__).parents[2], env=environment | {"NEUROVISION_WEIGHTS": str(weights)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as page:  # fmt: skip

        def look() -> None:
            while not done.wait(0.05):
                peak[0] = max(peak[0], tree_mb(page.pid))

        threading.Thread(target=look, daemon=True).start()
        try:
            _wait_for(f"{url}/readyz", page)
            client = Client(url, verbose=False, analytics_enabled=False, download_files=False)
            for job in [client.submit([handle_file(str(scan))], api_name="/predict") for _ in range(12)]:
                job.result()
        finally:
            done.set()
            page.terminate()
    return round(peak[0], 1)


def _wait_for(url: str, page: subprocess.Popen[bytes], seconds: float = 300) -> None:
    waited = perf_counter()
    while page.poll() is None and perf_counter() - waited < seconds:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            sleep(0.2)
    raise RuntimeError("the page did not get ready")


def _child(code: str, arguments: Sequence[object]) -> tuple[float, str]:
    """Run code in a new process; seconds until its first line, and all of its output."""
    command = [sys.executable, "-c", code, *(str(a) for a in arguments)]
    package = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    start = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        seconds = perf_counter() - start
        rest = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"a benchmark's process ended with {process.returncode}")
    return seconds, first + rest


def table(result: dict[str, Any]) -> str:
    """The result as the tables that a person reads."""
    ratios, memory = result["ratios"], result["volume_memory_ratio"]
    rows = [(name, f"{ratios[name]:.2f} x", f">= {least:g} x", ratios[name] >= least) for name, least in TARGETS.items()]
    rows += [
        ("peak memory", f"{result['peak_memory_mb']:.0f} MB", "< 1500 MB", result["peak_memory_mb"] < 1500),
        ("volume's memory", f"{memory:.2f} x", "<= 2 x", memory <= 2),
        ("labels changed", f"{result['labels_changed']:.2f} in 10,000", "<= 5", result["labels_changed"] <= 5),
        ("Dice shift", f"{result['dice_shift']:.5f}", "< 0.001", result["dice_shift"] < 0.001),
    ]
    return "\n".join([
        f"{'what':16} {'measured':>18} {'aim':>10}",
        *(f"{what:16} {value:>18} {aim:>10}  {'yes' if met else 'NO'}" for what, value, aim, met in rows),
        "",
        f"{'milliseconds':24} {'product':>10} {'naive':>10} {'ratio':>8}",
        *(f"{what:24} {product:>10.1f} {naive:>10.1f} {naive / max(product, 1e-9):>6.1f} x"
          for what, (product, naive) in result["milliseconds"].items()),
        "",
        "one canvas: the networks alone, one look; naive there: every member's model(x), eagerly in float32",
        "cold_start: naive there: TensorFlow imported and the members built, without weights",
        "volume: naive there: the product, slice after slice",
        keras_line(result["gpu"]) if result["gpu"] else "Keras engine on a GPU: not measured: no GPU was at hand",
        result["runs"],
        f"{result['machine']}; weights {result['weights']}",
        ", ".join(f"{k} {v}" for k, v in result["versions"].items() if v),
    ])  # fmt: skip


def keras_line(found: dict[str, Any]) -> str:
    """The result of :func:`keras_speed` as a person reads it."""
    return (
        f"Keras engine on {found['device']} ({found['backend']}): {found['ms_a_slice']:.1f} ms a slice, "
        f"{found['slices_a_second']:.1f} slices a second at batch {found['batch']}"
    )


def write_measured(page: Path, result: dict[str, Any]) -> None:
    """Put the tables between a page's marks; everything outside them stays.

    Raises:
        DataError: The page has no marks.
    """
    opening, closing = MARKS
    text = page.read_text()
    before, found, rest = text.partition(opening)
    _, ended, after = rest.partition(closing)
    if not (found and ended):
        raise DataError(f"{page.name} has no line {opening} with a line {closing} after it; add both.")
    day = datetime.date.today().isoformat()
    block = f"`neurovision bench` on {day}:\n\n```\n{table(result)}\n```"
    page.write_text(f"{before}{opening}\n{block}\n{closing}{after}")


def scaling(analyzer: Analyzer, path: Path) -> dict[str, dict[int, float]]:
    """Plot cost as work grows: the picture's side, the number of slices, the number of members; milliseconds.

    The tiniest pictures are refused, which is quick. Beyond the shipped members, members are run again.
    """
    head = phantom("glioma", 4, 512)[0]
    sides = {}
    for side in (1, 8, 32, 64, 128, 256, 512):
        pixels = cv2.resize(head.gray(), (side, side), interpolation=cv2.INTER_AREA)[None, ..., None]
        sides[side] = timed(partial(analyzer.analyze, Study(np.clip(pixels, 0, 1), head.source)), 5)
    count = max(GROWING)
    study, _ = phantom_volume("glioma", 3, 128, count)
    slices = {}
    for n in GROWING:
        middle = range(count // 2 - n // 2, count // 2 - n // 2 + n)
        start = perf_counter()
        for _ in analyzer.analyze_slices(study, middle):
            pass
        slices[n] = (perf_counter() - start) * 1e3
    parts = [_alone(analyzer.engine, k, analyzer.manifest.size) for k in range(len(analyzer.manifest.members))]
    members = {n: sum(parts[k % len(parts)] for k in range(n)) for n in range(1, 9)}
    found = {"side of the picture, px": sides, "slices": slices, "members": members}
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for axis, (name, points) in zip(axes, found.items(), strict=True):
        axis.plot(list(points), list(points.values()), marker="o")
        axis.set(xlabel=name, ylabel="ms")
        axis.grid(alpha=0.3)
        if name == "slices":
            axis.set(xscale="log", yscale="log")
        else:
            axis.set(ylim=(0, None))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return found


def _alone(engine: Any, member: int, size: int) -> float:
    """Milliseconds of one member of an OpenVINO engine by itself."""
    compiled = engine.compile_member(member).create_infer_request()
    canvas = np.zeros((1, size, size, 1), np.float32)
    return timed(lambda: compiled.infer(canvas), 7)
