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
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from neurovision.classes import FIRST_TUMOR
from neurovision.ensemble.cache import versions
from neurovision.ensemble.engine import Engine, KerasEngine, ReferenceEngine, has_gpu, predict_both_ways
from neurovision.ensemble.features import Scene, label_map, pixel_features
from neurovision.ensemble.manifest import Manifest
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.voter import ManualVotingClassifier, Voter, blend, load_forest
from neurovision.errors import DataError
from neurovision.machine import cores, processor
from neurovision.scan.phantom import KINDS, phantom, phantom_volume
from neurovision.scan.prepare import Canvas, prepare, standardize
from neurovision.scan.read import read
from neurovision.scan.study import Study
from neurovision.training.dataset import load_index

REPEATS = 15
SCANS = 40  # on which slices are timed and labels compared
VOLUME = 155  # slices
GROWING = (1, 4, 16, 64, 500)  # slices
PACKAGES = ("openvino", "keras", "tensorflow-cpu", "scikit-learn", "xgboost-cpu", "numpy")
FOLD = 4  # that took no part in fitting
MARKS = ("<!-- measured -->", "<!-- /measured -->")
TARGETS = {"slice": 12.0, "networks": 8.0, "vote": 6.0, "volume": 1.5, "cold_start": 2.0}
PRODUCT = """
import sys
from pathlib import Path
from neurovision.ensemble.pipeline import Analyzer
from neurovision.scan.read import read
from neurovision.scan.study import Study
from neurovision.scan.phantom import phantom_volume
analyzer = Analyzer.load(Path(sys.argv[1]), sys.argv[2])
analyzer.analyze(read(sys.argv[3]))
print("findings", flush=True)
{then}
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
PEAK = """
import resource
try:
    with open("/proc/self/status") as status:
        print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")))
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1))
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
        super().__init__(ManualVotingClassifier([forest, boost, *blend(manifest)]), manifest.vote.context)

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
    engine: str = "auto",
    repeats: int = REPEATS,
    starts: int = REPEATS,
    scans: int = SCANS,
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
        ``ratios``, ``labels_changed`` (pixels in 10,000), ``dice_shift``, ``matmul_fraction``, ``peak_memory_mb``,
        ``milliseconds`` by stage of the product and of the naive way, ``processor_milliseconds`` and their ratios,
        ``gpu``, ``machine`` and what else is said of the run.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # before this run adds its own
    start = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = [weights.resolve(), engine, phantom_scans(Path(folder), 1)[0].path]
        memory = _memory(arguments)  # first, as it is what other software may spoil
        cold_start, starts_ms = _cold_start(arguments, starts)
        analyzer = Analyzer.load(weights, engine)
        reference = ReferenceEngine(analyzer.manifest)
        naive = NaiveAnalyzer(analyzer.manifest, NaiveEngine(reference), NaiveVoter(analyzer.manifest))
        chosen = phantom_scans(Path(folder), scans) if data is None else _real(data, scans)
        result = {**compare_slices(analyzer, naive, chosen), **memory}
        result.update(_networks(analyzer.engine, reference, chosen, analyzer.manifest.size, repeats))
    result["processor_milliseconds"]["networks"] = result["networks"].pop("processor_milliseconds")
    result["milliseconds"]["cold_start"] = starts_ms
    result["ratios"] |= {"networks": result["networks"]["ratio"], "cold_start": cold_start, **_volume(analyzer)}
    result["ratios"] = {key: round(result["ratios"][key], 2) for key in TARGETS}
    result["gpu"] = _gpu(analyzer.manifest, repeats)
    result["machine"] = {
        "processor": processor(), "threads": cores(), "load_before": None if load is None else round(load, 2),
        "device": analyzer.engine.device, "engine": type(analyzer.engine).__name__,
        "precision": getattr(analyzer.engine, "precision", "f32"), "python": platform.python_version(),
        "versions": dict(zip(PACKAGES, versions(*PACKAGES), strict=True)),
    }  # fmt: skip
    kind = "phantoms" if data is None else f"real scans of fold {FOLD}"
    result["runs"] = {
        "repeats": repeats, "starts": starts, "scans": scans, "kind": kind, "volume": VOLUME,
        "seconds": round(perf_counter() - start),
    }  # fmt: skip
    result["weights"] = analyzer.manifest.digest[:12]
    return result


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
    """One slice and the vote alone, both ways, and whether the labels stay."""
    ways = {"fast": analyzer, "naive": naive}
    for each in ways.values():
        for scan in scans[:2]:
            each.analyze(read(scan.path))
    times: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    changed = pixels = 0
    shifts = []
    for scan in tqdm(scans, desc="slices", unit="scan", disable=None):
        masks = {}
        for name, each in ways.items():
            start, start_processor = perf_counter(), process_time()
            study = read(scan.path)
            decoded = perf_counter()
            findings = each.analyze(study)
            whole = (perf_counter() - start) * 1e3
            processor = (process_time() - start_processor) * 1e3
            masks[name] = findings.mask
            if findings.status == "ok":  # a rejected scan has no stages to compare
                stages = {"decode": (decoded - start) * 1e3, **findings.timing_ms, "total": whole, "processor": processor}
                for stage, ms in stages.items():
                    times[name].setdefault(stage, []).append(ms)
        changed += int((masks["fast"] != masks["naive"]).sum())
        pixels += masks["naive"].size
        if scan.truth is not None and scan.truth.any() and scan.truth.shape == masks["naive"].shape:
            shifts.append(_dice(masks["fast"], scan.truth) - _dice(masks["naive"], scan.truth))
    medians = {n: {stage: round(statistics.median(v), 2) for stage, v in times[n].items()} for n in ways}
    of_processor = [medians[name].pop("processor") for name in ways]
    return {
        "ratios": {
            "slice": medians["naive"]["total"] / medians["fast"]["total"],
            "vote": medians["naive"]["vote"] / medians["fast"]["vote"],
        },
        "labels_changed": round(changed / pixels * 1e4, 3),
        "dice_shift": round(abs(float(np.mean(shifts))), 6) if shifts else 0.0,
        "milliseconds": {**medians["fast"], "naive": medians["naive"]},
        "processor_milliseconds": {"slice": of_processor},
    }


