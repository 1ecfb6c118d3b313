"""Reader for DICOM: one file, a multi-frame file, or the files of a series sorted by their geometry (PS3.3 C.7.6)."""

from __future__ import annotations

import hashlib
import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan

try:
    import pydicom
    from pydicom import Dataset, config
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import (
        UID,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        RLELossless,
        SecondaryCaptureImageStorage,
    )
except ImportError as e:
    raise UnsupportedScan("DICOM needs packages that are not installed; run pip install 'neurovision[dicom]'.") from e

from neurovision.scan.dicom_codecs import coded_size, register
from neurovision.scan.dicom_header import Header, refusing
from neurovision.scan.images import MAX_PIXELS, MIN_SIDE
from neurovision.scan.intensity import replace_non_numbers, scale_robust, scale_window
from neurovision.scan.sequence import sequence_from_text, sequence_from_times, sequence_warning
from neurovision.scan.study import Source, Study

MAX_FILE_BYTES = 512_000_000  # of one file, also once inflated
MAX_VOXELS = 100_000_000  # 400 MB as float32
MAX_FRAMES = 4096
HEAD_PARTS = ("HEAD", "BRAIN", "SKULL", "HEADNECK", "NEURO", "PITUITARY", "SELLA", "WHOLEBODY")
_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
_COMPRESSED = (RLELossless, *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)))
_GRAY, _COLOR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")

# pydicom's warnings quote values, which may be names.
config.settings.reading_validation_mode = config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
register()


@dataclass(frozen=True)
class Frame:
    """One slice as its header tells it.

    Attributes:
        file: Index of its file among those given.
        number: Index of the frame in its file.
        instance: Instance number, for files without geometry.
        shape: ``(rows, columns)``.
        position: LPS millimeters of the first pixel's center, or None.
        orientation: Unit vectors along a row and down a column, six numbers, or None.
        spacing: Millimeters between ``(rows, columns)``, or None.
        gap: Millimeters between slices as the header says, or None.
        slope: Rescale slope.
        intercept: Rescale intercept.
        window: ``(center, width, function)``, or None.
        series: Series and frame of reference.
        contrast: What tells apart images of one place: image type, echo, diffusion weight, point of time.
    """

    file: int
    number: int
    instance: int
    shape: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    gap: float | None
    slope: float
    intercept: float
    window: tuple[float, float, str] | None
    series: tuple[str, str]
    contrast: tuple[str, ...]


@dataclass(frozen=True)
class Series:
    """The headers of one stack of slices.

    Attributes:
        headers: Datasets without pixel data, in the order of the files given.
        frames: In slice order; ``frame.file`` indexes ``headers``.
        spacing: As in :class:`Study`.
        affine: As in :class:`Study`.
        warnings: Sentences for the reader.
    """

    headers: tuple[Dataset, ...]
    frames: tuple[Frame, ...]
    spacing: tuple[float | None, float, float] | None
    affine: np.ndarray | None
    warnings: tuple[str, ...]


def read_dicom(data: bytes, name: str) -> Study:
    """Decode one DICOM file, single- or multi-frame, into a Study.

    Args:
        data: The file's bytes.
        name: The file's name, for messages.

    Raises:
        DamagedScan: Cut off, corrupt, or pixels that do not fit Rows and Columns.
        UnsupportedScan: No MR, no pixels, a transfer syntax or geometry that is not read.
        ScanTooLarge: More bytes, frames or voxels than MAX_FILE_BYTES, MAX_FRAMES, MAX_VOXELS.
    """
    dataset = parse(data, name)
    series = _one_stack(_image_frames(Header(dataset, name), 0), (dataset,), name)
    return _study(series, [lambda: data], name, hashlib.sha256(data).hexdigest())


def read_dicom_series(paths: Sequence[Path], name: str) -> Study:
    """Read the files of one series into a Study, slices sorted by their place in the patient.

    Args:
        paths: The files, in any order.
        name: Of the series, for messages and for the Study.

    Raises:
        ScanError: As :func:`read_dicom`; also where a slice is missing, or the files are not of one series.
    """
    series = read_headers(paths, name)
    digest = hashlib.sha256()
    for file in dict.fromkeys(f.file for f in series.frames):
        digest.update(load(paths[file]))
    return _study(series, [lambda p=p: load(p) for p in paths], name, digest.hexdigest())


