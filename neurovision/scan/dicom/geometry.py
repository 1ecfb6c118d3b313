"""Where the slices of DICOM files lie in the patient, which of them make one stack, and in what order (PS3.3 C.7.6)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan
from neurovision.scan.dicom.header import Header
from neurovision.scan.dicom.notes import modality_named
from neurovision.scan.headers import Image, valid_uid
from neurovision.scan.images import MAX_PIXELS, MIN_SIDE
from neurovision.scan.study import COARSEST, FINEST

MAX_VOXELS = 100_000_000  # 400 MB as float32
MAX_FRAMES = 4096
FARTHEST = 100_000.0  # millimeters from the scanner's middle


@dataclass(frozen=True)
class Frame:
    """One slice as its header tells it.

    Attributes:
        file: Index of its file among those given.
        number: Index of the frame in its file.
        source: The image object that holds it, for the objects that refer to it.
        instance: Instance number, or None; for files without geometry.
        location: Slice location, or None; for files without geometry.
        shape: ``(rows, columns)``.
        position: LPS millimeters of the first pixel's center, or None.
        orientation: Unit vectors along a row and down a column, six numbers, or None.
        spacing: Millimeters between ``(rows, columns)``, or None.
        aspect: Height by width of a pixel where the header says so and gives no spacing, or None.
        gap: Millimeters between slices as the header says, or None.
        thickness: Millimeters of the slice as the header says, or None.
        slope: Rescale slope.
        intercept: Rescale intercept.
        series: Series and frame of reference.
        contrast: What tells apart images of one place: image type, echo, diffusion weight, point of time.
    """

    file: int
    number: int
    source: Image
    instance: int | None
    location: float | None
    shape: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    aspect: float | None
    gap: float | None
    thickness: float | None
    slope: float
    intercept: float
    series: tuple[str, str]
    contrast: tuple[str, ...]


@dataclass(frozen=True)
class Stack:
    """Frames that make one scan, and where they lie.

    Attributes:
        frames: In slice order.
        spacing: As in :class:`Study`.
        affine: As in :class:`Study`.
        warnings: Sentences for the reader.
    """

    frames: tuple[Frame, ...]
    spacing: tuple[float | None, float, float] | None
    affine: np.ndarray | None
    warnings: tuple[str, ...]


class NoImage(UnsupportedScan):
    """A DICOM file that holds no MR image: another modality, or no picture at all."""


def image_frames(header: Header, file: int) -> list[Frame]:
    """The frames of one file, after checking that it is an MR image.

    Args:
        header: Of the file, without pixels.
        file: What to call the file in the frames.

    Raises:
        NoImage: Another modality, or no image.
        UnsupportedScan: Too few pixels, or many slices in one picture.
        DamagedScan: Numbers that are none.
        ScanTooLarge: Too many pixels or frames.
    """
    name = header.name
    meta = Header(getattr(header.dataset, "file_meta", Dataset()), name)  # a DICOMDIR names its class only there
    if not (header.text("SOPClassUID") or meta.text("MediaStorageSOPClassUID") or header.holds("Rows")):
        raise DamagedScan(f"{name}: the DICOM file is damaged: it does not say what it holds; export it again.")
    modality = header.text("Modality").upper() or "MR"
    if modality != "MR":
        raise NoImage(f"{name}: a brain MR image is needed; received a DICOM file of modality {modality_named(modality)}.")
    if header.value("Rows") is None or header.value("Columns") is None:
        raise NoImage(f"{name}: this DICOM file holds no image; choose the files of the image series.")
    rows, columns, count = header.whole("Rows", 0), header.whole("Columns", 0), header.whole("NumberOfFrames", 0) or 1
    if min(rows, columns) < MIN_SIDE:
        raise UnsupportedScan(f"{name}: a scan has at least {MIN_SIDE} pixels a side; received {columns} x {rows}.")
    if rows * columns > MAX_PIXELS or not 1 <= count <= MAX_FRAMES or rows * columns * count > MAX_VOXELS:
        raise ScanTooLarge(
            f"{name}: a volume may have {MAX_VOXELS // 10**6} million voxels and {MAX_FRAMES} frames; "
            f"the header claims {columns} x {rows} x {count}."
        )
    if "MOSAIC" in re.split(r"[^A-Z]+", header.text("ImageType").upper()):
        raise UnsupportedScan(
            f"{name}: this is a mosaic, many slices side by side in one picture; export its slices one by one, or convert "
            "it to NIfTI."
        )
    uid = valid_uid(header.decoded("SOPInstanceUID")) or valid_uid(meta.decoded("MediaStorageSOPInstanceUID"))
    kind = valid_uid(header.decoded("SOPClassUID")) or valid_uid(meta.decoded("MediaStorageSOPClassUID"))
    origin = (file, uid, kind)
    if not header.holds("PerFrameFunctionalGroupsSequence"):
        return [_frame(header, [header], origin, k, (rows, columns), count) for k in range(count)]
    per = header.items("PerFrameFunctionalGroupsSequence")
    if len(per) != count:
        raise DamagedScan(f"{name}: the header claims {count} frames and describes {len(per)}; export it again.")
    shared = header.items("SharedFunctionalGroupsSequence")[:1]
    return [_frame(header, [per[k], *shared], origin, k, (rows, columns), count) for k in range(count)]


def _frame(
    header: Header, groups: list[Header], origin: tuple[int, str, str], number: int, shape: tuple[int, int], count: int
) -> Frame:
    """One frame; ``origin`` is its file's index, SOP Instance UID and SOP Class UID."""
    def group(key: str) -> Header:
        """A functional group of the frame; of a classic file, the header itself."""
        if groups[0] is header:
            return header
        return next((found[0] for g in groups if (found := g.items(key))), Header(Dataset(), header.name))

    position = group("PlanePositionSequence").numbers_if_readable("ImagePositionPatient", 3)
    if position is not None and max(map(abs, position)) > FARTHEST:
        position = None
    orientation = group("PlaneOrientationSequence").numbers_if_readable("ImageOrientationPatient", 6)
    if orientation is not None and not _orthonormal(orientation):
        orientation = None
    if groups[0] is header and count > 1:
        position = None  # a classic multi-frame file gives one place for all of its frames
    measures = group("PixelMeasuresSequence")
    spacing = measures.numbers_if_readable("PixelSpacing", 2)
    if spacing is not None and not FINEST <= min(spacing) <= max(spacing) <= COARSEST:
        spacing = None
    thickness = measures.numbers_if_readable("SliceThickness", 1)
    gaps = measures.numbers_if_readable("SpacingBetweenSlices", 1) or thickness
    transform = group("PixelValueTransformationSequence")
    echo = group("MREchoSequence").text("EffectiveEchoTime") or header.text("EchoTime")
    diffusion = group("MRDiffusionSequence").text("DiffusionBValue") or header.text("DiffusionBValue")
    kind = group("MRImageFrameTypeSequence").text("FrameType") or header.text("ImageType")
    time = group("FrameContentSequence").text("TemporalPositionIndex") or header.text("TemporalPositionIdentifier")
    instance = header.numbers_if_readable("InstanceNumber", 1)
    file, uid, sop_class = origin
    place = None if position is None else (position[0], position[1], position[2])
    location = header.numbers_if_readable("SliceLocation", 1) if count == 1 else None
    return Frame(
        file=file,
        number=number,
        source=Image(uid, sop_class, number + 1 if count > 1 else None, place),
        instance=None if instance is None else int(instance[0]),
        location=None if location is None else location[0],
        shape=shape,
        position=position,
        orientation=orientation,
        spacing=None if spacing is None else (spacing[0], spacing[1]),
        aspect=_aspect(header) if spacing is None else None,
        gap=gaps[0] if gaps is not None and 0 < gaps[0] <= COARSEST else None,
        thickness=thickness[0] if thickness is not None and 0 < thickness[0] < 1e4 else None,
        slope=(transform.numbers("RescaleSlope", 1) or (1.0,))[0] or 1.0,
        intercept=(transform.numbers("RescaleIntercept", 1) or (0.0,))[0],
        series=(header.text("SeriesInstanceUID"), header.text("FrameOfReferenceUID")),
        contrast=(kind, echo, diffusion, time),
    )


