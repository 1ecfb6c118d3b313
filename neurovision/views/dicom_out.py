"""Findings as DICOM (Segmentation, TID 1500 report, Secondary Capture) and as a NIfTI label map.

Everything is marked as what it is: the output of an algorithm, for research, unverified and not for clinical use.
The UIDs follow from the source series, the weights and the mask, so that the same result written twice is one object.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurovision import __version__
from neurovision.classes import PixelClass
from neurovision.ensemble.results import Result
from neurovision.errors import NeurovisionError, UnsupportedScan
from neurovision.files import replacing
from neurovision.scan.grid import RAS_TO_LPS
from neurovision.scan.headers import Headers, Image
from neurovision.scan.names import stem_of
from neurovision.scan.paint import paint
from neurovision.scan.study import Study

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from pydicom import Dataset
    from pydicom.sr.coding import Code

MAKER = "neurovision"
log = logging.getLogger(__name__)
NOTE = "Research output, unverified, not for clinical use"  # at most 64 characters
_SERIES_NUMBERS = {"seg": 9701, "prob": 9702, "sr": 9703, "sc": 9704}
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


@dataclass(frozen=True)
class Missing:
    """An object that was wanted and could not be made.

    Attributes:
        object: ``"SEG"`` or ``"SR"``.
        reason: One sentence; it quotes nothing of a header.
    """

    object: str
    reason: str


@dataclass(frozen=True)
class Objects:
    """What was written of a result as DICOM.

    Attributes:
        paths: The files.
        missing: Objects that could not be made.
        notes: Sentences on what in the headers was replaced or left out.
    """

    paths: tuple[Path, ...] = ()
    missing: tuple[Missing, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def missing_words(self) -> str:
        """Which objects could not be made, and why, in a sentence; "" where none is missing."""
        if not self.missing:
            return ""
        return f"no {' and no '.join(m.object for m in self.missing)} written. {self.missing[0].reason}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "written": [p.name for p in self.paths],
            "missing": [{"object": m.object, "reason": m.reason} for m in self.missing],
            "notes": list(self.notes),
        }


def obstacle(study: Study) -> str | None:
    """Why no Segmentation can refer to a study, one sentence, or None where one can.

    Sources that are not DICOM have no objects to refer to.
    """
    headers = study.headers
    if headers is None:
        return "The scan is not DICOM, so that there is no image to refer to."
    if study.spacing is None:
        return "The headers give no PixelSpacing, so that a segment has no size in the patient."
    if study.affine is None or any(i.position is None for i in headers.images):
        return (
            "The headers do not say how the slices lie in the patient (ImagePositionPatient and ImageOrientationPatient)."
        )
    if headers.thickness is None and study.spacing[0] is None:
        return "The headers give neither SliceThickness nor a distance between slices, which a Segmentation has to state."
    absent = [
        name
        for name, found in (
            ("StudyInstanceUID", headers.study_uid),
            ("SeriesInstanceUID", headers.series_uid),
            ("SOPInstanceUID", all(i.uid for i in headers.images)),
        )
        if not found
    ]
    if absent:
        return f"The headers give no valid {' and no valid '.join(absent)}, by which the images would be referred to."
    if len({(i.uid, i.frame) for i in headers.images}) < len(headers.images):
        return "Several slices share one SOPInstanceUID, so that none of them can be referred to by itself."
    if len({i.uid for i in headers.images}) > 1 and any(i.frame for i in headers.images):
        return "The slices lie in several multi-frame files, of which a Segmentation can refer to one only."
    return None


def write_dicom(
    result: Result, study: Study, out_dir: Path, stem: str | None = None, fractional: bool = False
) -> Objects:
    """Write what was found as DICOM.

    A DICOM source with geometry gets ``STEM.seg.dcm`` (binary Segmentation, a segment for each tumor type that was
    found) and ``STEM.sr.dcm`` (TID 1500 report); any other source gets ``STEM.sc.dcm``, a Secondary Capture of the
    overlay. A rejected result gets nothing.

    Args:
        result: Of one slice, or of the whole volume.
        study: What was analyzed; everything that is written comes from it.
        out_dir: Folder for the results; made where absent.
        stem: Name of the results; the source's name without suffix by default.
        fractional: Also write ``STEM.prob.seg.dcm``, the probability of any tumor.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
        UnsupportedScan: DICOM's packages are missing.
    """
    if result.status != "ok":
        return Objects()
    try:
        import highdicom  # noqa: F401
    except ImportError as e:
        raise UnsupportedScan("DICOM needs packages that are not installed; run pip install 'neurovision[dicom]'.") from e
    from neurovision.scan.quiet import quiet

    stem = stem or stem_of(study.source.name)
    out_dir.mkdir(parents=True, exist_ok=True)
    reason = obstacle(study)
    with quiet():
        if reason is not None:
            paths = [_save(_capture(result, study), out_dir / f"{stem}.sc.dcm")]
            wanted = ("SEG", "SR") if study.headers is not None else ()
            return Objects(tuple(paths), tuple(Missing(o, reason) for o in wanted), _notes(study, reference=False))
        sources = _Sources.of(study)
        segmentation = _segmentation(result, study, sources)
        paths = [_save(segmentation, out_dir / f"{stem}.seg.dcm")]
        if fractional:
            paths.append(_save(_probability(result, study, sources), out_dir / f"{stem}.prob.seg.dcm"))
        paths.append(_save(_report(result, study, sources, segmentation), out_dir / f"{stem}.sr.dcm"))
    return Objects(tuple(paths), notes=_notes(study, reference=True))


def try_dicom(
    result: Result, study: Study, out_dir: Path, stem: str | None = None, fractional: bool = False
) -> Objects:
    """Write what was found as DICOM as :func:`write_dicom` does; an error of this program costs the objects, not the result.

    Raises:
        NeurovisionError: As :func:`write_dicom`.
    """
    try:
        return write_dicom(result, study, out_dir, stem, fractional)
    except NeurovisionError:
        raise
    except Exception as e:  # noqa: BLE001 - the findings stand, and are to be written
        log.error("DICOM objects were not made: %s", type(e).__name__)
        reason = f"The program failed ({type(e).__name__}); please report this."
        return Objects(missing=(Missing("SEG", reason), Missing("SR", reason)))


def _notes(study: Study, reference: bool) -> tuple[str, ...]:
    """What in the headers was replaced or left out, named by keyword only."""
    headers = study.headers
    if headers is None:
        return ()
    notes = []
    if headers.left_out:
        notes.append(f"Left out of the DICOM objects, since the headers' values are invalid: {', '.join(headers.left_out)}.")
    if reference and not headers.frame_of_reference_uid:
        notes.append("The headers give no valid FrameOfReferenceUID; the Segmentation carries one made for this series.")
    return tuple(notes)


def write_nifti_mask(result: Result, study: Study, out: Path) -> Path:
    """Write the label map (class indices 0 to 4) as NIfTI, in the source's own voxels and affine.

    Args:
        result: Of one slice (the others stay 0), or of the whole volume.
        study: What was analyzed; the label map of one that is not NIfTI runs ``(slice, row, column)`` with its affine.
        out: The file, ``.nii`` or ``.nii.gz``.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    import nibabel

    labels = result.mask_in(study)
    affine = RAS_TO_LPS @ (np.eye(4) if study.affine is None else study.affine)
    known = study.affine is not None
    if study.grid is not None:
        grid = study.grid
        labels, affine, known = np.ascontiguousarray(grid.to_file(labels)), grid.file_affine, grid.known
    image = nibabel.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm" if study.grid is None or study.grid.measured else "unknown")
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


