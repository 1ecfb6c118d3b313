"""DICOM: what a scanner, a PACS or an attacker sends becomes a Study or one clear sentence."""

from __future__ import annotations

import errno
import shutil
import zlib
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from dicom_builder import NAME, geometry, head, header, oblique, saved, stored, write_enhanced, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from neurovision.errors import DamagedScan, NeurovisionError, OutputError, ScanError, ScanTooLarge, UnsupportedScan
from neurovision.scan import dicom
from neurovision.scan.deidentify import deidentify
from neurovision.scan.read import find_scans, group_scans, read, read_bytes, read_files, read_many
from neurovision.scan.sequence import sequence_from_text, sequence_from_times


@pytest.fixture(scope="module")
def affine() -> np.ndarray:
    return oblique(head()[0].affine)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("dicom") / "series"
    write_series(folder, stored(head()[0]), affine)
    return folder


@pytest.fixture()
def one(affine: np.ndarray) -> Dataset:
    """One slice through the tumor, to be spoiled."""
    pixels = stored(head()[0])
    dataset = header("one", pixels)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    for key, value in geometry(affine, 5).items():
        setattr(dataset, key, value)
    dataset.PixelData = pixels[5].tobytes()
    return dataset


def test_a_series_is_sorted_by_its_geometry(series: Path, affine: np.ndarray):
    study = read(series)
    assert study.pixels.shape == head()[0].pixels.shape
    assert np.allclose(study.affine, affine, atol=1e-5)
    assert study.spacing == pytest.approx(head()[0].spacing, rel=1e-6)
    assert np.corrcoef(study.pixels.ravel(), head()[0].pixels.ravel())[0, 1] > 0.999
    assert study.source.format == "DICOM"
    assert study.source.sequence == "T1 post-contrast"
    assert len(study.source.sha256) == 64
    assert any("name a patient" in w for w in study.warnings)
    assert NAME not in repr(study)


def test_one_slice_equals_its_place_in_the_series(series: Path):
    study = read(series)
    single = read(next(series.glob("*-5.dcm")))
    assert single.n_slices == 1
    assert np.allclose(single.affine[:3, 3], study.affine[:3, 3] + 5 * study.affine[:3, 0], atol=1e-4)
    assert single.spacing[1:] == pytest.approx(study.spacing[1:])


def test_enhanced_multi_frame_equals_the_series(tmp_path: Path, series: Path, affine: np.ndarray):
    study = read(write_enhanced(tmp_path / "enhanced", stored(head()[0]), affine))
    assert np.allclose(study.affine, affine, atol=1e-5)
    assert np.allclose(study.pixels, read(series).pixels, atol=1e-6)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, ImplicitVRLittleEndian])
def test_lossless_transfer_syntaxes_are_exact(one: Dataset, syntax: str):
    plain = read_bytes(saved(one), "plain")
    plane = stored(head()[0])[5]
    if syntax == JPEGLosslessSV1:
        from imagecodecs import ljpeg_encode

        one.PixelData = encapsulate([ljpeg_encode(plane)])
        one["PixelData"].is_undefined_length = True
        one.file_meta.TransferSyntaxUID = syntax
    elif syntax == ImplicitVRLittleEndian:
        one.file_meta.TransferSyntaxUID = syntax
    else:
        one.compress(syntax, plane, generate_instance_uid=False)
    assert np.array_equal(read_bytes(saved(one), "packed").pixels, plain.pixels)


