"""Scans and their results are told apart by name, and what a folder holds is decided by content."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dicom_builder import head, stored, write_series
from hostile import dicom, encoded, nifti
from standin import standin
from typer.testing import CliRunner

from neurovision.cli import app
from neurovision.ensemble.pipeline import Analyzer
from neurovision.errors import UnsupportedScan
from neurovision.files import write
from neurovision.scan.names import MAX_STEM, free_stem, shown, stem_of, stems_of, told_apart
from neurovision.scan.read import find_scans, list_scans, read, read_bytes, read_files


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.png", "a"), ("A.TIFF", "A"), ("a.nii", "a"), ("a.nii.gz", "a"), ("a.NII.GZ", "a"), ("a.nii.bz2", "a"),
        ("a.b.nii.gz", "a.b"), ("a.img", "a"), ("a.dcm", "a"), ("a.MR", "a"), ("1.2.840.113619", "1.2.840.113619"),
        ("sub-1_T1.5T", "sub-1_T1.5T"), ("v1.0.png", "v1.0"), ("x.gz", "x.gz"), (".png", ".png"), ("IM0001", "IM0001"),
        ("P1/flair.png", "flair"),
    ],
)  # fmt: skip
def test_only_an_ending_that_tells_a_format_is_cut(name: str, stem: str):
    assert stem_of(name) == stem


def test_names_are_told_apart_by_as_few_folders_as_it_takes():
    paths = [Path(p) for p in ("/data/P1/flair.png", "/data/P2/flair.png", "/data/P2/t1.png")]
    assert told_apart(paths, [Path("/data")] * 3) == ["P1/flair.png", "P2/flair.png", "P2/t1.png"]
    assert told_apart(paths, [p.parent for p in paths]) == ["P1/flair.png", "P2/flair.png", "t1.png"]
    assert told_apart([Path("a.png")] * 2, [Path()] * 2) == ["a.png", "a.png (2)"]
    assert stems_of(paths) == ["P1_flair", "P2_flair", "t1"]
    assert stems_of([Path("a.png"), Path("a.jpg"), Path("A.bmp")]) == ["a", "a-2", "A-3"]
    assert shown("a\nb\udcff\x1b.png") == "a?b??.png"


def test_the_longest_name_has_results(tmp_path: Path):
    stem = "ä" * 125 + "x"  # 251 bytes; with its ending the 255 that a file system takes
    used: set[str] = set()
    first, second = free_stem(stem, used), free_stem(stem, used)
    assert first != second and max(len(s.encode()) for s in (first, second)) <= MAX_STEM
    assert free_stem(stem + "y", set()) != first
    for name in (first, second):
        write(tmp_path / f"{name}.prob.seg.dcm", b"x")
    (tmp_path / f"{stem}.png").write_bytes(encoded("PNG"))
    assert read(tmp_path / f"{stem}.png").source.name == f"{stem}.png"


def test_two_patients_files_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Analyzer, "load", lambda *a, **k: standin())
    for patient in ("P1", "P2"):
        (tmp_path / "in" / patient).mkdir(parents=True)
        (tmp_path / "in" / patient / "flair.png").write_bytes(encoded("PNG"))
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    told = {p.name: json.loads(p.read_text())["source"]["name"] for p in (tmp_path / "out").glob("*.json")}
    assert told == {"P1_flair.json": "P1/flair.png", "P2_flair.json": "P2/flair.png"}
    assert "in" not in str(told) and str(tmp_path) not in str(told)


def test_content_decides_what_is_a_scan(tmp_path: Path):
    series = tmp_path / "series"
    write_series(series, stored(head()[0])[:4], head()[0].affine)
    for file, end in zip(sorted(series.iterdir()), (".MR", ".img", ".dic", ".0001"), strict=True):
        file.rename(file.with_suffix(end))
    (tmp_path / "brain.img").write_bytes(nifti())
    (tmp_path / "shot.old").write_bytes(encoded("PNG"))
    (tmp_path / "cut.png").write_bytes(b"")
    for name, data in (("notes.txt", b"BM is a letter"), ("Thumbs.db", b"\xd0\xcf\x11\xe0"), (".DS_Store", b"x")):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "brain.mask.nii.gz").write_bytes(nifti())
    listing = list_scans([tmp_path])
    assert {s.name: len(s.files) for s in listing.scans} == {"brain.img": 1, "shot.old": 1, "cut.png": 1, "series": 4}
    assert [s.name for s in listing.skipped] == ["Thumbs.db", "notes.txt"]
    assert {p.name for p in find_scans([tmp_path])} == {"brain.img", "shot.old", "cut.png", "series"}
    assert read_files(next(s.files for s in listing.scans if len(s.files) > 1), "series").n_slices == 4


def test_each_file_of_a_folder_is_looked_into_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_series(tmp_path / "head", stored(head()[0]), head()[0].affine)
    opened: list[Path] = []
    real = Path.open

    def counted(self: Path, *args, **options):
        opened.append(self)
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", counted)
    assert find_scans([tmp_path]) == [tmp_path / "head"]
    assert len(opened) == 10


@pytest.mark.parametrize("named", [False, True])
def test_skipped_files_are_counted_and_named_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool):
    monkeypatch.setattr(Analyzer, "load", lambda *a, **k: standin())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded("PNG"))
    (tmp_path / "in" / "letter.doc").write_bytes(b"Dear colleague")
    more = ["--list-skipped"] if named else []
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *more])
    assert done.exit_code == 3
    assert "skipped 1 file that" in done.output and ("letter.doc" in done.output) == named
    assert (tmp_path / "out" / "a.json").is_file()


def test_dicom_is_told_by_its_first_element_too():
    """Without preamble, without file meta header, in either byte order; or it is said to be DICOM."""
    whole = dicom()
    body = whole[whole.index(b"\x08\x00\x08\x00") :]
    for data in (whole[132:], body):
        assert np.array_equal(read_bytes(data, "IM1").pixels, read_bytes(whole, "IM1").pixels)
    from pydicom.data import get_testdata_file

    for name, said in (("ExplVR_BigEndNoMeta.dcm", "modality RTPLAN"), ("no_meta.dcm", "a DICOM data set that begins")):
        with pytest.raises(UnsupportedScan, match=said):
            read(get_testdata_file(name, download=False))


@pytest.mark.parametrize(("head", "words"), [(b"GIF89a", "a GIF"), (b"%PDF-1.7", "a PDF"), (b"PK\3\4", "a ZIP")])
def test_what_no_reader_takes_is_called_by_its_name(head: bytes, words: str):
    with pytest.raises(UnsupportedScan, match=words):
        read_bytes(head + bytes(300), "x.png")