def _aspect(header: Header) -> float | None:
    """Height by width of a pixel: PixelAspectRatio, else what a captured picture's own spacings give."""
    for key in ("PixelAspectRatio", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        sides = header.numbers_if_readable(key, 2)
        if sides is not None and min(sides) > 0 and 0 < sides[0] / sides[1] < np.inf:
            return sides[0] / sides[1]
    return None


def _orthonormal(orientation: tuple[float, ...]) -> bool:
    along, down = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(along), np.linalg.norm(down)
    return bool(np.allclose(lengths, 1, atol=0.01) and abs(along @ down) < 0.01)


def stacks_of(frames: Sequence[Frame]) -> list[list[Frame]]:
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
    places = {tuple(round(v, 2) for v in at) for f in stack if (at := _place(f)) is not None}
    if len(places) in (0, len(stack)):
        return [stack]
    kinds = dict.fromkeys(f.contrast for f in stack)
    return [[f for f in stack if f.contrast == kind] for kind in kinds]


def _place(frame: Frame) -> tuple[float, ...] | None:
    """Where a slice lies: its position, else its location, else None."""
    return (frame.location,) if frame.position is None and frame.location is not None else frame.position


def in_order(frames: Sequence[Frame], names: Sequence[str]) -> tuple[list[Frame], str | None]:
    """Frames along their normal (feet to head, right to left, front to back), else by location, instance or name.

    Args:
        frames: Of one stack.
        names: Of the files, by ``frame.file``.

    Returns:
        The frames, and a sentence where only the files' names told their order.
    """
    if all(f.position is not None and f.orientation is not None for f in frames):
        normal = _normal(frames[0])
        return sorted(frames, key=lambda f: float(np.dot(f.position or (), normal))), None
    if len({f.file for f in frames}) == 1:
        return sorted(frames, key=lambda f: f.number), None
    for values in ([f.location for f in frames], [f.instance for f in frames]):
        if None not in values and len(set(values)) == len(frames):
            return [frames[k] for k in sorted(range(len(frames)), key=values.__getitem__)], None  # type: ignore[arg-type]
    ordered = sorted(frames, key=lambda f: (_natural(names[f.file]), f.number))
    return ordered, (
        "The files give neither the places nor distinct numbers of their slices; the order is that of the files' names: "
        "check it, since a wrong order tears lesions apart."
    )


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """A key by which ``img2`` comes before ``img10``."""
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in re.split(r"(\d+)", name.lower()) if p]


