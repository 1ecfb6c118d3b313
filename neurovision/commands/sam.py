"""``neurovision sam``: propose masks by points and boxes, and accept one into a training set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from neurovision.commands.options import Out

sam_app = typer.Typer(
    help="Propose masks by points and boxes (SAM), and accept one into a training set. A proposal is a person's aid: SAM "
    "knows nothing of tumors.",
    no_args_is_help=True,
)

Model = Annotated[Path | None, typer.Option(help="Folder with other SAM weights (config.json, model.safetensors).")]
Slice = Annotated[int | None, typer.Option("--slice", help="Slice, counted from 1; the middle one by default.")]


@sam_app.command()
def fetch() -> None:
    """Fetch SAM's weights once, 375 MB, so that the page can use them; nothing of a scan is ever sent."""
    from neurovision.aids.prompted import NAME, cached

    cached(fetch=True)
    print(f"{NAME} is on this computer.")


@sam_app.command()
def propose(
    file: Annotated[Path, typer.Argument(help="A scan.")],
    out: Out,
    point: Annotated[list[str] | None, typer.Option(help="x,y of a pixel in the object; may be repeated.")] = None,
    outside: Annotated[list[str] | None, typer.Option(help="x,y of a pixel that does not belong to it.")] = None,
    box: Annotated[str | None, typer.Option(help="x0,y0,x1,y1 around the object.")] = None,
    slice_: Slice = None,
    model: Model = None,
) -> None:
    """Propose three masks of one object, each with SAM's own score; writes PNGs (0 or 255) and NAME.proposals.json."""
    from neurovision.aids.prompted import SUFFIX, load_prompter, read_box, read_hints, write_proposals
    from neurovision.scan.names import stem_of
    from neurovision.scan.read import read

    hints = read_hints(point or (), True) + read_hints(outside or (), False)
    around = None if box is None else read_box(box)
    study = read(file)
    index = _index(slice_, study.n_slices)
    prompter = load_prompter(model, fetch=True)
    found = prompter.propose(study.gray(index), hints, around)
    out.mkdir(parents=True, exist_ok=True)
    listed = out / f"{stem_of(file)}{SUFFIX}"
    paths = write_proposals(found, prompter, hints, around, study.source, index, listed)
    for path, proposal in zip(paths, found, strict=False):  # the list comes last
        print(f"{path.name}: score {proposal.score:.3f}, {int(proposal.mask.sum())} pixels")


@sam_app.command()
def accept(
    proposals: Annotated[Path, typer.Argument(help="NAME.proposals.json that 'propose' wrote.")],
    scan: Annotated[Path, typer.Option(help="The scan that was proposed for.")],
    number: Annotated[int, typer.Option(help="Which proposal, 1 to 3.")],
    data: Annotated[Path, typer.Option(help="Prepared folder to add to; made if need be.")],
    label: Annotated[str, typer.Option(help="Its type, such as glioma: a class of the data.")],
    fold: Annotated[int, typer.Option(help="1 to 5; all scans of a patient in one.")],
    patient: Annotated[str, typer.Option(help="A pseudonym, never a name; the same for all scans of the patient.")],
    by: Annotated[str, typer.Option(help="Who accepts the mask.")],
) -> None:
    """Add the scan and a proposal that you looked at to DATA/accepted, a set apart from those with ground truth."""
    from neurovision.errors import DataError
    from neurovision.scan.masks import read_mask
    from neurovision.scan.read import read
    from neurovision.training.accepted import Acceptance
    from neurovision.training.accepted import accept as run

    try:
        described = json.loads(proposals.read_bytes())
        at, model, listed = described["scan"], str(described["model"]), [str(p["file"]) for p in described["proposals"]]
        index, digest = int(at["slice"]) - 1, str(at["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"{proposals.name} does not list proposals; make it with 'neurovision sam propose'.") from e
    if not 1 <= number <= len(listed):
        raise DataError(f"{proposals.name} lists proposals 1 to {len(listed)}; received {number}.")
    study = read(scan)
    if study.source.sha256 != digest or not 0 <= index < study.n_slices:
        raise DataError(f"{scan.name} is not the scan that {proposals.name} was made for.")
    gray = study.gray(index)
    mask = proposals.with_name(Path(listed[number - 1]).name)
    if not mask.is_file():
        raise DataError(f"{mask.name} is not beside {proposals.name}; run 'neurovision sam propose' again.")
    added = run(gray, read_mask(mask, gray.shape).tumor, Acceptance(label, fold, patient, by, f"{model} by hints"), data)
    print(f"accepted/{added}")


def _index(number: int | None, slices: int) -> int:
    if number is None:
        return slices // 2
    if not 1 <= number <= slices:
        raise typer.BadParameter(f"the scan has slices 1 to {slices}; received {number}", param_hint="--slice")
    return number - 1
