"""Reader for NIfTI-1 and NIfTI-2 in one or two files, plain or compressed, in any orientation."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import zstandard

from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan
from neurovision.scan.grid import RAS_TO_LPS, Grid
from neurovision.scan.images import MIN_SIDE
from neurovision.scan.intensity import AIR_NOTE, darken_air, replace_non_numbers, scale_robust
from neurovision.scan.names import PACKED, stem_of
from neurovision.scan.sequence import sequence_from_text, sequence_warning
from neurovision.scan.study import COARSEST, FINEST, Source, Study

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

MAX_FILE_BYTES = 512_000_000
MAX_VOXELS = 100_000_000  # 400 MB as float32
HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
PEEK = 1024 * 1024  # bytes of a compressed file that hold its header; blocks have up to 900 kB
_SAME_SIZE = 0.02  # by which two statements of a voxel's size may differ
_UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # of xyzt_units to millimeters
# The axes of (slice, row, column) for each plane that slices may lie in, as a reader looks at them.
_PLANES = {"axial": ("S", "P", "L"), "coronal": ("P", "I", "L"), "sagittal": ("L", "I", "P")}


def is_nifti(head: bytes) -> bool:
    """Whether a file's first bytes (540, or PEEK of a compressed one) are a NIfTI header."""
    head = _head(head)
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def is_pair(head: bytes) -> bool:
    """Whether a NIfTI header says that its voxels lie in a file of their own."""
    head = _head(head)
    return head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0"


def is_analyze(head: bytes) -> bool:
    """Whether a file's first bytes are a header of Analyze 7.5, from before NIfTI."""
    size, count = (head[:4], head[40:42]) if head[:1] == b"\x5c" else (head[3::-1], head[41:39:-1])
    return size == b"\x5c\x01\0\0" and count[:1] in b"\1\2\3\4\5\6\7" and count[1:] == b"\0" and not is_nifti(head)


def is_packed(head: bytes | bytearray) -> bool:
    """Whether a file's first bytes are those of a compressed stream."""
    return head[:2] == b"\x1f\x8b" or (head[:3] == b"BZh" and head[4:10] == b"1AY&SY") or head[:4] == b"\x28\xb5\x2f\xfd"


def beside(file: Path, part: str) -> Path | None:
    """The other file of a pair: ``X.hdr`` beside ``X.img`` or the other way round, compressed or not; or None.

    Args:
        file: One of the two.
        part: ``".hdr"`` or ``".img"``, which one is looked for.
    """
    names = (stem_of(file) + end for end in (part, part.upper(), *(part + p for p in PACKED)))
    return next((f for f in map(file.with_name, names) if f != file and f.is_file()), None)


