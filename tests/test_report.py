"""The report: PDF, JSON and CSV hold the same facts."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from standin import standin

from neurovision.classes import SHIPPED
from neurovision.ensemble.results import Findings
from neurovision.ensemble.volume import analyze_volume
from neurovision.errors import DataError
from neurovision.scan.phantom import phantom, phantom_volume
from neurovision.views.pdf import write_pdf
from neurovision.views.report import (
    MAX_LINES,
    MAX_NOTES,
    csv_rows,
    disclaimer,
    region_sizes,
    write_csv,
    write_json,
)


@pytest.fixture(scope="module")
def found() -> Findings:
    return standin().analyze(phantom("glioma", 4)[0])


def text_of(path: Path) -> tuple[int, str]:
    """Number of pages and their text, line ends as spaces."""
    import pypdfium2

    document = pypdfium2.PdfDocument(path)
    pages = [page.get_textpage().get_text_range() for page in document]
    return len(pages), " ".join(" ".join(pages).split())


def test_pdf_says_what_was_found(found: Findings, tmp_path: Path) -> None:
    write_pdf(found, tmp_path / "r.pdf", "Größe geprüft, см. прежний снимок.")
    pages, text = text_of(tmp_path / "r.pdf")
    assert pages == 1
    for words in (
        "Tumor detected", "RESEARCH USE ONLY", "Calibrated probability of a tumor > 99 %",
        found.weights, "phantom-glioma-4",
        "U-Net", "DGNet", f"{found.regions[0].area_px}", "Größe geprüft, см. прежний снимок.",
        " ".join(disclaimer(SHIPPED).split()), "Read by", "Page 1 of 1",
    ):  # fmt: skip
        assert words in text, words


def test_pdf_never_has_more_than_two_pages(found: Findings, tmp_path: Path) -> None:
    line = "x" * (MAX_NOTES // MAX_LINES - 1)
    many = replace(found, regions=found.regions[:1] * 40, warnings=("A long warning of one line and more. " * 4,) * 3)
    write_pdf(many, tmp_path / "r.pdf", "\n".join([line] * MAX_LINES))
    assert text_of(tmp_path / "r.pdf")[0] == 2


def test_rejected_and_negative_findings_have_a_report_too(tmp_path: Path) -> None:
    healthy = standin().analyze(phantom("healthy", 4)[0])
    write_pdf(healthy, tmp_path / "h.pdf")
    assert "does not exclude a tumor" in text_of(tmp_path / "h.pdf")[1]
    rejected = replace(healthy, reason="No head.", verdict=None, members=())
    write_pdf(rejected, tmp_path / "x.pdf")
    text = text_of(tmp_path / "x.pdf")[1]
    assert "Not a brain MRI" in text and "No head." in text
    assert len(csv_rows(rejected)) == 1 and csv_rows(rejected)[0]["tumor_probability"] is None


def test_pdf_of_a_volume_and_of_whom_it_shows(tmp_path: Path) -> None:
    from dicom_builder import head, oblique, stored, write_series

    from neurovision.ensemble.results import Interval
    from neurovision.evaluation.held_out import HeldOut
    from neurovision.scan.read import read_files

    files = write_series(tmp_path / "s", stored(head()[0]), oblique(head()[0].affine))
    volume = analyze_volume(standin(), read_files(files))
    measured = HeldOut("slices of all kinds", 0.98, 966, 0.03, 462, 0.94)
    write_pdf(volume, tmp_path / "v.pdf", "Seen.", measured=measured)
    text = text_of(tmp_path / "v.pdf")[1]
    assert "Three planes" in text and "Slices 1 to 10" in text and "Volume (ml)" in text and "98 % of 966" in text
    assert "20240203" in text and "PID-4711" not in text and "Zyxwvut" not in text
    assert volume.verdict is not None
    said = replace(volume.verdict, interval=Interval(1.04, 2.5, "ml"), expected_dice=0.71)
    differing = replace(volume, source=replace(volume.source, sequence="T1"), sequence="FLAIR", verdict=said)
    write_pdf(differing, tmp_path / "s.pdf", measured=measured)
    text = " ".join(text_of(tmp_path / "s.pdf")[1].split())
    assert "T1 by the file, but the picture looks like FLAIR" in text and "between 1.0 and 2.5 ml" in text
    assert "(Dice): 0.71" in text and "right in 94 % of held-out tumors" in text
    write_pdf(volume, tmp_path / "i.pdf", identity=True)
    assert "PID-4711" in text_of(tmp_path / "i.pdf")[1]


def test_the_command_lines_pdf_has_the_held_out_rates_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from neurovision.cli import app
    from neurovision.evaluation import held_out

    analyzer, study = standin(), phantom("glioma", 4)[0]
    counted = {"value": 0.97, "n": 40}
    rates = {"all": {"sensitivity": counted, "specificity": counted}}
    measured = {"about": {"weights": analyzer.manifest.digest}, "verdict": rates}
    (tmp_path / "evaluation.json").write_text(json.dumps(measured))
    monkeypatch.setattr(held_out, "EVALUATION", tmp_path)
    monkeypatch.setattr("neurovision.ensemble.pipeline.Analyzer.load", lambda *a, **k: analyzer)
    Image.fromarray(np.rint(study.gray() * 255).astype(np.uint8)).save(tmp_path / "a.png")
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--report", "pdf"])
    assert done.exit_code == 0, done.output
    text = " ".join(text_of(tmp_path / "out" / "a.pdf")[1].split())
    assert "On held-out slices of all kinds the verdict found 97 % of 40 slices with a tumor" in text


def test_too_long_notes_are_refused(found: Findings, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"at most {MAX_NOTES} characters"):
        write_pdf(found, tmp_path / "r.pdf", "x" * (MAX_NOTES + 1))
    with pytest.raises(DataError, match="lines"):
        write_json(found, tmp_path / "r.json", "x\n" * MAX_LINES + "x")
    assert not (tmp_path / "r.pdf").exists()


def test_json_and_csv_hold_the_same_facts(tmp_path: Path) -> None:
    study, _ = phantom_volume("glioma", 4, slices=9)
    found = standin().analyze(study, 5)
    write_json(found, tmp_path / "r.json", "note")
    write_csv(csv_rows(found), tmp_path / "r.csv")
    plain = json.loads((tmp_path / "r.json").read_text())
    with (tmp_path / "r.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert plain["report"]["notes"] == "note" and plain["report"]["disclaimer"] == disclaimer(SHIPPED)
    assert len(rows) == len(plain["regions"]) > 0
    for row, region in zip(rows, plain["regions"], strict=True):
        assert float(row["region_area_mm2"]) == region["area_mm2"] and row["region_side"] == region["side"]
        assert float(row["tumor_probability"]) == plain["tumor_probability"]
    assert float(rows[0]["tumor_area_mm2"]) == pytest.approx(sum(r["area_mm2"] for r in plain["regions"]), abs=0.02)


def test_sizes_are_millimeters_only_where_spacing_is_known(found: Findings) -> None:
    region = found.regions[0]
    assert region_sizes(region) == (region.area_px, region.longest_diameter_px, region.perpendicular_diameter_px)
    known = replace(region, area_mm2=2.0, longest_diameter_mm=3.0, perpendicular_diameter_mm=1.0)
    assert region_sizes(known) == (2.0, 3.0, 1.0)


def test_a_file_name_cannot_become_a_formula(found: Findings, tmp_path: Path) -> None:
    named = replace(found, source=replace(found.source, name="=HYPERLINK(1).png"))
    write_csv([named.row()], tmp_path / "r.csv")
    assert "'=HYPERLINK" in (tmp_path / "r.csv").read_text()
    # With ; between cells, as in many countries, an unquoted name would end its cell and begin a formula.
    write_csv([replace(found, source=replace(found.source, name="a;=1+1.png")).row()], tmp_path / "r.csv")
    assert '"a;=1+1.png"' in (tmp_path / "r.csv").read_text()
