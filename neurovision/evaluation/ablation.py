"""What each part of the vote adds: members, means and trees on the vote's fold, with and without cross-fitting."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from neurovision.classes import FIRST_TUMOR
from neurovision.ensemble.engine import load_engine
from neurovision.ensemble.features import tumor_threshold
from neurovision.ensemble.voter import Blend, ManualVotingClassifier, Renamed, Voter
from neurovision.errors import DataError
from neurovision.evaluation.report import figure, fitted_on, table
from neurovision.evaluation.scores import mean_interval, paired
from neurovision.evaluation.summary import data_title
from neurovision.files import write
from neurovision.training.calibrate import SHARES, blocks_of, telling
from neurovision.training.clock import voting
from neurovision.training.dataset import Item
from neurovision.training.observed import Observed, asked_of, observed_of, parts_of
from neurovision.training.recipes import CLASSIFIER
from neurovision.training.stack import fit_parts

log = logging.getLogger(__name__)

EVERY = 3  # annotated tumor slices: one of so many is voted on
PLAIN, FITTED, SOFTMAX, EVERYTHING = "plain mean", "fitted mean", "trees on softmax", "trees on everything"
SHIPPED = (EVERYTHING, True)
ALL = "all"
JSON, PAGE, PLOT = "ablation.json", "ablation.md", "ablation.png"


@dataclass(frozen=True)
class Line:
    """One way to get a mask, on every slice.

    Attributes:
        name: A member, PLAIN, FITTED, SOFTMAX or EVERYTHING.
        crossed: Whether what decides was fitted without the slice's block of patients; None where nothing is fitted.
        dice: ``(N, S)`` at each of ``calibrate.SHARES``.
    """

    name: str
    crossed: bool | None
    dice: np.ndarray


def ablate(
    data: Path,
    runs: Path,
    out: Path,
    vote_fold: int = 3,
    members: Sequence[str] | None = None,
    classifier: str | None = CLASSIFIER,
    limit: int | None = None,
    every: int = EVERY,
    cross_fit: bool = False,
) -> Path:
    """Measure and write JSON, PAGE and PLOT.

    What the networks say of the fold is taken from ``runs/cache`` where ``stack`` kept it.

    Args:
        data: The prepared folder.
        runs: Folder of the networks' runs.
        out: Folder to write.
        vote_fold: The fold that the vote is fitted on.
        members: Names; by default every segmenter that votes.
        classifier: The whole-slice classifier, or None.
        limit: At most so many scans of each data set, for a trial.
        every: One of so many annotated tumor slices is voted on.
        cross_fit: As of ``stack``.

    Returns:
        The page.

    Raises:
        WeightsMissing: A network has no finished run.
        DataError: The fold shows too few tumors to share out its patients, or the runs cannot be stacked together.
    """
    names = list(members or voting())
    parts = parts_of(data, runs, [*names, *([classifier] if classifier else [])], vote_fold, cross_fit, limit)
    items = [item for part in parts for item in part.items]
    with tempfile.TemporaryDirectory() as folder:
        observed = observed_of(asked_of(parts, classifier is not None, Path(folder)), load_engine, runs / "cache")
        chosen, lines = measure(observed, items, names, every)
    about = {
        "folds": sorted(part.fold for part in parts), "every": every, "trial": limit is not None, "slices": len(chosen),
        "scans_seen": {run.name: run.facts.get("scans_seen") for run in parts[0].runs},
    }  # fmt: skip
    result = {"about": about, "lines": summarize(chosen, lines)}
    out.mkdir(parents=True, exist_ok=True)
    write(out / JSON, json.dumps(result, indent=1))
    write(out / PAGE, to_markdown(result))
    draw(result, out / PLOT)
    return out / PAGE


def measure(
    observed: Observed, items: Sequence[Item], names: Sequence[str], every: int = EVERY
) -> tuple[list[Item], list[Line]]:
    """Dice of every way on one of ``every`` annotated tumor slices.

    LGG's post-contrast slices are left out: their mask is FLAIR's.

    Returns:
        The slices, and a line a way.

    Raises:
        DataError: A block of patients has no tumor slice.
    """
    shown = [k for k, i in enumerate(items) if i.tumor and i.mask is not None and (i.source, i.sequence) != ("lgg", "T1c")]
    places, blocks = np.array(shown[::every], int), blocks_of(items)
    numbers, count = np.unique(blocks), observed.softmax.shape[-1]
    if not np.isin(numbers, blocks[places]).all():
        raise DataError("Every quarter of the vote's fold needs an annotated tumor slice; use more scans.")
    ways: list[tuple[str, bool | None]] = [*((name, None) for name in names), (PLAIN, None)]
    ways += [(name, crossed) for name in (FITTED, SOFTMAX, EVERYTHING) for crossed in (False, True)]
    dice = {way: np.zeros((len(places), len(SHARES))) for way in ways}
    for row, k in enumerate(places):
        tumor = observed.softmax[k][..., FIRST_TUMOR:].astype(np.float32).sum(-1)
        for way, map_ in zip(ways[: len(names) + 1], [*tumor, tumor.mean(0)], strict=True):
            dice[way][row] = _dice(map_, observed.labels[k])
    fits = [(False, numbers, np.empty(0, int)), *((True, [b], np.flatnonzero(blocks == b)) for b in numbers)]
    for crossed, asked, left_out in tqdm(fits, desc="fits of the vote", unit="fit", disable=None):
        pixels, rows = observed.pixels.without(left_out), np.flatnonzero(np.isin(blocks[places], asked))
        alone = replace(pixels, features=np.ascontiguousarray(pixels.features[:, : len(names) * count]))
        for name, learned in ((SOFTMAX, alone), (EVERYTHING, pixels)):
            forest, boost, weights = fit_parts(learned, len(names), count)
            forest.set_params(n_jobs=1)  # the voter asks from every core
            parts = [forest, Renamed(boost, forest.classes_), Blend(weights, count)]
            voter = Voter(ManualVotingClassifier(parts, count), context=name == EVERYTHING)
            for row in tqdm(rows, desc=name, unit="slice", disable=None, leave=False):
                k = places[row]
                maps = observed.softmax[k].astype(np.float32)
                found = voter.vote_maps(maps[:, None], [observed.scenes[k]])[0, ..., FIRST_TUMOR:].sum(-1)
                dice[name, crossed][row] = _dice(found, observed.labels[k])
                mean = np.tensordot(np.asarray(weights, np.float32), maps[..., FIRST_TUMOR:].sum(-1), 1)
                dice[FITTED, crossed][row] = _dice(mean, observed.labels[k])
    return [items[k] for k in places], [Line(name, crossed, dice[name, crossed]) for name, crossed in ways]


def _dice(tumor: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Dice of the mask from each of SHARES."""
    truth = labels >= FIRST_TUMOR
    masks = [tumor >= tumor_threshold(tumor, share) for share in SHARES]
    return np.array([2 * (m & truth).sum() / max(m.sum() + truth.sum(), 1) for m in masks])


