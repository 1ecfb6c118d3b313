"""How fast, against the naive way, measured in one run; everything but milliseconds is a ratio."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from neurovision.classes import FIRST_TUMOR
from neurovision.ensemble.cache import versions
from neurovision.ensemble.engine import Engine, ReferenceEngine, cores
from neurovision.ensemble.features import pixel_features
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.voter import ManualVotingClassifier, Voter, load_forest
from neurovision.ensemble.weights import Manifest
from neurovision.scan.phantom import KINDS, phantom, phantom_volume
from neurovision.scan.prepare import prepare, standardize
from neurovision.scan.read import read
from neurovision.training.dataset import load_index

REPEATS = 15
VOLUME = 155  # slices
PACKAGES = ("openvino", "keras", "tensorflow-cpu", "scikit-learn", "xgboost-cpu", "numpy")
FOLD = 4  # that took no part in fitting
TARGETS = {"slice": 12.0, "networks": 8.0, "vote": 6.0, "volume": 1.5, "cold_start": 2.0}
PRODUCT = """
import sys
{first}
from pathlib import Path
from neurovision.ensemble.pipeline import Analyzer
from neurovision.scan.read import read
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
        self._members = reference.members

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """As :class:`~neurovision.ensemble.engine.Engine`."""
        return np.stack([m.predict(canvases[..., None], verbose=0) for m in self._members])


class NaiveVoter(Voter):
    """scikit-learn and XGBoost, as they come, on every pixel."""

    def __init__(self, manifest: Manifest) -> None:
        from xgboost import XGBClassifier

        boost = XGBClassifier()
        boost.load_model(manifest.path(**manifest.vote["boost"]))
        forest = load_forest(manifest.path(**manifest.vote["forest"]))
        forest.set_params(n_jobs=None)
        super().__init__(ManualVotingClassifier([forest, boost]))

    def vote_maps(self, softmax: np.ndarray) -> np.ndarray:
        """As :meth:`~neurovision.ensemble.voter.Voter.vote_maps`."""
        features = np.concatenate([pixel_features(softmax[:, n]) for n in range(softmax.shape[1])])
        return self.classifier.predict_proba(features).reshape(softmax.shape[1:])


@dataclass(frozen=True)
class Scan:
    """One file to time, and its annotated tumor, bool ``(H, W)``, where one is drawn."""

    path: Path
    truth: np.ndarray | None


def bench(
    weights: Path, data: Path | None, engine: str = "auto", repeats: int = REPEATS, starts: int = REPEATS
) -> dict[str, Any]:
    """Measure everything.

    Args:
        weights: The weights folder.
        data: The prepared folder of real scans; phantoms stand in where it is None.
        engine: One of ``engine.ENGINES``.
        repeats: Runs that a median is taken of, each on a scan of its own.
        starts: Processes started, of each kind, that the median of a cold start is taken of.

    Returns:
        ``ratios``, ``labels_changed`` (pixels in 10,000), ``dice_shift``, ``matmul_fraction``, ``peak_memory_mb``,
        ``milliseconds`` by stage of the product and of the naive way, ``machine`` and what else is said of the run.
    """
    analyzer = Analyzer.load(weights, engine)
    reference = ReferenceEngine(analyzer.manifest)
    naive = Analyzer(analyzer.manifest, NaiveEngine(reference), NaiveVoter(analyzer.manifest))
    with tempfile.TemporaryDirectory() as folder:
        scans = _phantoms(Path(folder), repeats) if data is None else _real(data, repeats)
        result = _slices(analyzer, naive, scans)
        result.update(_networks(analyzer.engine, reference, scans, analyzer.manifest.size, repeats))
        result["ratios"] |= {"networks": result["networks"]["ratio"], **_volume(analyzer)}
        arguments = [weights.resolve(), engine, _phantoms(Path(folder), 1)[0].path]
        result["ratios"]["cold_start"], result["milliseconds"]["cold_start"] = _cold_start(arguments, starts)
        result.update(_memory(arguments))
    result["ratios"] = {key: round(result["ratios"][key], 2) for key in TARGETS}
    result["machine"] = {
        "processor": _processor(), "cores": cores(), "load": round(os.getloadavg()[0], 2), "device": analyzer.engine.device,
        "engine": type(analyzer.engine).__name__, "precision": getattr(analyzer.engine, "precision", "f32"),
        "python": platform.python_version(),
        "versions": dict(zip(PACKAGES, versions(*PACKAGES), strict=True)),
    }  # fmt: skip
    kind = "phantoms" if data is None else f"real scans of fold {FOLD}"
    result["runs"] = {"repeats": repeats, "starts": starts, "scans": kind, "volume": VOLUME}
    result["weights"] = analyzer.manifest.digest[:12]
    return result


