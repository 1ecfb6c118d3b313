"""``neurovision explain``: Grad-CAM, drawn over scans or measured on prepared ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurovision.commands.options import Data, Source, TestFold, Weights, tell_progress

if TYPE_CHECKING:
    from neurovision.ensemble.manifest import Manifest


def explain(
    scans: Annotated[
        list[Path] | None, typer.Argument(help="Scans, or folders of scans, to draw; without one the heat is measured.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures of the given scans.")] = None,
    data: Data = None,
    fold: TestFold = 4,
    limit: Annotated[int, typer.Option(help="Measured: scans with a tumor of each data set.", min=1)] = 20,
    weights: Weights = None,
    source: Source = None,
    classifier: Annotated[
        list[Path] | None, typer.Option(help="Folder of 'neurovision fit-classifier', instead of the members; repeatable.")
    ] = None,
) -> None:
    """Grad-CAM of each member, or of trained classifiers: which places of a scan speak for a tumor.

    With scans and --out, X.NETWORK.heat.png is written for each: the slice with the largest tumor, and over it the heat
    of the tumor type that the verdict finds likeliest, else of the one that the network itself does. Of a classifier it
    is always the network's own.

    Without scans it is measured on prepared ones whether the heat falls in the tumor.
    """
    if scans and out is None:
        raise typer.BadParameter("pictures of the given scans need a folder; name one with --out")
    if out is not None and not scans:
        raise typer.BadParameter("--out is for pictures; name the scans to draw")
    if scans and out is not None:
        _draw(scans, out, weights, classifier)
    else:
        _measure(data, fold, limit, weights, source, classifier)


def _networks(manifest: Manifest | None, classifier: list[Path] | None) -> Iterator[tuple[str, Any]]:
    """Name and Keras model of each network, loaded when it is its turn."""
    from neurovision.ensemble.classify import TrainedClassifier
    from neurovision.ensemble.engine import load_member

    if classifier:
        yield from ((folder.name, TrainedClassifier.load(folder).model) for folder in classifier)
    elif manifest is not None:
        yield from ((entry.name, load_member(entry, manifest)) for entry in manifest.members)


def _draw(scans: list[Path], out: Path, weights: Path | None, classifier: list[Path] | None) -> None:
    """Draw each network's heat over each scan; a scan that cannot be read is named, and the others are drawn.

    Raises:
        typer.Exit: With code 1, where a scan could not be drawn or there was none.
    """
    import sys

    import cv2

    from neurovision.aids.gradcam import heat_over
    from neurovision.ensemble.pipeline import Analyzer
    from neurovision.ensemble.volume import analyze_study
    from neurovision.errors import ScanError
    from neurovision.files import write
    from neurovision.scan.read import list_scans, memory_told, read_files
    from neurovision.views.overlay import heat, to_screen

    listing = list_scans(scans)
    out.mkdir(parents=True, exist_ok=True)
    tell_progress()
    analyzer = Analyzer.load(weights)
    networks = list(_networks(analyzer.manifest, classifier))
    failed = not listing.scans
    for scan in listing.scans:
        try:
            with memory_told([scan.name]):
                study = read_files(scan.files, scan.name)
                result = analyze_study(analyzer, study)
        except ScanError as e:
            print(f"{scan.name}: {str(e).removeprefix(f'{scan.name}: ')}", file=sys.stderr)
            failed = True
            continue
        shown = result.shown
        if shown is None or result.verdict is None:
            print(f"{scan.name}: {result.reason}", file=sys.stderr)
            failed = True
            continue
        kind = None if classifier else result.verdict.likeliest_type
        for name, model in networks:
            index = None if kind is None else result.classes.by_key[kind].index
            values = heat_over(model, shown.picture, study.pixel_shape, index)
            drawn = heat(to_screen(shown.picture), to_screen(values))
            path = out / f"{scan.stem}.{name}.heat.png"
            write(path, cv2.imencode(".png", drawn[..., ::-1])[1].tobytes())
            print(f"{scan.name}: slice {shown.slice_index + 1}, {kind or 'the likeliest class'} by {name}: {path}")
    if failed:
        raise typer.Exit(1)


def _measure(
    data: Path | None, fold: int, limit: int, weights: Path | None, source: list[str] | None, classifier: list[Path] | None
) -> None:
    """Print where each network's heat falls, by data set.

    Raises:
        DataError: No scan of the fold has a tumor with a mask.
    """
    from neurovision.ensemble.weights import load_manifest
    from neurovision.errors import DataError
    from neurovision.evaluation.explain import measure_pointing
    from neurovision.training.dataset import data_root, load_index, sources_in

    root = data_root(data)
    tumors_of = {
        s: [i for i in load_index(root, [s]) if i.fold == fold and i.tumor and i.mask is not None]
        for s in source or sources_in(root)
    }
    if not any(tumors_of.values()):
        raise DataError(
            f"Heat is measured on tumors with masks, and fold {fold} of {', '.join(tumors_of)} has none; name another with "
            "--fold or --source."
        )
    print("network            data       scans   hits  share  chance")
    for name, model in _networks(None if classifier else load_manifest(weights), classifier):
        for source_, tumors in tumors_of.items():
            if not tumors:
                continue
            p = measure_pointing(model, tumors[:: max(1, len(tumors) // limit)][:limit])
            print(f"{name:18} {source_:9} {p.scans:6} {p.hits:6.2f} {p.share:6.2f} {p.chance:7.2f}")