def read_headers(paths: Sequence[Path], name: str) -> Series:
    """Read the headers of one series, without pixels, sorted as :func:`read_dicom_series` sorts its slices.

    Raises:
        ScanError: As :func:`read_dicom_series`.
    """
    headers = tuple(parse(load(p), p.name, pixels=False) for p in paths)
    seen: set[str] = set()
    frames = [
        frame
        for k, header in enumerate(Header(h, p.name) for h, p in zip(headers, paths, strict=True))
        if not _is_copy(header, seen)
        for frame in _image_frames(header, k)
    ]
    return _one_stack(frames, headers, name)


def group_dicom(paths: Sequence[Path]) -> tuple[list[tuple[Path, ...]], list[Path], list[Path]]:
    """Sort DICOM files into MR series by their headers: same series, size, orientation, spacing and contrast.

    Returns:
        Groups of files, each in slice order, sorted by their first file's name; files of other modalities or without
        an image, which belong to none; files that cannot be read. A second copy of an object is in none of them.
    """
    frames: list[Frame] = []
    groups: list[tuple[Path, ...]] = []
    others: list[Path] = []
    damaged: list[Path] = []
    seen: set[str] = set()
    for k, path in enumerate(paths):
        try:
            header = Header(parse(load(path), path.name, pixels=False), path.name)
            found = _image_frames(header, k)
            copy = _is_copy(header, seen)
        except UnsupportedScan:
            others.append(path)
            continue
        except (DamagedScan, ScanTooLarge):
            damaged.append(path)
            continue
        if copy:
            continue
        if len(found) > 1:
            groups.append((path,))  # a multi-frame file is a scan by itself
        else:
            frames += found
    groups += [tuple(paths[f.file] for f in _in_order(g)) for g in _stacks(frames)]
    return sorted(groups, key=lambda g: min(p.name for p in g)), others, damaged


def _is_copy(header: Header, seen: set[str]) -> bool:
    """Whether an object of this UID was seen before; exports often hold a file twice."""
    uid = header.text("SOPInstanceUID")
    if uid in seen:
        return True
    if uid:
        seen.add(uid)
    return False


def series_number(path: Path) -> int | None:
    """The SeriesNumber in a file's header, or None."""
    try:
        number = Header(parse(load(path), path.name, pixels=False), path.name).numbers("SeriesNumber", 1)
    except (DamagedScan, UnsupportedScan, ScanTooLarge):
        return None
    return None if number is None else int(number[0])


