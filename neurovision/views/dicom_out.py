"""Findings as DICOM (Segmentation, TID 1500 report, Secondary Capture) and as a NIfTI label map.

Everything is marked as what it is: the output of an algorithm, for research, unverified and not for clinical use.
The UIDs follow from the source series, the weights and the mask, so that the same result written twice is one object.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurovision import __version__
from neurovision.classes import TUMORS, PixelClass
from neurovision.ensemble.findings import Findings
from neurovision.ensemble.volume import VolumeFindings
from neurovision.errors import UnsupportedScan
from neurovision.files import replacing
from neurovision.scan.names import stem_of
from neurovision.scan.nifti import RAS_TO_LPS, read_grid
from neurovision.scan.paint import paint
from neurovision.scan.read import files_of
from neurovision.scan.sniff import kind_of
from neurovision.scan.study import Study

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from pydicom import Dataset
    from pydicom.sr.coding import Code

    from neurovision.scan.dicom import Series

MAKER = "neurovision"
log = logging.getLogger(__name__)
NOTE = "Research output, unverified, not for clinical use"  # at most 64 characters
_SERIES_NUMBERS = {"seg": 9701, "prob": 9702, "sr": 9703, "sc": 9704}
_TYPE_CODES = {  # SNOMED CT
    "glioma": ("393564001", "Glioma"),
    "meningioma": ("302820008", "Intracranial meningioma"),
    "pituitary": ("127024001", "Neoplasm of pituitary gland"),
}
_TYPE_2 = (  # may be empty, must be there; scanners leave them out
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip


@dataclass(frozen=True)
class _Finding:
    """One tumor type's measures over all slices that were analyzed; None where the file gives no spacing."""

    kind: PixelClass
    volume_ml: float | None
    area_mm2: float | None
    longest_mm: float | None
    perpendicular_mm: float | None


def write_dicom(
    result: Findings | VolumeFindings,
    study: Study,
    source_paths: Sequence[Path],
    out_dir: Path,
    stem: str | None = None,
    fractional: bool = False,
) -> list[Path]:
    """Write what was found as DICOM.

    A DICOM source with geometry gets ``STEM.seg.dcm`` (binary Segmentation, a segment for each tumor type that was
    found) and ``STEM.sr.dcm`` (TID 1500 report); any other source gets ``STEM.sc.dcm``, a Secondary Capture of the
    overlay. A rejected result gets nothing.

    Args:
        result: Of one slice, or of the whole volume.
        study: What was analyzed.
        source_paths: The file, folder or files that the study was read from; their headers are read again.
        out_dir: Folder for the results; made where absent.
        stem: Name of the results; the source's name without suffix by default.
        fractional: Also write ``STEM.prob.seg.dcm``, the probability of any tumor.

    Returns:
        The files written.

    Raises:
        ScanError: The sources cannot be read again.
    """
    from neurovision.scan.dicom import read_headers  # says in a sentence where DICOM's packages are missing

    if result.status != "ok":
        return []
    stem = stem or stem_of(study.source.name)
    out_dir.mkdir(parents=True, exist_ok=True)
    series = None
    if study.source.format == "DICOM":
        files = [f for p in source_paths for f in files_of(Path(p))]
        series = read_headers(files, study.source.name)
        if len(series.frames) != study.n_slices:
            raise UnsupportedScan(f"{study.source.name}: the files are not those that the study was read from.")
        for header in series.headers:
            for keyword in _TYPE_2:
                if keyword not in header:
                    setattr(header, keyword, "")
    if series is not None and series.affine is not None and _well_formed(series):
        try:
            segmentation = _segmentation(result, study, series)
            report = _report(result, study, series, segmentation)
        except (AttributeError, KeyError, TypeError, ValueError):
            log.warning("the source's headers do not carry a Segmentation; a Secondary Capture is written")
        else:
            written = [_save(segmentation, out_dir / f"{stem}.seg.dcm")]
            if fractional:
                written.append(_save(_probability(result, study, series), out_dir / f"{stem}.prob.seg.dcm"))
            return [*written, _save(report, out_dir / f"{stem}.sr.dcm")]
    first = None if series is None else series.headers[series.frames[0].file]
    return [_save(_capture(result, study, first), out_dir / f"{stem}.sc.dcm")]


