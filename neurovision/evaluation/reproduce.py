"""Claimed beside measured: run the documents' claims again, keep every result, render them into one page.

Results are lines of JSON, appended as each run ends, so that an interrupted chain resumes. A figure of a small
budget says little of what the document's own would give: every one stands with its number of scans and its interval.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from neurovision.evaluation.report import table
from neurovision.evaluation.scores import Interval, bootstrap, mean_interval, paired
from neurovision.files import write
from neurovision.training.claims import CLAIMS, Claim, Split, claim

log = logging.getLogger(__name__)

SHOWN = {
    "classifier": ("accuracy", "f1", "auc", "binary_iou", "precision", "recall", "specificity"),
    "segmenter": ("dice", "iou", "recall", "precision", "accuracy", "auc", "slice_dice"),
}
TITLES = {
    "f1": "F1", "auc": "AUC", "binary_iou": "binary IoU", "dice": "Dice (= F1)", "iou": "IoU",
    "slice_dice": "mean Dice of a slice",
}  # fmt: skip  # the others are called as they are written
WORDS: dict[Split, str] = {
    "slices": "shuffled pictures", "copies": "shuffled copies", "patients": "by patient",
}  # fmt: skip
DOCUMENTS = {
    "A": "Neurovision", "B": "Detection and segmentation of brain tumors", "C": "Brain metastases",
    "D": "LGG with U-Net and Attention U-Net", "E": "B.R.A.I.N.",
    "ablation": "Whether MUSICA and augmentation help",
}  # fmt: skip
POINTED = 20  # scans with masks that a classifier's heat is looked at on
LEARNED = 0.1  # mean Dice of a slice


def pooled(counts: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of cases added up, under many weightings at once, as :func:`~scores.bootstrap` asks for them.

    Args:
        counts: float ``(N, 4)``: true positives, false positives, false negatives, true negatives.
        weights: float ``(R, N)``.

    Returns:
        Score to ``(R,)``; NaN where nothing is there to score. ``iou`` is that of the positive class, ``binary_iou`` the
        mean of both classes' (see ``fit_classifier.binary_iou``), ``dice`` equals ``f1``.
    """
    tp, fp, fn, tn = (weights @ counts).T
    with np.errstate(invalid="ignore", divide="ignore"):
        f1, iou = 2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn)
        return {
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "f1": f1,
            "dice": f1,
            "iou": iou,
            "binary_iou": (iou + tn / (tn + fp + fn)) / 2,
        }


def binned_auc(positive: np.ndarray, negative: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC from binned probabilities ``(N, B)``, ties half; ``(R,)`` for weights ``(R, N)``."""
    up, down = weights @ positive, weights @ negative
    below = np.cumsum(down, 1) - down / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (up * below).sum(1) / (up.sum(1) * down.sum(1))


def slice_scores(counts: np.ndarray, kind: str) -> np.ndarray:
    """One score a case: whether a classifier is right, or a segmenter's Dice (NaN where nothing is there to find)."""
    tp, fp, fn, tn = counts.T
    if kind == "classifier":
        return tp + tn
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan)


def summarize(trial: Any, kind: str) -> dict[str, Any]:
    """Every score of SHOWN with its interval, patients resampled where they are known.

    Args:
        trial: A ``training.trial.Trial``.
        kind: ``"classifier"``, ``"segmenter"`` or ``"vote"``.
    """

    def interval(name: str) -> Interval:
        if name == "slice_dice":
            return mean_interval(slice_scores(trial.counts, kind), trial.clusters)
        if name == "auc":
            return bootstrap(lambda w: binned_auc(trial.positive, trial.negative, w), trial.clusters)
        return bootstrap(lambda w: pooled(trial.counts, w)[name], trial.clusters)

    return {name: interval(name).to_json() for name in SHOWN["classifier" if kind == "classifier" else "segmenter"]}


