"""The ``neurovision`` command: its table of contents. The commands themselves stand in ``commands/``."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from neurovision import __version__
from neurovision.commands import explore, measure, predict, serve, train, weights
from neurovision.commands.batch import batch
from neurovision.commands.diffuse import diffuse_app
from neurovision.commands.explain import explain
from neurovision.commands.pacs import pacs_app
from neurovision.commands.sam import sam_app
from neurovision.errors import NeurovisionError
from neurovision.logs import printable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up notes are not for users

DAILY: dict[str, Any] = {
    "predict": predict.predict,
    "serve": serve.serve,
    "batch": batch,
    "pacs": pacs_app,
    "classify": predict.classify,
    "sam": sam_app,
    "enhance": explore.enhance,
    "clusters": explore.clusters,
    "models": weights.models,
    "hub": weights.hub_app,
    "convert": weights.convert,
}
LABORATORY: dict[str, Any] = {
    "data": train.data,
    "train": train.train,
    "stack": train.stack,
    "ablate": train.ablate,
    "evaluate": measure.evaluate,
    "explain": explain,
    "fit-classifier": train.fit_classifier,
    "search": train.search,
    "reproduce": measure.reproduce,
    "diffuse": diffuse_app,
    "bench": measure.bench,
}


class _InOrder(TyperGroup):
    """Lists the commands in the order of the two tables above."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [*DAILY, *LABORATORY]


app = typer.Typer(
    cls=_InOrder,
    help="Segment a brain MRI with five networks, let trees vote on every pixel, read the verdict. "
    "A research tool, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for panel, commands in (("Every day", DAILY), ("Laboratory: data, training, measurement", LABORATORY)):
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)


def main() -> None:
    """Run a command; errors that neurovision raises on purpose become one line and exit code 1."""
    try:
        app()
    except NeurovisionError as e:
        print(f"neurovision: {printable(str(e))}", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit
