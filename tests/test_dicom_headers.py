"""Headers that break the standard: the analysis never depends on them, names are kept, and nothing quotes them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from dicom_builder import geometry, head, header, oblique, stored, write_enhanced, write_series
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from test_dicom_out import errors
from truth import TruthAnalyzer
from typer.testing import CliRunner

from neurovision.cli import app
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.volume import analyze_volume
from neurovision.errors import UnsupportedScan
from neurovision.scan import dicom
from neurovision.scan.contained import study as contained_study
from neurovision.scan.headers import Headers, Image, repaired
from neurovision.scan.read import read
from neurovision.scan.study import Study
from neurovision.views.dicom_out import Objects, write_dicom

NAMES = (  # character sets of PS3.3 C.12.1.1.2 with a name that each can write
    ("ISO_IR 6", "Doe^John"),
    ("ISO_IR 100", "Müller^Jürgen"),
    ("ISO_IR 101", "Wałęsa^Łucja"),
    ("ISO_IR 109", "Ĉapek^Ĝ"),
    ("ISO_IR 110", "Šķēle^Ģirts"),
    ("ISO_IR 126", "Διονυσιος"),
    ("ISO_IR 127", "قباني^لنزار"),
    ("ISO_IR 138", "שרון^דבורה"),
    ("ISO_IR 144", "Иванов^Юрий"),
    ("ISO_IR 148", "Çavuşoğlu^İ"),
    ("ISO_IR 166", "นาม^ไทย"),
    ("ISO_IR 203", "Œuvré^Žan€"),
    ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小东"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
    ("GB18030", "=昞^誠"),  # whose second bytes are those of ^ and backslash
    ("GBK", "Wang^XiaoDong=王^小東"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    (["", "ISO 2022 IR 58"], "Zhang^XiaoDong=张^小东"),
    (["ISO 2022 IR 100", "ISO 2022 IR 144"], "Müller^Иван"),
)


def slice_of(k: int = 5, **changes: Any) -> Dataset:
    """One slice with a tumor, its header spoiled; None removes an element, bytes are written as they are."""
    pixels = stored(head()[0])
    dataset = header("odd", pixels)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key, value in {**geometry(head()[0].affine, k), **changes}.items():
            if value is None:
                dataset.pop(Tag(key), None)
            elif isinstance(value, bytes):
                tag = Tag(key)
                dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
            else:
                setattr(dataset, key, value)
    dataset.PixelData = pixels[k].tobytes()
    return dataset


def written(dataset: Dataset, folder: Path, name: str = "x.dcm") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(folder / name, enforce_file_format=True)
    return folder / name


def made(path: Path, out: Path) -> tuple[Study, Objects]:
    """The slice's study, and what is written of it where the truth is known."""
    study = read(path)
    return study, write_dicom(TruthAnalyzer(head()[1][5:6]).analyze(study), study, out, "x", fractional=True)


def encoded(text: str, charset: str | list[str]) -> bytes:
    """A name's bytes in a character set."""
    from pydicom.charset import convert_encodings
    from pydicom.valuerep import PersonName

    if charset == "ISO_IR 203":
        return text.encode("iso8859_15")
    if charset in ("GB18030", "GBK"):
        return text.encode(charset)
    if charset == ["", "ISO 2022 IR 58"]:  # PS3.5 annex K: the escape stands before every group and part
        alphabetic, ideographic = text.split("=")
        parts = [b"\x1b$)A" + part.encode("gb2312") for part in ideographic.split("^")]
        return alphabetic.encode() + b"=" + b"^".join(parts)
    return PersonName(text).encode(convert_encodings(charset))