def _normal(frame: Frame) -> np.ndarray:
    orientation = np.array(frame.orientation)
    return np.cross(orientation[:3], orientation[3:])


def one_stack(frames: Sequence[Frame], names: Sequence[str], name: str) -> Stack:
    """Sort the frames of one scan and work out spacing and affine.

    Args:
        frames: In any order.
        names: Of their files, by ``frame.file``.
        name: Of the scan, for messages.

    Raises:
        UnsupportedScan: Not one stack, a place twice, a missing slice, or no constant distance.
        ScanTooLarge: Too many voxels together.
    """
    stacks = stacks_of(frames)
    if len(stacks) != 1:
        raise UnsupportedScan(
            f"{name}: a volume is one series of parallel slices; received {len(stacks)} different stacks "
            f"({', '.join(str(len(s)) for s in stacks[:6])} slices), give each by itself."
        )
    ordered, doubt = in_order(stacks[0], names)
    first, count = ordered[0], len(ordered)
    if count > MAX_FRAMES or count * first.shape[0] * first.shape[1] > MAX_VOXELS:
        raise ScanTooLarge(
            f"{name}: a volume may have {MAX_VOXELS // 10**6} million voxels and {MAX_FRAMES} slices; "
            f"received {count} slices of {first.shape[1]} x {first.shape[0]}."
        )
    notes = [] if doubt is None else [doubt]
    if first.spacing is None:
        notes.append("The file gives no usable pixel spacing; areas are in pixels only.")
        return Stack(tuple(ordered), None, None, tuple(notes))
    if first.position is None or first.orientation is None:
        notes.append("The file gives no position in the patient; left and right are those of the picture.")
        gap, uneven = _gap(ordered)
        notes += [] if uneven is None else [uneven]
        return Stack(tuple(ordered), (gap, *first.spacing), None, tuple(notes))
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
    return Stack(tuple(ordered), (gap, *first.spacing), affine, tuple(notes))


def _gap(ordered: list[Frame]) -> tuple[float | None, str | None]:
    """Millimeters between slices without positions, and a sentence where their locations are uneven."""
    locations = [f.location for f in ordered if f.location is not None]
    if len(ordered) < 2 or len(locations) < len(ordered):
        return (ordered[0].gap if len(ordered) > 1 else None), None
    steps = np.abs(np.diff(locations))
    typical = float(np.median(steps))
    if typical < 1e-3:
        return ordered[0].gap, None
    if np.abs(steps - typical).max() <= max(0.1 * typical, 0.02):
        return typical, None
    return ordered[0].gap, "The slices' locations are not evenly spaced: a slice may be missing, and volumes may be wrong."


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