def read_nifti(data: bytes, name: str, voxels: bytes | None = None) -> Study:
    """Decode a NIfTI volume into a Study.

    Slices are cut across the axis with the thickest voxels, axially where voxels are about cubes.

    Args:
        data: The file's bytes, or the header's of a pair.
        name: The file's name, for messages.
        voxels: Of a pair, the bytes of the other file.

    Raises:
        DamagedScan: Cut off or corrupt.
        UnsupportedScan: More than one volume, colors, a header without its voxels, or no contrast.
        ScanTooLarge: More than MAX_FILE_BYTES or MAX_VOXELS, also when only the header claims so.
    """
    if len(data) > MAX_FILE_BYTES or len(voxels or b"") > MAX_FILE_BYTES:
        raise ScanTooLarge(f"{name}: a NIfTI file may have {MAX_FILE_BYTES // 10**6} MB; this has more.")
    if is_pair(data[:PEEK]) and voxels is None:
        raise UnsupportedScan(f"{name}: header and image are in two files (.hdr, .img); give both, or one .nii file.")
    header = _header(_head(data), name)
    grid, contradictions = _grid(header, name)
    start, kind = _voxel_start(header, name), header.get_data_dtype()
    end = start + int(np.prod(grid.shape)) * kind.itemsize
    digest = hashlib.sha256(data)
    digest.update(voxels or b"")
    body: bytes | bytearray = data if voxels is None else voxels
    if is_packed(body[:16]):
        body = _unpacked(body, end, name)
    if len(body) < end:
        raise DamagedScan(f"{name}: the header claims {end} bytes and the file holds {len(body)}; send it again.")
    raw = np.frombuffer(body, kind, int(np.prod(grid.shape)), start).reshape(grid.shape, order="F")
    slope, intercept = _scale(header, name)
    with np.errstate(all="ignore"):  # what overflows float32 is no number, which is dealt with below
        volume = np.ascontiguousarray(grid.to_slices(raw), np.float32)
        volume = volume if volume.base is None and volume.flags.writeable else volume.copy()
        if slope is not None:
            volume *= np.float32(slope)
            volume += np.float32(intercept)
    notes = list(contradictions)
    bad = replace_non_numbers(volume)
    if bad == volume.size or float(np.ptp(volume)) == 0.0:
        raise UnsupportedScan(f"{name}: every voxel has the same value; there is nothing to read.")
    if bad:
        notes.append(f"{bad} voxels hold no number (NaN or infinity); they are taken for the darkest value.")
    if darken_air(volume):
        notes.append(AIR_NOTE)
    if not grid.measured:
        notes.append("The file does not say how large its voxels are: everything is measured in pixels.")
    if not grid.known and not contradictions:
        notes.append("The file does not say how it lies in the patient; left and right are those of the picture.")
    sequence = sequence_from_text(name)
    strange = sequence_warning(sequence)
    if strange:
        notes.append(strange)
    rows, columns = (float(np.linalg.norm(grid.affine[:3, k])) for k in (1, 2))
    across = abs(float(np.linalg.det(grid.affine[:3, :3]))) / (rows * columns)  # along the normal
    source = Source(Path(name).name, "NIfTI", digest.hexdigest(), sequence)
    affine = grid.affine if grid.known else None
    spacing = (across, rows, columns) if grid.measured else None
    return Study(scale_robust(volume)[..., None], source, spacing, affine, tuple(notes), grid=grid)


def _open(data: bytes | bytearray) -> BinaryIO:
    """A stream that unpacks ``data``, over the ends of members, which some tools write a block each."""
    packed = io.BytesIO(data)
    if data[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.GzipFile(fileobj=packed))
    if data[:3] == b"BZh":
        return cast(BinaryIO, bz2.BZ2File(packed))
    limits = zstandard.ZstdDecompressor(max_window_size=128 * 1024 * 1024)
    return cast(BinaryIO, io.BufferedReader(limits.stream_reader(packed, read_across_frames=True)))


_BROKEN = (OSError, EOFError, ValueError, zlib.error, zstandard.ZstdError)  # what a damaged stream raises


def _head(data: bytes) -> bytes:
    """The first HEADER_BYTES, unpacked; fewer where there are fewer."""
    if not is_packed(data[:16]):
        return data[:HEADER_BYTES]
    found = b""
    try:
        with _open(data[:PEEK]) as stream:
            while len(found) < HEADER_BYTES and (part := stream.read(HEADER_BYTES - len(found) if found else 348)):
                found += part
    except _BROKEN:
        return found
    return found


def _unpacked(data: bytes | bytearray, expected: int, name: str) -> bytearray:
    """Unpack at most ``expected`` bytes; a checksum is checked where its stream ends there."""
    filled, at = bytearray(expected), 0
    view = memoryview(filled)
    try:
        with _open(data) as stream:
            while at < expected and (got := stream.readinto(view[at:])):  # type: ignore[attr-defined]
                at += got
            stream.read(1)
    except EOFError:
        pass
    except _BROKEN as e:
        raise DamagedScan(f"{name}: the compressed stream is corrupt; send the file again.") from e
    if at < expected:
        raise DamagedScan(f"{name}: the compressed stream ends before its {expected} bytes; send the file again.")
    return filled


def _header(head: bytes, name: str) -> Nifti1Header:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    kind, length = (Nifti1Header, 348) if head[344:348] in (b"n+1\0", b"ni1\0") else (Nifti2Header, 540)
    try:
        header = kind(head[:length], check=False)
        header.get_data_dtype()
        return header
    except Exception as e:  # nibabel and NumPy raise anything on a damaged header
        raise DamagedScan(f"{name}: the NIfTI header is damaged; send the file again.") from e