@pytest.mark.parametrize(("charset", "name"), NAMES)
@pytest.mark.parametrize("geometry_known", [True, False])
def test_a_name_is_kept_in_every_character_set(
    tmp_path: Path, charset: str | list[str], name: str, geometry_known: bool
):
    spoiled = {} if geometry_known else {"ImagePositionPatient": None}
    raw = encoded(name, charset)
    path = written(slice_of(SpecificCharacterSet=charset, PatientName=raw, **spoiled), tmp_path)
    study, objects = made(path, tmp_path / "out")
    assert study.headers.identity["PatientName"] == name
    assert name not in repr(study)
    assert len(objects.paths) == (3 if geometry_known else 1)
    for file in objects.paths:
        assert str(dcmread(file).PatientName) == name
        assert errors(file) == []


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"Doe", "Doe"), (b"Doe, John", "Doe, John"), (b"Doe^John ", "Doe^John"), (b"^^^^", ""), (b"", ""),
        ("Müller^J".encode(), "Müller^J"),  # UTF-8 that no element announces
        (b"Doe\\Roe", ""), (b"A" * 70, "A" * 64), (b"a^b^c^d^e^f", "a^b^c^d^e"), (b"a=b=c=d", "a=b=c"),
        (b"Doe\x00", "Doe"), (b"Do\x07e", "Do e"),
    ],
)  # fmt: skip
def test_names_that_are_repaired_or_left_out(tmp_path: Path, raw: bytes, name: str):
    charset = {"SpecificCharacterSet": "ISO_IR 192"} if not raw.isascii() else {}
    _, objects = made(written(slice_of(PatientName=raw, **charset), tmp_path), tmp_path / "out")
    for file in objects.paths:
        assert str(dcmread(file).PatientName) == name
        assert errors(file) == []
    assert any("PatientName" in n for n in objects.notes) == (raw.strip(b"^") != b"" and not name)


@pytest.mark.parametrize(
    ("keyword", "raw", "value"),
    [
        ("PatientBirthDate", "00000000", ""), ("PatientBirthDate", "1970-01-01", "19700101"),
        ("PatientBirthDate", "1970.01.02", "19700102"), ("PatientBirthDate", "19700230", ""),
        ("PatientBirthDate", "unknown", ""), ("PatientBirthDate", "1970", ""), ("PatientBirthDate", "01/02/1970", ""),
        ("StudyDate", "2024-02-03", "20240203"), ("StudyDate", "20240203-20240204", ""), ("StudyDate", "0", ""),
        ("StudyTime", "10:11:12", "101112"), ("StudyTime", "10:11", "1011"),
        ("StudyTime", "101112.1234567", "101112.123456"),
        ("StudyTime", "25", ""), ("StudyTime", "10h", ""), ("StudyTime", "101112,5", "101112.5"),
        ("PatientSex", "Male", "M"), ("PatientSex", "W", "F"), ("PatientSex", "m", "M"), ("PatientSex", "U", ""),
        ("PatientSex", "?", ""), ("PatientSex", "female ", "F"), ("PatientAge", "45", ""), ("PatientAge", "045y", "045Y"),
        ("PatientWeight", "80 kg", ""), ("PatientWeight", "80,5", ""), ("PatientSize", "1.8", "1.8"),
        ("PatientID", "A\\B", ""), ("PatientID", "A" * 65, ""), ("AccessionNumber", "A" * 17, ""),
        ("StudyID", "\x1b$B;3", "$B;3"), ("PatientIdentityRemoved", "Y", ""),
        ("StudyDescription", "Kopf\nnativ", "Kopf nativ"),
        ("ReferringPhysicianName", "Dr. Who, MD", "Dr. Who, MD"),
    ],
)  # fmt: skip
def test_values_that_are_repaired_or_left_out(tmp_path: Path, keyword: str, raw: str, value: str):
    dataset = slice_of()
    if keyword not in dataset:
        setattr(dataset, keyword, "")
    tag = Tag(keyword)
    dataset[tag] = RawDataElement(tag, dataset[tag].VR, len(raw), raw.encode(), 0, False, True)
    for spoiled in ({}, {"ImageOrientationPatient": None}):
        for key in spoiled:
            delattr(dataset, key)
        study, objects = made(written(dataset, tmp_path), tmp_path / "out")
        assert study.headers.identity.get(keyword, "") == value
        assert objects.paths
        for file in objects.paths:
            assert str(dcmread(file).get(keyword) or "") == value
            assert errors(file) == []
        assert any(keyword in n for n in objects.notes) == (not value and raw != "U")
        assert raw not in " ".join(objects.notes)


