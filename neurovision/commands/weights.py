"""``neurovision hub``, ``models`` and ``convert``: the weights, where they come from and what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from neurovision.commands.options import AsJson, Weights, tell_progress

hub_app = typer.Typer(
    help="Fetch weights from, and publish them to, the Hugging Face Hub, pinned by commit and digest. NEUROVISION_HUB_TOKEN "
    "holds a token where one is needed.",
    no_args_is_help=True,
)


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


def models(
    as_json: AsJson = False, weights: Weights = None
) -> None:
    """List the architectures: kind, input size, whether they vote, parameters and shipped weights."""
    from neurovision import classifiers, segmenters
    from neurovision.ensemble.weights import load_manifest
    from neurovision.errors import WeightsMissing

    try:
        manifest = load_manifest(weights)
        shipped = {m.name: m for m in manifest.networks}
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


def convert(weights: Weights = None) -> None:
    """Make, once, what every start reads: the networks as one graph and the forest as plain arrays.

    The first start does the same; this is for building a container or warming up a server. It ends with an error where
    the networks cannot be converted.
    """
    from neurovision.ensemble.engine import OpenVinoEngine
    from neurovision.ensemble.voter import Voter
    from neurovision.ensemble.weights import load_manifest

    tell_progress()
    manifest = load_manifest(weights)
    precision = OpenVinoEngine(manifest).precision
    Voter.load(manifest)
    print(f"The networks run in {precision} on this machine; a start reads what was made now.")
