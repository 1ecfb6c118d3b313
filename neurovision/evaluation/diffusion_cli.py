"""``neurovision diffuse``: train a generator of head slices, sample from it, and measure what it is good for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

diffuse_app = typer.Typer(
    help="Generated pictures of heads: a small denoising diffusion model (DDIM). They show no patient and no diagnosis.",
    no_args_is_help=True,
)

Data = Annotated[Path | None, typer.Option(help="Prepared scans; NEUROVISION_DATA by default.")]
Weights = Annotated[Path | None, typer.Option(help="Weights folder; the project's own by default.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]


@diffuse_app.command()
def train(
    data: Data = None,
    out: Annotated[Path, typer.Option(help="Folder of the run; an unfinished one goes on.")] = Path("runs/diffusion"),
    folds: Annotated[str, typer.Option(help="Folds to train on.")] = "1,2,3",
    validation_fold: Annotated[int, typer.Option(help="Fold that is only measured on.")] = 4,
    epochs: Annotated[int | None, typer.Option(help="Passes over the scans; the plan's own by default.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the pictures; the plan's own by default.")] = None,
    without_lgg: Annotated[bool, typer.Option(help="Leave LGG out, and its non-commercial terms with it.")] = False,
    precision: Annotated[str, typer.Option(help="float32, or mixed_bfloat16 where the processor has it.")] = "float32",
    seed: Seed = 1,
) -> None:
    """Train the generator: a checkpoint and a row of history.csv (losses, KID) after each epoch."""
    from dataclasses import replace

    from neurovision.training.dataset import SOURCES, data_root
    from neurovision.training.diffusion import Plan
    from neurovision.training.diffusion import train as run

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = {"epochs": epochs, "size": size}
    plan = replace(Plan(), **{k: v for k, v in given.items() if v is not None})
    sources = [s for s in SOURCES if not (without_lgg and s == "lgg")]
    wanted = [int(f) for f in folds.split(",") if f.strip().isdigit()]
    print(run(plan, data_root(data), wanted, validation_fold, out, sources, seed, precision))