def _dice(mask: np.ndarray, truth: np.ndarray) -> float:
    tumor = mask >= FIRST_TUMOR
    return float(2 * (tumor & truth).sum() / max(tumor.sum() + truth.sum(), 1))


def _networks(engine: Engine, reference: ReferenceEngine, scans: Sequence[Scan], size: int, repeats: int) -> dict[str, Any]:
    """The five networks alone, and their rate of arithmetic against a large matrix product."""
    canvas = standardize(prepare(read(scans[0].path).gray(), size).pixels)[None]
    fast, fast_processor = timed(lambda: engine.predict(canvas), repeats)
    eager, eager_processor = timed(lambda: reference.predict(canvas), repeats)
    side = 2048
    a, b = np.random.default_rng(0).normal(size=(2, side, side)).astype(np.float32)
    product, _ = timed(lambda: a @ b, repeats)
    operations = sum(_operations(m) for m in reference.members)
    rates = {"networks": operations / fast / 1e6, "matrix_product": 2 * side**3 / product / 1e6}
    return {
        "matmul_fraction": round(rates["networks"] / rates["matrix_product"], 3),
        "networks": {
            "ratio": eager / fast, "milliseconds": round(fast, 2), "eager_milliseconds": round(eager, 2),
            "processor_milliseconds": [round(fast_processor, 2), round(eager_processor, 2)],
            "gflop": round(operations / 1e9, 2), "gflop_per_second": {k: round(v, 1) for k, v in rates.items()},
        },
    }  # fmt: skip


def _gpu(manifest: Manifest, repeats: int) -> dict[str, Any] | None:
    """Slices a second through the networks, mirror images and all, where Keras computes on a GPU; else None."""
    if not has_gpu():
        return None
    engine = KerasEngine(manifest)
    found = {}
    for batch in (1, 64):
        canvases = np.zeros((batch, manifest.size, manifest.size), np.float32)
        ms, _ = timed(partial(predict_both_ways, engine, canvases), repeats)
        found[f"batch_{batch}"] = {
            "slices_per_second": round(batch / ms * 1e3, 1), "milliseconds_per_slice": round(ms / batch, 2)
        }  # fmt: skip
    return found


