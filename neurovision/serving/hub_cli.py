"""``neurovision hub``: weights to and from the Hugging Face Hub, and the option by which every command finds its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

hub_app = typer.Typer(
    help="Fetch weights from, and publish them to, the Hugging Face Hub, pinned by commit and digest. NEUROVISION_HUB_TOKEN "
    "holds a token where one is needed.",
    no_args_is_help=True,
)


def _found(given: Path | None) -> Path | None:
    """What is given, else what NEUROVISION_HUB pins where no weights are on this machine."""
    if given is not None:
        return given
    from neurovision.serving.hub import provide

    return provide()


Weights = Annotated[
    Path | None,
    typer.Option(help="Weights folder; found by itself where it is not given.", callback=_found, show_default=False),
]


@hub_app.command()
def pull(
    reference: Annotated[str, typer.Argument(help="owner/name, owner/name@revision or owner/name@commit#digest.")],
) -> None:
    """Fetch a set of weights, check it and use it from now on; prints the reference that pins it for NEUROVISION_HUB."""
    from neurovision.serving.hub import Reference
    from neurovision.serving.hub import pull as run

    print(run(Reference.parse(reference))[0])


@hub_app.command()
def push(
    repo: Annotated[str, typer.Argument(help="owner/name; made if need be.")],
    weights: Weights = None,
    card: Annotated[Path, typer.Option(help="The model card of these weights.")] = Path("docs/MODEL_CARD.md"),
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Weights",
) -> None:
    """Publish weights, manifest and card as one commit; prints the reference that pins it."""
    from neurovision.serving.hub import push as run

    print(run(weights, repo, card, private, message))
