"""``neurovision batch``: an archive from the command line."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from neurovision.commands.options import Engine, EngineChoice, Insecure, Weights


class BatchEngine(StrEnum):
    """Names of ``serving.batch_options.ENGINES``."""

    local = "local"
    ray = "ray"


def batch(
    source: Annotated[str, typer.Argument(help="A folder, a CSV of paths, a DICOMDIR, or https://host/dicom-web.")],
    out: Annotated[Path, typer.Option(help="Folder for table and masks; an interrupted run resumes.")],
    engine: Annotated[
        BatchEngine, typer.Option(help="Processes of this machine, or actors of a Ray cluster.")
    ] = BatchEngine.local,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes or actors; as many as fit by default.")] = None,
    weights: Weights = None,
    networks: Engine = EngineChoice.auto,
    masks: Annotated[bool, typer.Option(help="Write masks beside the table.")] = True,
    anonymize: Annotated[
        bool, typer.Option("--anonymize", "--anonymise", help="Name sources by keyed digests instead of paths.")
    ] = False,
    partition: Annotated[int, typer.Option(min=1, help="Scans or series of one Parquet file at most.")] = 64,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join: auto, or host:6379.")] = None,
    cpus_per_worker: Annotated[float, typer.Option(help="Processors of a Ray actor.")] = 1.0,
    gpus_per_worker: Annotated[float, typer.Option(help="GPUs of a Ray actor, fractions allowed.")] = 0.0,
    days: Annotated[int | None, typer.Option(help="Archive: how old studies may be.")] = None,
    description: Annotated[str, typer.Option(help="Archive: what a series' description contains.")] = "",
    least_images: Annotated[int, typer.Option(help="Archive: leave out series with fewer images.")] = 8,
    insecure: Insecure = False,
) -> None:
    """Analyze an archive: a Parquet table of findings and masks, in partitions, with one machine or a Ray cluster.

    The same command resumes an interrupted run. A file that cannot be read is a row that says why; files that are
    no scans are listed in skipped.csv. No row holds a person's name, but paths may: see --anonymize. User, password
    and certificates of an archive come from the environment, as for 'neurovision pacs'.
    """
    from neurovision.serving.batch import Options, describe, run
    from neurovision.serving.batch_sources import list_source
    from neurovision.serving.pacs import SeriesFilter, Server

    options = Options(
        engine.value, workers, weights, networks.value, masks, anonymize, partition, address, cpus_per_worker,
        gpus_per_worker,
    )  # fmt: skip
    is_archive = source.startswith(("http://", "https://"))
    server = Server.from_environment(source, insecure=insecure) if is_archive else None
    print("Listing the source ...", flush=True)
    listing = list_source(source, server, SeriesFilter(description, least_images), days)
    print(f"{len(listing.units)} scans and series, {len(listing.skipped)} other files.", flush=True)
    print(describe(run(listing, out, options), out))
