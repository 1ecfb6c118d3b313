"""The ``neurovision`` command: thin commands over the package, heavy imports only inside them."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurovision import __version__
from neurovision.errors import NeurovisionError
from neurovision.evaluation import bench_cli, study_cli
from neurovision.evaluation.diffusion_cli import diffuse_app
from neurovision.serving.batch_cli import batch
from neurovision.serving.hub_cli import Weights, hub_app
from neurovision.serving.pacs_cli import pacs_app
from neurovision.serving.serve_cli import serve
from neurovision.training.sam_cli import sam_app

if TYPE_CHECKING:
    from neurovision.ensemble.findings import Findings
    from neurovision.ensemble.pipeline import Analyzer
    from neurovision.ensemble.volume import VolumeFindings
    from neurovision.scan.study import Study
    from neurovision.views.dicom_out import Objects

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up notes are not for users

app = typer.Typer(
    help="Segment a brain MRI with five networks, let trees vote on every pixel, read the verdict. "
    "A research tool, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(diffuse_app, name="diffuse")
app.add_typer(pacs_app, name="pacs")
app.add_typer(sam_app, name="sam")
study_cli.register(app)
bench_cli.register(app)
app.add_typer(hub_app, name="hub")
app.command()(batch)
app.command()(serve)

Data = Annotated[Path | None, typer.Option(help="Prepared scans; NEUROVISION_DATA by default.")]
Runs = Annotated[Path, typer.Option(help="Folder of training runs.")]


class EngineChoice(StrEnum):
    """Names of ``ensemble.engine.ENGINES``; a test keeps them equal."""

    auto = "auto"
    openvino = "openvino"
    keras = "keras"
    reference = "reference"


Engine = Annotated[EngineChoice, typer.Option(help="How the networks are run.")]


class Report(StrEnum):
    """Reports beside the JSON."""

    pdf = "pdf"


def main() -> None:
    """Run a command; errors that neurovision raises on purpose become one line and exit code 1."""
    try:
        app()
    except NeurovisionError as e:
        print(f"neurovision: {e}", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def predict(
    paths: Annotated[list[Path], typer.Argument(help="Scans, or folders of scans.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; made if need be.")],
    weights: Weights = None,
    engine: Engine = EngineChoice.auto,
    report: Annotated[Report | None, typer.Option(help="Also write a report.")] = None,
    dicom: Annotated[bool, typer.Option("--dicom", help="Write a Secondary Capture for scans that are not DICOM.")] = False,
    fractional: Annotated[bool, typer.Option("--fractional", help="Also write the probability as DICOM SEG.")] = False,
    anonymize: Annotated[
        bool, typer.Option("--anonymize", "--anonymise", help="De-identify DICOM first; the copies go beside the results.")
    ] = False,
) -> None:
    """Analyze scans: for each X.png write X.json, X.mask.png (class indices 0 to 4) and X.overlay.png.

    A DICOM file or series also gets X.seg.dcm and X.sr.dcm; a volume gets X.mask.nii.gz instead of X.mask.png. A file
    that cannot be read, or is no brain MRI, is named with the reason on standard error and in its JSON; the others go
    on. The exit code is 1 if there was one.
    """
    from tqdm import tqdm

    from neurovision.ensemble.pipeline import Analyzer
    from neurovision.errors import ScanError
    from neurovision.files import write
    from neurovision.scan.read import DEIDENTIFIED, group_scans, kind_of, memory_told, read_files
    from neurovision.views.files import free_stem, stem_of

    scans = group_scans(paths)
    if not scans:
        print("neurovision: there is no scan in the given folders.", file=sys.stderr)
        raise typer.Exit(1)
    out.mkdir(parents=True, exist_ok=True)
    analyzer = Analyzer.load(weights, engine.value)
    failed = 0
    used: set[str] = set()
    for files in tqdm(scans, unit="scan", disable=None):
        path = files[0] if len(files) == 1 else files[0].parent
        stem = free_stem(stem_of(path), used)
        reason: str | None
        try:
            with memory_told([path]):
                if anonymize and kind_of(files[0]) == "DICOM":
                    from neurovision.scan.deidentify import deidentify

                    files = tuple(deidentify(files, out / f"{stem}{DEIDENTIFIED}"))
                study = read_files(files, path.name)
                findings = analyzer.analyze(study) if study.n_slices == 1 else _volume(analyzer, study)
                objects = None
                if study.source.format == "DICOM" or dicom:
                    from neurovision.views.dicom_out import write_dicom

                    objects = write_dicom(findings, study, out, stem, fractional)
                _write_findings(analyzer, findings, study, objects, out, stem, report)
        except ScanError as e:
            reason = str(e).removeprefix(f"{path.name}: ")
            write(out / f"{stem}.json", json.dumps(_unread(path.name, reason), indent=1).encode())
        else:
            reason = findings.reason
            if reason is None and objects is not None and objects.missing:
                reason = f"no {' and no '.join(m.object for m in objects.missing)} written. {objects.missing[0].reason}"
        if reason is not None:
            failed += 1
            tqdm.write(f"{path.name}: {reason}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _unread(name: str, reason: str) -> dict[str, Any]:
    """The JSON of a file that could not become a Study: the keys of Findings, all empty."""
    return {
        "status": "rejected", "reason": reason, "verdict": None, "tumor_probability": None, "tumor_type": None,
        "type_probabilities": {}, "regions": [], "models": [], "disagreement": None, "timing_ms": {}, "weights": None,
        "warnings": [], "source": {"name": name},
    }  # fmt: skip


def _volume(analyzer: Analyzer, study: Study) -> VolumeFindings:
    from tqdm import tqdm

    from neurovision.ensemble.volume import analyze_volume

    with tqdm(total=study.n_slices, unit="slice", leave=False, disable=None) as bar:
        return analyze_volume(analyzer, study, lambda done, _: bar.update(done - bar.n))


def _write_findings(
    analyzer: Analyzer,
    findings: Findings | VolumeFindings,
    study: Study,
    objects: Objects | None,
    out: Path,
    stem: str,
    report: Report | None,
) -> None:
    """Write the files that every kind of scan gets; of a volume, overlay and report show its largest slice."""
    import cv2

    from neurovision.ensemble.findings import Findings
    from neurovision.files import write
    from neurovision.views.files import write_mask

    if isinstance(findings, Findings):
        shown = findings
    else:
        largest = findings.largest_slice
        shown = analyzer.analyze(study, study.n_slices // 2 if largest is None else largest)
    write_mask(findings, study, out, stem)
    write(out / f"{stem}.overlay.png", cv2.imencode(".png", shown.overlay()[..., ::-1])[1].tobytes())
    if report is Report.pdf:
        from neurovision.views.report import write_pdf

        write_pdf(shown, out / f"{stem}.pdf")
    told = findings.to_json() | ({} if objects is None else {"dicom": objects.to_json()})
    write(out / f"{stem}.json", json.dumps(told, indent=1).encode())


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, weights: Weights = None
) -> None:
    """List the architectures: kind, input size, whether they vote, parameters and shipped weights."""
    from neurovision import classifiers, segmenters
    from neurovision.ensemble.weights import load_manifest
    from neurovision.errors import WeightsMissing

    try:
        manifest = load_manifest(weights)
        shipped = {m.name: m for m in (*manifest.members, manifest.classifier) if m is not None}
    except WeightsMissing:
        shipped = {}
    listed = [(c, "segmenter", c.votes) for c in segmenters.cards()]
    listed += [(c, "classifier", False) for c in classifiers.cards()]  # type: ignore[misc]
    rows = [
        {
            "name": c.name,
            "title": segmenters.title_of(c.name, shipped[c.name].config) if votes and c.name in shipped else c.title,
            "kind": kind,
            "parameters": shipped[c.name].parameters if c.name in shipped else None,
            "input_size": c.size,
            "votes": votes,
            "weights": shipped[c.name].file if c.name in shipped else None,
            "paper": c.paper,
            "claim": c.claim,
        }
        for c, kind, votes in listed
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'name':20} {'title':26} {'kind':10} {'input':>5}  {'votes':5}  {'parameters':>10}  weights")
    for r in rows:
        parameters = f"{r['parameters']:,}" if r["parameters"] else "-"
        votes = "yes" if r["votes"] else "no"
        kind, file = r["kind"], r["weights"] or "-"
        print(f"{r['name']:20} {r['title']:26} {kind:10} {r['input_size']:5}  {votes:5}  {parameters:>10}  {file}")


@app.command()
def data(
    source: Annotated[Path, typer.Argument(help="A prepared folder to check, or a folder of original downloads.")],
    out: Annotated[Path | None, typer.Option(help="Prepare the originals into this folder.")] = None,
) -> None:
    """Check prepared scans, or prepare the original downloads (figshare .mat, kaggle_3m, yes/no, notumor)."""
    from collections import Counter

    from neurovision.training.dataset import SOURCES, load_index

    if out is not None:
        from neurovision.training.originals import prepare_originals

        prepare_originals(source, out)
        source = out
    present = [s for s in SOURCES if (source / s / "index.csv").is_file()]
    items = load_index(source, present or SOURCES)
    print(f"{'data set':10} {'fold':>4} {'scans':>6} {'tumor':>6}")
    counts = Counter((i.source, i.fold, i.tumor) for i in items)
    for name, fold in sorted({(s, f) for s, f, _ in counts}):
        with_tumor, without = counts[name, fold, True], counts[name, fold, False]
        print(f"{name:10} {fold:4} {with_tumor + without:6} {with_tumor:6}")


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="A segmenter; see 'neurovision models'.")],
    data: Data = None,
    runs: Runs = Path("runs"),
    folds: Annotated[str, typer.Option(help="Folds to train on.")] = "1,2",
    validation_fold: Annotated[int, typer.Option(help="Fold that early stopping looks at.")] = 3,
    without_lgg: Annotated[bool, typer.Option(help="Leave LGG out, and its non-commercial terms with it.")] = False,
    published: Annotated[bool, typer.Option(help="The documents' size and schedule, not the shipped recipe.")] = False,
    accepted: Annotated[bool, typer.Option(help="Also train on masks accepted with 'neurovision sam accept'.")] = False,
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """Train one network by its recipe, after the one that lends its encoder; a stopped run goes on where it was."""
    import logging

    from neurovision.training.dataset import SOURCES, data_root
    from neurovision.training.fit import lendable
    from neurovision.training.fit import train as run
    from neurovision.training.recipes import published_recipe, recipe

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sources = [s for s in SOURCES if not (without_lgg and s == "lgg")]
    chosen = published_recipe(name) if published else recipe(name)
    verbose = 1 if sys.stderr.isatty() else 2
    wanted = [chosen]
    if chosen.start and lendable(runs / chosen.start) is None:
        wanted.insert(0, recipe(chosen.start))
    for each in wanted:
        place = runs / each.name
        print(run(each, data_root(data), _numbers(folds), validation_fold, place, sources, seed, verbose, accepted))


@app.command()
def stack(
    data: Data = None,
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option(help="Weights folder to write.")] = Path("weights"),
    vote_fold: Annotated[int, typer.Option(help="Fold that no member was trained on.")] = 3,
) -> None:
    """Fit the vote and the verdict on a fold that no member saw, and write the weights and their manifest."""
    import logging

    from neurovision.training.dataset import data_root
    from neurovision.training.stack import stack as run

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(run(data_root(data), runs, out, vote_fold))


@app.command()
def evaluate(
    data: Data = None,
    fold: Annotated[int, typer.Option(help="Fold that took no part in fitting.")] = 4,
    out: Annotated[Path, typer.Option(help="Folder for the tables and figures.")] = Path("docs/evaluation"),
    weights: Weights = None,
    engine: Engine = EngineChoice.auto,
    runs: Runs = Path("runs"),
    source: Annotated[list[str] | None, typer.Option(help="Only this data set; may be given more than once.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many scans of each data set: a trial.")] = None,
    sequence: Annotated[list[str], typer.Option(help="LGG's sequence, FLAIR or T1c; may be given twice.")] = ["FLAIR"],  # noqa: B006
    failures: Annotated[
        Path | None, typer.Option(help="Draw the worst cases into this folder; they are patients' pictures.")
    ] = None,
) -> None:
    """Measure every member, the vote and the verdict on one fold; write Markdown, JSON and figures.

    After a full run on an unseen fold the model card beside the folder is written anew.
    """
    from neurovision.evaluation.card import write_card
    from neurovision.evaluation.evaluate import evaluate as run
    from neurovision.training.dataset import SOURCES, data_root

    run(
        data_root(data),
        fold,
        out,
        weights=weights,
        engine=engine.value,
        sources=tuple(source or SOURCES),
        sequences=tuple(sequence),
        limit=limit,
        histories=runs if runs.is_dir() else None,
        failures=failures,
    )
    print(out / "evaluation.md")
    if limit is None and not source:
        write_card(weights, out / "evaluation.json", out.parent / "MODEL_CARD.md")
        print(out.parent / "MODEL_CARD.md")


@app.command()
def enhance(
    paths: Annotated[list[Path], typer.Argument(help="Scans, or folders of scans.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and figures; made if need be.")],
    crop: Annotated[str | None, typer.Option(help="hard (Otsu) or soft (adaptive threshold); none by default.")] = None,
    padding: Annotated[int, typer.Option(help="Pixels left free around the crop.")] = 8,
    strength: Annotated[float, typer.Option(help="Factor of MUSICA's details; 1 changes nothing.")] = 1.6,
    levels: Annotated[int, typer.Option(help="Levels of MUSICA's pyramid.")] = 5,
) -> None:
    """Clean up, crop and enhance scans (MUSICA); write pictures, figures and enhance.json."""
    from neurovision.scan.read import find_scans
    from neurovision.views.explore import enhance_scans

    enhance_scans(find_scans(paths), out, crop, padding, strength, levels)
    print(out / "enhance.json")


@app.command()
def clusters(
    paths: Annotated[list[Path], typer.Argument(help="Scans, or folders of scans.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and figures; made if need be.")],
    k: Annotated[int, typer.Option("--k", help="Clusters of the pictures, 2 to 20.")] = 10,
    score: Annotated[bool, typer.Option(help="Score 2 to 20 clusters.")] = True,
    position: Annotated[float, typer.Option(help="Weight of x and y; 0 clusters by intensity alone.")] = 1.0,
) -> None:
    """Cluster scans by K-means on position and intensity; write pictures, figures and clusters.json."""
    from neurovision.scan.clusters import KS
    from neurovision.scan.read import find_scans
    from neurovision.views.explore import cluster_scans

    cluster_scans(find_scans(paths), out, k, KS if score else (), position)
    print(out / "clusters.json")


@app.command()
def explain(
    data: Data = None,
    fold: Annotated[int, typer.Option(help="Fold that took no part in fitting.")] = 4,
    limit: Annotated[int, typer.Option(help="Scans with a tumor of each data set.")] = 20,
    weights: Weights = None,
    classifier: Annotated[
        list[Path] | None, typer.Option(help="Folder of 'neurovision fit-classifier', instead of the members; repeatable.")
    ] = None,
) -> None:
    """Measure whether the heat of Grad-CAM falls in the tumor: of each member, or of trained classifiers."""
    from neurovision.ensemble.classify import TrainedClassifier
    from neurovision.ensemble.engine import load_member
    from neurovision.ensemble.weights import load_manifest
    from neurovision.evaluation.explain import measure_pointing
    from neurovision.training.dataset import data_root, load_index

    if classifier:
        networks = ((folder.name, TrainedClassifier.load(folder).model) for folder in classifier)
    else:
        manifest = load_manifest(weights)
        networks = ((entry.name, load_member(entry, manifest)) for entry in manifest.members)
    print("network            data       scans   hits  share  chance")
    for name, model in networks:
        for source in ("figshare", "lgg"):
            tumors = [i for i in load_index(data_root(data), [source], [fold]) if i.tumor and i.mask is not None]
            p = measure_pointing(model, tumors[:: max(1, len(tumors) // limit)][:limit])
            print(f"{name:18} {source:9} {p.scans:6} {p.hits:6.2f} {p.share:6.2f} {p.chance:7.2f}")


@app.command("fit-classifier")
def fit_classifier(
    recipe: Annotated[str, typer.Argument(help="A recipe, such as custom_cnn; an unknown one lists them all.")],
    data: Data = None,
    runs: Runs = Path("runs"),
    folds: Annotated[str, typer.Option(help="Folds to train on.")] = "1,2,3",
    validation_fold: Annotated[int, typer.Option(help="Fold for early stopping and the threshold.")] = 4,
    source: Annotated[list[str] | None, typer.Option(help="Data set; navoneel by default, may be repeated.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the canvas; the published one by default.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Another encoder, such as efficientnetlite0.")] = None,
    width: Annotated[int | None, typer.Option(help="Width of the head, or of the custom CNN.")] = None,
    imagenet: Annotated[bool, typer.Option(help="Start the encoder from ImageNet weights.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Shorten every stage to so many epochs.")] = None,
) -> None:
    """Train one whole-image classifier into RUNS/classifier-RECIPE; draw its history, confusion matrix and ROC there."""
    from neurovision.evaluation.classifier_figures import draw_classifier
    from neurovision.training.dataset import data_root
    from neurovision.training.fit_classifier import fit_classifier as run

    given = {"encoder": encoder, "width": width, "encoder_weights": "imagenet" if imagenet else None}
    config = {key: value for key, value in given.items() if value is not None}
    out = runs / f"classifier-{recipe}"
    told = run(
        recipe, data_root(data), _numbers(folds), validation_fold, out, tuple(source or ["navoneel"]), size, config, epochs,
        verbose=2,
    )  # fmt: skip
    draw_classifier(out)
    print(json.dumps({"classifier": str(out), "threshold": told["threshold"], **told["validation"]}, indent=1))


@app.command()
def classify(
    paths: Annotated[list[Path], typer.Argument(help="Scans, or folders of scans.")],
    classifier: Annotated[Path, typer.Option(help="Folder that 'neurovision fit-classifier' wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of image, probability and diagnosis.")] = False,
) -> None:
    """Ask a whole-image classifier: tumor or no tumor, for one scan or many."""
    from neurovision.ensemble.classify import TrainedClassifier
    from neurovision.scan.read import find_scans

    answers = TrainedClassifier.load(classifier).classify(find_scans(paths))
    if as_json:
        print(json.dumps([a.to_json() for a in answers], indent=1))
    else:
        for answer in answers:
            print(f"{answer.image}: {answer.text()}" if len(answers) > 1 else answer.text())


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as e:
        raise typer.BadParameter(f"folds are numbers with commas between, such as 1,2; received {text!r}") from e