def _scale(header: Nifti1Header, name: str) -> tuple[float | None, float | None]:
    """Slope and intercept of the voxels' values, or None where they are to be taken as they are."""
    from nibabel.spatialimages import HeaderDataError

    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as e:
        raise DamagedScan(f"{name}: the NIfTI header scales its voxels by no number; save the scan again.") from e
    return slope, intercept


def _voxel_start(header: Nifti1Header, name: str) -> int:
    offset = float(header["vox_offset"])
    smallest = 0 if is_pair(header.binaryblock) else header.structarr.dtype.itemsize
    if not smallest <= offset <= smallest + 16_000_000:
        raise DamagedScan(f"{name}: the NIfTI header puts the voxels at byte {offset:.0f}; send the file again.")
    return int(offset)


def _grid(header: Nifti1Header, name: str) -> tuple[Grid, tuple[str, ...]]:
    """The slices' geometry and what the header contradicts itself in, after checking what it claims."""
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    count = int(header["dim"][0])
    dims = [int(v) for v in header["dim"][1 : count + 1]] if 1 <= count <= 7 else []
    dims[3:] = [d or 1 for d in dims[3:]]  # some programs write 0 for what there is not
    if len(dims) < 2 or min(dims) < 1:
        raise DamagedScan(f"{name}: the NIfTI header claims {count} dimensions {tuple(dims)}; send the file again.")
    if any(d > 1 for d in dims[3:]):
        raise UnsupportedScan(f"{name}: a scan is one volume; received {int(np.prod(dims[3:]))}, save one of them.")
    shape = (dims[0], dims[1], dims[2] if len(dims) > 2 else 1)
    voxels = shape[0] * shape[1] * shape[2]
    if voxels > MAX_VOXELS:
        raise ScanTooLarge(
            f"{name}: a volume may have {MAX_VOXELS // 10**6} million voxels; the header claims "
            f"{shape[0]} x {shape[1]} x {shape[2]}."
        )
    if header.get_data_dtype().kind not in "iuf":
        raise UnsupportedScan(f"{name}: voxels are gray values; received type {header.get_data_dtype()}, save it as gray.")
    try:
        place = _place(header)
        affine = place.affine.copy()
        affine[:3] *= _UNITS[int(header["xyzt_units"]) & 7]
        orientation = io_orientation(affine)
        volume = abs(np.linalg.det(affine[:3, :3]))
    except Exception as e:  # nibabel and NumPy raise anything on a damaged header
        raise DamagedScan(f"{name}: the NIfTI header gives no usable orientation; save the scan again.") from e
    if not np.isfinite(affine).all() or volume < 1e-9 or np.isnan(orientation).any():
        raise DamagedScan(f"{name}: the NIfTI header gives no usable orientation; save the scan again.")
    transform = ornt_transform(orientation, axcodes2ornt(_PLANES[_plane(shape, affine, orientation)]))
    sliced = [0, 0, 0]
    for axis in range(3):
        sliced[int(transform[axis, 0])] = shape[axis]
    if min(sliced[1:]) < MIN_SIDE:
        raise UnsupportedScan(f"{name}: a slice has at least {MIN_SIDE} pixels a side; received {sliced[2]} x {sliced[1]}.")
    to_lps = RAS_TO_LPS @ affine @ inv_ornt_aff(transform, shape)
    sizes, warnings = np.linalg.norm(affine[:3, :3], axis=0), place.warnings
    believable = bool(((sizes >= FINEST) & (sizes <= COARSEST)).all())
    if place.measured and not believable:
        warnings += (f"The header gives voxels of {_sizes(sizes)} mm, which a head's scan has not.",)
    return Grid(shape, transform, affine, to_lps, place.known, place.measured and believable), warnings


@dataclass(frozen=True)
class _Place:
    """A header's affine, in its own units, and what is to be made of it; see :class:`Grid`."""

    affine: np.ndarray
    known: bool
    measured: bool
    warnings: tuple[str, ...] = ()