def _phantoms(folder: Path, count: int) -> list[Scan]:
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


def _slices(analyzer: Analyzer, naive: Analyzer, scans: Sequence[Scan]) -> dict[str, Any]:
    """One slice and the vote alone, both ways, and whether the labels stay."""
    for each in (analyzer, naive):
        each.analyze(read(scans[0].path))
    times: dict[str, list[float]] = {"fast": [], "naive": [], "fast_vote": [], "naive_vote": []}
    stages: dict[str, dict[str, list[float]]] = {"fast": {}, "naive": {}}
    changed = pixels = 0
    shifts = []
    for scan in tqdm(scans, desc="slices", unit="scan", disable=None):
        masks = {}
        for name, each in (("fast", analyzer), ("naive", naive)):
            start = perf_counter()
            study = read(scan.path)
            decoded = perf_counter()
            findings = each.analyze(study)
            times[name].append(perf_counter() - start)
            masks[name] = findings.mask
            if findings.status == "ok":  # a rejected scan has no stages to compare
                times[f"{name}_vote"].append(findings.timing_ms["vote"])
                for stage, ms in {"decode": (decoded - start) * 1e3, **findings.timing_ms}.items():
                    stages[name].setdefault(stage, []).append(ms)
        changed += int((masks["fast"] != masks["naive"]).sum())
        pixels += masks["naive"].size
        if scan.truth is not None and scan.truth.any() and scan.truth.shape == masks["naive"].shape:
            shifts.append(_dice(masks["fast"], scan.truth) - _dice(masks["naive"], scan.truth))
    medians = {n: {s: round(statistics.median(v), 2) for s, v in stages[n].items()} for n in stages}
    return {
        "ratios": {
            "slice": statistics.median(times["naive"]) / statistics.median(times["fast"]),
            "vote": statistics.median(times["naive_vote"]) / statistics.median(times["fast_vote"]),
        },
        "labels_changed": round(changed / pixels * 1e4, 3),
        "dice_shift": round(abs(float(np.mean(shifts))), 6) if shifts else 0.0,
        "milliseconds": {**medians["fast"], "naive": medians["naive"]},
    }


def _dice(mask: np.ndarray, truth: np.ndarray) -> float:
    tumor = mask >= FIRST_TUMOR
    return float(2 * (tumor & truth).sum() / max(tumor.sum() + truth.sum(), 1))


def _networks(engine: Engine, reference: ReferenceEngine, scans: Sequence[Scan], size: int, repeats: int) -> dict[str, Any]:
    """The five networks alone, and their rate of arithmetic against a large matrix product."""
    canvas = standardize(prepare(read(scans[0].path).gray(), size).pixels)[None]
    fast = median_ms(lambda: engine.predict(canvas), repeats)
    eager = median_ms(lambda: reference.predict(canvas), repeats)
    side = 2048
    a, b = np.random.default_rng(0).normal(size=(2, side, side)).astype(np.float32)
    product = median_ms(lambda: a @ b, repeats)
    operations = sum(_operations(m) for m in reference.members)
    rates = {"networks": operations / fast / 1e6, "matrix_product": 2 * side**3 / product / 1e6}
    return {
        "matmul_fraction": round(rates["networks"] / rates["matrix_product"], 3),
        "networks": {
            "ratio": eager / fast, "milliseconds": round(fast, 2), "eager_milliseconds": round(eager, 2),
            "gflop": round(operations / 1e9, 2), "gflop_per_second": {k: round(v, 1) for k, v in rates.items()},
        },
    }  # fmt: skip


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