def parse(data: bytes, name: str, pixels: bool = True) -> Dataset:
    """Parse a file with bounded memory; deflated files are inflated up to MAX_FILE_BYTES.

    Args:
        data: The file's bytes.
        name: For messages.
        pixels: Whether to read the pixel data too.

    Returns:
        The dataset, with ``file_meta``; after inflation its transfer syntax is Explicit VR Little Endian.

    Raises:
        DamagedScan: Not parsable.
        UnsupportedScan: A transfer syntax that is not read.
        ScanTooLarge: It inflates to more than MAX_FILE_BYTES.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ScanTooLarge(f"{name}: a DICOM file may have {MAX_FILE_BYTES // 10**6} MB; this has more.")
    damaged = f"{name}: the DICOM file is damaged or cut off; export it again."
    stream = BytesIO(data)
    meta, syntax = None, ImplicitVRLittleEndian
    if data[128:132] == b"DICM":
        stream.seek(132)
        with refusing(damaged):
            meta = pydicom.filereader._read_file_meta_info(stream)
            syntax = UID(str(meta.get("TransferSyntaxUID", syntax)))
        if syntax == DeflatedExplicitVRLittleEndian:
            inflated = BytesIO(_inflate(data[stream.tell() :], name))
            with refusing(damaged):
                dataset = pydicom.filereader.read_dataset(inflated, False, True, stop_when=_stop(pixels))
                meta.TransferSyntaxUID = ExplicitVRLittleEndian
                dataset.file_meta = meta
            return dataset
    if syntax not in (*_NATIVE, *_COMPRESSED):
        raise UnsupportedScan(f"{name}: its transfer syntax ({_syntax_name(syntax)}) is not read; export it uncompressed.")
    with refusing(damaged):
        dataset = pydicom.dcmread(BytesIO(data), force=meta is None, stop_before_pixels=not pixels)
        if "TransferSyntaxUID" not in dataset.file_meta:  # pydicom finds out how it is written, and does not note it
            implicit, little = dataset.original_encoding
            native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else native
    return dataset


def load(path: Path) -> bytes:
    """Read a file, at most one byte more than MAX_FILE_BYTES; raises DamagedScan where it cannot be opened."""
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except OSError as e:
        raise DamagedScan(f"{path.name}: the file cannot be opened ({e.strerror}).") from e


def _inflate(data: bytes, name: str) -> bytes:
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = decompressor.decompress(data, MAX_FILE_BYTES)
    except zlib.error as e:
        raise DamagedScan(f"{name}: the deflated DICOM file is damaged; export it again.") from e
    if decompressor.unconsumed_tail:
        raise ScanTooLarge(f"{name}: it inflates to more than {MAX_FILE_BYTES // 10**6} MB; export it uncompressed.")
    if not decompressor.eof:
        raise DamagedScan(f"{name}: the deflated DICOM file is cut off; export it again.")
    return inflated


def _stop(pixels: bool) -> Any:
    return None if pixels else lambda tag, vr, length: tag >= 0x7FE00008


def _syntax_name(syntax: UID) -> str:
    return syntax.name if syntax.name != str(syntax) else "unknown"


def _image_frames(header: Header, file: int) -> list[Frame]:
    """The frames of one file, after checking that it is an MR image.

    Raises:
        UnsupportedScan: Another modality, or no image.
        DamagedScan: Numbers that are none.
        ScanTooLarge: Too many pixels or frames.
    """
    name = header.name
    meta = Header(getattr(header.dataset, "file_meta", Dataset()), name)  # a DICOMDIR names its class only there
    if not (header.text("SOPClassUID") or meta.text("MediaStorageSOPClassUID") or header.holds("Rows")):
        raise DamagedScan(f"{name}: the DICOM file is damaged: it does not say what it holds; export it again.")
    modality = header.text("Modality") or "MR"
    if modality != "MR":
        shown = modality if re.fullmatch(r"[A-Z0-9]{2,8}", modality) else "another kind"
        raise UnsupportedScan(f"{name}: a brain MR image is needed; received a DICOM file of modality {shown}.")
    if header.value("Rows") is None or header.value("Columns") is None:
        raise UnsupportedScan(f"{name}: this DICOM file holds no image; choose the files of the image series.")
    rows, columns, count = header.whole("Rows", 0), header.whole("Columns", 0), header.whole("NumberOfFrames", 0) or 1
    if min(rows, columns) < MIN_SIDE:
        raise UnsupportedScan(f"{name}: a scan has at least {MIN_SIDE} pixels a side; received {columns} x {rows}.")
    if rows * columns > MAX_PIXELS or not 1 <= count <= MAX_FRAMES or rows * columns * count > MAX_VOXELS:
        raise ScanTooLarge(
            f"{name}: a volume may have {MAX_VOXELS // 10**6} million voxels and {MAX_FRAMES} frames; "
            f"the header claims {columns} x {rows} x {count}."
        )
    if not header.holds("PerFrameFunctionalGroupsSequence"):
        return [_frame(header, [header], file, k, (rows, columns), count) for k in range(count)]
    per = header.items("PerFrameFunctionalGroupsSequence")
    if len(per) != count:
        raise DamagedScan(f"{name}: the header claims {count} frames and describes {len(per)}; export it again.")
    shared = header.items("SharedFunctionalGroupsSequence")[:1]
    return [_frame(header, [per[k], *shared], file, k, (rows, columns), count) for k in range(count)]


def _frame(
    header: Header, groups: list[Header], file: int, number: int, shape: tuple[int, int], count: int
) -> Frame:
    def group(key: str) -> Header:
        """A functional group of the frame; of a classic file, the header itself."""
        if groups[0] is header:
            return header
        return next((found[0] for g in groups if (found := g.items(key))), Header(Dataset(), header.name))

    position = group("PlanePositionSequence").numbers("ImagePositionPatient", 3)
    orientation = group("PlaneOrientationSequence").numbers("ImageOrientationPatient", 6)
    if orientation is not None and not _orthonormal(orientation):
        orientation = None
    if groups[0] is header and count > 1:
        position = None  # a classic multi-frame file gives one place for all of its frames
    measures = group("PixelMeasuresSequence")
    spacing = measures.numbers("PixelSpacing", 2)
    if spacing is not None and min(spacing) <= 0:
        spacing = None
    gaps = measures.numbers("SpacingBetweenSlices", 1) or measures.numbers("SliceThickness", 1)
    transform, voi = group("PixelValueTransformationSequence"), group("FrameVOILUTSequence")
    echo = group("MREchoSequence").text("EffectiveEchoTime") or header.text("EchoTime")
    diffusion = group("MRDiffusionSequence").text("DiffusionBValue") or header.text("DiffusionBValue")
    kind = group("MRImageFrameTypeSequence").text("FrameType") or header.text("ImageType")
    time = group("FrameContentSequence").text("TemporalPositionIndex") or header.text("TemporalPositionIdentifier")
    return Frame(
        file=file,
        number=number,
        instance=header.whole("InstanceNumber", 0),
        shape=shape,
        position=position,
        orientation=orientation,
        spacing=None if spacing is None else (spacing[0], spacing[1]),
        gap=gaps[0] if gaps is not None and gaps[0] > 0 else None,
        slope=(transform.numbers("RescaleSlope", 1) or (1.0,))[0] or 1.0,
        intercept=(transform.numbers("RescaleIntercept", 1) or (0.0,))[0],
        window=_window(voi),
        series=(header.text("SeriesInstanceUID"), header.text("FrameOfReferenceUID")),
        contrast=(kind, echo, diffusion, time),
    )


def _orthonormal(orientation: tuple[float, ...]) -> bool:
    along, down = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(along), np.linalg.norm(down)
    return bool(np.allclose(lengths, 1, atol=0.01) and abs(along @ down) < 0.01)


def _window(header: Header) -> tuple[float, float, str] | None:
    center, width = header.numbers("WindowCenter", 1), header.numbers("WindowWidth", 1)
    function = header.text("VOILUTFunction") or "LINEAR"
    if center is None or width is None or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return None
    return (center[0], width[0], function) if width[0] >= (2 if function == "LINEAR" else 1e-6) else None


def _stacks(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Group frames into stacks of parallel slices; tolerances, since orientations differ in their last digits."""
    stacks: list[list[Frame]] = []
    for frame in frames:
        for stack in stacks:
            if _same_stack(stack[0], frame):
                stack.append(frame)
                break
        else:
            stacks.append([frame])
    return [s for stack in stacks for s in _by_contrast(stack)]