def _uid(study: Study, result: Result, role: str, root: str = "") -> str:
    """A UID that is the same for the same result on the same source."""
    from pydicom.uid import generate_uid

    mask = hashlib.sha256(result.mask_in(study).tobytes()).hexdigest()
    return str(generate_uid(entropy_srcs=[MAKER, study.source.sha256, result.weights, mask, result.place, role, root]))


def _common(study: Study, result: Result, role: str, root: str) -> dict[str, Any]:
    return {
        "series_instance_uid": _uid(study, result, f"{role} series", root),
        "series_number": _SERIES_NUMBERS[role],
        "sop_instance_uid": _uid(study, result, role, root),
        "instance_number": 1,
        "manufacturer": MAKER,
    }


@dataclass(frozen=True)
class _Sources:
    """The source images as highdicom wants them: what it needs and nothing of the patient, whom it would quote.

    Attributes:
        datasets: In slice order; one for a multi-frame file.
        order: For each plane that highdicom expects, the slice of the study that it is.
    """

    datasets: tuple[Dataset, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, study: Study) -> _Sources:
        """The images of a study without an :func:`obstacle`."""
        from pydicom import Dataset
        from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

        headers = _headers(study)
        images = headers.images
        if images[0].frame is None:
            datasets = []
            for image in images:
                dataset = _source(study, image.uid, MRImageStorage)
                dataset.update(_position(image))
                dataset.update(_orientation_of(study))
                dataset.update(_measures_of(study))
                datasets.append(dataset)
            return cls(tuple(datasets), tuple(range(len(images))))
        order = sorted(range(len(images)), key=lambda k: images[k].frame or 0)
        dataset, shared = _source(study, images[0].uid, EnhancedMRImageStorage), Dataset()
        dataset.NumberOfFrames = len(images)
        shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [_orientation_of(study)], [_measures_of(study)]
        dataset.SharedFunctionalGroupsSequence = [shared]
        frames = []
        for k in order:
            frame = Dataset()
            frame.PlanePositionSequence = [_position(images[k])]
            frames.append(frame)
        dataset.PerFrameFunctionalGroupsSequence = frames
        return cls((dataset,), tuple(order))

    def planes(self, stack: np.ndarray) -> np.ndarray:
        """``(S, H, W)`` slices in the order that highdicom expects."""
        return stack[list(self.order)]