def write_nifti_mask(
    result: Findings | VolumeFindings, study: Study, source_path: Path | None, out: Path
) -> Path:
    """Write the label map (class indices 0 to 4) as NIfTI, in the source's own voxels and affine.

    Args:
        result: Of one slice (the others stay 0), or of the whole volume.
        study: What was analyzed.
        source_path: The NIfTI file that the study was read from, or None for any other source, whose label map runs
            ``(slice, row, column)`` with the study's affine.
        out: The file, ``.nii`` or ``.nii.gz``.

    Raises:
        ScanError: The source cannot be read again.
    """
    import nibabel

    labels = _stack(result.mask, result, study)
    affine = RAS_TO_LPS @ (np.eye(4) if study.affine is None else study.affine)
    known = study.affine is not None
    if source_path is not None and kind_of(source_path) == "NIfTI":
        grid = read_grid(source_path)
        labels, affine, known = np.ascontiguousarray(grid.to_file(labels)), grid.file_affine, grid.known
    image = nibabel.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"neurovision label map, research only"
    image.set_sform(affine, code=1 if known else 0)
    image.set_qform(affine if known else None, code=1 if known else 0)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as part:
        nibabel.save(image, part)
    return out


def _save(dataset: Dataset, path: Path) -> Path:
    """Write atomically: a reader never sees half an object."""
    with replacing(path) as part:
        dataset.save_as(part)
    return path


def _stack(plane: np.ndarray, result: Findings | VolumeFindings, study: Study) -> np.ndarray:
    """uint8 ``(S, H, W)`` of the study, also where only one slice was analyzed."""
    if isinstance(result, VolumeFindings):
        return plane
    stack = np.zeros(study.pixels.shape[:3], np.uint8)
    stack[result.slice_index] = plane
    return stack


def _well_formed(series: Series) -> bool:
    """Whether a Segmentation may refer to these images."""
    needed = ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    return all(header.get(key) for header in series.headers for key in needed)


def _uid(study: Study, result: Findings | VolumeFindings, role: str, root: str = "") -> str:
    """A UID that is the same for the same result on the same source."""
    from pydicom.uid import generate_uid

    mask = hashlib.sha256(result.mask.tobytes()).hexdigest()
    place = str(getattr(result, "slice_index", "volume"))
    return str(generate_uid(entropy_srcs=[MAKER, study.source.sha256, result.weights, mask, place, role, root]))


def _common(study: Study, result: Findings | VolumeFindings, role: str, root: str) -> dict[str, Any]:
    return {
        "series_instance_uid": _uid(study, result, f"{role} series", root),
        "series_number": _SERIES_NUMBERS[role],
        "sop_instance_uid": _uid(study, result, role, root),
        "instance_number": 1,
        "manufacturer": MAKER,
    }


def _sources(series: Series) -> tuple[list[Dataset], bool]:
    """The sources in slice order, and whether they are the frames of one file."""
    used = dict.fromkeys(f.file for f in series.frames)
    headers = [series.headers[k] for k in used]
    return headers, len(headers) == 1 and int(headers[0].get("NumberOfFrames") or 1) > 1


def _in_file_order(stack: np.ndarray, series: Series) -> np.ndarray:
    """Slices as the sources have them: a multi-frame file keeps the order of its frames."""
    headers, multi_frame = _sources(series)
    if not multi_frame:
        return stack
    ordered = np.zeros((int(headers[0].NumberOfFrames), *stack.shape[1:]), stack.dtype)
    ordered[[f.number for f in series.frames]] = stack
    return ordered


def _found(result: Findings | VolumeFindings) -> list[PixelClass]:
    present = np.unique(result.mask)
    return [c for c in TUMORS if c.index in present]


def _code(kind: PixelClass | None) -> Code:
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if kind is None:
        return codes.SCT.Neoplasm
    value, meaning = _TYPE_CODES[kind.key]
    return Code(value, "SCT", meaning)


def _description(number: int, kind: PixelClass | None, tracking: str) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    color = None if kind is None or kind.color is None else highdicom.color.CIELabColor.from_rgb(*kind.color)
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label="Tumor" if kind is None else kind.title,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=_code(kind),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=MAKER, version=__version__, family=codes.cid7162.ArtificialIntelligence
        ),
        tracking_uid=tracking,
        tracking_id="Tumor" if kind is None else kind.title,
        anatomic_regions=[codes.SCT.Brain],
        display_color=color,
    )