def test_baseline_jpeg_and_deflate(one: Dataset):
    from imagecodecs import jpeg8_encode

    plain = read_bytes(saved(one), "plain")
    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert np.array_equal(read_bytes(saved(one), "deflated").pixels, plain.pixels)
    one.PixelData = encapsulate([jpeg8_encode((stored(head()[0])[5] // 16).astype(np.uint8), level=95)])
    one["PixelData"].is_undefined_length = True
    one.file_meta.TransferSyntaxUID, one.BitsAllocated, one.BitsStored, one.HighBit = JPEGBaseline8Bit, 8, 8, 7
    assert np.abs(read_bytes(saved(one), "jpeg").pixels - plain.pixels).mean() < 0.02


def test_monochrome1_is_turned_over(one: Dataset):
    plain = read_bytes(saved(one), "plain").pixels
    one.PhotometricInterpretation = "MONOCHROME1"
    assert np.allclose(read_bytes(saved(one), "inverted").pixels, 1 - plain, atol=1e-6)


def test_signed_pixels_and_rescale_change_nothing(one: Dataset):
    plain = read_bytes(saved(one), "plain").pixels
    one.PixelRepresentation, one.RescaleSlope, one.RescaleIntercept = 1, "0.5", "1000"
    one.PixelData = (stored(head()[0])[5].astype(np.int16) - 2000).tobytes()
    assert np.allclose(read_bytes(saved(one), "signed").pixels, plain, atol=1e-5)


@pytest.mark.parametrize(("center", "width"), [("2048", "4096"), ("700", "900"), ("60000", "10"), ("-300", "2")])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_display_window_changes_nothing(one: Dataset, center: str, width: str, function: str):
    plain = read_bytes(saved(one), "plain").pixels
    one.WindowCenter, one.WindowWidth, one.VOILUTFunction = center, width, function
    assert np.array_equal(read_bytes(saved(one), "window").pixels, plain)


def test_two_series_in_one_folder(tmp_path: Path, affine: np.ndarray):
    pixels = stored(head()[0])
    write_series(tmp_path / "both", pixels, affine, "a")
    second = write_series(tmp_path / "more", pixels[:4], affine, "b", SeriesDescription="AX FLAIR", SeriesNumber=7)
    files = [*(tmp_path / "both").iterdir(), *(f.rename(tmp_path / "both" / f"b-{f.name}") for f in second)]
    with pytest.raises(UnsupportedScan, match=r"both: .* received 2 \(10, 4 files\)"):
        read(tmp_path / "both")
    studies = read_many(files)
    assert sorted((s.n_slices, s.source.name, s.source.sequence) for s in studies) == [
        (4, "series-7", "FLAIR"), (10, "series-3", "T1 post-contrast"),
    ]  # fmt: skip
    with pytest.raises(UnsupportedScan, match="2 different stacks"):
        read_files(files)


def test_two_echoes_of_one_series_are_two_scans(tmp_path: Path, affine: np.ndarray):
    pixels = stored(head()[0])[:4]
    write_series(tmp_path / "1", pixels, affine, "a")
    write_series(tmp_path / "2", pixels, affine, "a", EchoTime=90)
    assert [len(g) for g in group_scans([tmp_path])] == [4, 4]


def test_find_scans_gives_a_series_as_its_folder(tmp_path: Path, affine: np.ndarray):
    write_series(tmp_path / "head", stored(head()[0]), affine)
    (tmp_path / "head" / "x.seg.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "notes.txt").write_text("no scan")
    assert find_scans([tmp_path]) == [tmp_path / "head"]


def test_files_named_by_their_uid_are_found(tmp_path: Path, series: Path):
    (tmp_path / "study").mkdir()
    for k, file in enumerate(sorted(series.iterdir())):
        shutil.copy(file, tmp_path / "study" / f"1.2.840.113619.2.{k}")
    assert find_scans([tmp_path]) == [tmp_path / "study"]
    assert read(tmp_path / "study").n_slices == 10


def test_a_missing_slice_is_named(series: Path):
    files = [f for f in series.iterdir() if not f.name.endswith("-4.dcm")]
    with pytest.raises(UnsupportedScan, match=r"slices 4 and 5 29\.33 mm: a slice is missing"):
        read_files(files)


def test_a_place_twice_is_refused(tmp_path: Path, affine: np.ndarray):
    pixels = stored(head()[0])[:3]
    files = write_series(tmp_path / "1", pixels, affine) + write_series(tmp_path / "2", pixels, affine)
    with pytest.raises(UnsupportedScan, match="lie at the same place"):
        read_files(files)


def test_a_file_twice_is_read_once(tmp_path: Path, series: Path):
    shutil.copytree(series, tmp_path / "s")
    shutil.copy(next(series.glob("*-3.dcm")), tmp_path / "s" / "copy.dcm")
    assert np.array_equal(read(tmp_path / "s").pixels, read(series).pixels)


def test_a_folder_holds_more_than_its_series(tmp_path: Path, series: Path):
    shutil.copytree(series, tmp_path / "s")
    report = dcmread(next(series.iterdir()))
    report.Modality, report.SOPInstanceUID = "SR", "1.2.3"
    report.save_as(tmp_path / "s" / "report.dcm")
    index = Dataset()
    index.file_meta, index.FileSetID = report.file_meta, "CD"
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.save_as(tmp_path / "s" / "DICOMDIR", enforce_file_format=True)
    assert read(tmp_path / "s").n_slices == 10
    assert [len(g) for g in group_scans([tmp_path / "s"])] == [10]
    assert [len(g) for g in group_scans([tmp_path / "s", tmp_path / "s" / "report.dcm"])] == [10, 1]
    (tmp_path / "s" / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"junk" * 50)
    assert [len(g) for g in group_scans([tmp_path / "s"])] == [10, 1]
    with pytest.raises(DamagedScan, match=r"bad\.dcm: "):
        read(tmp_path / "s")


def test_gantry_tilt_is_told_and_measured_along_the_normal(tmp_path: Path):
    affine = head()[0].affine.copy()
    affine[1, 0] = affine[2, 0] * np.tan(np.deg2rad(15))
    write_series(tmp_path / "s", stored(head()[0]), affine, SliceThickness="5")
    study = read(tmp_path / "s")
    assert any("15 degrees" in w for w in study.warnings)
    assert study.spacing[0] == pytest.approx(head()[0].spacing[0])
    assert np.allclose(study.affine, affine, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"Modality": "CT"}, UnsupportedScan, "modality CT"),
        ({"Modality": NAME}, UnsupportedScan, "modality another kind"),
        ({"PixelData": b""}, UnsupportedScan, "holds no pixels"),
        ({"Rows": None}, UnsupportedScan, "holds no image"),
        ({"Rows": 63}, DamagedScan, "Rows and Columns claim 64 x 63"),
        ({"Rows": 3000, "Columns": 3000}, DamagedScan, "Rows and Columns claim 3000 x 3000"),
        ({"Rows": 60000, "Columns": 60000}, ScanTooLarge, "claims 60000 x 60000"),
        ({"NumberOfFrames": 100000}, ScanTooLarge, "x 100000"),
        ({"NumberOfFrames": 2}, DamagedScan, "64 x 64 x 2"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, UnsupportedScan, "PALETTE COLOR"),
        ({"PixelData": b"\7" * 8192}, UnsupportedScan, "same value"),
        ({"Rows": 8, "Columns": 8}, UnsupportedScan, "at least 32 pixels"),
    ],
)
def test_refusals(one: Dataset, change: dict, error: type, sentence: str):
    for key, value in change.items():
        setattr(one, key, value)
    with pytest.raises(error, match=sentence) as caught:
        read_bytes(saved(one), "x.dcm")
    assert str(caught.value).startswith("x.dcm: ")
    assert NAME not in str(caught.value)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1])