def test_repairs_change_nothing_that_is_valid():
    for keyword, value in (("PatientBirthDate", "19700102"), ("StudyTime", "101112.5"), ("PatientName", "A^B=C=D")):
        assert repaired(keyword, value) == value == repaired(keyword, repaired(keyword, value))


def test_headers_check_themselves():
    image = (Image("1.2", "1.2.3"),)
    with pytest.raises(UnsupportedScan):
        Headers("1.2", "1.2", "1.x", image)
    with pytest.raises(UnsupportedScan):
        Headers("1.2", "1.2", "1.3", image, {"PatientBirthDate": "1970-01-01"})
    with pytest.raises(UnsupportedScan):
        Headers("1.2", "1.2", "1.3", image, {"InstitutionName": "x"})


def test_headers_and_pixels_cross_the_container_unchanged(tmp_path: Path):
    raw = encoded("Yamada^Tarou=山田^太郎", ["", "ISO 2022 IR 87"])
    path = written(slice_of(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=raw), tmp_path)
    assert contained_study([path]).headers == read(path).headers
    files = write_series(tmp_path / "s", stored(head()[0]), oblique(head()[0].affine))
    assert contained_study(files).headers == read(tmp_path / "s").headers


def test_a_series_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = write_series(tmp_path / "s", stored(head()[0]), head()[0].affine)
    counts: dict[Path, int] = {}
    load = dicom.load

    def counted(path: Path) -> bytes:
        counts[path] = counts.get(path, 0) + 1
        return load(path)

    monkeypatch.setattr(dicom, "load", counted)
    study = read(tmp_path / "s")
    assert counts == dict.fromkeys(files, 1)
    for file in files:
        file.unlink()
    volume = analyze_volume(TruthAnalyzer(head()[1]), study)
    assert len(write_dicom(volume, study, tmp_path / "out").paths) == 2  # from the study alone


