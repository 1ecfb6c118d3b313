"""Options that several commands take, each stated once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DtypeChoice(StrEnum):
    """What networks are trained in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class EngineChoice(StrEnum):
    """Names of ``ensemble.engine.ENGINES``; a test keeps them equal."""

    auto = "auto"
    openvino = "openvino"
    keras = "keras"
    reference = "reference"


@dataclass(frozen=True)
class FoldList:
    """Folds as an option names them, such as ``1,2``.

    Attributes:
        numbers: From 1 up, each once, in the order given.
    """

    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.numbers))


def parse_folds(text: str | FoldList) -> FoldList:
    """Read ``1,2``.

    Raises:
        typer.BadParameter: It is anything but numbers from 1 up with commas between, or names one twice.
    """
    parts = [part.strip() for part in str(text).split(",")]
    numbers = tuple(int(part) for part in parts if re.fullmatch(r"[1-9][0-9]{0,3}", part))
    if len(numbers) != len(parts) or len(set(numbers)) != len(numbers):
        raise typer.BadParameter(f"folds are numbers from 1 up with commas between, such as 1,2; received {str(text)!r}")
    return FoldList(numbers)


def tell_progress() -> None:
    """Say on standard error what takes a while and is done once, such as converting the networks."""
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("neurovision").setLevel(logging.INFO)


def _found(given: Path | None) -> Path | None:
    """What is given, else what NEUROVISION_HUB pins where no weights are on this machine."""
    if given is not None:
        return given
    from neurovision.serving.hub import provide

    return provide()


Data = Annotated[Path | None, typer.Option(help="Prepared scans; NEUROVISION_DATA by default.")]
Runs = Annotated[Path, typer.Option(help="Folder of training runs.")]
Weights = Annotated[
    Path | None,
    typer.Option(help="Weights folder; found by itself where it is not given.", callback=_found, show_default=False),
]
NewWeights = Annotated[Path, typer.Option(help="Weights folder to write.")]
Engine = Annotated[EngineChoice, typer.Option(help="How the networks are run.")]
FIRST_TWO, FIRST_THREE = FoldList((1, 2)), FoldList((1, 2, 3))
Folds = Annotated[FoldList, typer.Option(help="Folds to train on.", parser=parse_folds, metavar="N,N,...")]
ValidationFold = Annotated[int, typer.Option(help="Fold that is not trained on, and that choices are made by.", min=1)]
VoteFold = Annotated[int, typer.Option(help="Fold that no member was trained on.", min=1)]
TestFold = Annotated[int, typer.Option(help="Fold to measure on; nothing may be fitted on it.", min=1)]
CrossFit = Annotated[
    bool, typer.Option("--cross-fit", help="Fit the vote on the members' folds too, each as seen by networks without it.")
]
Source = Annotated[list[str] | None, typer.Option(help="Data set; may be given more than once.")]
WithoutLgg = Annotated[bool, typer.Option(help="Leave LGG out, and its non-commercial terms with it.")]
Minutes = Annotated[
    float | None, typer.Option(help="Train by the clock: so many minutes for all networks together.", min=0.05)
]
Epochs = Annotated[int | None, typer.Option(help="At most so many epochs a phase: a trial.", min=1)]
Size = Annotated[
    int | None, typer.Option(help="Side of the canvas in pixels: a trial, but for --minutes.", min=32, max=1024)
]
Batch = Annotated[int | None, typer.Option(help="Scans a step: a trial, but for --minutes.", min=1)]
Limit = Annotated[int | None, typer.Option(help="At most so many scans of each data set: a trial.", min=1)]
Scans = Annotated[list[Path], typer.Argument(help="Scans, or folders of scans.")]
Out = Annotated[Path, typer.Option(help="Folder for the results; made if need be.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Insecure = Annotated[bool, typer.Option("--insecure-http", help="Allow plain http to another machine.")]
Anonymize = Annotated[
    bool, typer.Option("--anonymize", "--anonymise", help="De-identify DICOM first; the copies go beside the results.")
]