def summarize(items: Sequence[Item], lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Mean Dice by data set with intervals over patients, and the difference to the shipped vote.

    A line's masks are cut at the share of a slice's peak that serves it best, by those slices by which the shipped vote's
    share is chosen; see :func:`~neurovision.training.calibrate.telling`.
    """
    sources = np.array([i.source for i in items])
    patients = [f"{i.source}/{i.patient or i.id}" for i in items]
    groups = {ALL: np.ones(len(items), bool), **{s: sources == s for s in dict.fromkeys(sources.tolist())}}

    kept = telling(items)
    best = [int(line.dice[kept].mean(0).argmax()) for line in lines]
    scores = {(line.name, line.crossed): line.dice[:, at] for line, at in zip(lines, best, strict=True)}
    found = []
    for line, at in zip(lines, best, strict=True):
        own = scores[line.name, line.crossed]
        measured = {}
        for source, inside in groups.items():
            whose = [p for p, kept in zip(patients, inside, strict=True) if kept]
            measured[source] = {
                "dice": mean_interval(own[inside], whose).to_json(),
                **paired(own[inside], scores[SHIPPED][inside], whose).to_json(),
            }
        found.append({"name": line.name, "cross_fitted": line.crossed, "share": SHARES[at], "on": measured})
    return found


def _title(line: dict[str, Any]) -> str:
    if line["cross_fitted"] is None:
        return str(line["name"])
    fitted = "cross-fitted" if line["cross_fitted"] else "fitted on the same scans"
    shipped = ", shipped" if (line["name"], line["cross_fitted"]) == SHIPPED else ""
    return f"{line['name']}, {fitted}{shipped}"


def to_markdown(result: dict[str, Any]) -> str:
    """The page."""
    about, lines = result["about"], result["lines"]
    sources = list(lines[0]["on"])
    titles = ["all slices" if s == ALL else data_title(s) for s in sources]
    counts = ", ".join(
        f"{t}: {lines[0]['on'][s]['dice']['n']} of {lines[0]['on'][s]['dice']['clusters']} patients"
        for s, t in zip(sources, titles, strict=True)
    )
    head = ["", *titles]
    dice = [[_title(line), *(figure(line["on"][s]["dice"]) for s in sources)] for line in lines]
    less = [[_title(line), *(_signed(line["on"][s]) for s in sources)] for line in lines if _way(line) != SHIPPED]
    trial = "**A trial, on a part of the scans.** " if about["trial"] else ""
    return f"""# What each part of the vote adds

{trial}Written by `neurovision ablate` on what the vote is fitted on, {fitted_on(about["folds"])}; the networks had not
seen it when they were asked. One of {about["every"]} annotated tumor slices is counted ({counts}).

Mean Dice of slices on the networks' grid, with 95 % bootstrap intervals over patients. *Cross-fitted* lines were fitted
without the slice's own patients, as the shipped vote's promises are; *fitted on the same scans* shows what a vote that is
scored on its own training would claim. Every vote averages a random forest, XGBoost and the fitted mean. Each line's masks
are cut at the share of a slice's peak that serves it best.

{table(head, dice)}
The difference to the shipped vote, cross-fitted, on the same slices:

{table(head, less)}
![Mean Dice of each part]({PLOT})
"""


def _way(line: dict[str, Any]) -> tuple[str, bool | None]:
    return line["name"], line["cross_fitted"]


def _signed(measured: dict[str, Any]) -> str:
    found = measured["difference"]
    if found["low"] is None:
        return f"{found['value']:+.3f}"
    return f"{found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def draw(result: dict[str, Any], path: Path) -> Path:
    """A panel a data set, a dot with its interval a line."""
    from neurovision.evaluation.figures import PALETTE, _axes, _save

    lines = result["lines"]
    sources = [s for s in lines[0]["on"] if s != ALL]
    drawn, axes = _axes(len(sources), 4.2, 0.28 * len(lines) + 0.9)
    for axis, source in zip(axes, sources, strict=True):
        for place, line in enumerate(lines):
            found = line["on"][source]["dice"]
            color = PALETTE[{None: 0, False: 1, True: 2}[line["cross_fitted"]]]
            axis.plot(found["value"], -place, "o", color=color)
            if found["low"] is not None:
                axis.plot([found["low"], found["high"]], [-place, -place], color=color)
        axis.set(title=data_title(source), xlabel="mean Dice", yticks=range(0, -len(lines), -1), yticklabels=[])
    axes[0].set_yticklabels([_title(line) for line in lines], fontsize=8)
    return _save(drawn, path)
