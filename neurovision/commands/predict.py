"""``neurovision predict`` and ``neurovision classify``: scans in, findings out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurovision.commands.options import Anonymize, AsJson, Engine, EngineChoice, Out, Scans, Weights, tell_progress

if TYPE_CHECKING:
    from neurovision.ensemble.manifest import Manifest
    from neurovision.ensemble.pipeline import Analyzer
    from neurovision.ensemble.results import Result
    from neurovision.scan.study import Study
    from neurovision.views.dicom_out import Objects


class Report(StrEnum):
    """Reports beside the JSON."""

    pdf = "pdf"


def predict(
    paths: Scans,
    out: Out,
    weights: Weights = None,
    engine: Engine = EngineChoice.auto,
    report: Annotated[Report | None, typer.Option(help="Also write a report.")] = None,
    dicom: Annotated[bool, typer.Option("--dicom", help="Write a Secondary Capture for scans that are not DICOM.")] = False,
    fractional: Annotated[bool, typer.Option("--fractional", help="Also write the probability as DICOM SEG.")] = False,
    anonymize: Anonymize = False,
    list_skipped: Annotated[bool, typer.Option("--list-skipped", help="Name the files that are no scans.")] = False,
) -> None:
    """Analyze scans: for each X.png print a line and write X.json, X.mask.png (class indices 0 to 4) and X.overlay.png.

    A DICOM file or series also gets X.seg.dcm and X.sr.dcm; a volume gets X.mask.nii.gz instead of X.mask.png. Where
    two scans have the same file name, their folders are put in front of X. What a file holds decides, not its name.

    A file that cannot be read, or is no brain MRI, is named with the reason on standard error and in its JSON; the
    others are analyzed all the same. The exit code is 1 if there was one or no scan at all, 3 if all scans were read
    but files of a given folder were skipped because they are no scans, and 0 otherwise.
    """
    from tqdm import tqdm

    from neurovision.ensemble.pipeline import Analyzer
    from neurovision.ensemble.results import Unread
    from neurovision.errors import NeurovisionError, ScanError
    from neurovision.files import write
    from neurovision.scan.read import DEIDENTIFIED, list_scans, memory_told, read_files
    from neurovision.scan.sniff import kind_of

    listing = list_scans(paths)
    if listing.skipped:
        count = f"{len(listing.skipped)} file{'s' if len(listing.skipped) > 1 else ''}"
        more = "" if list_skipped else "; --list-skipped names them"
        print(f"neurovision: skipped {count} that hold no scan{more}.", file=sys.stderr)
        for skipped in listing.skipped if list_skipped else ():
            print(f"{skipped.name}: skipped, {skipped.reason}", file=sys.stderr)
    if not listing.scans:
        print("neurovision: there is no scan in the given folders.", file=sys.stderr)
        raise typer.Exit(1)
    out.mkdir(parents=True, exist_ok=True)
    tell_progress()
    analyzer = Analyzer.load(weights, engine.value)
    failed = 0
    for scan in tqdm(listing.scans, unit="scan", disable=None):
        files, stem = scan.files, scan.stem
        result: Result | None = None
        reason: str | None
        try:
            with memory_told([scan.name]):
                if anonymize and kind_of(files[0]) == "DICOM":
                    from neurovision.scan.deidentify import deidentify

                    files = tuple(deidentify(files, out / f"{stem}{DEIDENTIFIED}"))
                study = read_files(files, scan.name)
                result = _analyze(analyzer, study)
                objects = None
                if study.source.format == "DICOM" or dicom:
                    from neurovision.views.dicom_out import try_dicom

                    objects = try_dicom(result, study, out, stem, fractional)
                _write_result(result, study, objects, out, stem, report, analyzer.manifest)
        except ScanError as e:
            result, reason = None, str(e).removeprefix(f"{scan.name}: ").removeprefix(f"{Path(scan.name).name}: ")
        except NeurovisionError:
            raise
        except Exception as e:  # noqa: BLE001 - whatever one file provokes must not end the others
            result, reason = None, f"the program failed on it ({type(e).__name__}); please report this"
        else:
            tqdm.write(line_of(result.row()))
            reason = result.reason
            if reason is None and objects is not None:
                reason = objects.missing_words or None
        if result is None:
            unread = Unread.of(scan.name, str(reason), analyzer.manifest.digest[:12], analyzer.manifest.classes)
            write(out / f"{stem}.json", json.dumps(unread.to_json(), indent=1).encode())
        if reason is not None:
            failed += 1
            tqdm.write(f"{scan.name}: {reason}", file=sys.stderr)
    if failed or listing.skipped:
        raise typer.Exit(1 if failed else 3)


def classify(
    paths: Scans,
    classifier: Annotated[Path, typer.Option(help="Folder that 'neurovision fit-classifier' wrote.")],
    as_json: AsJson = False,
) -> None:
    """Ask a whole-image classifier: tumor or no tumor, for one scan or many."""
    from neurovision.ensemble.classify import TrainedClassifier
    from neurovision.scan.read import find_scans

    answers = TrainedClassifier.load(classifier).classify(find_scans(paths))
    if as_json:
        print(json.dumps([a.to_json() for a in answers], indent=1))
    else:
        for answer in answers:
            print(f"{answer.image}: {answer.text()}" if len(answers) > 1 else answer.text())


def line_of(row: Mapping[str, Any]) -> str:
    """A scan's result in one line: verdict, probability, type and size.

    Args:
        row: As ``Result.row`` gives it.
    """
    if row["verdict"] is None:
        return f"{row['scan']}: no verdict"
    said = {"no tumor": "no tumor detected", "tumor": "tumor detected"}.get(row["verdict"], row["verdict"])
    parts = [f"probability of a tumor {_never_certain(row['tumor_probability'])} (tumor from {row['threshold']:.2f})"]
    if row["verdict"] != "no tumor" and row["tumor_type"]:
        parts.append(f"{row['tumor_type']} {_never_certain(row['p_' + row['tumor_type']])}")
    sizes = (("tumor_volume_ml", "ml", ".1f"), ("tumor_area_mm2", "mm2", ".0f"), ("tumor_area_px", "px", ".0f"))
    known = [f"{row[key]:{digits}} {unit} marked" for key, unit, digits in sizes if row.get(key)]
    return f"{row['scan']}: {said}, {', '.join([*parts, *known[:1]])}"


def _never_certain(probability: float) -> str:
    """A probability with two digits, but never 0 or 1: calibration says nothing of such certainty."""
    return "< 0.01" if probability < 0.01 else "> 0.99" if probability > 0.99 else f"{probability:.2f}"


def _analyze(analyzer: Analyzer, study: Study) -> Result:
    from tqdm import tqdm

    from neurovision.ensemble.volume import analyze_study

    with tqdm(total=study.n_slices, unit="slice", leave=False, disable=None if study.n_slices > 1 else True) as bar:
        return analyze_study(analyzer, study, lambda done, _: bar.update(done - bar.n))


def _write_result(
    result: Result, study: Study, objects: Objects | None, out: Path, stem: str, report: Report | None, manifest: Manifest
) -> None:
    """Write the files that every scan gets; of a volume, the overlay shows one slice."""
    import cv2

    from neurovision.files import write
    from neurovision.views.files import write_mask

    write_mask(result, study, out, stem)
    if result.shown is not None:
        write(out / f"{stem}.overlay.png", cv2.imencode(".png", result.shown.overlay()[..., ::-1])[1].tobytes())
    if report is Report.pdf:
        from neurovision.evaluation.held_out import measured_for
        from neurovision.views.pdf import write_pdf

        write_pdf(result, out / f"{stem}.pdf", measured=measured_for(manifest, result))
    plain = result.to_json() | ({} if objects is None else {"dicom": objects.to_json()})
    write(out / f"{stem}.json", json.dumps(plain, indent=1).encode())
