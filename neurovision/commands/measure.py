"""``neurovision evaluate``, ``reproduce`` and ``bench``: every number that the documents print."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from neurovision.commands.options import AsJson, Data, Engine, EngineChoice, Limit, Runs, Source, TestFold, Weights

Names = Annotated[list[str] | None, typer.Argument(help="Claims, such as e-custom-cnn; an unknown one lists all.")]
Splits = Annotated[list[str] | None, typer.Option(help="patients, slices or copies; each claim's own by default.")]


def evaluate(
    data: Data = None,
    fold: TestFold = 4,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the tables and figures; docs/evaluation, or of a trial runs/trial.")
    ] = None,
    weights: Weights = None,
    engine: Engine = EngineChoice.auto,
    runs: Runs = Path("runs"),
    source: Source = None,
    limit: Limit = None,
    sequence: Annotated[list[str], typer.Option(help="LGG's sequence, FLAIR or T1c; may be given twice.")] = ["FLAIR"],  # noqa: B006
    failures: Annotated[
        Path | None, typer.Option(help="Draw the worst cases into this folder; they are patients' pictures.")
    ] = None,
) -> None:
    """Measure every member, the vote and the verdict on one fold; write Markdown, JSON and figures.

    After a full run on an unseen fold the model card beside the folder is written again. A trial, by --limit, --source or
    weights that are a trial's, goes to a folder of its own.
    """
    from neurovision.ensemble.weights import load_manifest
    from neurovision.evaluation.card import write_card
    from neurovision.evaluation.evaluate import evaluate as run
    from neurovision.training.dataset import data_root

    trial = limit is not None or bool(source) or load_manifest(weights).training.trial
    out = place_of(out, trial)
    run(
        data_root(data),
        fold,
        out,
        weights=weights,
        engine=engine.value,
        sources=tuple(source) if source else None,
        sequences=tuple(sequence),
        limit=limit,
        histories=runs if runs.is_dir() else None,
        failures=failures,
    )
    print(out / "evaluation.md")
    if not trial:
        write_card(weights, out / "evaluation.json", out.parent / "MODEL_CARD.md")
        print(out.parent / "MODEL_CARD.md")


def place_of(out: Path | None, trial: bool) -> Path:
    """Where an evaluation goes.

    Raises:
        DataError: A trial would take the place of a whole one.
    """
    import json

    from neurovision.errors import DataError

    chosen = out or Path("runs/trial" if trial else "docs/evaluation")
    there = chosen / "evaluation.json"
    if trial and there.is_file():
        about = json.loads(there.read_bytes())["about"]
        if not about["trial"] and "--source" not in about["command"]:
            raise DataError(f"This is a trial, and {chosen} holds a whole evaluation; name another folder with --out.")
    return chosen


def reproduce(
    recipe: Names = None,
    every: Annotated[bool, typer.Option("--all", help="Run every claim that has no result yet.")] = False,
    data: Data = None,
    source: Annotated[str | None, typer.Option(help="A data set of yours, in the place of the documents'.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder for canvases and probabilities.")] = Path("runs/reproduce"),
    budget: Annotated[str, typer.Option(help="small, or full: what the document lists.")] = "small",
    split: Splits = None,
    again: Annotated[bool, typer.Option(help="Run what has a result already.")] = False,
    results: Annotated[
        Path | None, typer.Option(help="JSON lines that results are added to; docs/reproduction.jsonl.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Markdown that the results are rendered into; docs/reproduction.md.")
    ] = None,
) -> None:
    """Run the documents' claims again: claimed and measured side by side, under their own split and by patient.

    Without a claim the page is rendered from the results that are there. With --source everything goes to the folder of
    that name in --runs: reproduction.jsonl and reproduction.md too.
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
    if source is not None:
        runs = runs / source
    home = Path("docs") if source is None else runs
    results, page = results or home / "reproduction.jsonl", page or home / "reproduction.md"
    names = [c.name for c in CLAIMS] if every else [claim(name).name for name in recipe or []]
    if names:
        chosen = None if split is None else [how for how in WORDS if how in split]
        run(names, data_root(data), runs, results, page, budget, chosen, again, source)
    page.parent.mkdir(parents=True, exist_ok=True)
    write(page, render(read(results)))
    print(page)


def bench(
    weights: Weights = None,
    data: Data = None,
    engine: Engine = EngineChoice.auto,
    repeats: Annotated[int, typer.Option(help="Runs that each median is taken of.", min=1)] = 15,
    starts: Annotated[int, typer.Option(help="Cold starts that their median is taken of.", min=1)] = 15,
    # Of fewer scans, one faint tumor alone decides the shift of Dice.
    scans: Annotated[int, typer.Option(help="Scans that are timed and whose labels are compared.", min=1)] = 200,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also plot cost as work grows into this PNG.")] = None,
    keras: Annotated[bool, typer.Option("--keras", help="Measure the Keras engine alone, on its device: a GPU.")] = False,
    write: Annotated[Path | None, typer.Option(help="Also put the tables between this page's marks.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the speed against the naive way, as ratios; on real scans where NEUROVISION_DATA or --data names some."""
    import json

    from neurovision.ensemble.pipeline import Analyzer
    from neurovision.ensemble.weights import load_manifest
    from neurovision.evaluation.bench import bench as run
    from neurovision.evaluation.bench import keras_line, keras_speed, scaling, table, write_measured
    from neurovision.files import write as write_file
    from neurovision.training.dataset import data_root

    manifest = load_manifest(weights)
    if keras:
        found = keras_speed(manifest, repeats)
        print(json.dumps(found, indent=1) if as_json else keras_line(found))
        return
    root = data_root(data) if data or os.environ.get("NEUROVISION_DATA") else None
    result = run(manifest.folder, root, engine.value, repeats, starts, scans)
    if plot is not None:
        result["scaling_milliseconds"] = scaling(Analyzer.load(manifest.folder, "openvino"), plot)
    text = json.dumps(result, indent=1)
    if out is not None:
        write_file(out, text.encode())
    if write is not None:
        write_measured(write, result)
    print(text if as_json else table(result))