def _operations(model: Any) -> int:
    """Multiplications and additions of a model's convolutions for one canvas."""
    total = 0
    for layer in model._flatten_layers():
        kind = layer.__class__.__name__
        if kind not in ("Conv2D", "DepthwiseConv2D", "Conv2DTranspose"):
            continue
        grid = (layer.input if kind == "Conv2DTranspose" else layer.output).shape[1:3]
        total += 2 * int(np.prod(layer.kernel.shape)) * int(np.prod(grid))
    return total


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median milliseconds of ``repeats`` runs after two that warm up: by the clock, and of processor time."""
    clock, processor = [], []
    for _ in range(repeats + 2):
        start, start_processor = perf_counter(), process_time()
        run()
        clock.append((perf_counter() - start) * 1e3)
        processor.append((process_time() - start_processor) * 1e3)
    return statistics.median(clock[2:]), statistics.median(processor[2:])


def _volume(analyzer: Analyzer) -> dict[str, float]:
    study, _ = phantom_volume("glioma", 3, 160, VOLUME)
    for _ in analyzer.analyze_slices(study, range(16)):  # warm-up
        pass
    start = perf_counter()
    for _ in analyzer.analyze_slices(study):
        pass
    together = perf_counter() - start
    start = perf_counter()
    for k in range(VOLUME):
        analyzer.analyze(study, k)
    return {"volume": (perf_counter() - start) / together}


def _cold_start(arguments: Sequence[object], repeats: int) -> tuple[float, dict[str, float]]:
    """From the start of a process to its first words: the product's first findings, and five models built."""
    product, naive = [], []
    for _ in tqdm(range(repeats + 1), desc="cold starts", disable=None):
        product.append(_child(PRODUCT.format(then=""), arguments)[0] * 1e3)
        naive.append(_child(NAIVE_START, arguments)[0] * 1e3)
    fast, slow = statistics.median(product[1:]), statistics.median(naive[1:])
    return slow / fast, {"product": round(fast), "naive": round(slow)}


def _memory(arguments: Sequence[object]) -> dict[str, float]:
    """Highest resident memory: of the served page with its children, and of a process for a volume against a slice."""
    volume = f'study, _ = phantom_volume("glioma", 3, 160, {VOLUME})\nfor _ in analyzer.analyze_slices(study): pass\n'
    slice_peak, volume_peak = (
        int(_child(PRODUCT.format(then=then + PEAK), arguments)[1].split()[-1]) / 1024 for then in ("", volume)
    )
    return {"peak_memory_mb": _served_peak_mb(*arguments), "volume_memory_ratio": round(volume_peak / slice_peak, 3)}


def _served_peak_mb(weights: object, engine: object, scan: object) -> float:
    """Start the page as ``python app.py`` does, send it scans, and add up its process tree.

    Args:
        weights: The weights folder.
        engine: Not asked for: the page chooses by itself.
        scan: A picture.
    """
    root = Path(__file__).parents[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "NEUROVISION_WEIGHTS": str(weights)
    }  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "app.py"], cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as page:
        try:
            peak, done = 0.0, False
            with ThreadPoolExecutor(1) as visitor:
                visits = visitor.submit(_visit, url, str(scan), page)
                while not done:
                    done = visits.done()
                    peak = max(peak, tree_mb(page.pid))
                    sleep(0.05)
                visits.result()
        finally:
            page.terminate()
    return round(peak, 1)


def _visit(url: str, scan: str, page: subprocess.Popen[bytes]) -> None:
    """Wait until the page is ready, then send the scan twelve times at once, for which the page has a queue."""
    from gradio_client import Client, handle_file

    waited = perf_counter()
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=10):
                break
        except OSError:
            if page.poll() is not None or perf_counter() - waited > 300:
                raise RuntimeError("the page did not get ready") from None
            sleep(0.2)
    client = Client(url, verbose=False, analytics_enabled=False, download_files=False)
    jobs = [client.submit(handle_file(scan), api_name="/predict") for _ in range(12)]
    for job in jobs:
        job.result()


