"""``neurovision reproduce`` and ``neurovision search``: the documents' claims and planned search, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path | None, typer.Option(help="Prepared scans; NEUROVISION_DATA by default.")]
Names = Annotated[list[str] | None, typer.Argument(help="Claims, such as e-custom-cnn; an unknown one lists all.")]
Splits = Annotated[list[str] | None, typer.Option(help="patients, slices or copies; each claim's own by default.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command()(reproduce)
    app.command()(search)


def reproduce(
    recipe: Names = None,
    every: Annotated[bool, typer.Option("--all", help="Run every claim that has no result yet.")] = False,
    data: Data = None,
    runs: Annotated[Path, typer.Option(help="Folder for canvases and probabilities.")] = Path("runs/reproduce"),
    budget: Annotated[str, typer.Option(help="small, or full: what the document lists.")] = "small",
    split: Splits = None,
    again: Annotated[bool, typer.Option(help="Run what has a result already.")] = False,
    results: Annotated[Path, typer.Option(help="JSON lines that results are added to.")] = Path("docs/reproduction.jsonl"),
    page: Annotated[Path, typer.Option(help="Markdown that the results are rendered into.")] = Path("docs/reproduction.md"),
) -> None:
    """Run the documents' claims again: claimed and measured side by side, under their own split and by patient.

    Without a claim the page is rendered from the results that are there.
    """
    import logging

    from neurovision.errors import ModelError
    from neurovision.evaluation.reproduce import WORDS, read, render
    from neurovision.evaluation.reproduce import reproduce as run
    from neurovision.files import write
    from neurovision.training.claims import CLAIMS, claim
    from neurovision.training.dataset import data_root

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if budget not in ("small", "full"):
        raise ModelError(f"A budget is 'small' or 'full'; received {budget!r}.")
    if split and (unknown := [s for s in split if s not in WORDS]):
        raise ModelError(f"A split is one of {', '.join(WORDS)}; received {unknown[0]!r}.")
    names = [c.name for c in CLAIMS] if every else [claim(name).name for name in recipe or []]
    if names:
        chosen = None if split is None else [how for how in WORDS if how in split]
        run(names, data_root(data), runs, results, page, budget, chosen, again)
    write(page, render(read(results)))
    print(page)


def search(
    how: Annotated[str, typer.Argument(help="random or grid.")] = "random",
    out: Annotated[Path, typer.Option(help="Folder of log and tables; a stopped search goes on.")] = Path("runs/search"),
    data: Data = None,
    trials: Annotated[int, typer.Option(help="Settings to try in all.", min=1)] = 20,
    folds: Annotated[str, typer.Option(help="Folds to train on.")] = "1,2",
    validation_fold: Annotated[int, typer.Option(help="Fold that settings are compared on.")] = 3,
    source: Annotated[list[str] | None, typer.Option(help="Data set; navoneel by default, may be repeated.")] = None,
    size: Annotated[int, typer.Option(help="Side of the canvas.")] = 96,
    epochs: Annotated[int, typer.Option(help="At most so many epochs a trial.")] = 10,
    encoder: Annotated[str, typer.Option(help="Encoder under the searched head.")] = "efficientnetlite0",
) -> None:
    """Search learning rate, optimizer, dropout, dense units, batch and loss of a classifier; write a results table."""
    import numpy as np

    from neurovision.errors import DataError
    from neurovision.training.dataset import data_root, load_index, pack
    from neurovision.training.fit_classifier import Labeled
    from neurovision.training.search import classifier_trial
    from neurovision.training.search import search as run

    try:
        training_folds = [int(part) for part in folds.split(",")]
    except ValueError as e:
        raise typer.BadParameter(f"folds are numbers with commas between, such as 1,2; received {folds!r}") from e
    if validation_fold in training_folds:
        raise DataError(f"Fold {validation_fold} is trained on and cannot validate; choose another.")
    sources = source or ["navoneel"]
    parts = []
    for chosen in (training_folds, [validation_fold]):
        items = load_index(data_root(data), sources, chosen)
        parts.append(Labeled(pack(items, size, out / "cache")[0], np.array([i.tumor for i in items])))
    told = {"folds": training_folds, "validation": validation_fold, "sources": sources, "size": size, "epochs": epochs}
    ask = classifier_trial(parts[0], parts[1], epochs, encoder, "imagenet")
    print(run(ask, out, how, trials, settings={**told, "encoder": encoder}))
