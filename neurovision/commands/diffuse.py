"""``neurovision diffuse``: train a generator of head slices, sample from it, and measure what it is good for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from neurovision.commands.options import FIRST_THREE, Data, Folds, NewWeights, Out, Seed, ValidationFold, Weights, WithoutLgg

diffuse_app = typer.Typer(
    help="Generated pictures of heads: a small denoising diffusion model (DDIM). They show no patient and no diagnosis.",
    no_args_is_help=True,
)

Cache = Annotated[Path, typer.Option(help="Folder for canvases.")]


@diffuse_app.command()
def train(
    data: Data = None,
    out: Annotated[Path, typer.Option(help="Folder of the run; an unfinished one resumes.")] = Path("runs/diffusion"),
    folds: Folds = FIRST_THREE,
    validation_fold: ValidationFold = 4,
    epochs: Annotated[int | None, typer.Option(help="Passes over the scans; the plan's own by default.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the pictures; the plan's own by default.")] = None,
    without_lgg: WithoutLgg = False,
    precision: Annotated[str, typer.Option(help="float32, or mixed_bfloat16 where the processor has it.")] = "float32",
    seed: Seed = 1,
) -> None:
    """Train the generator: a checkpoint and a row of history.csv (losses, KID) after each epoch."""
    from dataclasses import replace

    from neurovision.aids.sampling import Plan
    from neurovision.training.dataset import data_root, sources_in
    from neurovision.training.diffusion import train as run

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    usual = Plan()
    plan = replace(usual, epochs=epochs or usual.epochs, size=size or usual.size)
    root = data_root(data)
    sources = [s for s in sources_in(root) if not (without_lgg and s == "lgg")]
    print(run(plan, root, list(folds.numbers), validation_fold, out, sources, seed, precision))


@diffuse_app.command()
def export(
    run: Annotated[Path, typer.Option(help="Folder of the run, finished or not.")] = Path("runs/diffusion"),
    out: NewWeights = Path("weights"),
) -> None:
    """Write a run's averaged weights, float16, and their manifest with its digest."""
    from neurovision.training.diffusion import export as write

    print(write(run, out))


@diffuse_app.command()
def sample(
    out: Out,
    count: Annotated[int, typer.Option(help="How many pictures.", min=1, max=10_000)] = 8,
    steps: Annotated[int, typer.Option(help="Of denoising.", min=1, max=1000)] = 20,
    tumor: Annotated[bool | None, typer.Option(help="With or without a tumor; by default in turn.")] = None,
    seed: Seed = 1,
    weights: Weights = None,
) -> None:
    """Draw pictures; the same seed gives the same ones."""
    import numpy as np
    from PIL import Image

    from neurovision.aids.sampling import load

    kinds = [bool(k % 2) if tumor is None else tumor for k in range(count)]
    pictures = load(weights).sample(kinds, seed, steps)
    out.mkdir(parents=True, exist_ok=True)
    for number, (picture, kind) in enumerate(zip(pictures, kinds, strict=True), 1):
        name = f"generated-{seed}-{number:04d}-{'tumor' if kind else 'none'}.png"
        Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(out / name)
    print(f"{count} pictures in {out}")


@diffuse_app.command()
def check(
    data: Data = None,
    count: Annotated[int, typer.Option(help="Pictures to draw.", min=64)] = 256,
    page: Annotated[Path, typer.Option(help="Markdown to write; a picture of samples goes to images/ beside it.")] = Path(
        "docs/diffusion.md"
    ),
    cache: Cache = Path("runs/cache"),
    weights: Weights = None,
) -> None:
    """Measure the pictures: distance from real ones, and whether any copies a training picture."""
    from neurovision.aids.sampling import load
    from neurovision.evaluation.diffusion import check as run
    from neurovision.evaluation.diffusion import draw, record
    from neurovision.training.dataset import data_root

    generator = load(weights)
    (page.parent / "images").mkdir(parents=True, exist_ok=True)
    draw(generator, page.parent / "images" / "diffusion.png")
    record("check", run(generator, data_root(data), cache, count), generator, f"--count {count}", page)
    print(page)


@diffuse_app.command()
def ablate(
    data: Data = None,
    steps: Annotated[int, typer.Option(help="Of each training.", min=1)] = 400,
    seeds: Annotated[int, typer.Option(help="Trainings of each arm.", min=1, max=20)] = 3,
    page: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("docs/diffusion.md"),
    cache: Cache = Path("runs/cache"),
    weights: Weights = None,
) -> None:
    """Measure whether a small classifier gains from generated pictures, on patients that none of them saw."""
    from neurovision.aids.sampling import load
    from neurovision.evaluation.diffusion import ablate as run
    from neurovision.evaluation.diffusion import record
    from neurovision.training.dataset import data_root

    generator = load(weights)
    found = run(generator, data_root(data), cache, steps, tuple(range(1, seeds + 1)))
    record("ablate", found, generator, f"--steps {steps} --seeds {seeds}", page)
    print(page)
