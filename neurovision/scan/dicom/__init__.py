"""Reader for DICOM: one file, a multi-frame file, or the files of a series sorted by their geometry.

``parse`` makes a dataset of bytes, ``geometry`` sorts frames, ``pixels`` decodes them, and ``origin`` keeps what written
objects need of the headers. Each file's pixels are read once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan

try:
    import pydicom  # noqa: F401
except ImportError as e:
    raise UnsupportedScan("DICOM needs packages that are not installed; run pip install 'neurovision[dicom]'.") from e

from neurovision.scan.dicom.geometry import (
    MAX_FRAMES,
    MAX_VOXELS,
    Frame,
    NoImage,
    Stack,
    image_frames,
    in_order,
    one_stack,
    stacks_of,
)
from neurovision.scan.dicom.header import Header
from neurovision.scan.dicom.notes import notes_on, sequence_of
from neurovision.scan.dicom.origin import headers_of
from neurovision.scan.dicom.parse import load, parse_bytes, parse_header
from neurovision.scan.dicom.pixels import volume_of
from neurovision.scan.study import Source, Study

__all__ = ["MAX_FRAMES", "MAX_VOXELS", "group_dicom", "read_dicom", "read_dicom_series", "series_number"]


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
    header = Header(parse_bytes(data, name), name)
    stack = one_stack(image_frames(header, 0), [name], name)
    return _study(stack, header, lambda file: data, name)


def read_dicom_series(paths: Sequence[Path], name: str) -> Study:
    """Read the files of one series into a Study, slices sorted by their place in the patient.

    Args:
        paths: The files, in any order; copies of one image are read once, and counted in a warning.
        name: Of the series, for messages and for the Study.

    Raises:
        ScanError: As :func:`read_dicom`; also where a slice is missing, or the files are not of one series.
    """
    frames: dict[int, list[Frame]] = {}
    first: dict[int, Header] = {}
    for k, path in enumerate(paths):
        header = Header(parse_header(path), path.name)
        frames[k] = image_frames(header, k)
        first.setdefault(0, header)
    copies = _copies(frames, paths)
    stack = one_stack([f for k, found in frames.items() if k not in copies for f in found], [p.name for p in paths], name)
    if copies:
        count = "1 file is a copy" if len(copies) == 1 else f"{len(copies)} files are copies"
        note = f"{count} of another (same image at the same place) and was left out."
        stack = replace(stack, warnings=(*stack.warnings, note.replace("was", "were") if len(copies) > 1 else note))
    file = stack.frames[0].file
    header = first[0] if file == 0 else Header(parse_header(paths[file]), name)
    return _study(stack, Header(header.dataset, name), lambda file: load(paths[file]), name)


def group_dicom(paths: Sequence[Path]) -> tuple[list[tuple[Path, ...]], list[Path], list[Path]]:
    """Sort DICOM files into MR series by their headers: same series, size, orientation, spacing and contrast.

    Returns:
        Groups of files, each in slice order with the copies of its files at its end, sorted by their first file's name;
        files of other modalities or without an image, which belong to none; files that cannot be read.
    """
    frames: dict[int, list[Frame]] = {}
    others: list[Path] = []
    damaged: list[Path] = []
    for k, path in enumerate(paths):
        try:
            frames[k] = image_frames(Header(parse_header(path), path.name), k)
        except NoImage:
            others.append(path)
        except (DamagedScan, UnsupportedScan, ScanTooLarge):
            damaged.append(path)
    copies = _copies(frames, paths)
    single = [f for k, found in frames.items() if k not in copies and len(found) == 1 for f in found]
    groups = [[k] for k, found in frames.items() if k not in copies and len(found) > 1]  # a scan by itself
    groups += [[f.file for f in in_order(stack, [p.name for p in paths])[0]] for stack in stacks_of(single)]
    named = [
        tuple(paths[k] for k in (*group, *(c for c, original in copies.items() if original in set(group))))
        for group in groups
    ]
    return sorted(named, key=lambda g: min(p.name for p in g)), others, damaged


def series_number(path: Path) -> int | None:
    """The SeriesNumber in a file's header, or None."""
    try:
        number = Header(parse_header(path), path.name).numbers("SeriesNumber", 1)
    except (DamagedScan, UnsupportedScan, ScanTooLarge):
        return None
    return None if number is None else int(number[0])


def _copies(frames: dict[int, list[Frame]], paths: Sequence[Path]) -> dict[int, int]:
    """Files that hold what an earlier one holds, each with that one: same UID, same places, same pixels.

    Exports often hold a file twice; slices that merely share a UID, as some tools write them, are no copies.
    """
    same: dict[str, list[int]] = {}
    for k, found in frames.items():
        same.setdefault(found[0].source.uid, []).append(k)
    copies: dict[int, int] = {}
    for uid, files in same.items():
        seen: dict[tuple[object, ...], int] = {}
        for k in files if uid and len(files) > 1 else ():
            places = tuple((f.series, f.position, f.orientation, f.location, f.contrast) for f in frames[k])
            key = (places, _pixel_digest(paths[k]))
            if key in seen:
                copies[k] = seen[key]
            else:
                seen[key] = k
    return copies


def _pixel_digest(path: Path) -> str:
    header = Header(parse_bytes(load(path), path.name), path.name)
    data = next((header.value(k) for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if header.holds(k)), b"")
    return hashlib.sha256(data if isinstance(data, bytes) else b"").hexdigest()


def _study(stack: Stack, header: Header, content: Callable[[int], bytes], name: str) -> Study:
    """Decode the pixels of a stack, file by file, and scale them together.

    Args:
        stack: The frames, in slice order.
        header: Of the first slice's file.
        content: A file's bytes by ``frame.file``.
        name: Of the scan.
    """
    headers = headers_of(header, stack.frames)  # before anything else asks: pydicom keeps no bytes of what it decoded
    digest = hashlib.sha256()
    places: dict[int, list[int]] = {}
    for k, frame in enumerate(stack.frames):
        places.setdefault(frame.file, []).append(k)

    def datasets() -> Iterator[tuple[Header, list[int]]]:
        for file, slices in places.items():
            data = content(file)
            digest.update(data)
            yield Header(parse_bytes(data, name), name), slices

    volume, notes = volume_of(stack.frames, datasets(), header)
    warnings = (*notes_on(header), *stack.warnings, *notes)
    source = Source(Path(name).name, "DICOM", digest.hexdigest(), sequence_of(header))
    aspect = stack.frames[0].aspect if stack.spacing is None else None
    return Study(volume, source, stack.spacing, stack.affine, warnings, headers=headers, aspect=aspect)
