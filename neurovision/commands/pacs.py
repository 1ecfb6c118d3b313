"""``neurovision pacs``: an image archive from the command line."""

from __future__ import annotations

import logging
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import typer
from platformdirs import user_state_path

from neurovision.commands.options import Insecure, Weights
from neurovision.serving.pacs import Ledger, Pacs, SeriesEntry, SeriesFilter, Server, analyze_series
from neurovision.serving.pacs import watch as run_watch

pacs_app = typer.Typer(
    help="Read from and write to an image archive (PACS) over DICOMweb. The password comes from "
    "NEUROVISION_PACS_PASSWORD or the system's keyring (service neurovision-pacs), a token from NEUROVISION_PACS_TOKEN.",
    no_args_is_help=True,
)

Url = Annotated[str | None, typer.Option(help="DICOMweb root; NEUROVISION_PACS_URL by default.")]
User = Annotated[str | None, typer.Option(help="User; NEUROVISION_PACS_USER by default.")]
Ca = Annotated[Path | None, typer.Option(help="Certificates to trust; NEUROVISION_PACS_CA by default.")]
Work = Annotated[Path | None, typer.Option(help="Folder of the ledger and of unfinished work.")]
Days = Annotated[int, typer.Option(help="How many days back.")]
StudyUid = Annotated[str, typer.Argument(help="Study Instance UID.")]
SeriesUid = Annotated[str, typer.Argument(help="Series Instance UID.")]


@pacs_app.command("list")
def list_studies(
    study: Annotated[str | None, typer.Argument(help="List the series of this study instead.")] = None,
    days: Days = 7, url: Url = None, user: User = None, ca: Ca = None, insecure: Insecure = False,
) -> None:  # fmt: skip
    """List MR studies, or the MR series of one. Patients are not named."""
    pacs = Pacs(Server.from_environment(url, user, ca, insecure))
    if study is None:
        for found in pacs.studies(date.today() - timedelta(days=days)):
            print(f"{found.date:8}  {found.series:3} series  {found.images:5} images  {found.uid}")
        return
    for series in pacs.series(study):
        print(f"{series.number or '-':>4}  {series.images:5} images  {series.uid}  {series.description}")


@pacs_app.command()
def fetch(
    study: StudyUid, series: SeriesUid, out: Annotated[Path, typer.Option(help="Folder for the files; made anew.")],
    url: Url = None, user: User = None, ca: Ca = None, insecure: Insecure = False,
) -> None:  # fmt: skip
    """Fetch one series."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise typer.BadParameter("the folder is not empty; name a new one", param_hint="--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    print(f"{len(Pacs(Server.from_environment(url, user, ca, insecure)).fetch(study, series, out))} files")


@pacs_app.command()
def analyze(
    study: StudyUid, series: SeriesUid,
    store: Annotated[bool, typer.Option(help="Send SEG and SR back to the archive.")] = True,
    work: Work = None, weights: Weights = None,
    url: Url = None, user: User = None, ca: Ca = None, insecure: Insecure = False,
) -> None:  # fmt: skip
    """Fetch a series, analyze it and store SEG and SR beside it; a series that was done is not done again."""
    from neurovision.ensemble.pipeline import Analyzer

    pacs, folder = Pacs(Server.from_environment(url, user, ca, insecure)), _work(work)
    ledger = Ledger(folder / "ledger.sqlite")
    entry = SeriesEntry(study, series, None, "", 0)
    state = analyze_series(pacs, Analyzer.load(weights), ledger, entry, folder, store)
    print(state if state != "analyzed" else f"{state}: {folder / 'outbox' / entry.label}")
    if reason := ledger.reason(series) if state in ("refused", "failed") else ledger.missing(series):
        print(reason, file=sys.stderr)
        raise typer.Exit(1)


@pacs_app.command()
def store(
    files: Annotated[list[Path], typer.Argument(help="DICOM files.")],
    url: Url = None, user: User = None, ca: Ca = None, insecure: Insecure = False,
) -> None:  # fmt: skip
    """Store files that the archive does not hold yet."""
    print(f"{Pacs(Server.from_environment(url, user, ca, insecure)).store(files)} sent")


@pacs_app.command()
def watch(
    description: Annotated[str, typer.Option(help="Regular expression that the series' description contains.")] = "",
    least_images: Annotated[int, typer.Option(help="Leave out series with fewer images.")] = 8,
    days: Days = 1,
    every: Annotated[float, typer.Option(help="Seconds between polls.")] = 30.0,
    polls: Annotated[int | None, typer.Option(help="Stop after so many.")] = None,
    work: Work = None, weights: Weights = None,
    url: Url = None, user: User = None, ca: Ca = None, insecure: Insecure = False,
) -> None:  # fmt: skip
    """Analyze new MR series as they arrive and store SEG and SR beside them, until interrupted."""
    from neurovision.ensemble.pipeline import Analyzer

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("neurovision").setLevel(logging.INFO)
    pacs, folder = Pacs(Server.from_environment(url, user, ca, insecure)), _work(work)
    ledger, wanted = Ledger(folder / "ledger.sqlite"), SeriesFilter(description, least_images)
    run_watch(pacs, Analyzer.load(weights), ledger, folder, wanted, days, every, polls)


def _work(given: Path | None) -> Path:
    """The work folder: what is given, else the user's state folder."""
    return given or user_state_path("neurovision", appauthor=False) / "pacs"
