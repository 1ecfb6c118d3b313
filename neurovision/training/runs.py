"""Finished training runs, and the networks that they hand out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save

from neurovision.classes import SHIPPED, Classes
from neurovision.classifiers import build as build_classifier
from neurovision.ensemble.engine import variable_key
from neurovision.ensemble.manifest import Network, Networks, Provenance
from neurovision.errors import DataError, WeightsMissing
from neurovision.files import write
from neurovision.segmenters import build
from neurovision.training.fit import FINAL, OUT_OF_FOLD
from neurovision.training.provenance import license_of, strictest
from neurovision.training.trainer import RUN


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: Where it is; its name is the network's.
        recipe: As ``run.json`` holds it.
        folds: What the weights that the vote is fitted on were trained on.
        refit_folds: What the shipped weights were trained on; empty where those are the same weights.
        sources: Data sets.
        license: The strictest of its data sets' terms.
        facts: ``scans``, ``scans_seen``, ``hardware``, ``seconds``, ``date`` and ``versions``, as far as they were recorded.
        classes: What it tells apart.
    """

    folder: Path
    recipe: dict[str, Any]
    folds: tuple[int, ...]
    refit_folds: tuple[int, ...]
    sources: tuple[str, ...]
    license: str
    facts: dict[str, Any]
    classes: Classes = SHIPPED

    @property
    def name(self) -> str:
        """The network."""
        return self.folder.name

    @property
    def size(self) -> int:
        """Side of the canvas that it was last trained on, in pixels."""
        return int(self.recipe["phases"][-1]["size"])

    @property
    def trial(self) -> bool:
        """Whether its recipe was shortened."""
        return bool(self.recipe.get("trial"))

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of its builder, without those that fetch weights."""
        return {k: v for k, v in self.recipe["config"].items() if k != "encoder_weights"}

    @property
    def provenance(self) -> Provenance:
        """What the shipped weights learned from."""
        folds = self.refit_folds or self.folds
        return Provenance(sources=self.sources, folds=folds, license=self.license, **self.facts)

    def model(self, weights: str, size: int) -> keras.Model:
        """The network with the weights of one of its files."""
        keras.utils.clear_session()
        of_task = build if self.recipe.get("task", "segment") == "segment" else build_classifier
        model = of_task(self.name, (size, size, 1), **self.config)
        model.load_weights(self.folder / weights)
        return model


def read_runs(data: Path, runs: Path, names: Sequence[str], unseen_fold: int, option: str = "") -> list[Run]:
    """The finished runs of these networks, which fit together.

    Args:
        data: The prepared folder.
        runs: Folder of the runs.
        names: Networks.
        unseen_fold: The fold that the vote is fitted on.
        option: Of ``neurovision train``, that makes such runs.

    Raises:
        WeightsMissing: A network has no finished run.
        DataError: A network was trained on ``unseen_fold`` from the start, or the networks read canvases of different sizes,
            were trained on different folds or tell different classes apart.
    """
    found = [_run_of(data, runs / name, unseen_fold, option) for name in names]
    for what, of in (("canvases of side", "size"), ("folds", "folds"), ("classes", "classes")):
        groups: dict[Any, list[str]] = {}
        for run in found:
            groups.setdefault(getattr(run, of), []).append(run.name)
        if len(groups) > 1:
            each = "; ".join(f"{', '.join(who)}: {_words(value)}" for value, who in groups.items())
            raise DataError(
                f"Networks that are stacked were trained on {what} alike; received {each}. Train those that differ again."
            )
    return found


def _words(value: Any) -> str:
    value = value.keys if isinstance(value, Classes) else value
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _run_of(data: Path, run: Path, unseen_fold: int, option: str) -> Run:
    if not (run / FINAL).is_file():
        command = " ".join(["neurovision train", run.name, *([option] if option else [])])
        without = f" without fold {unseen_fold}" if option else ""
        raise WeightsMissing(f"{run.name} has no finished run{without}; train it with '{command}'.")
    described: dict[str, Any] = json.loads((run / RUN).read_text())
    if unseen_fold in described["folds"]:
        raise DataError(f"{run.name} was trained on fold {unseen_fold}; the vote needs a fold that no member has seen.")
    sources = tuple(sorted(described["sources"]))
    terms = strictest(license_of(data, s) for s in sources)
    classes = Classes.from_json(described["classes"]) if "classes" in described else SHIPPED
    folds, refit = (tuple(sorted(described.get(key, ()))) for key in ("folds", "refit_folds"))
    return Run(run, described["recipe"], folds, refit, sources, terms, described.get("facts", {}), classes)


def export_all(runs: Sequence[Run], classifies: bool, folder: Path, refitted: bool) -> Networks:
    """Write all networks into ``folder``: the shipped weights, or those from before any phase that refits.

    Args:
        runs: Which.
        classifies: Whether the last is the classifier.
        folder: Where.
        refitted: Whether the shipped weights are written.
    """
    size = runs[0].size
    entries = [_export(run, FINAL if refitted or not run.refit_folds else OUT_OF_FOLD, size, folder) for run in runs]
    classifier = entries.pop() if classifies else None
    return Networks(folder=folder, size=size, members=tuple(entries), classifier=classifier, classes=runs[0].classes)


def _export(run: Run, weights: str, size: int, out: Path) -> Network:
    """Write one network's variables as float16, and describe them."""
    model = run.model(weights, size)
    tensors = {
        variable_key(v): np.asarray(v, np.float32).astype(np.float16)
        for v in model.variables
        if v.dtype.startswith("float")
    }
    path = out / f"{run.name}.safetensors"
    write(path, save(tensors))
    entry: Network = Network.of(
        path, name=run.name, config=run.config, parameters=int(model.count_params()), provenance=run.provenance
    )
    return entry