def _segmentation(result: Findings | VolumeFindings, study: Study, series: Series) -> Segmentation:
    """Binary Segmentation; without a tumor it holds one empty segment, which says that it was looked for."""
    import highdicom

    kinds: list[PixelClass | None] = [*_found(result)] or [None]
    mask = _stack(result.mask, result, study)
    numbered = np.zeros_like(mask)
    for number, kind in enumerate(kinds, 1):
        if kind is not None:
            numbered[mask == kind.index] = number
    root = str(series.headers[0].SeriesInstanceUID)
    segmentation = highdicom.seg.Segmentation(
        source_images=_sources(series)[0],
        pixel_array=_in_file_order(numbered, series),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(n, k, _uid(study, result, f"tracking {n}", root)) for n, k in enumerate(kinds, 1)
        ],
        manufacturer_model_name=MAKER,
        software_versions=__version__,
        device_serial_number=result.weights or "0",
        content_description=NOTE,
        content_creator_name=f"{MAKER}^software",
        content_label="RESEARCH",
        omit_empty_frames=kinds != [None],
        **_common(study, result, "seg", root),
    )
    segmentation.SeriesDescription = f"{MAKER} segmentation (research)"
    return segmentation


def _probability(result: Findings | VolumeFindings, study: Study, series: Series) -> Segmentation:
    """Fractional Segmentation of the vote's probability of any tumor."""
    import highdicom

    plane = result.probability if isinstance(result, VolumeFindings) else np.rint(result.tumor_map * 255).astype(np.uint8)
    stack = _in_file_order(_stack(plane, result, study), series).astype(np.float32) / 255
    root = str(series.headers[0].SeriesInstanceUID)
    segmentation = highdicom.seg.Segmentation(
        source_images=_sources(series)[0],
        pixel_array=stack,
        segmentation_type=highdicom.seg.SegmentationTypeValues.FRACTIONAL,
        fractional_type=highdicom.seg.SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=255,
        segment_descriptions=[_description(1, None, _uid(study, result, "tracking probability", root))],
        manufacturer_model_name=MAKER,
        software_versions=__version__,
        device_serial_number=result.weights or "0",
        content_description=NOTE,
        content_creator_name=f"{MAKER}^software",
        content_label="RESEARCH",
        omit_empty_frames=bool(stack.any()),
        **_common(study, result, "prob", root),
    )
    segmentation.SeriesDescription = f"{MAKER} tumor probability (research)"
    return segmentation


def _report(result: Findings | VolumeFindings, study: Study, series: Series, segmentation: Segmentation) -> Dataset:
    """TID 1500 Measurement Report: the verdict, then a measurement group for each segment."""
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    root = str(series.headers[0].SeriesInstanceUID)
    sources, _ = _sources(series)
    algorithm = sr.AlgorithmIdentification(
        name=MAKER, version=__version__, parameters=[f"weights {result.weights}", NOTE]
    )
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_uid(study, result, "device", __version__), name=MAKER, manufacturer_name=MAKER, model_name=__version__
    )
    positive = result.verdict == "tumor"
    certainty = sr.Measurement(
        name=codes.DCM.CertaintyOfFinding,
        value=round(100 * float(result.tumor_probability or 0.0), 2),
        unit=codes.UCUM.Percent,
        algorithm_id=algorithm,
    )
    verdict = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=_uid(study, result, "verdict", root), identifier="Verdict"),
        finding_type=codes.SCT.Neoplasm,
        measurements=[certainty],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                name=Code("363713009", "SCT", "Has interpretation"),
                value=codes.SCT.Present if positive else codes.SCT.Absent,
            )
        ],
        source_images=None,
    )
    groups: list[Any] = [verdict]
    for number, finding in enumerate(_measures(result, study), 1):
        tracking = sr.TrackingIdentifier(
            uid=segmentation.SegmentSequence[number - 1].TrackingUID, identifier=finding.kind.title
        )
        groups.append(
            sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=tracking,
                referenced_segment=sr.ReferencedSegment(
                    segmentation.SOPClassUID,
                    segmentation.SOPInstanceUID,
                    number,
                    source_series=sr.SourceSeriesForSegmentation(root),
                ),
                finding_type=_code(finding.kind),
                finding_sites=[sr.FindingSite(codes.SCT.Brain)],
                algorithm_id=algorithm,
                measurements=_measurements(finding),
            )
        )
    report = sr.Comprehensive3DSR(
        evidence=[*sources, segmentation],
        content=sr.MeasurementReport(
            observation_context=sr.ObservationContext(
                observer_device_context=sr.ObserverContext(
                    observer_type=codes.DCM.Device, observer_identifying_attributes=device
                )
            ),
            procedure_reported=codes.SCT.ImagingProcedure,
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        ),
        is_complete=False,
        is_final=False,
        is_verified=False,
        **_common(study, result, "sr", root),
    )
    report.SeriesDescription = f"{MAKER} measurements (research, unverified)"
    report.ManufacturerModelName, report.SoftwareVersions = MAKER, __version__
    return report