def _same_stack(a: Frame, b: Frame) -> bool:
    def close(x: tuple[float, ...] | None, y: tuple[float, ...] | None, tolerance: float) -> bool:
        return x is y is None or (x is not None and y is not None and np.allclose(x, y, atol=tolerance))

    return (
        a.series == b.series
        and a.shape == b.shape
        and (a.position is None) == (b.position is None)
        and close(a.orientation, b.orientation, 0.01)
        and close(a.spacing, b.spacing, 1e-3)
    )


def _by_contrast(stack: list[Frame]) -> list[list[Frame]]:
    """Split a stack that shows places twice (echoes, diffusion weights, points of time)."""
    places = {tuple(round(v, 2) for v in f.position) for f in stack if f.position is not None}
    if len(places) in (0, len(stack)):
        return [stack]
    kinds = dict.fromkeys(f.contrast for f in stack)
    return [[f for f in stack if f.contrast == kind] for kind in kinds]


def _in_order(frames: Sequence[Frame]) -> list[Frame]:
    """Frames along their normal (feet to head, right to left, front to back), else by instance and frame number."""
    if any(f.position is None or f.orientation is None for f in frames):
        return sorted(frames, key=lambda f: (f.instance, f.file, f.number))
    normal = _normal(frames[0])
    return sorted(frames, key=lambda f: float(np.dot(f.position or (), normal)))