def median_ms(run: Callable[[], Any], repeats: int) -> float:
    """Median milliseconds of ``repeats`` runs after two that warm up."""
    times = []
    for _ in range(repeats + 2):
        start = perf_counter()
        run()
        times.append((perf_counter() - start) * 1e3)
    return statistics.median(times[2:])


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
        product.append(_child(PRODUCT.format(first="", then=""), arguments)[0] * 1e3)
        naive.append(_child(NAIVE_START, arguments)[0] * 1e3)
    fast, slow = statistics.median(product[1:]), statistics.median(naive[1:])
    return slow / fast, {"product": round(fast), "naive": round(slow)}


def _memory(arguments: Sequence[object]) -> dict[str, float]:
    """Highest resident memory of a process: with the page's library for one slice, and for a volume against a slice."""
    volume = f'study, _ = phantom_volume("glioma", 3, 160, {VOLUME})\nfor _ in analyzer.analyze_slices(study): pass\n'
    peaks = [
        int(_child(PRODUCT.format(first=first, then=then + PEAK), arguments)[1].split()[-1]) / 1024
        for first, then in (("import gradio", ""), ("", ""), ("", volume))
    ]
    return {"peak_memory_mb": round(peaks[0], 1), "volume_memory_ratio": round(peaks[2] / peaks[1], 3)}


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


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def table(result: dict[str, Any]) -> str:
    """The result as the table that a person reads."""
    ratios = result["ratios"]
    rows = [(name, f"{ratios[name]:.2f} x", f">= {least:g} x", ratios[name] >= least) for name, least in TARGETS.items()]
    rows += [
        ("matmul fraction", f"{result['matmul_fraction']:.2f}", ">= 0.35", result["matmul_fraction"] >= 0.35),
        ("peak memory", f"{result['peak_memory_mb']:.0f} MB", "< 1500 MB", result["peak_memory_mb"] < 1500),
        ("volume's memory", f"{result['volume_memory_ratio']:.2f} x", "<= 2 x", result["volume_memory_ratio"] <= 2),
        ("labels changed", f"{result['labels_changed']:.2f} in 10,000", "<= 5", result["labels_changed"] <= 5),
        ("Dice shift", f"{result['dice_shift']:.5f}", "< 0.001", result["dice_shift"] < 0.001),
    ]
    machine = result["machine"]
    lines = [f"{'what':16} {'measured':>18} {'aim':>10}"]
    lines += [f"{what:16} {value:>18} {aim:>10}  {'yes' if met else 'NO'}" for what, value, aim, met in rows]
    naive = result["milliseconds"]["naive"]
    lines += ["", f"{'milliseconds':16} {'product':>10} {'naive':>10}"]
    lines += [f"{s:16} {result['milliseconds'][s]:>10.1f} {naive[s]:>10.1f}" for s in naive]
    lines += ["", f"{machine['processor']}, {machine['cores']} cores, load {machine['load']}, {machine['engine']} "
              f"{machine['precision']}; medians of {result['runs']['repeats']} on {result['runs']['scans']}",
              json.dumps(machine["versions"])]  # fmt: skip
    return "\n".join(lines)


def scaling(analyzer: Analyzer, path: Path) -> dict[str, dict[int, float]]:
    """Plot cost as work grows: the picture's side, the number of slices, the number of members; milliseconds.

    Pictures below 32 px are refused by the reader, so the side starts there. Beyond the shipped members, members are
    run again.
    """
    heads = {side: phantom("glioma", 4, side)[0] for side in (32, 64, 128, 256, 512)}
    sides = {side: median_ms(partial(analyzer.analyze, head), 5) for side, head in heads.items()}
    study, _ = phantom_volume("glioma", 3, 128, 500)
    slices = {}
    for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 500):
        middle = list(range(250 - n // 2, 250 - n // 2 + n))
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
    return median_ms(lambda: compiled.infer(canvas), 7)