def _headers(study: Study) -> Headers:
    if study.headers is None:
        raise TypeError("a study that is not DICOM has no headers")
    return study.headers


def _source(study: Study, uid: str, sop_class: str) -> Dataset:
    from pydicom import Dataset
    from pydicom.uid import generate_uid

    headers = _headers(study)
    dataset = Dataset()
    for keyword in _TYPE_2:
        setattr(dataset, keyword, "")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = headers.study_uid, headers.series_uid
    dataset.FrameOfReferenceUID = headers.frame_of_reference_uid or generate_uid(
        entropy_srcs=[MAKER, headers.series_uid, "frame of reference"]
    )
    dataset.SOPInstanceUID, dataset.SOPClassUID, dataset.Modality = uid, sop_class, "MR"
    dataset.Rows, dataset.Columns = study.pixels.shape[1:3]
    if headers.lossy is not None:
        dataset.LossyImageCompression = "01"
        for keyword, value in zip(("Ratio", "Method"), headers.lossy, strict=True):
            if value:
                setattr(dataset, f"LossyImageCompression{keyword}", value)
    return dataset


def _position(image: Image) -> Dataset:
    from pydicom import Dataset

    dataset = Dataset()
    dataset.ImagePositionPatient = _decimals(image.position or ())
    return dataset


def _orientation_of(study: Study) -> Dataset:
    from pydicom import Dataset

    dataset, affine = Dataset(), np.eye(4) if study.affine is None else study.affine
    columns, rows = (affine[:3, k] / np.linalg.norm(affine[:3, k]) for k in (2, 1))
    dataset.ImageOrientationPatient = _decimals((*columns, *rows))
    return dataset


def _measures_of(study: Study) -> Dataset:
    from pydicom import Dataset

    dataset, spacing = Dataset(), study.spacing or (None, 1.0, 1.0)
    dataset.PixelSpacing = _decimals(spacing[1:])
    thickness = _headers(study).thickness or spacing[0]
    if thickness is not None:
        dataset.SliceThickness = _decimals([thickness])[0]
    return dataset


def _decimals(values: Sequence[float]) -> list[Any]:
    from pydicom.valuerep import DS

    return [DS(float(v), auto_format=True) for v in values]


def _finish(dataset: Dataset, study: Study) -> None:
    """Write the patient's and the study's elements, and the source images' own SOP classes, into a made object."""
    headers = study.headers
    if headers is None:
        return
    if not all(value.isascii() for value in headers.identity.values()):
        dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in headers.identity.items():
        if keyword != "PositionReferenceIndicator" or "FrameOfReferenceUID" in dataset:
            setattr(dataset, keyword, value)
    kinds = {i.uid: i.sop_class for i in headers.images if i.sop_class}
    for item in _items(dataset):
        if (kind := kinds.get(item.get("ReferencedSOPInstanceUID"))) is not None:
            item.ReferencedSOPClassUID = kind