def _measures(result: Findings | VolumeFindings, study: Study) -> list[_Finding]:
    """One entry for each tumor type in the mask, in the order of the segments."""
    pixel = None if study.spacing is None else study.spacing[1] * study.spacing[2]
    found = []
    for kind in _found(result):
        planes = result.mask[None] if isinstance(result, Findings) else result.mask
        largest = int((planes == kind.index).sum((1, 2)).max())
        if isinstance(result, VolumeFindings):
            lesions = [x for x in result.lesions if x.type == kind.key]
            pairs = [(x.longest_diameter_mm, x.perpendicular_diameter_mm) for x in lesions]
            volume = result.volumes_ml[kind.key]
        else:
            pairs = [(r.longest_diameter_mm, r.perpendicular_diameter_mm) for r in result.regions if r.type == kind.key]
            volume = None
        longest, across = max(pairs, key=lambda p: p[0] or 0.0, default=(None, None))
        found.append(_Finding(kind, volume, None if pixel is None else largest * pixel, longest, across))
    return found


def _measurements(finding: _Finding) -> list[Any]:
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    wanted = (
        (codes.SCT.Volume, finding.volume_ml, Code("mL", "UCUM", "milliliter")),
        (codes.SCT.Area, finding.area_mm2, codes.UCUM.SquareMillimeter),
        (codes.SCT.LongAxis, finding.longest_mm, codes.UCUM.Millimeter),
        (codes.SCT.ShortAxis, finding.perpendicular_mm, codes.UCUM.Millimeter),
    )
    return [sr.Measurement(name=n, value=round(v, 4), unit=u) for n, v, u in wanted if v is not None]


def _capture(result: Findings | VolumeFindings, study: Study, header: Dataset | None) -> Dataset:
    """Secondary Capture of the overlay: of the slice, or of the volume's slice with the largest tumor area."""
    import highdicom

    if isinstance(result, Findings):
        index, mask = result.slice_index, result.mask
    else:
        index = result.largest_slice if result.largest_slice is not None else study.n_slices // 2
        mask = result.mask[index]
    picture = paint(study.gray(index), mask)
    root = study.source.sha256 if header is None else str(header.get("SeriesInstanceUID", ""))
    common: dict[str, Any] = {
        "pixel_array": picture, "photometric_interpretation": "RGB", "bits_allocated": 8, "coordinate_system": "PATIENT",
        "patient_orientation": ("L", "P"), **_common(study, result, "sc", root),
    }  # fmt: skip
    if study.spacing is not None:
        common["pixel_spacing"] = study.spacing[1:]
    if header is not None and header.get("StudyInstanceUID"):
        capture = highdicom.sc.SCImage.from_ref_dataset(header, **common)
    else:
        now = datetime.now()
        capture = highdicom.sc.SCImage(
            study_instance_uid=_uid(study, result, "study", root), patient_id="", patient_name="", patient_birth_date="",
            patient_sex="", accession_number="", study_id="", study_date=now.date(), study_time=now.time(),
            referring_physician_name="", **common,
        )  # fmt: skip
    capture.SeriesDescription = f"{MAKER} overlay (research)"
    capture.PatientOrientation = [] if study.affine is None else _orientation(study.affine)  # the constructor takes none
    capture.ImageComments = NOTE
    capture.BodyPartExamined = "BRAIN"
    if header is not None and header.get("BurnedInAnnotation"):
        capture.BurnedInAnnotation = header.BurnedInAnnotation
    return capture


def _orientation(affine: np.ndarray) -> list[str]:
    """Where rows and columns point, as PatientOrientation has it: ``["L", "P"]`` for an axial slice."""
    letters = (("L", "R"), ("P", "A"), ("H", "F"))
    found = []
    for step in (affine[:3, 2], affine[:3, 1]):
        axis = int(np.abs(step).argmax())
        found.append(letters[axis][int(step[axis] < 0)])
    return found