def test_false_rows_of_compressed_pixels_are_caught_before_decoding(one: Dataset, syntax: str, monkeypatch):
    from imagecodecs import ljpeg_encode

    plane = stored(head()[0])[5]
    if syntax == JPEGLosslessSV1:
        one.PixelData, one.file_meta.TransferSyntaxUID = encapsulate([ljpeg_encode(plane)]), syntax
        one["PixelData"].is_undefined_length = True
    else:
        one.compress(syntax, plane, generate_instance_uid=False)
    one.Rows = one.Columns = 4000
    monkeypatch.setattr(dicom.pixels, "pixel_array", lambda *a, **k: pytest.fail("it was decoded"))
    with pytest.raises(DamagedScan, match="Rows and Columns claim"):
        read_bytes(saved(one), "x.dcm")


def test_deflate_bomb(one: Dataset, monkeypatch):
    monkeypatch.setattr(dicom.parse, "MAX_FILE_BYTES", 2_000_000)
    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = saved(one)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = bomb.compress(b"\0" * 50_000_000) + bomb.flush()
    meta = 144 + int.from_bytes(data[140:144], "little")  # where the file meta group ends
    with pytest.raises(ScanTooLarge, match="inflates to more than 2 MB"):
        read_bytes(data[:meta] + packed, "x.dcm")


