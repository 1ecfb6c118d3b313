"""``neurovision evaluate``: the ensemble on a fold that no network, tree or threshold was fitted on."""

from __future__ import annotations

import datetime
import json
import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from neurovision import __version__
from neurovision.classes import BACKGROUND
from neurovision.ensemble.manifest import Manifest
from neurovision.ensemble.pipeline import Analyzer
from neurovision.errors import DataError
from neurovision.evaluation.figures import draw_all, draw_case, training_curves
from neurovision.evaluation.measure import VOTE, Row, analyze_item, known_truth, measure_all
from neurovision.evaluation.nonbrain import measure_refusal
from neurovision.evaluation.report import to_markdown
from neurovision.evaluation.robustness import measure_robustness
from neurovision.evaluation.summary import CONVENTIONS, summarize
from neurovision.files import write
from neurovision.training.dataset import Item, load_index
from neurovision.training.identity import fitted_on

LIBRARIES = ("keras", "tensorflow-cpu", "openvino", "numpy", "scikit-learn", "xgboost-cpu", "opencv-python-headless")
CHANGED = 12  # tumor slices of each data set and sequence on which robustness is measured
SPOILED = 12  # scans of each data set that are turned and cut to see what becomes of them


def evaluate(
    data_root: Path,
    fold: int,
    out_dir: Path,
    weights: Path | None = None,
    engine: str = "auto",
    sources: Sequence[str] | None = None,
    sequences: Sequence[str] = ("FLAIR", "T1c"),
    limit: int | None = None,
    work: Path = Path("runs/evaluation"),
    histories: Path | None = None,
    failures: Path | None = None,
    robustness: bool = True,
) -> Path:
    """Measure the product on one fold; an interrupted run resumes.

    Args:
        data_root: The prepared folder.
        fold: Which fold. Patients that the weights were fitted on, and copies of such pictures, are left out and counted.
        out_dir: Folder for ``evaluation.json``, ``evaluation.md`` and the figures; no scan is drawn there.
        weights: Weights folder; the shipped one by default.
        engine: How the networks run.
        sources: Data sets; all that the folder holds where None.
        sequences: LGG's; FLAIR is the headline, T1c gets a row of its own.
        limit: At most so many scans of each data set and sequence, evenly spread; for a trial.
        work: Folder for the rows of single scans, which name them.
        histories: Folder of the members' training runs, for their curves.
        failures: Folder for pictures of the worst cases. They show patients: it must not lie in ``out_dir``.
        robustness: Whether to measure what noise, blur and the like do, which takes as long as everything else.

    Returns:
        The path of ``evaluation.json``.

    Raises:
        DataError: The fold is empty or all of it took part in fitting, an index breaks a rule, or ``failures`` lies in
            ``out_dir``.
        WeightsError: The weights cannot be used.
    """
    if failures is not None and out_dir.resolve() in (failures.resolve(), *failures.resolve().parents):
        raise DataError("Pictures of failures show patients and must lie outside the folder of the results; choose another.")
    analyzer = Analyzer.load(weights, engine)
    manifest = analyzer.manifest
    items, left_out = unseen(manifest, load_index(data_root, sources, [fold], sequences, manifest.classes))
    items = thin(items, limit)
    members = [m.name for m in manifest.members]
    rows = measure_all(analyzer, items, engine, work)
    summary = summarize(rows, members, manifest.verdict.threshold, manifest.intervals, manifest.classes)
    drawn = [i for i in items if i.tumor and i.mask is not None and (i.source, i.sequence) != ("lgg", "T1c")]
    few = thin(drawn, min(CHANGED, limit or CHANGED))
    robust = measure_robustness(analyzer, few) if robustness and few else None
    refusal = measure_refusal(analyzer, [item.gray() for item in thin(items, SPOILED)])
    out_dir.mkdir(parents=True, exist_ok=True)
    figures = draw_all(rows, summary, members, out_dir)
    if histories is not None and (curves := training_curves(histories, members, out_dir / "training.png")):
        figures.append(curves)
    result = {
        "about": {**about(analyzer, fold, engine, limit, sources), "left_out": left_out},
        "conventions": CONVENTIONS,
        **summary,
        "robustness": robust,
        "refusal": refusal,
        "figures": [f.name for f in figures],
    }
    path = out_dir / "evaluation.json"
    write(out_dir / "evaluation.md", to_markdown(result))
    write(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
    if failures is not None:
        draw_failures(analyzer, items, rows, failures)
    return path


def unseen(manifest: Manifest, items: list[Item]) -> tuple[list[Item], dict[str, int]]:
    """The items of patients that nothing was fitted on, and how many of each data set are left out.

    Raises:
        DataError: All are.
    """
    fitted = fitted_on(manifest, items)
    kept = [i for i, took_part in zip(items, fitted, strict=True) if not took_part]
    if not kept:
        raise DataError("Every scan of this fold took part in fitting these weights; choose another fold or other weights.")
    counts = Counter(i.source for i, took_part in zip(items, fitted, strict=True) if took_part)
    return kept, dict(sorted(counts.items()))


def thin(items: list[Item], limit: int | None) -> list[Item]:
    """Keep at most ``limit`` evenly spread items of each data set and sequence; all where it is None."""
    if limit is None:
        return items
    groups: dict[tuple[str, str | None], list[Item]] = {}
    for item in items:
        groups.setdefault((item.source, item.sequence), []).append(item)
    return [g[k] for g in groups.values() for k in np.unique(np.linspace(0, len(g) - 1, limit).round().astype(int))]


def about(analyzer: Analyzer, fold: int, engine: str, limit: int | None, sources: Sequence[str] | None) -> dict[str, Any]:
    """What was measured, on what, with what."""
    training = analyzer.manifest.training
    command = f"neurovision evaluate --fold {fold}"
    if sources is not None:
        command += "".join(f" --source {s}" for s in sources)
    if limit is not None:
        command += f" --limit {limit}"
    return {
        "date": datetime.date.today().isoformat(),
        "command": command,
        "fold": fold,
        "trial": limit is not None or training.trial,
        "split": training.split,
        "member_folds": list(training.member_folds),
        "vote_folds": list(training.vote_folds),
        "refitted": {name: list(folds) for name, folds in training.refitted.items()},
        "mask_share": analyzer.manifest.verdict.mask_share,
        "members": [m.name for m in analyzer.manifest.members],
        "weights": analyzer.manifest.digest,
        "engine": engine,
        "device": analyzer.engine.device,
        "versions": {
            "neurovision": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in LIBRARIES},
        },
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # the GPU builds have other names
        return None


def draw_failures(analyzer: Analyzer, items: Sequence[Item], rows: Sequence[Row], folder: Path, each: int = 6) -> None:
    """Draw the worst tumor slices and the loudest false alarms of each source; file names hold no identifier."""
    folder.mkdir(parents=True, exist_ok=True)
    by_source: dict[str, list[tuple[float, Item]]] = {}
    for item, row in zip(items, rows, strict=True):
        if row.masks:
            badness = 1 - row.masks[VOTE].scores["dice"] if row.tumor else row.probability if row.positive else -1.0
            if badness >= 0:
                by_source.setdefault(f"{row.source}-{'tumor' if row.tumor else 'free'}", []).append((badness, item))
    for name, cases in by_source.items():
        for rank, (badness, item) in enumerate(sorted(cases, key=lambda c: -c[0])[:each], 1):
            findings = analyze_item(analyzer, item)
            tumor = known_truth(item, findings.picture.shape)
            truth = np.where(np.asarray(tumor, bool), item.tumor_index, BACKGROUND.index).astype(np.uint8)
            said = f"Dice {1 - badness:.2f}" if item.tumor else f"probability {badness:.2f}"
            draw_case(findings, truth, f"{name}: {said}", folder / f"{name}-{rank}.png")