def _normal(frame: Frame) -> np.ndarray:
    orientation = np.array(frame.orientation)
    return np.cross(orientation[:3], orientation[3:])


def _one_stack(frames: Sequence[Frame], headers: tuple[Dataset, ...], name: str) -> Series:
    """Sort the frames and work out spacing and affine.

    Raises:
        UnsupportedScan: Not one stack, a place twice, a missing slice, or no constant distance.
        ScanTooLarge: Too many voxels together.
    """
    stacks = _stacks(frames)
    if len(stacks) != 1:
        raise UnsupportedScan(
            f"{name}: a volume is one series of parallel slices; received {len(stacks)} different stacks "
            f"({', '.join(str(len(s)) for s in stacks[:6])} slices), give each by itself."
        )
    ordered = _in_order(stacks[0])
    first, count = ordered[0], len(ordered)
    if count > MAX_FRAMES or count * first.shape[0] * first.shape[1] > MAX_VOXELS:
        raise ScanTooLarge(
            f"{name}: a volume may have {MAX_VOXELS // 10**6} million voxels and {MAX_FRAMES} slices; "
            f"received {count} slices of {first.shape[1]} x {first.shape[0]}."
        )
    notes = _notes(Header(headers[first.file], name))
    if first.spacing is None:
        notes.append("The file gives no pixel spacing; areas are in pixels only.")
        return Series(headers, tuple(ordered), None, None, tuple(notes))
    if first.position is None or first.orientation is None:
        notes.append("The file gives no position in the patient; left and right are those of the picture.")
        gap = first.gap if count > 1 else None
        return Series(headers, tuple(ordered), (gap, *first.spacing), None, tuple(notes))
    normal = _normal(first)
    step, gap = normal * (first.gap or 1.0), first.gap
    if count > 1:
        step, gap = _step(ordered, normal, name)
        angle = float(np.degrees(np.arccos(min(1.0, gap / float(np.linalg.norm(step))))))
        if angle > 0.5:
            notes.append(f"The slices are sheared by {angle:.0f} degrees (gantry tilt); measurements allow for it.")
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 3] = first.position
    return Series(headers, tuple(ordered), (gap, *first.spacing), affine, tuple(notes))


def _step(ordered: list[Frame], normal: np.ndarray, name: str) -> tuple[np.ndarray, float]:
    """Vector from slice to slice and its length along the normal, both in millimeters."""
    positions = np.array([f.position for f in ordered])
    steps = np.diff(positions @ normal)
    typical = float(np.median(steps))
    if steps.min() < 0.1 * typical or typical < 1e-3:
        raise UnsupportedScan(
            f"{name}: a volume shows every place once; slices {int(steps.argmin()) + 1} and {int(steps.argmin()) + 2} "
            "lie at the same place, give one echo or point of time by itself."
        )
    worst = int(np.abs(steps - typical).argmax())
    if abs(steps[worst] - typical) > max(0.1 * typical, 0.02):
        raise UnsupportedScan(
            f"{name}: slices lie {typical:.2f} mm apart, but slices {worst + 1} and {worst + 2} {steps[worst]:.2f} mm: "
            "a slice is missing or does not belong here, export the whole series again."
        )
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    return step, float(step @ normal)


def identifier_warnings(header: Header) -> tuple[str, ...]:
    """Sentences about what in a DICOM file may name a patient; they never quote it.

    Raises:
        DamagedScan: A value that cannot be read.
    """
    notes = []
    burned = header.text("BurnedInAnnotation").upper()
    captured = header.text("SOPClassUID") == SecondaryCaptureImageStorage or header.holds("ConversionType")
    if burned == "YES":
        notes.append("The file says that annotations are burnt into its picture: it may show a name or a number.")
    elif captured and burned != "NO":
        notes.append("This is a captured screen: its picture may show a burnt-in name or number.")
    removed = header.text("PatientIdentityRemoved").upper() == "YES"
    if not removed and any(header.text(k) for k in ("PatientName", "PatientID", "PatientBirthDate")):
        notes.append("The file's headers name a patient; de-identify it before it leaves your hands.")
    return tuple(notes)