def test_reading_leaves_pydicoms_settings_alone():
    code = (
        "import logging, pydicom; from pydicom import config; logger = logging.getLogger('pydicom');"
        "before = config.settings.reading_validation_mode, logger.level; import neurovision.scan.dicom;"
        "assert (config.settings.reading_validation_mode, logger.level) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- objects that cannot be made, and those that can -----------------------------------------------------------------


def per_frame(path: Path, change: Callable[[Dataset], None] = lambda d: None) -> Path:
    """An enhanced file whose measures and orientation stand with each frame, as Philips writes them."""
    write_enhanced(path, stored(head()[0]), oblique(head()[0].affine))
    dataset = dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.PixelMeasuresSequence = shared.PixelMeasuresSequence
        frame.PlaneOrientationSequence = shared.PlaneOrientationSequence
    del shared.PixelMeasuresSequence, shared.PlaneOrientationSequence
    change(dataset)
    dataset.save_as(path)
    return path


def lined_up(objects: Objects, study: Study, truth: np.ndarray) -> None:
    """The Segmentation's tumor voxels lie where the study's lie."""
    segmentation = highdicom.seg.segread(next(p for p in objects.paths if p.name.endswith(".seg.dcm")))
    got = segmentation.get_volume(combine_segments=True)
    there = np.argwhere(got.array > 0) @ got.affine[:3, :3].T + got.affine[:3, 3]
    expected = np.argwhere(truth == 2) @ study.affine[:3, :3].T + study.affine[:3, 3]
    assert there.shape == expected.shape
    assert np.allclose(there[np.lexsort(there.round(2).T)], expected[np.lexsort(expected.round(2).T)], atol=1e-2)


def without_thickness(dataset: Dataset) -> None:
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        if "SliceThickness" in frame.PixelMeasuresSequence[0]:
            del frame.PixelMeasuresSequence[0].SliceThickness


@pytest.mark.parametrize("change", [lambda d: None, without_thickness], ids=["per frame", "without thickness"])
def test_enhanced_files_with_geometry_in_each_frame(tmp_path: Path, change: Callable[[Dataset], None]):
    study = read(per_frame(tmp_path / "e.dcm", change))
    volume = analyze_volume(TruthAnalyzer(head()[1]), study)
    objects = write_dicom(volume, study, tmp_path / "out", fractional=True)
    assert (len(objects.paths), objects.missing) == (3, ())
    lined_up(objects, study, head()[1])
    segmentation = dcmread(objects.paths[0])
    named = {
        int(f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        for f in segmentation.PerFrameFunctionalGroupsSequence
    }
    assert named == {10 - int(k) for k in np.flatnonzero((head()[1] == 2).any((1, 2)))}  # head to feet in the file
    reference = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert reference.ReferencedSOPClassUID == dcmread(tmp_path / "e.dcm").SOPClassUID
    assert [errors(p) for p in objects.paths] == [[], [], []]


@pytest.mark.parametrize(
    "change",
    [
        {"SliceThickness": None}, {"SliceThickness": "0"}, {"FrameOfReferenceUID": None}, {"FrameOfReferenceUID": ""},
        {"PositionReferenceIndicator": None}, {"SOPClassUID": "1.2.840.113619.4.2"}, {"StudyDate": None},
        {"PatientID": None, "PatientName": None, "PatientSex": None, "PatientBirthDate": None, "StudyTime": None},
        {"LossyImageCompression": "01"}, {"SOPClassUID": None, "SOPInstanceUID": None},
    ],
    ids=str,
)  # fmt: skip
def test_known_geometry_is_enough_for_a_segmentation(tmp_path: Path, change: dict[str, Any]):
    folder = tmp_path / "s"
    for k in range(10):
        dataset = slice_of(k, **{key: value for key, value in change.items() if key != "SOPInstanceUID"})
        if "SOPInstanceUID" in change:
            del dataset.SOPInstanceUID  # the file meta information still has it
            written_raw(dataset, folder, f"{k}.dcm")
        else:
            written(dataset, folder, f"{k}.dcm")
    study = read(folder)
    volume = analyze_volume(TruthAnalyzer(head()[1]), study)
    objects = write_dicom(volume, study, tmp_path / "out")
    assert objects.missing == ()
    lined_up(objects, study, head()[1])
    frame_uid = dcmread(objects.paths[0]).FrameOfReferenceUID
    if "FrameOfReferenceUID" in change:
        assert frame_uid == dcmread(write_dicom(volume, study, tmp_path / "again").paths[0]).FrameOfReferenceUID
        assert any("FrameOfReferenceUID" in n for n in objects.notes)
    else:
        assert frame_uid == dcmread(folder / "0.dcm").FrameOfReferenceUID
    if "LossyImageCompression" in change:
        assert dcmread(objects.paths[0]).LossyImageCompression == "01"
    elif "SOPClassUID" not in change:
        assert [errors(p) for p in objects.paths] == [[], []]


def written_raw(dataset: Dataset, folder: Path, name: str) -> None:
    """Write a dataset that lacks what the file meta information repeats."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset.preamble = b"\0" * 128
    dataset.save_as(folder / name, enforce_file_format=False)
    assert "SOPInstanceUID" not in dcmread(folder / name)


def test_orientations_that_differ_in_the_last_digit_are_one(tmp_path: Path):
    folder = tmp_path / "s"
    for k in range(10):
        tilt = 1e-6 * k
        written(slice_of(k, ImageOrientationPatient=["1", f"{tilt:.7f}", "0", f"{-tilt:.7f}", "1", "0"]), folder, f"{k}.dcm")
    study = read(folder)
    objects = write_dicom(analyze_volume(TruthAnalyzer(head()[1]), study), study, tmp_path / "out")
    assert objects.missing == ()
    lined_up(objects, study, head()[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ImagePositionPatient": None}, "ImagePositionPatient"), ({"ImageOrientationPatient": None}, "lie in the patient"),
        ({"PixelSpacing": None}, "PixelSpacing"), ({"StudyInstanceUID": None}, "StudyInstanceUID"),
        ({"SeriesInstanceUID": "1.2.x"}, "SeriesInstanceUID"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
):
    monkeypatch.setattr(Analyzer, "load", lambda *a, **k: TruthAnalyzer(head()[1][5:6]))
    written(slice_of(**change), tmp_path)
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "x.dcm"), "--out", str(tmp_path / "out")])
    told = json.loads((tmp_path / "out" / "x.json").read_text())
    assert told["verdict"] == "tumor"
    assert [m["object"] for m in told["dicom"]["missing"]] == ["SEG", "SR"]
    assert words in told["dicom"]["missing"][0]["reason"]
    assert told["dicom"]["written"] == ["x.sc.dcm"]
    assert done.exit_code == 1
    assert "no SEG and no SR" in done.output
    assert words in done.output


@pytest.mark.parametrize(
    "change",
    [
        {"SliceThickness": b"abc"}, {"InstanceNumber": b"1\\2"}, {"InstanceNumber": b"abc"}, {"SliceLocation": b"abc"},
        {"Modality": b"mr"}, {"PhotometricInterpretation": b"monochrome2"}, {"BitsStored": None}, {"SamplesPerPixel": None},
        {"PatientWeight": b"1e999"}, {"RescaleSlope": b"0"}, {"WindowCenter": b"1\\2", "WindowWidth": b"0"},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_scan_can_be_read_without_costs_nothing(tmp_path: Path, change: dict[str, Any]):
    plain, spoiled = (read(written(slice_of(**c), tmp_path, f"{k}.dcm")) for k, c in enumerate(({}, change)))
    assert np.array_equal(plain.pixels, spoiled.pixels) and np.array_equal(plain.affine[:, 1:], spoiled.affine[:, 1:])
    assert "PatientWeight" not in spoiled.headers.identity
    if "SliceThickness" in change:  # the only slice's
        objects = write_dicom(TruthAnalyzer(head()[1][5:6]).analyze(spoiled), spoiled, tmp_path / "out")
        assert "neither SliceThickness nor a distance" in objects.missing[0].reason


@pytest.mark.parametrize("value", [b"1e30\\1e30", b"1e-9\\1e-9", b"0,5\\0,5", b"-1\\-1", b"1e400\\1"])
def test_a_spacing_that_cannot_be_is_none(tmp_path: Path, value: bytes):
    study, objects = made(written(slice_of(PixelSpacing=value), tmp_path), tmp_path / "out")
    assert study.spacing is None and any("no usable pixel spacing" in w for w in study.warnings)
    assert "PixelSpacing" in objects.missing[0].reason


def test_slices_that_share_a_uid_cannot_be_referred_to(tmp_path: Path):
    for k in range(10):
        written(slice_of(k, SOPInstanceUID="1.2.3.4"), tmp_path / "s", f"{k}.dcm")
    study = read(tmp_path / "s")
    assert study.n_slices == 10
    objects = write_dicom(analyze_volume(TruthAnalyzer(head()[1]), study), study, tmp_path / "out")
    assert "share one SOPInstanceUID" in objects.missing[0].reason


def test_an_error_of_ours_is_not_laid_on_the_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def slip(*given: object, **named: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr("neurovision.views.dicom_out._segmentation", slip)
    study = read(written(slice_of(), tmp_path))
    findings = TruthAnalyzer(head()[1][5:6]).analyze(study)
    with pytest.raises(TypeError, match="ours"):
        write_dicom(findings, study, tmp_path / "out")
    monkeypatch.setattr(Analyzer, "load", lambda *a, **k: TruthAnalyzer(head()[1][5:6]))
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "x.dcm"), "--out", str(tmp_path / "out")])
    told = json.loads((tmp_path / "out" / "x.json").read_text())
    assert done.exit_code == 1
    assert told["verdict"] == "tumor"  # the analysis stands
    assert "failed (TypeError)" in told["dicom"]["missing"][0]["reason"]


def test_one_files_trouble_of_any_type_is_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Slipping(TruthAnalyzer):
        def analyze(self, study: Study, slice_index: int = 0) -> Any:
            if study.source.name.startswith("bad"):
                raise KeyError("Zyxwvut")
            return super().analyze(study, slice_index)

    monkeypatch.setattr(Analyzer, "load", lambda *a, **k: Slipping(head()[1][5:6]))
    for name in ("a.dcm", "bad.dcm", "c.dcm"):
        written(slice_of(SeriesInstanceUID=f"1.2.{ord(name[0])}"), tmp_path / "in", name)
    paths = [str(tmp_path / "in" / n) for n in ("a.dcm", "bad.dcm", "c.dcm")]
    done = CliRunner().invoke(app, ["predict", *paths, "--out", str(tmp_path / "out")])
    told = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "out").glob("*.json")}
    assert {k: v["status"] for k, v in told.items()} == {"a": "ok", "bad": "unread", "c": "ok"}
    assert "KeyError" in told["bad"]["reason"]
    assert done.exit_code == 1
    assert "Zyxwvut" not in done.output
    assert "Traceback" not in done.output


# --- nothing quotes a header -----------------------------------------------------------------------------------------

SECRETS = ("Zyxwvut", "ZYXWVUT", "zyxwvut", "Qponml", "PID-4711", "1970-01-02", "Wvutsrq")
ODD = (
    {"PatientName": b"Zyxwvut"}, {"PatientName": b"Zyxwvut, Qponml"}, {"PatientName": b"Zyxwvut\\Qponml"},
    {"PatientName": b"Zyxwvut^" * 12}, {"PatientName": "Zyxwvut^Qponml=Ü".encode()}, {"PatientName": b"Zyxwvut\xff\xfe"},
    {"PatientName": b"Zyxwvut", "SpecificCharacterSet": "Wvutsrq"}, {"PatientBirthDate": b"1970-01-02"},
    {"PatientID": b"PID-4711\\Wvutsrq"}, {"PatientSex": b"Wvutsrq"}, {"StudyTime": b"Wvutsrq"}, {"Modality": b"Wvutsrq"},
    {"EchoTime": b"Wvutsrq"}, {"InstanceNumber": b"Wvutsrq"}, {"StudyInstanceUID": b"Wvutsrq"}, {"ImageType": b"Wvutsrq"},
    {"SeriesDescription": b"Zyxwvut" * 20}, {"PixelSpacing": b"Wvutsrq"}, {"Manufacturer": b"Zyxwvut" * 20},
    {"BodyPartExamined": b"ZYXWVUT"}, {"PhotometricInterpretation": b"ZYXWVUT"}, {"Modality": b"ZYXWVUT"},
    {"SOPClassUID": b"Wvutsrq"}, {"SeriesNumber": b"Zyxwvut"}, {"ImagePositionPatient": b"Zyxwvut\\1\\2"},
    {"PatientName": b"Zyxwvut \x1b[2JQponml\x07"}, {"PatientName": "Ζυξ^Zyxwvut".encode("iso8859_7")},
    {"PatientName": encoded("Zyxwvut^Tarou=山田^太郎=やまだ", ["", "ISO 2022 IR 87"]),
     "SpecificCharacterSet": ["", "ISO 2022 IR 87"]},
)  # fmt: skip


def odd_files(folder: Path) -> list[Path]:
    paths = []
    for number, change in enumerate(ODD):
        dataset = slice_of(SeriesInstanceUID=f"1.2.4.{number}", **change)
        paths.append(written(dataset, folder, f"odd-{number:02}.dcm"))
    return paths


@pytest.mark.parametrize("options", [["--fractional", "--report", "pdf"], ["--anonymize"]])
def test_no_stream_warning_or_log_quotes_a_header(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    options: list[str],
):
    monkeypatch.setattr(Analyzer, "load", lambda *a, **k: TruthAnalyzer(head()[1][5:6]))
    odd_files(tmp_path / "in")
    caplog.clear()
    capfd.readouterr()
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        done = CliRunner().invoke(app, ["predict", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *options])
    streams = "".join([*capfd.readouterr(), done.output, caplog.text, *(str(w.message) for w in raised)])
    told = "".join(p.read_text() for p in (tmp_path / "out").glob("*.json"))
    assert len(list((tmp_path / "out").glob("*.json"))) == len(ODD) - 2  # two are of another modality
    for secret in SECRETS:
        assert secret not in streams
        assert secret not in told
    assert not done.exception or isinstance(done.exception, SystemExit)


def test_a_process_of_its_own_quotes_nothing(tmp_path: Path):
    """The same with the streams that a user sees, in every way that takes files: predict, batch, archive and page."""
    odd_files(tmp_path / "in")
    code = f"""
import logging, shutil, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
logging.basicConfig(level=logging.DEBUG)
from pathlib import Path
from dicom_builder import head
from truth import TruthAnalyzer
from neurovision.ensemble.pipeline import Analyzer
from neurovision.errors import NeurovisionError
folder = Path({str(tmp_path)!r})
odd = sorted((folder / "in").iterdir())
Analyzer.load = lambda *a, **k: TruthAnalyzer(head()[1][5:6])
from neurovision.cli import app
app(["predict", str(folder / "in"), "--out", str(folder / "out"), "--fractional", "--dicom"], standalone_mode=False)

from neurovision.serving.batch_sources import list_source
from neurovision.serving.batch import Options, describe, run
from standin import standin
table = folder / "table"
print(describe(run(list_source(str(folder / "in")), table, Options(workers=1, load=standin), quiet=True), table))

from neurovision.serving.pacs import Ledger, SeriesEntry, SeriesFilter, StudyEntry, watch
class Archive:
    def studies(self, since):
        return [StudyEntry("1.2", "", 0, 0)]
    def series(self, study):
        return [SeriesEntry(study, f"1.2.{{k}}", k, "Zyxwvut", 1) for k in range(len(odd))]
    def fetch(self, study, series, place):
        place.mkdir(parents=True)
        return [shutil.copy(odd[int(series.split(".")[-1])], place)]
    def store(self, paths):
        return len(paths)
ledger = Ledger(folder / "ledger.sqlite")
watch(Archive(), Analyzer.load(), ledger, folder / "work", SeriesFilter("", 1), polls=2, every=0)
for k in range(len(odd)):
    print(ledger.state(f"1.2.{{k}}"), ledger.reason(f"1.2.{{k}}"), ledger.missing(f"1.2.{{k}}"))

from neurovision.views.pdf import write_pdf
from neurovision.views.ui import read
from neurovision.views.ui.case import analyze, sort_files
from neurovision.views.ui.room import Room
room = Room(Analyzer.load)
for path in odd:
    found, unread, study = sort_files([str(path)])
    print(found, unread)
    if study is not None:
        case = analyze(Analyzer.load(), study, found[0].files)
        print(read.write_files(room, case), read.card.facts(case))
        write_pdf(case.volume, folder / "x.pdf")
        try:
            read.write_dicom_zip(room, case)
        except NeurovisionError as e:
            print(e)
print("to the end")
"""
    command = [sys.executable, "-W", "always", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.stdout.endswith("to the end\n"), done.stderr[-2000:]
    assert len(list((tmp_path / "out").glob("*.json"))) == len(ODD) - 2  # two are of another modality
    for secret in SECRETS:
        assert secret not in done.stdout + done.stderr, secret
