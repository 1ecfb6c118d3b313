"""What is written is valid DICOM, lines up with its source voxel for voxel, and says that it is unverified."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pytest
from dicom_builder import NAME, head, oblique, stored, write_enhanced, write_series
from pydicom import dcmread
from truth import TruthAnalyzer

from neurovision.ensemble.results import VolumeFindings
from neurovision.ensemble.volume import analyze_volume
from neurovision.scan.grid import RAS_TO_LPS
from neurovision.scan.read import read
from neurovision.scan.study import Study
from neurovision.views.dicom_out import Objects, write_dicom, write_nifti_mask


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An oblique series, the same as one enhanced file and as NIfTI."""
    root = tmp_path_factory.mktemp("sources")
    pixels, affine = stored(head()[0]), oblique(head()[0].affine)
    write_series(root / "series", pixels, affine)
    write_enhanced(root / "enhanced.dcm", pixels, affine)
    axes = np.moveaxis(pixels.astype(np.int16), 0, 2)[::-1]  # (H reversed, W, S)
    moved = affine.copy()
    moved[:3, :3] = np.stack([-affine[:3, 1], affine[:3, 2], affine[:3, 0]], 1)
    moved[:3, 3] = affine[:3, 3] + (pixels.shape[1] - 1) * affine[:3, 1]
    nib.Nifti1Image(axes, RAS_TO_LPS @ moved).to_filename(root / "x.nii.gz")
    return {"series": root / "series", "enhanced": root / "enhanced.dcm", "nifti": root / "x.nii.gz"}


def analyzed(path: Path, truth: np.ndarray | None = None) -> tuple[Study, VolumeFindings]:
    study = read(path)
    return study, analyze_volume(TruthAnalyzer(head()[1] if truth is None else truth), study)