def _notes(header: Header) -> list[str]:
    """Warnings that the headers give rise to."""
    notes = list(identifier_warnings(header))
    part = re.sub(r"[^A-Z]", "", header.text("BodyPartExamined").upper())[:16]
    if part and not any(p in part for p in HEAD_PARTS):
        notes.append(f"The file says that it shows the {part.lower()}; the networks read brains only.")
    strange = sequence_warning(sequence_of(header))
    return [*notes, strange] if strange else notes


def sequence_of(header: Header) -> str | None:
    """Name the MR sequence from a header: its descriptions first, then its times, or None.

    Raises:
        DamagedScan: A value that cannot be read.
    """
    texts = (header.text(k) for k in ("SeriesDescription", "ProtocolName", "SequenceName"))
    found = next((s for s in map(sequence_from_text, texts) if s), None)
    if found is None:
        contrast = {"T1": "T1", "T2": "T2", "T2_STAR": "T2*", "PROTON_DENSITY": "PD", "DIFFUSION": "DWI", "FLAIR": "FLAIR"}
        found = contrast.get(header.text("AcquisitionContrast"))
    if found is None and "SE" in header.text("ScanningSequence"):
        times = (header.numbers(k, 1) for k in ("EchoTime", "RepetitionTime", "InversionTime"))
        found = sequence_from_times(*(None if t is None else t[0] for t in times))
    agent = header.text("ContrastBolusAgent").lower()
    if found == "T1" and agent and agent not in ("none", "no", "n"):
        return "T1 post-contrast"
    return found


def _study(series: Series, loaders: Sequence[Any], name: str, digest: str) -> Study:
    """Decode the pixels of a series, file by file, and scale them together."""
    frames = series.frames
    header = Header(series.headers[frames[0].file], name)
    color = header.text("PhotometricInterpretation") in _COLOR
    volume = np.empty((len(frames), *frames[0].shape, 3 if color else 1), np.float32)
    inverted = header.text("PhotometricInterpretation") == "MONOCHROME1"
    places: dict[int, list[int]] = {}
    for k, frame in enumerate(frames):
        places.setdefault(frame.file, []).append(k)
    for file, slices in places.items():
        dataset = parse(loaders[file](), name)
        for k, pixels in zip(slices, _decoded(dataset, [frames[k] for k in slices], name, color), strict=True):
            volume[k] = pixels
    notes = list(series.warnings)
    bad = replace_non_numbers(volume)
    if bad == volume.size or float(np.ptp(volume)) == 0.0:
        raise UnsupportedScan(f"{name}: every pixel has the same value; there is nothing to read.")
    if bad:
        notes.append(f"{bad} pixels hold no number; they are taken for the darkest value.")
    if color:
        notes.append("This is a color picture; the networks read its brightness only.")
        volume /= 255.0 if volume.max() <= 255 else 65535.0
    else:
        windows = {f.window for f in frames}
        window = windows.pop() if len(windows) == 1 else None
        volume = _windowed(volume, window)
        if inverted:
            np.subtract(1.0, volume, out=volume)
    source = Source(Path(name).name, "DICOM", digest, sequence_of(header))
    return Study(volume, source, series.spacing, series.affine, tuple(notes))