def tree_mb(root: int) -> float:
    """Highest resident memory so far of a process and its living descendants, added up, in MB.

    Pages that they share count more than once, so that this is rather too much. 0 where there is no Linux' /proc.
    """
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            parents.setdefault(int(status.read_text().rsplit(")", 1)[1].split()[1]), []).append(int(status.parent.name))
    total, family = 0, [root]
    while family:
        pid = family.pop()
        family += parents.get(pid, [])
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return total / 1024


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
    ratios, machine, runs = result["ratios"], result["machine"], result["runs"]
    rows = [(name, f"{ratios[name]:.2f} x", f">= {least:g} x", ratios[name] >= least) for name, least in TARGETS.items()]
    rows += [
        ("matmul fraction", f"{result['matmul_fraction']:.2f}", ">= 0.35", result["matmul_fraction"] >= 0.35),
        ("peak memory", f"{result['peak_memory_mb']:.0f} MB", "< 1500 MB", result["peak_memory_mb"] < 1500),
        ("volume's memory", f"{result['volume_memory_ratio']:.2f} x", "<= 2 x", result["volume_memory_ratio"] <= 2),
        ("labels changed", f"{result['labels_changed']:.2f} in 10,000", "<= 5", result["labels_changed"] <= 5),
        ("Dice shift", f"{result['dice_shift']:.5f}", "< 0.001", result["dice_shift"] < 0.001),
    ]
    lines = [f"{'what':16} {'measured':>18} {'aim':>10}"]
    lines += [f"{what:16} {value:>18} {aim:>10}  {'yes' if met else 'NO'}" for what, value, aim, met in rows]
    naive = result["milliseconds"]["naive"]
    lines += ["", f"{'milliseconds':24} {'product':>10} {'naive':>10} {'ratio':>8}"]
    lines += [_row(stage, result["milliseconds"][stage], naive[stage]) for stage in naive]
    networks, starts = result["networks"], result["milliseconds"]["cold_start"]
    lines.append(_row("networks, one canvas *", networks["milliseconds"], networks["eager_milliseconds"]))
    lines.append(_row("cold start **", starts["product"], starts["naive"]))
    lines += ["", "of processor time"]
    lines += [_row(what, *pair) for what, pair in result["processor_milliseconds"].items()]
    rates = networks["gflop_per_second"]
    gpu = result["gpu"] or {}
    lines += [
        "",
        "*  naive here: five model(x), eagerly in float32, as the aim has it; one canvas without its mirror image",
        "** naive here: TensorFlow imported and five models built, without weights",
        f"networks: {networks['gflop']} GFLOP a canvas, {rates['networks']} GFLOP/s; matrix product: "
        f"{rates['matrix_product']} GFLOP/s",
        *(f"GPU, {k.replace('_', ' ')}: {v['slices_per_second']} slices/s, {v['milliseconds_per_slice']} ms a slice"
          for k, v in gpu.items()),
        *(() if gpu else ("GPU: none at hand, so not measured",)),
        f"medians of {runs['repeats']} ({runs['starts']} starts; slices: {runs['scans']} {runs['kind']}, once each) in "
        f"{runs['seconds']} s",
        f"{machine['processor']}, {machine['threads']} threads, load {machine['load_before']} before; {machine['engine']} "
        f"{machine['precision']}; weights {result['weights']}",
        f"Python {machine['python']}, " + ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v),
    ]  # fmt: skip
    return "\n".join(lines)


def _row(what: str, product: float, naive: float) -> str:
    return f"{what:24} {product:>10.1f} {naive:>10.1f} {naive / max(product, 1e-9):>6.1f} x"


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
        sides[side] = timed(partial(analyzer.analyze, Study(np.clip(pixels, 0, 1), head.source)), 5)[0]
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
    return timed(lambda: compiled.infer(canvas), 7)[0]