def errors(path: Path) -> list[str]:
    """What dciodvfy, of David Clunie's dicom3tools, finds wrong."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian package dicom3tools)")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("kind", ["series", "enhanced"])
def test_segmentation_lines_up_voxel_for_voxel(sources: dict[str, Path], tmp_path: Path, kind: str):
    study, volume = analyzed(sources[kind])
    paths = write_dicom(volume, study, tmp_path, fractional=True).paths
    assert [p.name for p in paths] == [f"{kind}.seg.dcm", f"{kind}.prob.seg.dcm", f"{kind}.sr.dcm"]
    segmentation = highdicom.seg.segread(paths[0])
    tumor = head()[1] == 2
    got = segmentation.get_volume(combine_segments=True)
    # Each tumor voxel's place in the patient, from the segmentation's own affine and from the study's.
    there = np.argwhere(got.array > 0) @ got.affine[:3, :3].T + got.affine[:3, 3]
    expected = np.argwhere(tumor) @ study.affine[:3, :3].T + study.affine[:3, 3]
    assert there.shape == expected.shape
    assert np.allclose(there[np.lexsort(there.round(2).T)], expected[np.lexsort(expected.round(2).T)], atol=1e-3)
    assert segmentation.SegmentSequence[0].SegmentLabel == "Glioma"
    assert segmentation.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    assert "unverified" in segmentation.ContentDescription
    probability = highdicom.seg.segread(paths[1])
    assert probability.SegmentationType == "FRACTIONAL"
    assert probability.get_volume(segment_numbers=[1]).array.max() == pytest.approx(0.8, abs=1 / 255)
    assert [errors(p) for p in paths] == [[], [], []]


def test_every_frame_of_the_segmentation_names_its_source(sources: dict[str, Path], tmp_path: Path):
    study, volume = analyzed(sources["series"])
    segmentation = dcmread(write_dicom(volume, study, tmp_path).paths[0])
    places = {d.SOPInstanceUID: d.ImagePositionPatient for d in map(dcmread, sources["series"].iterdir())}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        named = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, places[named])


def test_report_measures(sources: dict[str, Path], tmp_path: Path):
    study, volume = analyzed(sources["series"])
    path = write_dicom(volume, study, tmp_path).paths[-1]
    report = highdicom.sr.srread(path)
    assert (report.CompletionFlag, report.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert report.PatientName == NAME  # it belongs to the patient's study
    assert report.StudyInstanceUID == dcmread(next(sources["series"].iterdir())).StudyInstanceUID
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    values = {m.name.meaning: (m.value, m.unit.value) for m in group.get_measurements()}
    lesion = volume.lesions[0]
    assert values["Volume"] == (pytest.approx(volume.volumes_ml["glioma"], rel=1e-3), "mL")
    assert values["Long axis"] == (pytest.approx(lesion.longest_diameter_mm, rel=1e-3), "mm")
    assert values["Short axis"] == (pytest.approx(lesion.perpendicular_diameter_mm, rel=1e-3), "mm")
    assert values["Area"] == (pytest.approx(lesion.largest_area_mm2, rel=1e-3), "mm2")
    assert group.finding_type.meaning == "Glioma"
    verdict = report.content.get_image_measurement_groups()[0]
    assert verdict.get_measurements()[0].value == pytest.approx(100 * volume.verdict.probability)
    assert verdict.get_qualitative_evaluations()[0].value.meaning == "Present"


def test_no_tumor_is_written_as_an_empty_segment(sources: dict[str, Path], tmp_path: Path):
    study, volume = analyzed(sources["series"], np.minimum(head()[1], 1))
    seg, sr = write_dicom(volume, study, tmp_path).paths
    assert not highdicom.seg.segread(seg).pixel_array.any()
    report = highdicom.sr.srread(sr)
    assert report.content.get_volumetric_roi_measurement_groups() == []
    assert report.content.get_image_measurement_groups()[0].get_qualitative_evaluations()[0].value.meaning == "Absent"
    assert errors(seg) == errors(sr) == []


def test_three_types_are_three_segments(sources: dict[str, Path], tmp_path: Path):
    truth = np.ones_like(head()[1])
    for kind, rows in ((2, slice(10, 20)), (3, slice(25, 35)), (4, slice(40, 50))):
        truth[3:6, rows, 20:40] = kind
    study, volume = analyzed(sources["enhanced"], truth)
    seg, sr = write_dicom(volume, study, tmp_path).paths
    segmentation = highdicom.seg.segread(seg)
    assert [s.SegmentLabel for s in segmentation.SegmentSequence] == ["Glioma", "Meningioma", "Pituitary tumor"]
    colors = segmentation.get_volume(combine_segments=True).array
    assert [int((colors == n).sum()) for n in (1, 2, 3)] == [600, 600, 600]
    assert len(highdicom.sr.srread(sr).content.get_volumetric_roi_measurement_groups()) == 3
    assert errors(sr) == []


def test_one_slice_of_a_single_file(sources: dict[str, Path], tmp_path: Path):
    path = next(sources["series"].glob("*-5.dcm"))
    study = read(path)
    findings = TruthAnalyzer(head()[1][5:6]).analyze(study)
    seg, sr = write_dicom(findings, study, tmp_path, stem="one").paths
    assert np.array_equal(highdicom.seg.segread(seg).pixel_array > 0, head()[1][5] == 2)
    (group,) = highdicom.sr.srread(sr).content.get_volumetric_roi_measurement_groups()
    values = {m.name.meaning: m.value for m in group.get_measurements()}
    assert values["Area"] == pytest.approx(findings.regions[0].area_mm2, rel=1e-3)
    assert "Volume" not in values
    assert errors(seg) == errors(sr) == []


def test_the_same_result_is_the_same_object(sources: dict[str, Path], tmp_path: Path):
    study, volume = analyzed(sources["series"])
    first = [dcmread(p).SOPInstanceUID for p in write_dicom(volume, study, tmp_path / "1").paths]
    again = [dcmread(p).SOPInstanceUID for p in write_dicom(volume, study, tmp_path / "2").paths]
    assert first == again
    other = analyzed(sources["series"], np.minimum(head()[1], 1))[1]
    assert dcmread(write_dicom(other, study, tmp_path / "3").paths[0]).SOPInstanceUID not in first


def test_secondary_capture_of_a_picture(tmp_path: Path):
    volume, truth = head()
    findings = TruthAnalyzer(truth).analyze(volume, 5)
    (path,) = write_dicom(findings, volume, tmp_path).paths
    capture = dcmread(path)
    assert path.name == "phantom-glioma-1.sc.dcm"
    assert np.array_equal(capture.pixel_array, findings.overlay())
    assert list(capture.PatientOrientation) == ["L", "P"]
    assert capture.PatientName == ""
    assert errors(path) == []


def test_secondary_capture_of_dicom_without_geometry(sources: dict[str, Path], tmp_path: Path):
    dataset = dcmread(next(sources["series"].glob("*-5.dcm")))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
        delattr(dataset, keyword)
    dataset.save_as(tmp_path / "flat.dcm")
    study = read(tmp_path / "flat.dcm")
    findings = TruthAnalyzer(head()[1][5:6]).analyze(study)
    (path,) = write_dicom(findings, study, tmp_path / "out").paths
    assert path.name == "flat.sc.dcm"
    assert dcmread(path).StudyInstanceUID == dataset.StudyInstanceUID


def test_rejected_results_write_nothing(sources: dict[str, Path], tmp_path: Path):
    study = read(sources["series"])
    volume = analyze_volume(TruthAnalyzer(head()[1], rejected=range(10)), study)
    assert write_dicom(volume, study, tmp_path) == Objects()


def test_nifti_label_map_in_the_files_own_voxels(sources: dict[str, Path], tmp_path: Path):
    study, volume = analyzed(sources["nifti"])
    assert np.array_equal(volume.mask, head()[1])
    path = write_nifti_mask(volume, study, tmp_path / "x.mask.nii.gz")
    image, source = nib.load(path), nib.load(sources["nifti"])
    assert image.shape == source.shape
    assert np.allclose(image.affine, source.affine, atol=1e-4)
    expected = np.moveaxis(head()[1], 0, 2)[::-1]
    assert np.array_equal(np.asanyarray(image.dataobj), expected)


def test_nifti_label_map_of_a_dicom_series(sources: dict[str, Path], tmp_path: Path):
    study, volume = analyzed(sources["series"])
    image = nib.load(write_nifti_mask(volume, study, tmp_path / "x.nii"))
    assert np.array_equal(np.asanyarray(image.dataobj), volume.mask)
    assert np.allclose(RAS_TO_LPS @ image.affine, study.affine, atol=1e-4)