def _items(dataset: Dataset) -> Iterator[Dataset]:
    """Every item of every sequence in a dataset."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)


def _found(result: Result, study: Study) -> list[PixelClass]:
    present = np.unique(result.mask_in(study))
    return [c for c in result.classes.tumors if c.index in present]


def _code(kind: PixelClass | None) -> Code:
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if kind is None or kind.code is None:
        return codes.SCT.Neoplasm
    return Code(kind.code.value, kind.code.scheme, kind.code.meaning)


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


def _segmentation(result: Result, study: Study, sources: _Sources) -> Segmentation:
    """Binary Segmentation; without a tumor it holds one empty segment, which says that it was looked for."""
    import highdicom

    kinds: list[PixelClass | None] = [*_found(result, study)] or [None]
    mask = result.mask_in(study)
    numbered = np.zeros_like(mask)
    for number, kind in enumerate(kinds, 1):
        if kind is not None:
            numbered[mask == kind.index] = number
    root = _headers(study).series_uid
    segmentation = highdicom.seg.Segmentation(
        source_images=sources.datasets,
        pixel_array=sources.planes(numbered),
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
    _finish(segmentation, study)
    return segmentation


def _probability(result: Result, study: Study, sources: _Sources) -> Segmentation:
    """Fractional Segmentation of the vote's probability of any tumor."""
    import highdicom

    stack = sources.planes(result.probability_in(study)).astype(np.float32) / 255
    root = _headers(study).series_uid
    segmentation = highdicom.seg.Segmentation(
        source_images=sources.datasets,
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
    _finish(segmentation, study)
    return segmentation


def _report(result: Result, study: Study, sources: _Sources, segmentation: Segmentation) -> Dataset:
    """TID 1500 Measurement Report: the verdict, then a measurement group for each segment."""
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    root = _headers(study).series_uid
    algorithm = sr.AlgorithmIdentification(
        name=MAKER, version=__version__, parameters=[f"weights {result.weights}", NOTE]
    )
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_uid(study, result, "device", __version__), name=MAKER, manufacturer_name=MAKER, model_name=__version__
    )
    certainty = sr.Measurement(
        name=codes.DCM.CertaintyOfFinding,
        value=round(100 * (0.0 if result.verdict is None else result.verdict.probability), 2),
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
                value=codes.SCT.Present if result.positive else codes.SCT.Absent,
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
        evidence=[*sources.datasets, segmentation],
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
    _finish(report, study)
    return report


def _measures(result: Result, study: Study) -> list[_Finding]:
    """One entry for each tumor type in the mask, in the order of the segments."""
    pixel = None if study.spacing is None else study.spacing[1] * study.spacing[2]
    found = []
    for kind in _found(result, study):
        largest = int((result.mask_in(study) == kind.index).sum((1, 2)).max())
        pairs = [(t.longest_diameter_mm, t.perpendicular_diameter_mm) for t in result.tumors if t.type == kind.key]
        volume = result.volumes_ml[kind.key]
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


def _capture(result: Result, study: Study) -> Dataset:
    """Secondary Capture of the overlay: of the slice, or of the volume's slice with the largest tumor area."""
    import highdicom

    shown = result.shown
    if shown is None:
        raise ValueError("A file that could not be read has no picture.")
    headers, now = study.headers, datetime.now()
    root = (headers.series_uid if headers is not None else "") or study.source.sha256
    capture = highdicom.sc.SCImage(
        pixel_array=paint(shown.picture, shown.mask, shown.classes), photometric_interpretation="RGB", bits_allocated=8,
        coordinate_system="PATIENT", patient_orientation=("L", "P"), patient_id="", patient_name="", patient_birth_date="",
        patient_sex="", accession_number="", study_id="", referring_physician_name="",
        study_instance_uid=(headers.study_uid if headers is not None else "") or _uid(study, result, "study", root),
        study_date=now.date() if headers is None else "", study_time=now.time() if headers is None else "",
        pixel_spacing=None if study.spacing is None else study.spacing[1:], **_common(study, result, "sc", root),
    )  # fmt: skip
    capture.SeriesDescription = f"{MAKER} overlay (research)"
    capture.PatientOrientation = [] if study.affine is None else _orientation(study.affine)  # the constructor takes none
    capture.ImageComments = NOTE
    capture.BodyPartExamined = "BRAIN"
    if headers is not None and headers.burned_in:
        capture.BurnedInAnnotation = headers.burned_in
    _finish(capture, study)
    return capture


def _orientation(affine: np.ndarray) -> list[str]:
    """Where rows and columns point, as PatientOrientation has it: ``["L", "P"]`` for an axial slice."""
    letters = (("L", "R"), ("P", "A"), ("H", "F"))
    found = []
    for step in (affine[:3, 2], affine[:3, 1]):
        axis = int(np.abs(step).argmax())
        found.append(letters[axis][int(step[axis] < 0)])
    return found