def _windowed(volume: np.ndarray, window: tuple[float, float, str] | None) -> np.ndarray:
    """The header's window where it shows something of the picture, else the robust range."""
    if window is not None:
        center, width, _ = window
        low, high = (float(v) for v in np.percentile(volume.reshape(-1)[:: max(1, volume.size // 10**6)], (2, 99)))
        if center - width / 2 <= (low + high) / 2 <= center + width / 2 and width < 20 * max(high - low, 1e-6):
            return scale_window(volume, *window)
    return scale_robust(volume)


def _decoded(dataset: Dataset, frames: Sequence[Frame], name: str, color: bool) -> Iterator[np.ndarray]:
    """Rescaled pixels of some frames of one file, float32 ``(H, W, C)``, after checking what the header claims."""
    header = Header(dataset, name)
    _check_pixels(header, frames[0].shape, color)
    damaged = f"{name}: the pixel data are damaged or cut off and cannot be decoded; export it again."
    padding = header.value("PixelPaddingValue")
    encapsulated = dataset.file_meta.TransferSyntaxUID in _COMPRESSED
    total = header.whole("NumberOfFrames", 0) or 1
    for frame in frames:
        if encapsulated:
            with refusing(damaged):
                coded = get_frame(dataset.PixelData, frame.number, number_of_frames=total)
            _check_coded(coded, header, frame)
        with refusing(damaged):
            raw = pixel_array(dataset, index=frame.number)
        if raw.shape != ((*frame.shape, 3) if color else frame.shape):
            raise DamagedScan(damaged)
        values = raw.astype(np.float32).reshape(*frame.shape, -1)
        if not color:
            with np.errstate(all="ignore"):  # what overflows float32 is no number, which is dealt with later
                if isinstance(padding, int):
                    values[raw.reshape(values.shape) == padding] = np.nan
                    values = np.nan_to_num(values, nan=_lowest(values))
                values = values * np.float32(frame.slope) + np.float32(frame.intercept)
        yield values


def _lowest(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.min()) if finite.size else 0.0


def _check_pixels(header: Header, shape: tuple[int, int], color: bool) -> None:
    """Refuse what cannot be decoded, and headers whose claims the pixel data do not hold, before decoding."""
    name = header.name
    keyword = next((k for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if header.holds(k)), None)
    data = None if keyword is None else header.value(keyword)
    if not isinstance(data, bytes) or not data:
        raise UnsupportedScan(f"{name}: this DICOM file holds no pixels; choose the files of the image series.")
    photometric = header.text("PhotometricInterpretation")
    if photometric not in (_COLOR if color else _GRAY):
        shown = photometric if re.fullmatch(r"[A-Z0-9_ ]{2,16}", photometric) else "unknown"
        raise UnsupportedScan(f"{name}: gray or RGB pixels are read; received photometric interpretation {shown}.")
    bits, samples = header.whole("BitsAllocated", 0), header.whole("SamplesPerPixel", 1)
    if bits not in (8, 16, 32, 64) or samples != (3 if color else 1):
        raise UnsupportedScan(f"{name}: 8 to 64 bits a pixel are read; received {bits} bits in {samples} channels.")
    syntax = header.dataset.file_meta.TransferSyntaxUID
    if syntax not in _COMPRESSED:
        count = header.whole("NumberOfFrames", 0) or 1
        expected = shape[0] * shape[1] * samples * count * bits // 8
        if photometric == "YBR_FULL_422":
            expected = expected * 2 // 3
        if not expected <= len(data) < expected + shape[1] * bits // 8:  # some pad, by less than a row
            raise DamagedScan(
                f"{name}: Rows and Columns claim {shape[1]} x {shape[0]} x {count} pixels, {expected} bytes; "
                f"the file holds {len(data)}, export it again."
            )
    elif not get_decoder(syntax).is_available:
        raise UnsupportedScan(f"{name}: no decoder for {_syntax_name(UID(syntax))} is installed; export it uncompressed.")


def _check_coded(coded: bytes, header: Header, frame: Frame) -> None:
    """Compare a compressed frame with Rows and Columns before it is decoded."""
    name, (rows, columns) = header.name, frame.shape
    if header.dataset.file_meta.TransferSyntaxUID == RLELossless:
        # PackBits writes at most 128 bytes for 2.
        if rows * columns * header.whole("BitsAllocated", 0) // 8 > 64 * len(coded):
            raise DamagedScan(f"{name}: Rows and Columns claim more pixels than its RLE data can hold; export it again.")
        return
    size = coded_size(coded)
    if size != (rows, columns):
        found = "an unreadable size" if size is None else f"{size[1]} x {size[0]}"
        raise DamagedScan(
            f"{name}: Rows and Columns claim {columns} x {rows} pixels, the compressed picture {found}; export it again."
        )
    if b"\xff\xd9" not in coded[-16:]:
        raise DamagedScan(f"{name}: the compressed picture is cut off; export it again.")