def test_cut_off_files(one: Dataset):
    data = saved(one)
    for end in (140, 400, len(data) // 2, len(data) - 100):
        with pytest.raises(NeurovisionError, match=r"^x\.dcm: "):
            read_bytes(data[:end], "x.dcm")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 2000), patch=st.binary(min_size=1, max_size=12))
def test_spoiled_bytes_give_a_study_or_a_named_error(one: Dataset, at: int, patch: bytes):
    data = bytearray(saved(one))
    data[132 + at : 132 + at + len(patch)] = patch
    try:
        study = read_bytes(bytes(data), "x.dcm")
    except NeurovisionError as e:
        assert NAME not in str(e)
    else:
        assert study.pixels.max() <= 1


@pytest.mark.parametrize(
    "element",
    [
        (0x00180080, "IS", b"slow"),  # RepetitionTime, which only the sequence's name is told from
        (0x00080008, "SQ", b"ORIGINAL"),  # ImageType
        (0x52009229, "US", b"\7\0"),  # SharedFunctionalGroupsSequence
        (0x52009230, "LO", b"each"),  # PerFrameFunctionalGroupsSequence
        (0x00200032, "SH", b"here"),  # ImagePositionPatient
        (0x7FE00010, "US", b"\7\0"),  # PixelData
        (0x00280002, "FD", b"\0\0\0\0\0\0\xf0\x7f"),  # SamplesPerPixel is infinite
    ],
    ids=lambda e: f"{e[0]:08x}",
)
def test_values_of_another_kind_give_a_study_or_a_named_error(one: Dataset, element: tuple):
    one.ScanningSequence, one.EchoTime = "SE", 10
    tag, kind, value = element
    one.add(RawDataElement(BaseTag(tag), kind, len(value), value, 0, False, True))
    try:
        assert read_bytes(saved(one), "x.dcm").pixels.shape == (1, 64, 64, 1)
    except ScanError as e:
        assert str(e).startswith("x.dcm: ")


@pytest.mark.parametrize(
    ("room", "ours"),
    [
        (dicom.geometry, "_orthonormal"), (dicom.geometry, "_step"), (dicom.pixels, "_check_pixels"),
        (dicom.pixels, "scale_robust"), (dicom.parse, "_inflate"),
    ],
)  # fmt: skip
def test_an_error_of_ours_does_not_read_as_a_damaged_file(
    series: Path, monkeypatch: pytest.MonkeyPatch, room: ModuleType, ours: str
):
    def slip(*given: object) -> None:
        raise AttributeError(ours)

    path = sorted(series.iterdir())[0]
    dataset = dcmread(path)
    if ours == "_inflate":
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = saved(dataset)
    monkeypatch.setattr(room, ours, slip)
    with pytest.raises(AttributeError, match=ours):
        read(series) if ours == "_step" else read_bytes(data, "x.dcm")


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble_and_meta_information(one: Dataset, implicit: bool):
    expected = read_bytes(saved(one), "x.dcm").pixels
    bare = Dataset(one)
    bare.SpecificCharacterSet = "ISO_IR 100"  # the first element tells that it is DICOM
    written = BytesIO()
    bare.save_as(written, implicit_vr=implicit, little_endian=True)
    assert np.array_equal(read_bytes(written.getvalue(), "x.dcm").pixels, expected)


def test_too_little_memory_is_no_damage(one: Dataset, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*given: object, **named: object) -> None:
        raise MemoryError

    (tmp_path / "x.dcm").write_bytes(saved(one))
    monkeypatch.setattr(dicom.pixels, "pixel_array", full)  # inside what is taken for damage
    with pytest.raises(ScanTooLarge, match=r"^x\.dcm: it takes more memory"):
        read(tmp_path / "x.dcm")
    monkeypatch.setattr(dicom, "_study", full)  # outside of it
    with pytest.raises(ScanTooLarge, match=r"^head: it takes more memory"):
        read_files(sorted(series.iterdir()), "head")
    monkeypatch.setattr(dicom, "parse_header", full)
    with pytest.raises(ScanTooLarge, match=r"^10 files: it takes more memory"):
        group_scans([series])