def _place(header: Nifti1Header) -> _Place:
    """Weigh the header's three statements of place and size, in its own units: sform, qform and pixdim.

    The qform's sizes are pixdim's. A size of 1 x 1 x 1 beside another one is what programs write that know no size.

    Raises:
        ValueError: There is a code, and no statement that makes sense.
    """
    sizes = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    qform, sform = _qform(header, sizes), _sform(header)
    if qform is None and sform is None:
        if int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0:
            raise ValueError("no affine")
        unit = int(header["xyzt_units"]) & 7
        return _Place(np.asarray(header.get_base_affine(), np.float64), known=False, measured=unit in (1, 2, 3))
    if sform is None:
        assert qform is not None
        return _Place(qform, known=True, measured=True)
    own = np.linalg.norm(sform[:3, :3], axis=0)
    unlike = np.any(np.abs(own - sizes) > _SAME_SIZE * np.maximum(own, sizes)) and bool((sizes > 0).all())
    if qform is not None and not np.array_equal(_axes(qform), _axes(sform)):
        return _Place(
            qform if unlike and np.allclose(own, 1) else sform, known=False, measured=True,
            warnings=("Its sform and its qform lie differently in the patient; left and right are those of the picture.",),
        )  # fmt: skip
    if not unlike:
        return _Place(sform, known=True, measured=True)
    conflict = f"Its sform gives voxels of {_sizes(own)}, its pixdim of {_sizes(sizes)}"
    if np.allclose(sizes, 1):
        return _Place(sform, known=True, measured=True, warnings=(f"{conflict}; the first are used.",))
    resized = sform.copy()
    resized[:3, :3] *= sizes / own
    if qform is not None or np.allclose(own, 1):
        return _Place(
            resized if qform is None else qform, known=True, measured=True, warnings=(f"{conflict}; the second are used.",)
        )
    return _Place(sform, known=True, measured=False, warnings=(f"{conflict}; nothing tells which are right.",))


def _sizes(sizes: np.ndarray) -> str:
    return " x ".join(f"{v:.3g}" for v in sizes)


def _axes(affine: np.ndarray) -> np.ndarray:
    """Which patient axis each voxel axis is closest to, and its direction."""
    from nibabel.orientations import io_orientation

    return np.asarray(io_orientation(affine))


def _qform(header: Nifti1Header, sizes: np.ndarray) -> np.ndarray | None:
    """The qform as NIfTI's reference code reads it: qfac 0 is 1, and a quaternion a little over length is shortened."""
    if int(header["qform_code"]) <= 0:
        return None
    from nibabel.quaternions import quat2mat

    imaginary = np.array([header["quatern_b"], header["quatern_c"], header["quatern_d"]], np.float64)
    length = float(imaginary @ imaginary)
    if not np.isfinite(length) or length > 1.01 or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        return None
    real = np.sqrt(1 - length) if length < 1 - 1e-7 else 0.0
    affine = np.eye(4)
    affine[:3, :3] = quat2mat([real, *(imaginary if real else imaginary / np.sqrt(length))]) * sizes
    if float(header["pixdim"][0]) < 0:
        affine[:3, 2] *= -1
    affine[:3, 3] = [header["qoffset_x"], header["qoffset_y"], header["qoffset_z"]]
    return affine if np.isfinite(affine).all() else None


def _sform(header: Nifti1Header) -> np.ndarray | None:
    if int(header["sform_code"]) <= 0:
        return None
    affine = np.asarray(header.get_sform(), np.float64)
    usable = np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-9
    return affine if usable else None


def _plane(shape: tuple[int, int, int], affine: np.ndarray, orientation: np.ndarray) -> str:
    """Which plane the slices lie in: across a single-slice axis, else across much thicker voxels, else axial."""
    names = ("sagittal", "coronal", "axial")
    if min(shape) == 1:
        return names[int(orientation[shape.index(1), 0])]
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    thickest = int(sizes.argmax())
    return names[int(orientation[thickest, 0])] if sizes[thickest] > 1.5 * np.median(sizes) else "axial"
