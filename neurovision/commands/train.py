"""``neurovision data``, ``train``, ``stack``, ``ablate``, ``fit-classifier`` and ``search``: from scans to weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurovision.commands.options import (
    FIRST_THREE,
    FIRST_TWO,
    Batch,
    CrossFit,
    Data,
    DtypeChoice,
    Epochs,
    FoldList,
    Folds,
    Limit,
    Minutes,
    NewWeights,
    Runs,
    Seed,
    Size,
    Source,
    ValidationFold,
    VoteFold,
    WithoutLgg,
    parse_folds,
)

if TYPE_CHECKING:
    pass


def data(
    source: Annotated[
        Path, typer.Argument(help="A prepared folder to check; or scans of your own with a CSV, or original downloads.")
    ],
    out: Annotated[Path | None, typer.Option(help="Prepare into this folder.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of a data set of your own; its folder's by default.")] = None,
    license: Annotated[str, typer.Option(help="Terms of your data, which the weights keep to.")] = "not stated",
    pack: Annotated[
        Path | None, typer.Option(help="Also write canvases into this one file, to train where nothing else is.")
    ] = None,
    size: Annotated[int, typer.Option(help="With --pack: side of the canvases in pixels.", min=32, max=1024)] = 192,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Tumor class of your data, such as metastasis; once for each.")
    ] = None,
    packed_folds: Annotated[
        FoldList, typer.Option(help="With --pack: folds to pack.", parser=parse_folds, metavar="N,N,...")
    ] = FIRST_THREE,
) -> None:
    """Check prepared scans, or prepare your own or the original downloads (figshare .mat, kaggle_3m, yes/no, notumor).

    Scans of your own: a folder with a CSV of columns image, mask, label, patient, fold and sequence, of which only image
    is needed. An image is a picture, a NIfTI file, or a DICOM file or folder; volumes are cut into slices. Labels are
    none, tumor and the classes: glioma, meningioma and pituitary unless --class names others or a classes.json describes
    them. Without folds, patients are spread over five.
    """
    from collections import Counter

    from neurovision.training.dataset import load_index
    from neurovision.training.own import is_own, prepare_own

    if out is not None and is_own(source):
        chosen = name or "".join(c if c.isalnum() else "-" for c in source.resolve().name.lower()).strip("-")
        print(*prepare_own(source, out, chosen, license, classes or ()).lines(), sep="\n")
        source = out
    elif out is not None:
        from neurovision.training.originals import prepare_originals

        prepare_originals(source, out)
        source = out
    items = load_index(source)
    print(f"{'data set':10} {'fold':>4} {'scans':>6} {'tumor':>6}")
    counts = Counter((i.source, i.fold, i.tumor) for i in items)
    for name, fold in sorted({(s, f) for s, f, _ in counts}):
        with_tumor, without = counts[name, fold, True], counts[name, fold, False]
        print(f"{name:10} {fold:4} {with_tumor + without:6} {with_tumor:6}")
    if pack is not None:
        from neurovision.training.packed import write_packed

        count = write_packed(source, pack, size, folds=list(packed_folds.numbers))
        print(f"{pack}: {count} canvases of {size} px, {pack.stat().st_size / 1e6:.1f} MB; they are patients' pictures")


def train(
    name: Annotated[str | None, typer.Argument(help="A segmenter; see 'neurovision models'.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every member of the ensemble, then the classifier.")] = False,
    minutes: Minutes = None,
    data: Data = None,
    runs: Runs = Path("runs"),
    folds: Folds = FIRST_TWO,
    validation_fold: ValidationFold = 3,
    without_lgg: WithoutLgg = False,
    published: Annotated[bool, typer.Option(help="The documents' size and schedule, not the shipped recipe.")] = False,
    accepted: Annotated[bool, typer.Option(help="Also train on masks accepted with 'neurovision sam accept'.")] = False,
    epochs: Epochs = None,
    limit: Limit = None,
    batch: Batch = None,
    size: Size = None,
    dtype: Annotated[
        DtypeChoice, typer.Option(help="With --minutes: by itself bfloat16 on a GPU, float32 elsewhere.")
    ] = DtypeChoice.auto,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Folder of finished runs: go on from their weights, those without the vote's fold."),
    ] = None,
    cross_fit: CrossFit = False,
    seed: Seed = 1,
) -> None:
    """Train a network or all by their recipes; an interrupted run resumes.

    With --minutes the learning rate follows the clock, and size and batch may be chosen. A run that was begun or finished
    with other options is refused. A trial, which a number shortens, is stacked into a weights folder of its own only.

    With --cross-fit each network is also trained without each of its folds in turn, after all networks are done, into
    RUNS/without-fold-N: what those say of the fold they left out, 'neurovision stack --cross-fit' fits the vote on too.
    """
    import logging

    from neurovision.errors import ModelError
    from neurovision.machine import accelerator
    from neurovision.training.clock import by_clock, networks
    from neurovision.training.dataset import data_root, sources_in
    from neurovision.training.fit import train as run
    from neurovision.training.fit import without
    from neurovision.training.recipes import published_recipe, recipe

    if (name is None) != every:
        raise ModelError("Training takes the name of one network, or --all; give one of them.")
    if minutes is not None and epochs is not None:
        raise ModelError("Training takes --epochs or --minutes, not both; leave one out.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    root = data_root(data)
    sources = [s for s in sources_in(root) if not (without_lgg and s == "lgg")]
    wanted = [published_recipe(one) if published else recipe(one) for one in (networks() if name is None else [name])]
    known = {*folds.numbers, validation_fold}
    crossed = len(folds.numbers) if cross_fit else 0
    if minutes is None:
        wanted = [w.shortened(epochs, size, batch, limit) for w in wanted]
    else:
        on_gpu = dtype is DtypeChoice.auto and accelerator() is not None
        precision = "mixed_bfloat16" if on_gpu or dtype is DtypeChoice.bfloat16 else "float32"
        wanted = [w.shortened(limit=limit) for w in by_clock(wanted, minutes, size, batch, precision, crossed)]
        times = ", ".join(f"{w.name} {sum(p.seconds or 0 for p in w.phases):.0f} s" for w in wanted)
        print(f"By the clock, in {precision}: {times}; reading scans and building networks come on top.")
    verbose = 1 if sys.stderr.isatty() else 2
    plan = [(runs, start, list(folds.numbers), validation_fold, wanted)]
    for left_out in folds.numbers[:crossed]:
        before = None if start is None else without(start, left_out)
        plan.append((without(runs, left_out), before, sorted(known - {left_out}), left_out, [w.unseen() for w in wanted]))
    for place, before, seen, left_out, recipes in plan:
        for each in recipes:
            earlier = None if before is None else before / each.name
            print(run(each, root, seen, left_out, place / each.name, sources, seed, verbose, accepted, earlier))


def stack(
    data: Data = None,
    runs: Runs = Path("runs"),
    out: NewWeights = Path("weights"),
    vote_fold: VoteFold = 3,
    limit: Limit = None,
    cross_fit: CrossFit = False,
) -> None:
    """Fit the vote and the verdict on a fold that no member saw, and write the weights and their manifest."""
    import logging

    from neurovision.training.dataset import data_root
    from neurovision.training.stack import stack as run

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(run(data_root(data), runs, out, vote_fold, limit=limit, cross_fit=cross_fit))


def ablate(
    data: Data = None,
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder for table, JSON and plot.")] = Path("docs/evaluation"),
    vote_fold: VoteFold = 3,
    limit: Limit = None,
    every: Annotated[int, typer.Option(help="Of annotated tumor slices, one of so many is voted on.", min=1)] = 3,
    cross_fit: CrossFit = False,
) -> None:
    """Measure what members, means and trees add, with and without cross-fitting, on the vote's fold.

    What the networks say of the fold is taken from RUNS/cache where 'neurovision stack' has kept it.
    """
    import logging

    from neurovision.errors import DataError
    from neurovision.evaluation.ablation import JSON
    from neurovision.evaluation.ablation import ablate as run
    from neurovision.training.dataset import data_root

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if limit is not None and (out / JSON).is_file() and not json.loads((out / JSON).read_text())["about"]["trial"]:
        raise DataError(f"This is a trial, and {out} holds a whole table; name another folder with --out.")
    print(run(data_root(data), runs, out, vote_fold, limit=limit, every=every, cross_fit=cross_fit))


def fit_classifier(
    recipe: Annotated[str, typer.Argument(help="A recipe, such as custom_cnn; an unknown one lists them all.")],
    data: Data = None,
    runs: Runs = Path("runs"),
    folds: Folds = FIRST_THREE,
    validation_fold: ValidationFold = 4,
    source: Source = None,
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
    described = run(
        recipe, data_root(data), list(folds.numbers), validation_fold, out, tuple(source or ["navoneel"]), size, config,
        epochs, verbose=2,
    )  # fmt: skip
    draw_classifier(out)
    print(json.dumps({"classifier": str(out), "threshold": described["threshold"], **described["validation"]}, indent=1))


def search(
    how: Annotated[str, typer.Argument(help="random or grid.")] = "random",
    out: Annotated[Path, typer.Option(help="Folder of log and tables; a stopped search resumes.")] = Path("runs/search"),
    data: Data = None,
    trials: Annotated[int, typer.Option(help="Settings to try in all.", min=1)] = 20,
    folds: Folds = FIRST_TWO,
    validation_fold: ValidationFold = 3,
    source: Source = None,
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

    training_folds = list(folds.numbers)
    if validation_fold in training_folds:
        raise DataError(f"Fold {validation_fold} is trained on and cannot validate; choose another.")
    sources = source or ["navoneel"]
    parts = []
    for chosen in (training_folds, [validation_fold]):
        items = load_index(data_root(data), sources, chosen)
        parts.append(Labeled(pack(items, size, out / "cache")[0], np.array([i.tumor for i in items])))
    settings = {"folds": training_folds, "validation": validation_fold, "sources": sources, "size": size, "epochs": epochs}
    ask = classifier_trial(parts[0], parts[1], epochs, encoder, "imagenet")
    print(run(ask, out, how, trials, settings={**settings, "encoder": encoder}))