def test_unknown_sequences_and_body_parts_are_told(one: Dataset):
    one.SeriesDescription, one.BodyPartExamined, one.BurnedInAnnotation = "AX PD TSE", "KNEE", "YES"
    study = read_bytes(saved(one), "x.dcm")
    assert study.source.sequence == "PD"
    for part in ("this is PD", "shows the knee", "burnt into"):
        assert any(part in w for w in study.warnings)


@pytest.mark.parametrize(
    ("text", "sequence"),
    [
        ("AX T1 MPRAGE +C", "T1 post-contrast"), ("t1_mprage_sag_KM", "T1 post-contrast"), ("T1 without contrast", "T1"),
        ("Ax T2 FLAIR", "FLAIR"), ("t2_tirm_tra_dark-fluid", "FLAIR"), ("AX T2 FSE", "T2"),
        ("BraTS-001-t1c", "T1 post-contrast"), ("3-plane loc localizer", "localizer"),
        ("sub-01_T1w", "T1"), ("ep2d_diff_ADC", "ADC"), ("AX T2* GRE", "T2*"), ("Series 4", None),
    ],
)  # fmt: skip
def test_sequence_names(text: str, sequence: str | None):
    assert sequence_from_text(text) == sequence


def test_sequence_times():
    assert sequence_from_times(100, 9000, 2500) == "FLAIR"
    assert sequence_from_times(12, 600, None) == "T1"
    assert sequence_from_times(95, 4500, None) == "T2"
    assert sequence_from_times(20, 2500, None) == "PD"
    assert sequence_from_times(50, 1500, None) is None


def test_deidentify_follows_the_basic_profile(series: Path, tmp_path: Path):
    sources = sorted(series.iterdir())
    tagged = dcmread(sources[0])
    tagged.add_new(0x00091001, "LO", NAME)
    tagged.RequestAttributesSequence = [Dataset()]
    tagged.RequestAttributesSequence[0].RequestedProcedureDescription = NAME
    tagged.ReferencedImageSequence = [Dataset()]
    tagged.ReferencedImageSequence[0].ReferencedSOPClassUID = tagged.SOPClassUID
    tagged.ReferencedImageSequence[0].ReferencedSOPInstanceUID = dcmread(sources[1]).SOPInstanceUID
    tagged.preamble = NAME.encode().ljust(128, b"\0")
    tagged.save_as(tmp_path / "tagged.dcm")
    written = deidentify([tmp_path / "tagged.dcm", *sources[1:]], tmp_path / "clean")
    assert [p.name for p in written] == [f"{k:04d}.dcm" for k in range(1, len(sources) + 1)]
    before = [dcmread(p) for p in sources]
    after = [dcmread(p) for p in written]
    for path, old, new in zip(written, before, after, strict=True):
        data = path.read_bytes()
        for secret in (NAME, "PID-4711", "19700102", "20240203", old.SOPInstanceUID, old.SeriesInstanceUID):
            assert str(secret).encode() not in data
        assert new.PatientIdentityRemoved == "YES"
        assert new.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID
        assert new.PixelData == old.PixelData
    assert len({d.SeriesInstanceUID for d in after}) == 1
    assert after[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID == after[1].SOPInstanceUID
    clean = read(tmp_path / "clean")
    assert np.array_equal(clean.pixels, read(series).pixels)
    assert not any("name a patient" in w for w in clean.warnings)


def test_a_full_disk_is_not_taken_for_a_damaged_header(series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        deidentify([next(series.iterdir())], tmp_path / "clean")
    assert not list((tmp_path / "clean").iterdir())


def test_deidentify_refuses_burnt_in_names(one: Dataset, tmp_path: Path):
    one.BurnedInAnnotation = "YES"
    one.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.raises(UnsupportedScan, match="burnt"):
        deidentify([tmp_path / "x.dcm"], tmp_path / "clean")
