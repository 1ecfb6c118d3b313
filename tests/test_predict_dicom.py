"""``neurovision predict`` on a DICOM series, a NIfTI volume and what lies beside them, end to end but for the networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_builder import NAME, head, oblique, stored, write_series
from pydicom import dcmread
from truth import TruthAnalyzer
from typer.testing import CliRunner

from neurovision.cli import app
from neurovision.ensemble.pipeline import Analyzer
from neurovision.scan.grid import RAS_TO_LPS


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a series, a NIfTI file and a damaged file."""
    monkeypatch.setattr(Analyzer, "load", lambda *a, **k: TruthAnalyzer(head()[1]))
    pixels, affine = stored(head()[0]), oblique(head()[0].affine)
    write_series(tmp_path / "in" / "head", pixels, affine)
    image = nib.Nifti1Image(np.moveaxis(pixels.astype(np.int16), 0, 2), RAS_TO_LPS @ affine[:, [1, 2, 0, 3]])
    image.to_filename(tmp_path / "in" / "vol_T1w.nii.gz")
    (tmp_path / "in" / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"junk" * 50)
    return tmp_path


def test_every_scan_gets_its_files(folder: Path):
    done = CliRunner().invoke(app, ["predict", str(folder / "in"), "--out", str(folder / "out"), "--fractional"])
    assert done.exit_code == 1  # for the damaged file
    assert {p.name for p in (folder / "out").iterdir()} == {
        "head.json", "head.mask.nii.gz", "head.overlay.png", "head.seg.dcm", "head.prob.seg.dcm", "head.sr.dcm",
        "vol_T1w.json", "vol_T1w.mask.nii.gz", "vol_T1w.overlay.png", "bad.json",
    }  # fmt: skip
    found = json.loads((folder / "out" / "head.json").read_text())
    assert found["lesions"][0]["volume_ml"] == pytest.approx(found["volumes_ml"]["glioma"], abs=1e-3)
    assert found["volumes_ml"]["glioma"] > 1
    assert found["source"]["slices"] == 10
    assert NAME not in done.output + json.dumps(found)
    assert "damaged" in json.loads((folder / "out" / "bad.json").read_text())["reason"]
    mask = nib.load(folder / "out" / "vol_T1w.mask.nii.gz")
    assert np.array_equal(np.asanyarray(mask.dataobj), np.moveaxis(head()[1], 0, 2))


def test_results_in_the_same_folder_are_no_scans(folder: Path):
    (folder / "in" / "bad.dcm").unlink()
    for _ in range(2):
        where = [str(folder / "in"), "--out", str(folder / "in")]
        done = CliRunner().invoke(app, ["predict", *where, "--dicom", "--anonymize"])
        assert done.exit_code == 0
    assert len(list((folder / "in").glob("*.json"))) == 2
    assert (folder / "in" / "vol_T1w.sc.dcm").is_file()


def test_anonymize_leaves_no_name(folder: Path):
    shutil.rmtree(folder / "out", ignore_errors=True)
    done = CliRunner().invoke(app, ["predict", str(folder / "in" / "head"), "--out", str(folder / "out"), "--anonymise"])
    assert done.exit_code == 0
    before = dcmread(next((folder / "in" / "head").iterdir()))
    for path in (folder / "out").rglob("*.*"):
        data = path.read_bytes() if path.is_file() else b""
        for secret in (NAME, "PID-4711", before.StudyInstanceUID, before.SeriesInstanceUID, "20240203"):
            assert str(secret).encode() not in data, path.name
    copies = [dcmread(p) for p in (folder / "out" / "head.deidentified").iterdir()]
    assert len(copies) == 10
    assert dcmread(folder / "out" / "head.seg.dcm").StudyInstanceUID == copies[0].StudyInstanceUID