def reproduce(
    names: Sequence[str],
    data: Path,
    runs: Path,
    results: Path,
    page: Path,
    budget: str = "small",
    splits: Iterable[Split] | None = None,
    again: bool = False,
    source: str | None = None,
) -> None:
    """Run claims, append their results, and render the page after each.

    Args:
        names: Of ``claims.CLAIMS``, in the order in which they are run.
        data: The prepared folder.
        runs: Folder for canvases and probabilities.
        results: JSON lines that are added to.
        page: Markdown that is written anew.
        budget: ``"small"`` or ``"full"``.
        splits: Only these; each claim's own by default.
        again: Run what has a result already.
        source: A data set of one's own in the place of the claims'. It needs folders and files of its own: runs and
            results are kept by claim, split and budget.
    """
    from neurovision.training.trial import run_claim

    runs.mkdir(parents=True, exist_ok=True)
    chosen = [claim(name) for name in names]
    if source is not None:
        chosen = [replace(c, source=source, unseen=None) for c in chosen]
    for found in chosen:
        for how in found.splits if splits is None else tuple(splits):
            done = {(r["name"], r["split"], r["budget"]) for r in read(results)}
            if (found.name, how, budget) in done and not again:
                continue
            log.info("%s, %s, %s", found.name, how, budget)
            cost = found.budget(budget)
            trial = run_claim(found, how, cost, data, runs)
            line = {
                "name": found.name,
                **({} if source is None else {"source": source}),
                "split": how,
                "budget": budget,
                "date": datetime.date.today().isoformat(),
                "machine": f"{os.cpu_count()} cores, {platform.machine()}",
                "settings": asdict(cost),
                "training": trial.training,
                "scans_seen": trial.seen,
                "seconds": round(trial.seconds, 1),
                "milliseconds": round(trial.milliseconds, 2),
                "parameters": trial.parameters,
                "threshold": round(trial.threshold, 3),
                "n": len(trial.counts),
                "clusters": len(set(trial.clusters)),
                "scores": summarize(trial, found.kind),
            }
            if trial.unseen is not None:
                line["unseen"] = {"n": len(trial.unseen.counts), "scores": summarize(trial.unseen, found.kind)}
            if found.kind == "classifier" and how == "patients":
                line["pointing"] = _pointing(trial.model, data, source or "figshare")
            _keep_cases(_cases_file(found.name, how, budget, runs), trial, found.kind)
            line["against"] = _against(found, how, budget, runs)
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            write(page, render(read(results)))


def read(results: Path) -> list[dict[str, Any]]:
    """All results so far, oldest first; none where there is no file yet."""
    return [json.loads(x) for x in results.read_text().splitlines() if x] if results.is_file() else []


def _cases_file(name: str, how: str, budget: str, runs: Path) -> Path:
    return runs / f"cases-{name}-{how}-{budget}.json"


def _keep_cases(path: Path, trial: Any, kind: str) -> None:
    path.write_text(json.dumps({"clusters": trial.clusters, "scores": slice_scores(trial.counts, kind).tolist()}))


def _against(found: Claim, how: str, budget: str, runs: Path) -> dict[str, Any] | None:
    """First minus second, scan by scan, where both were run on the same scans."""
    if found.against is None or not _cases_file(found.against, how, budget, runs).is_file():
        return None
    mine, other = (json.loads(_cases_file(n, how, budget, runs).read_text()) for n in (found.name, found.against))
    if mine["clusters"] != other["clusters"]:
        return None
    return {"name": found.against, **paired(mine["scores"], other["scores"], mine["clusters"]).to_json()}


def _pointing(model: Any, data: Path, source: str) -> dict[str, Any] | None:
    """Does a classifier's heat fall in the tumor? On masks of the test fold, where there are any."""
    from neurovision.evaluation.explain import measure_pointing
    from neurovision.training.dataset import load_index

    tumors = [i for i in load_index(data, [source], [4]) if i.tumor and i.mask is not None]
    chosen = tumors[:: max(1, len(tumors) // POINTED)][:POINTED]
    return asdict(measure_pointing(model, chosen)) if chosen else None


def render(lines: Sequence[dict[str, Any]]) -> str:
    """The page: a table a document, the newest result of each claim, split and budget."""
    latest = {(r["name"], r["split"], r["budget"]): r for r in lines}
    parts = [_OPENING]
    if own := {r["source"] for r in lines if "source" in r}:
        parts.append(
            f"**Measured on the data set {', '.join(sorted(own))}**, which is not the documents': what they claim is of "
            "other scans. Heat is looked at on its own masks.\n"
        )
    for document, title in DOCUMENTS.items():
        claims = [c for c in CLAIMS if c.document == document]
        results = [(c, latest[key]) for c in claims for key in _keys(c) if key in latest]
        parts.append(f"## {document}. {title}\n" if len(document) == 1 else f"## {title}\n")
        if document == "A":
            parts.append(
                "What the shipped weights reach, trained longer and measured on every slice of a fold, is in "
                "[evaluation.md](evaluation/evaluation.md).\n"
            )
        missing = [c.name for c in claims if not any(key in latest for key in _keys(c))]
        if missing:
            parts.append(f"Not run yet: {', '.join(missing)}.\n")
        parts += [_claims(results), _costs(results), _comparisons(results), _notes([c for c, _ in results])]
    return "\n".join(p for p in parts if p)


def _keys(found: Claim) -> list[tuple[str, str, str]]:
    return [(found.name, how, budget) for budget in ("full", "small") for how in WORDS]


def _figure(interval: dict[str, Any] | None) -> str:
    if interval is None or interval["value"] is None:
        return "-"
    if interval["low"] is None:
        return f"{interval['value']:.3f}"
    return f"{interval['value']:.3f} ({interval['low']:.3f}-{interval['high']:.3f})"


def _claims(results: Sequence[tuple[Claim, dict[str, Any]]]) -> str:
    rows = []
    for found, line in results:
        shown = list(found.claimed) or list(SHOWN["classifier" if found.kind == "classifier" else "segmenter"][:3])
        if found.kind != "classifier" and "slice_dice" not in shown:
            shown.append("slice_dice")
        learned = found.kind == "classifier" or _learned(line)
        for k, name in enumerate(shown if learned else shown[:1]):
            claimed = f"{found.claimed[name]:.4g}" if name in found.claimed else "-"
            first = (found.title, WORDS[line["split"]], line["budget"], str(line["training"]), str(line["n"]))
            measured = _figure(line["scores"][name]) if learned else "not learned"
            rows.append((*(first if k == 0 else ("",) * 5), TITLES.get(name, name), claimed, measured))
    head = ("claim", "split", "budget", "trained on", "n", "score", "claimed", "measured")
    return table(head, rows) if rows else ""


def _learned(line: dict[str, Any]) -> bool:
    """Whether a segmenter came far enough for its scores to say anything."""
    dice = line["scores"]["slice_dice"]["value"]
    return dice is not None and dice >= LEARNED


def _costs(results: Sequence[tuple[Claim, dict[str, Any]]]) -> str:
    rows = []
    for found, line in results:
        unseen = line.get("unseen")
        pointing = line.get("pointing")
        rows.append((
            found.title, WORDS[line["split"]], line["date"], f"{line['parameters']:,}" if line["parameters"] else "-",
            f"{line['scans_seen']:,}", f"{line['seconds']:.0f}", f"{line['milliseconds']:.1f}", f"{line['threshold']:.2f}",
            f"{_figure(unseen['scores']['slice_dice'])}, n = {unseen['n']}" if unseen else "-",
            f"{pointing['hits']:.2f} / {pointing['share']:.2f} / {pointing['chance']:.2f}" if pointing else "-",
        ))  # fmt: skip
    head = (
        "cost", "split", "date", "parameters", "scans seen", "CPU seconds of training", "ms a prediction", "threshold",
        "Dice on unseen data", "heat: hits / share / chance",
    )  # fmt: skip
    return table(head, rows) if rows else ""


def _comparisons(results: Sequence[tuple[Claim, dict[str, Any]]]) -> str:
    rows = []
    for found, line in results:
        against = line.get("against")
        if against is None:
            continue
        what = "right answers" if found.kind == "classifier" else "Dice of a slice"
        d = against["difference"]
        signed = f"{d['value']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f})" if d["low"] is not None else "-"
        rows.append((
            found.title, claim(against["name"]).title, WORDS[line["split"]], what, signed, f"{against['wilcoxon_p']:.2g}",
            str(d["n"]),
        ))  # fmt: skip
    head = ("first", "second", "split", "score", "first minus second", "p (Wilcoxon)", "n")
    return table(head, rows) if rows else ""


def _notes(claims: Sequence[Claim]) -> str:
    noted = {c.name: c for c in claims if c.note}
    return "\n".join(f"- {c.title}: {c.note}." for c in noted.values()) + "\n" if noted else ""


_OPENING = f"""# The documents' claims, run again

Written by `neurovision reproduce`, which appends every result to `docs/reproduction.jsonl` and renders this page.
*Claimed* is what a source document prints, on its own split. *Measured* is ours, with a 95 % bootstrap interval over
patients where they are known, else over pictures (which makes it too narrow).

- **Budgets.** `full` is what a document lists: `neurovision reproduce NAME --budget full`, which needs a GPU for all but
  the custom CNN. `small` is what two cores can do in a minute or so: compact widths, canvases of 64 pixels, at most 300
  training scans and 4 to 10 epochs, learning rates times ten because there are so few steps. **A small budget neither
  confirms nor refutes a claim**; it shows that the recipe runs, and how its two splits and its neighbors compare at
  equal cost. A segmenter whose mean Dice of a slice stays under {LEARNED} there is *not learned*, in one line; its
  scores are in the file of results.
- **Splits.** *by patient*: training on folds 1 and 2, early stopping and threshold on 3, test on 4; no patient, and no group
  of near-copies, on two sides. *shuffled pictures*: all four folds mixed, as a notebook does, so that slices of one patient
  stand on both sides. *shuffled copies*: a changed copy of every picture is added first, then all are mixed, and the
  validation part is the test part, as document B has it; every test picture then has copies of itself in training.
- **Scores.** Of a segmenter, pixels of tumor (any type) are pooled over the test scans; of a classifier, scans. *Binary IoU*
  of a classifier is Keras' metric on whole-picture decisions, as document B computes it: the mean over both classes of
  right / (right + wrong). It is an odd figure, since a picture's class is no region: it only shows accuracy in another form
  (`a / (2 - a)` where classes and errors are balanced), and B's 0.84 beside an accuracy of 96.87 % cannot come from the
  same decisions.
- **Heat**: Grad-CAM of a classifier on {POINTED} figshare slices with masks, which it never saw: share of scans whose
  hottest pixel is in the tumor, share of heat in the tumor, and what heat spread evenly over the head would score.
"""
